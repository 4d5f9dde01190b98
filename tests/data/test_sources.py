from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import pytest

from bitmar.core.errors import DataError
from bitmar.data.sources import CaptionedPhoto, iter_cc3m, iter_localized_narratives, iter_webdataset

Bad = list[tuple[str, str]]


def _shard(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


def _sample(key: str, *captions: str) -> dict[str, bytes]:
    about = {"key": key, "caption": captions[0], "captions": list(captions), "license": "CC0"}
    return {f"{key}.jpg": b"jpeg " + key.encode() * 200, f"{key}.json": json.dumps(about).encode()}


def test_samples_of_every_img2dataset_shape(tmp_path: Path) -> None:
    _shard(
        tmp_path / "set-00000.tar",
        {
            **_sample("000", "One.", "Uno."),
            "001.png": b"png",
            "001.txt": b"Two.",
            "002.JPEG": b"jpeg",
            "002.json": b'{"caption": "Three.", "width": 5}',
            "003.jpg": b"plain",
            "003.json": b'{"caption": null, "captions": [], "caption_type": "none"}',
        },
    )
    photos = list(iter_webdataset(str(tmp_path / "set-00000.tar")))
    assert [photo.key for photo in photos] == [f"set-00000/00{i}" for i in range(4)]
    assert [photo.captions for photo in photos] == [("One.", "Uno."), ("Two.",), ("Three.",), ()]
    assert photos[0].image.startswith(b"jpeg 000") and photos[1].image == b"png"
    assert photos[0].meta["license"] == "CC0" and photos[2].meta == {"width": 5}


def test_braces_and_globs_name_the_same_shards(tmp_path: Path) -> None:
    for number in range(3):
        _shard(tmp_path / f"s-{number}.tar", _sample("0", str(number)))
    braces = [photo.captions[0] for photo in iter_webdataset(str(tmp_path / "s-{0..2}.tar"))]
    assert braces == [photo.captions[0] for photo in iter_webdataset(str(tmp_path / "s-*.tar"))] == ["0", "1", "2"]


@pytest.mark.parametrize("keep", [0.1, 0.35, 0.5, 0.75, 0.9])
def test_a_shard_cut_in_the_middle_gives_what_is_readable_and_is_named(tmp_path: Path, keep: float) -> None:
    members: dict[str, bytes] = {}
    for number in range(20):
        members |= _sample(f"{number:03d}", f"Caption {number}.")
    whole = _shard(tmp_path / "cut-0.tar", members)
    size = 20 * 4 * 512 + 20 * 512 * 1  # headers and data, in blocks; the end of the archive is left out
    whole.write_bytes(whole.read_bytes()[: int(size * keep) // 512 * 512 - 100])
    _shard(tmp_path / "cut-1.tar", _sample("000", "Next shard."))
    bad: Bad = []
    photos = list(iter_webdataset(str(tmp_path / "cut-{0..1}.tar"), lambda *fault: bad.append(fault)))
    assert photos[-1].captions == ("Next shard.",) and photos[-1].key == "cut-1/000"
    cut = [photo for photo in photos if photo.key.startswith("cut-0")]
    assert 0 < len(cut) < 20
    assert all(photo.image == members[f"{i:03d}.jpg"] for i, photo in enumerate(cut))
    faults = [reason for name, reason in bad if name.endswith("cut-0.tar")]
    assert len(faults) == 1 and "cut off" in faults[0]


def test_bad_samples_are_named_and_skipped(tmp_path: Path) -> None:
    _shard(
        tmp_path / "s.tar",
        {"a.txt": b"no image", "b.jpg": b"jpeg", "b.json": b"{broken", **_sample("c", "Good."), "d.jpg": b""},
    )
    bad: Bad = []
    photos = list(iter_webdataset(str(tmp_path / "s.tar"), lambda *fault: bad.append(fault)))
    assert [photo.key for photo in photos] == ["s/c"]
    assert sorted(name for name, _ in bad) == ["s/a", "s/b", "s/d"]


def test_a_file_that_is_no_tar_is_named(tmp_path: Path) -> None:
    (tmp_path / "s.tar").write_bytes(b"<html>404</html>" * 100)
    bad: Bad = []
    assert list(iter_webdataset(str(tmp_path / "s.tar"), lambda *fault: bad.append(fault))) == []
    assert len(bad) == 1 and bad[0][0].endswith("s.tar")


def test_a_missing_shard_is_an_error_that_names_the_nearest(tmp_path: Path) -> None:
    _shard(tmp_path / "flickr8k-train-0.tar", _sample("0", "x"))
    with pytest.raises(DataError, match=r"did you mean 'flickr8k-train-0\.tar'"):
        list(iter_webdataset(str(tmp_path / "flickr8k-train-{0..1}.tar")))


def test_cc3m(tmp_path: Path) -> None:
    (tmp_path / "set.tsv").write_text(
        "caption\turl\n"
        "by number\thttp://x/1.jpg\nby url\thttp://x/deep/photo.jpg?size=big\n"
        "dead link\thttp://x/gone.jpg\nby column\thttp://x/2\tmine.png\nno tab\nescape\thttp://x\t../set.png\n"
    )
    root = tmp_path / "photos"
    (root / "00000").mkdir(parents=True)
    for name in ("00000/000000000.jpg", "photo.jpg", "mine.png", "../set.png"):
        (root / name).write_bytes(name.encode())
    bad: Bad = []
    photos = list(iter_cc3m(tmp_path / "set.tsv", root, lambda *fault: bad.append(fault)))
    assert [photo.captions[0] for photo in photos] == ["by number", "by url", "by column"]
    assert [photo.image for photo in photos] == [b"00000/000000000.jpg", b"photo.jpg", b"mine.png"]
    assert [name.rsplit(":", 1)[1] for name, _ in bad] == ["3", "5", "6"]
    with pytest.raises(DataError, match="did you mean 'photos'"):
        list(iter_cc3m(tmp_path / "set.tsv", tmp_path / "photo"))
    with pytest.raises(DataError, match=r"did you mean 'set\.tsv'"):
        list(iter_cc3m(tmp_path / "sets.tsv", root))


def test_localized_narratives_gathers_an_images_captions(tmp_path: Path) -> None:
    records = [("coco", "139", "First."), ("flickr", "abc", "Other."), ("coco", "139", "Second.")]
    lines = [json.dumps({"dataset_id": d, "image_id": i, "caption": c}) for d, i, c in records]
    path = tmp_path / "narratives.jsonl"
    path.write_text("\n".join([*lines, "{broken", json.dumps({"dataset_id": "coco", "image_id": "7", "caption": "x"})]))
    (tmp_path / "000000000139.jpg").write_bytes(b"coco")
    (tmp_path / "abc.jpg").write_bytes(b"flickr")
    bad: Bad = []
    photos = list(iter_localized_narratives(path, tmp_path, lambda *fault: bad.append(fault)))
    assert [(photo.key, photo.captions) for photo in photos] == [
        ("coco/139", ("First.", "Second.")),
        ("flickr/abc", ("Other.",)),
    ]
    assert [name for name, _ in bad] == [f"{path}:4", "coco/7"]


def test_the_real_shards(shared_data: Path) -> None:
    bad: Bad = []
    photos = list(iter_webdataset(str(shared_data / "captions" / "coco-*.tar"), lambda *fault: bad.append(fault)))
    assert len(photos) == 322 + 43 and not bad
    assert all(len(photo.captions) >= 5 and photo.image[:2] == b"\xff\xd8" for photo in photos)
    assert len({photo.key for photo in photos}) == len(photos)


def _read(path: Path | str) -> tuple[list[CaptionedPhoto], dict[str, str]]:
    bad: dict[str, str] = {}
    return list(iter_webdataset(str(path), bad.__setitem__)), bad


@pytest.mark.parametrize(
    ("sidecar", "reason"),
    [
        (b"[]", "holds a list, not an object"),
        (b'["A dog runs."]', "holds a list"),
        (b"null", "holds null"),
        (b"7", "holds a number"),
        (b'"A dog runs."', "holds a string"),
        (b"true", "holds true or false"),
        (b'{"captions": "A dog runs."}', '"captions" of its .json is a string, not a list of strings'),
        (b'{"captions": 7}', '"captions" of its .json is a number'),
        (b'{"captions": 0}', '"captions" of its .json is a number'),
        (b'{"captions": false}', "true or false"),
        (b'{"captions": ""}', "is a string"),
        (b'{"captions": {"en": "A dog."}}', "is an object"),
        (b'{"captions": ["A dog.", 7]}', "holds a number, not only strings"),
        (b'{"captions": ["A dog.", null]}', "holds null"),
        (b'{"captions": [["A dog."]]}', "holds a list"),
        (b'{"caption": ["A dog."]}', '"caption" of its .json is a list, not a string'),
        (b'{"caption": 0}', '"caption" of its .json is a number'),
        (b'{"caption": "A dog.", "captions": 7}', '"captions"'),
        (b'{"captions": ["\\ud83d"]}', "surrogate"),
        (b'{"captions": ["A dog."], "license": NaN}', "NaN"),
        (b'{"captions": ["A dog."], "captions": ["A cat."]}', "comes twice"),
        (b'{"width": 1' + b"0" * 5000 + b"}", "64 bits"),
        (b"[" * 100_000, "nested"),
        (b"", "not JSON"),
    ],
)
def test_a_sidecar_of_another_type_is_a_named_and_skipped_sample(tmp_path: Path, sidecar: bytes, reason: str) -> None:
    path = _shard(
        tmp_path / "s.tar", {**_sample("a", "One."), "b.jpg": b"b", "b.json": sidecar, **_sample("c", "Two.")}
    )
    photos, bad = _read(path)
    assert [photo.key for photo in photos] == ["s/a", "s/c"]
    assert list(bad) == ["s/b"] and reason in bad["s/b"]


@pytest.mark.parametrize("sidecar", [b"{}", b'{"captions": null}', b'{"captions": []}', b'{"captions": ["", " \\n"]}'])
def test_no_and_blank_captions_make_a_plain_photo(tmp_path: Path, sidecar: bytes) -> None:
    (photo,), bad = _read(_shard(tmp_path / "s.tar", {"b.jpg": b"b", "b.json": sidecar}))
    assert photo.captions == () and not bad


@pytest.mark.parametrize("text", ["A dog.".encode("utf-16"), "A dog.".encode("utf-16-le"), b"caf\xe9"])
def test_a_txt_that_is_not_utf8_is_named(tmp_path: Path, text: bytes) -> None:
    photos, bad = _read(_shard(tmp_path / "s.tar", {"b.jpg": b"b", "b.txt": text}))
    assert not photos and "UTF-8" in bad["s/b"]


def test_damage_in_the_middle_is_named_with_the_samples_beside_it(tmp_path: Path) -> None:
    members: dict[str, bytes] = {}
    for number in range(6):
        members |= _sample(f"{number}", f"Caption {number}.")
    path = _shard(tmp_path / "s.tar", members)
    data = bytearray(path.read_bytes())
    at = data.index(b"2.json")  # a header: the photo before it is whole, its captions are lost
    data[at + 20 : at + 200] = b"\xaa" * 180
    path.write_bytes(data)
    photos, bad = _read(path)
    assert [photo.key for photo in photos] == ["s/0", "s/1", "s/3", "s/4", "s/5"]
    assert all(len(photo.captions) == 1 for photo in photos)
    assert list(bad) == [f"{path} at byte {at}", "s/2"] and "goes on at '3.jpg'" in bad[f"{path} at byte {at}"]


def test_equal_names_stay_apart(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        _shard(tmp_path / folder / "s.tar", {**_sample("0", folder), **{f"{folder}/0.jpg": b"deep"}})
    photos, bad = _read(tmp_path / "{a,b}" / "s.tar")
    assert [photo.key for photo in photos] == ["a/s/0", "a/s/a/0", "b/s/0", "b/s/b/0"] and not bad
    path = _shard(tmp_path / "t.tar", {**_sample("0", "One."), **_sample("1", "Two."), "0.png": b"another"})
    photos, bad = _read(path)
    assert [photo.captions for photo in photos] == [("One.",), ("Two.",)] and "second sample" in bad["t/0"]
    with pytest.raises(DataError, match="named twice"):
        iter_webdataset([str(path), str(tmp_path / "*.tar")])


def test_a_sample_with_two_photos_says_which_is_left_out(tmp_path: Path) -> None:
    photos, bad = _read(_shard(tmp_path / "s.tar", {**_sample("0", "One."), "0.png": b"another"}))
    assert [photo.captions for photo in photos] == [("One.",)] and photos[0].image != b"another"
    assert bad == {"s/0": "has two photos, .jpg and .png; the second is left out"}


def test_a_digest_is_of_the_photo_alone() -> None:
    one, same, other = CaptionedPhoto("a", b"x"), CaptionedPhoto("b", b"x", ("A.",)), CaptionedPhoto("a", b"y")
    assert one.digest == same.digest != other.digest


def test_what_belongs_to_no_sample_is_named(tmp_path: Path) -> None:
    hidden = {"._0.jpg": b"x", "__MACOSX/0.jpg": b"x", "__index__": b"x", ".DS_Store": b"x"}
    photos, bad = _read(_shard(tmp_path / "s.tar", {**_sample("0", "One."), "README": b"x", **hidden}))
    assert len(photos) == 1 and list(bad) == ["s/README"]


def test_cc3m_gives_no_line_a_photo_that_may_be_another_ones(tmp_path: Path) -> None:
    (tmp_path / "set.tsv").write_text(
        "one\thttp://a/1.jpg\ntwo\thttp://b/1.jpg\nthree\thttp://b/2.jpg\nodd\thttp://[x\n"
    )
    root = tmp_path / "photos"
    root.mkdir()
    for name in ("1.jpg", "2.jpg"):
        (root / name).write_bytes(name.encode())
    bad: dict[str, str] = {}
    photos = list(iter_cc3m(tmp_path / "set.tsv", root, bad.__setitem__))
    assert [photo.captions for photo in photos] == [("three",)]
    assert [name.rsplit(":", 1)[1] for name in bad] == ["1", "2", "4"]


def test_a_narrative_of_another_type_or_of_a_taken_photo_is_named(tmp_path: Path) -> None:
    good = {"dataset_id": "coco", "image_id": "7", "caption": "x"}
    records = [
        good,
        good | {"caption": ["x"]},
        good | {"image_id": None},
        good | {"dataset_id": 5},
        good | {"dataset_id": "flickr"},
        good | {"image_id": "9" * 6000},
        good | {"image_id": "x\0y"},
    ]
    path = tmp_path / "n.jsonl"
    path.write_text("\n".join(map(json.dumps, records)) + "\n[]\n" + "[" * 100_000)
    (tmp_path / "000000000007.jpg").write_bytes(b"x")
    bad: dict[str, str] = {}
    photos = list(iter_localized_narratives(path, tmp_path, bad.__setitem__))
    assert [photo.captions for photo in photos] == [("x",)]
    assert len(bad) == 8 and "another image" in bad["flickr/7"]
