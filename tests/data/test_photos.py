from __future__ import annotations

import io
import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from bitmar.core.errors import DataError, OutputError
from bitmar.core.image import load_photo, to_square
from bitmar.data import photos
from bitmar.data.photos import PhotoStore, build_photo_store
from bitmar.data.rowlog import RowLog, open_shards, read_index
from bitmar.data.sources import CaptionedPhoto, _from_sample


def sample(i: int, key: str | None = None) -> CaptionedPhoto:
    pixels = np.random.default_rng(i).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return CaptionedPhoto(key or f"set/{i:03d}", file.getvalue(), (f"Photo {i}.",), {"source": "made"})


BROKEN = CaptionedPhoto("set/broken", b"no picture", (), {})


def test_stores_pixels_captions_and_names_of_broken_photos(tmp_path: Path) -> None:
    bad: list[str] = []
    progress: list[int] = []
    samples = [sample(0), BROKEN, sample(1)]
    store = build_photo_store(
        samples, tmp_path, size=16, on_bad=lambda key, _: bad.append(key), on_progress=progress.append
    )
    assert [entry.key for entry in (store[0], store[1])] == ["set/000", "set/001"]
    assert store[1].captions == ("Photo 1.",) and store[1].meta == {"source": "made"}
    assert store.pixels.shape == (2, 16, 16, 3) and store.pixels.dtype == np.uint8
    assert np.array_equal(store.photo(1), to_square(load_photo(samples[2].image), 16))
    assert [key for key, _ in store.skipped] == ["set/broken"] == bad and progress == [1, 2, 3]


def test_a_killed_run_goes_on_where_it_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(photos, "_COMMIT_EVERY", 2)
    samples = [sample(0), BROKEN, sample(1), sample(2), sample(3)]
    whole = build_photo_store(samples, tmp_path / "whole", size=16)
    seen: list[int] = []

    def killed() -> None:
        def stream():
            for i, item in enumerate(samples):
                if i == 3:
                    raise KeyboardInterrupt
                yield item

        build_photo_store(stream(), tmp_path / "killed", size=16)

    with pytest.raises(KeyboardInterrupt):
        killed()
    resumed = build_photo_store(samples, tmp_path / "killed", size=16, on_progress=seen.append)
    assert seen == [4, 5]  # three were logged before the kill
    assert np.array_equal(resumed.pixels, whole.pixels)
    assert [e.key for e in resumed.entries] == [e.key for e in whole.entries]
    assert resumed.skipped == whole.skipped


def test_other_samples_or_sizes_in_the_same_folder_are_refused(tmp_path: Path) -> None:
    build_photo_store([sample(0), sample(1)], tmp_path, size=16)
    with pytest.raises(DataError, match="sources changed"):
        build_photo_store([sample(0), sample(2)], tmp_path, size=16)
    with pytest.raises(DataError, match="give only 1"):
        build_photo_store([sample(0)], tmp_path, size=16)
    with pytest.raises(DataError, match="size = 16, not 8"):
        build_photo_store([sample(0), sample(1)], tmp_path, size=8)
    assert len(build_photo_store([sample(0), sample(1), sample(2)], tmp_path, size=16)) == 3  # more is fine


def test_two_sets_may_share_keys(tmp_path: Path) -> None:
    store = build_photo_store([sample(0, "same"), sample(1, "same")], tmp_path, size=8)
    assert len(store) == 2 and not np.array_equal(store.photo(0), store.photo(1))


def test_nothing_to_store(tmp_path: Path) -> None:
    assert len(build_photo_store([BROKEN], tmp_path, size=8)) == 0


def test_folders_that_are_no_store(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"has no store\.json"):
        PhotoStore(tmp_path)
    build_photo_store([sample(0)], tmp_path / "cut", size=16)
    array = tmp_path / "cut" / "photos-00000.npy"
    array.write_bytes(array.read_bytes()[:-100])
    with pytest.raises(DataError, match="cannot be read"):
        PhotoStore(tmp_path / "cut")
    (tmp_path / "cut" / "store.json").write_text("{")
    with pytest.raises(DataError, match=r"store\.json is damaged"):
        PhotoStore(tmp_path / "cut")
    for size in ("true", "0", '"16"', "1e9", "null"):
        (tmp_path / "cut" / "store.json").write_text(f'{{"format": 2, "kind": "photos", "size": {size}}}')
        with pytest.raises(DataError, match=r"store\.json is damaged \(size is"):
            PhotoStore(tmp_path / "cut")


LINES = [
    json.dumps({"key": key, "row": i, "captions": [key], "meta": {}, "digest": key}) for i, key in enumerate("abc")
]


@pytest.mark.parametrize(
    "lines",
    [
        [LINES[0], LINES[2]],
        [LINES[1], LINES[0], LINES[2]],
        [LINES[0], LINES[0], LINES[1]],
        ['{"key": "a", "row": true}'],
        ['{"key": "a", "row": -1}'],
        ['{"key": "a", "row": 0.0}'],
        ['{"key": 1, "row": 0}'],
        ['{"row": 0}'],
        ['{"key": "a", "row": 0, "captions": "A dog."}'],
        ['{"key": "a", "row": 0, "captions": [1]}'],
        ['{"key": "a", "row": 0, "meta": []}'],
        ['{"key": "a", "row": null, "error": 1}'],
        ["[]"],
        ["{" * 100],
        ["", LINES[0]],
    ],
)
def test_no_sample_of_a_damaged_index_gets_the_row_of_another(tmp_path: Path, lines: list[str]) -> None:
    (tmp_path / "index.jsonl").write_text("\n".join([*lines, ""]))
    with pytest.raises(DataError, match=r"line \d is damaged"):
        read_index(tmp_path)


def test_a_missing_shard_is_not_replaced_by_the_next(tmp_path: Path) -> None:
    with log_of(tmp_path) as log:
        write(log, [True] * 12, 0)
    (tmp_path / "rows-00001.npy").unlink()
    with pytest.raises(DataError, match=r"has no rows-00001\.npy"):
        open_shards(tmp_path, "rows", (3,), DTYPE)


def test_a_run_that_goes_on_names_what_the_one_before_has_skipped(tmp_path: Path) -> None:
    build_photo_store([sample(0), BROKEN], tmp_path, size=16)
    bad: list[str] = []
    build_photo_store([sample(0), BROKEN, sample(1)], tmp_path, size=16, on_bad=lambda key, _: bad.append(key))
    assert bad == ["set/broken"]


def test_what_a_shard_may_say_of_a_photo_can_be_read_again(tmp_path: Path) -> None:
    deep: object = "x"
    for _ in range(14):
        deep = [deep]
    photo = _from_sample("a", {"png": sample(0).image, "json": json.dumps({"more": deep}).encode()})
    assert build_photo_store([photo], tmp_path, size=16)[0].meta == {"more": deep}
    with pytest.raises(ValueError, match="nested too deeply"):
        _from_sample("a", {"png": sample(0).image, "json": json.dumps({"more": [[[deep]]]}).encode()})


DTYPE = np.dtype(np.uint16)


def log_of(folder: Path) -> RowLog:
    return RowLog(folder, "rows", (3,), DTYPE, rows_per_shard=4)


def write(log: RowLog, kinds: list[bool], start: int) -> None:
    for i, has_row in enumerate(kinds, start):
        log.append({"key": str(i)}, np.full(3, i, DTYPE) if has_row else None)


@settings(max_examples=40, deadline=None)
@given(
    kinds=st.lists(st.booleans(), max_size=14),
    committed=st.integers(0, 14),
    cut=st.integers(0, 40),
    cut_index=st.integers(0, 30),
)
def test_a_log_survives_any_cut(
    tmp_path_factory: pytest.TempPathFactory, kinds: list[bool], committed: int, cut: int, cut_index: int
) -> None:
    """Whatever is missing at the end of the last shard and of the index, going on gives the whole log."""
    folder = tmp_path_factory.mktemp("log")
    with log_of(folder) as log:
        write(log, kinds[:committed], 0)
        log.commit()
        write(log, kinds[committed:], len(kinds[:committed]))
    last_shard = max(folder.glob("rows-*.npy"), default=None)
    for path, bytes_lost in ((last_shard, cut), (folder / "index.jsonl", cut_index)):
        if path is not None:
            path.write_bytes(path.read_bytes()[: max(0, path.stat().st_size - bytes_lost)])
    with log_of(folder) as log:
        done = len(log.lines)
        assert done <= len(kinds)
        write(log, kinds[done:], done)
    lines = read_index(folder)
    assert [line["key"] for line in lines] == [str(i) for i in range(len(kinds))]
    rows = [line["row"] for line in lines if line["row"] is not None]
    assert rows == list(range(sum(kinds)))
    shards = open_shards(folder, "rows", (3,), DTYPE)
    assert [len(shard) for shard in shards[:-1]] == [4] * (len(shards) - 1)
    stored = [int(value) for shard in shards for value in shard[:, 0]]
    assert stored == [i for i, has_row in enumerate(kinds) if has_row]


def test_a_row_of_the_wrong_kind_is_refused(tmp_path: Path) -> None:
    with log_of(tmp_path) as log, pytest.raises(DataError, match=r"expected uint16 \(3,\)"):
        log.append({"key": "a"}, np.zeros(3, np.float32))
    assert json.loads("[]") == read_index(tmp_path)


def test_a_photo_of_the_same_name_is_not_taken_for_the_one_that_was_stored(tmp_path: Path) -> None:
    build_photo_store([sample(0, "a"), sample(1, "b")], tmp_path, size=16)
    with pytest.raises(DataError, match="another digest"):
        build_photo_store([sample(2, "a"), sample(1, "b")], tmp_path, size=16)
    again = sample(0, "a")
    corrected = CaptionedPhoto("a", again.image, ("A corrected caption.",), again.meta)
    with pytest.raises(DataError, match="another captions"):
        build_photo_store([corrected], tmp_path, size=16)
    assert build_photo_store([sample(0, "a"), sample(1, "b")], tmp_path, size=16)[1].digest == sample(1).digest


def test_a_full_disk_is_one_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("bitmar.data.rowlog._sync", full)
        with pytest.raises(OutputError, match="No space left on device; what is done is kept"):
            build_photo_store([sample(0)], tmp_path, size=16)
    assert len(build_photo_store([sample(0), sample(1)], tmp_path, size=16)) == 2


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such limit")
def test_no_room_at_any_byte_loses_nothing_that_was_stored(tmp_path: Path) -> None:
    """Files of at most so many bytes: the run ends in our error, and the next one goes on with what is there."""
    import resource

    samples = [sample(i) for i in range(6)]
    whole = build_photo_store(samples, tmp_path / "whole", size=16)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        for most in (1, 100, 130, 900, 1000, 4000):
            resource.setrlimit(resource.RLIMIT_FSIZE, (most, before[1]))
            with pytest.raises(OutputError, match="cannot write"):
                build_photo_store(samples, tmp_path / str(most), size=16)
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
            store = build_photo_store(samples, tmp_path / str(most), size=16)
            assert np.array_equal(store.pixels, whole.pixels) and store.entries == whole.entries
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)
