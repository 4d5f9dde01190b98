"""BLiMP's accuracy, from files to intervals."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitmar.core.errors import DataError
from bitmar.evaluate.blimp import Accuracy, Pair, evaluate_blimp, read_pairs, report
from bitmar.evaluate.scorer import load_scorer

LINES = [
    {"sentence_good": "She runs.", "sentence_bad": "She run.", "UID": "agreement", "field": "morphology"},
    {
        "sentence_good": "Who did he see?",
        "sentence_bad": "Who did he see her?",
        "UID": "island",
        "field": "syntax/semantics",
    },
]


class Judge:
    """Log-probabilities by rule: each word's is the same unless the rule says otherwise."""

    name, pictures_at_once = "judge", 1

    def __init__(self, rule: Callable[[str], Sequence[float]]) -> None:
        self.rule = rule

    def loglikelihood(self, texts, images=None, *, on_progress=None) -> list[np.ndarray]:
        return [np.array(self.rule(text), np.float32) for text in texts]


def write(path: Path, lines: Sequence[object]) -> Path:
    path.write_text("".join(f"{line if isinstance(line, str) else json.dumps(line)}\n" for line in lines))
    return path


def test_zip_folder_and_file_give_the_same_pairs(tmp_path: Path) -> None:
    (tmp_path / "folder" / "deep").mkdir(parents=True)
    files = [write(tmp_path / "folder" / "deep" / f"{line['UID']}.jsonl", [line]) for line in LINES]
    with zipfile.ZipFile(tmp_path / "blimp.zip", "w") as archive:
        for file in files:
            archive.write(file, f"blimp_filtered/{file.name}")
        archive.writestr("blimp_filtered/readme.txt", "no pairs")
    fields = ["morphology", "syntax_semantics"]
    wanted = [
        Pair(line["sentence_good"], line["sentence_bad"], line["UID"], field)
        for line, field in zip(LINES, fields, strict=True)
    ]
    assert read_pairs(tmp_path / "blimp.zip") == read_pairs(tmp_path / "folder") == wanted
    assert read_pairs(files[0]) == wanted[:1]


def test_bad_lines_are_named_and_skipped(tmp_path: Path) -> None:
    path = write(tmp_path / "x.jsonl", [LINES[0], "no json", {"sentence_good": "a"}, "[]", LINES[1]])
    bad: list[str] = []
    assert len(read_pairs(path, lambda name, why: bad.append(name))) == 2
    assert bad == [f"{path}:{number}" for number in (2, 3, 4)]


def test_nothing_to_read_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "broken.zip").write_bytes(b"PK no zip")
    for name in ("none.zip", "broken.zip", "none.jsonl"):
        with pytest.raises(DataError, match="cannot be read"):
            read_pairs(tmp_path / name)
    with pytest.raises(DataError, match="no pairs"):
        read_pairs(tmp_path)


PAIRS = [Pair(f"good {i}", f"bad {i}", f"file{i % 2}", "syntax" if i < 3 else "semantics") for i in range(6)]


def test_the_likelier_sentence_counts() -> None:
    right = evaluate_blimp(Judge(lambda text: [-1.0, -1.0] if text.startswith("good") else [-1.0, -1.5]), PAIRS)
    assert right.accuracy == right.pairs.accuracy == 1 and right.tie_share == 0
    wrong = evaluate_blimp(Judge(lambda text: [-9.0] if text.startswith("good") else [-1.0, -1.0]), PAIRS)
    assert wrong.accuracy == 0  # by the sum, not by the mean of a longer sentence
    even = evaluate_blimp(Judge(lambda text: [-1.0, -2.0]), PAIRS)
    assert even.accuracy == 0.5 and even.tie_share == 1 and even.pairs.ties == 6


def test_accuracy_is_the_mean_over_files() -> None:
    pairs = [Pair("a", "b", "large", "syntax")] * 9 + [Pair("a", "b", "small", "semantics")]
    found = report(pairs, [1.0] * 9 + [0.0])
    assert found.accuracy == 0.5 and found.pairs.accuracy == 0.9
    assert found.by_file["large"].accuracy == found.by_field["syntax"].accuracy == 1
    assert found.by_file["small"].pairs == 1
    assert json.loads(json.dumps(found.to_dict()))["by_file"]["small"]["accuracy"] == 0


@given(st.lists(st.sampled_from([0.0, 0.5, 1.0]), min_size=1, max_size=300))
def test_intervals_hold_the_accuracy_and_stay_in_range(points: list[float]) -> None:
    found = Accuracy.of(points)
    assert -1e-9 <= found.low <= found.accuracy + 1e-9 and found.accuracy - 1e-9 <= found.high <= 1 + 1e-9
    assert Accuracy.of(points * 4).high - Accuracy.of(points * 4).low < found.high - found.low


def test_interval_is_wilsons() -> None:
    found = Accuracy.of([1.0] * 8 + [0.0] * 2)
    assert (found.low, found.high) == pytest.approx((0.4901625, 0.9433178), abs=1e-6)


def test_a_real_model_goes_through(folder: Path) -> None:
    halves = [evaluate_blimp(load_scorer(path), PAIRS) for path in (folder, folder / "packed")]
    assert halves[0] == halves[1] and halves[0].pairs.pairs == 6


def test_all_of_babylm_is_read(shared_data: Path) -> None:
    pairs = read_pairs(shared_data / "eval" / "babylm2025" / "blimp_filtered.zip")
    assert len(pairs) == 59_875 and len({pair.file for pair in pairs}) == 67
    assert {pair.field for pair in pairs} == {"syntax", "morphology", "semantics", "syntax_semantics"}
