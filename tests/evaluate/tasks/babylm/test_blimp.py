"""BLiMP and its supplement on known answers."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from bitmar.core.errors import DataError
from bitmar.evaluate.scorer import load_scorer
from bitmar.evaluate.tasks.babylm.blimp import blimp, read_pairs, supplement
from bitmar.evaluate.work import Work


def lines(count: int, good: str, bad: str, **more: str) -> list[dict[str, str]]:
    return [{"sentence_good": f"{good} {i}", "sentence_bad": f"{bad} {i}", **more} for i in range(count)]


def test_blimp_is_the_mean_over_phenomena(write: Callable[..., Path], fond: Callable[..., Any], tmp_path: Path) -> None:
    syntax = {"UID": "island", "field": "syntax", "linguistics_term": "island_effects"}
    write(tmp_path / "island.jsonl", lines(9, "good", "bad", **syntax))
    write(tmp_path / "passive.jsonl", lines(1, "bad", "good", **{**syntax, "UID": "passive", "field": "semantics"}))
    found = blimp(fond("good"), tmp_path, Work())["blimp"]
    assert found.figure.value == 0.5 and found.figure.n == 10 and found.figure.ties == 0
    assert {name: part.value for name, part in found.parts["field"].items()} == {"semantics": 0, "syntax": 1}
    assert blimp(fond("none"), tmp_path, Work())["blimp"].figure.ties == 10


def test_the_supplement_is_grouped_by_file(
    write: Callable[..., Path], fond: Callable[..., Any], tmp_path: Path
) -> None:
    write(tmp_path / "hypernym.jsonl", lines(3, "good", "bad"))
    write(tmp_path / "turn_taking.jsonl", [*lines(1, "good", "bad"), *lines(1, "bad", "good")])
    found = supplement(fond("good"), tmp_path, Work())["blimp_supplement"]
    assert found.figure.value == 0.75 and set(found.parts["UID"]) == {"hypernym", "turn_taking"}


LINES = [
    {"sentence_good": "She runs.", "sentence_bad": "She run.", "UID": "agreement", "field": "morphology"},
    {
        "sentence_good": "Who did he see?",
        "sentence_bad": "Who did he see her?",
        "UID": "island",
        "field": "syntax/semantics",
    },
]


def nobody(name: str, reason: str) -> None:
    raise AssertionError(f"{name}: {reason}")


def test_zip_folder_and_file_give_the_same_pairs(write: Callable[..., Path], tmp_path: Path) -> None:
    files = [write(tmp_path / "folder" / "deep" / f"{line['UID']}.jsonl", [line]) for line in LINES]
    with zipfile.ZipFile(tmp_path / "blimp.zip", "w") as archive:
        for file in files:
            archive.write(file, f"blimp_filtered/{file.name}")
        archive.writestr("blimp_filtered/readme.txt", "no pairs")
    wanted = [
        ((line["sentence_good"], line["sentence_bad"]), line["UID"], field)
        for line, field in zip(LINES, ["morphology", "syntax_semantics"], strict=True)
    ]

    def pairs(source: Path) -> list[tuple[Sequence[str], str, str]]:
        return [(pair.options, pair.uid, pair.kinds["field"]) for pair in read_pairs(source, nobody)]

    assert pairs(tmp_path / "blimp.zip") == pairs(tmp_path / "folder") == wanted
    assert pairs(files[0]) == wanted[:1]


def test_bad_lines_are_named_and_skipped(write: Callable[..., Path], tmp_path: Path) -> None:
    path = write(
        tmp_path / "x.jsonl", [LINES[0], "no json", {"sentence_good": "a"}, "[]", {**LINES[0], "field": 1}, LINES[1]]
    )
    bad: list[str] = []
    assert len(read_pairs(path, lambda name, why: bad.append(name))) == 2
    assert bad == [f"{path}:{number}" for number in (2, 3, 4, 5)]


def test_nothing_to_read_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "broken.zip").write_bytes(b"PK no zip")
    for name in ("none.zip", "broken.zip", "none.jsonl"):
        with pytest.raises(DataError, match="cannot be read"):
            read_pairs(tmp_path / name, nobody)
    with pytest.raises(DataError, match="no line that can be read"):
        read_pairs(tmp_path, nobody)


def test_the_likelier_sentence_counts_by_its_sum(
    write: Callable[..., Path], judge: Callable[..., Any], tmp_path: Path
) -> None:
    write(tmp_path / "a.jsonl", lines(6, "good", "so bad"))

    def scored(good: float, bad: float, each: bool = False) -> Any:
        def rule(pieces: Sequence[str], picture: Any) -> list[float]:
            value = good if "good" in "".join(pieces) else bad
            return [value] * len(pieces) if each else [value, *[0.0] * (len(pieces) - 1)]

        return blimp(judge(rule), tmp_path, Work())["blimp"].figure

    assert scored(-1, -2).value == 1 and scored(-1, -2).ties == 0
    assert scored(-2, -1).value == 0
    assert scored(-1.0, -0.99, each=True).value == 1  # not by the mean: the longer sentence has more to lose
    assert scored(-1, -1).value == 0.5 and scored(-1, -1).ties == 6


def test_both_engines_agree(write: Callable[..., Path], folder: Path, tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", lines(6, "the dog runs", "the dog run"))
    found = [blimp(load_scorer(path), tmp_path, Work())["blimp"] for path in (folder, folder / "packed")]
    assert found[0] == found[1] and found[0].figure.n == 6


def test_all_of_babylm_is_read(shared_data: Path) -> None:
    pairs = read_pairs(shared_data / "eval" / "babylm2025" / "blimp_filtered.zip", nobody)
    assert len(pairs) == 59_875 and len({pair.uid for pair in pairs}) == 67
    assert {pair.kinds["field"] for pair in pairs} == {"syntax", "morphology", "semantics", "syntax_semantics"}
