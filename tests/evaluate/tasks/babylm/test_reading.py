"""Reading times: the pipeline's surprisals, and its regressions as statsmodels computes them."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bitmar.core.errors import DataError
from bitmar.evaluate.tasks.babylm.reading import (
    BASELINE,
    EYE_TRACKING,
    SELF_PACED,
    SPILLOVER,
    design,
    explained,
    partial_r2,
    read_words,
    reading,
    surprisals,
)
from bitmar.evaluate.work import Work

COLUMNS = ["item", "word", "prev_item", "prev_word", "prev_length", *BASELINE, *EYE_TRACKING, SELF_PACED]


def table(count: int, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    made = {name: rng.gamma(3, 2, count) for name in ("pred", *SPILLOVER)}
    for i, name in enumerate((*EYE_TRACKING, SELF_PACED)):
        made[name] = 200 + (3 + i) * made["pred"] + made["length"] * made["context_length"] + rng.normal(0, 20, count)
    made["prev_pred"][::7] = np.nan  # the first word of a sentence
    made["Subtlex_log10"][::11] = np.nan
    return made


@pytest.mark.parametrize(("targets", "baseline"), [(EYE_TRACKING, BASELINE), ([SELF_PACED], SPILLOVER)])
def test_it_is_the_increment_of_r2(targets: list[str], baseline: tuple[str, ...]) -> None:
    formula = pytest.importorskip("statsmodels.formula.api", reason="the check needs bitmar[dev]")
    pandas = pytest.importorskip("pandas")
    made = table(150)
    increments = []
    for target in targets:
        keep = ~np.isnan(np.array([made[name] for name in (target, "pred", *baseline)])).any(axis=0)
        data = pandas.DataFrame({name: values[keep] for name, values in made.items()})
        without = formula.ols(f"{target} ~ ({' + '.join(baseline)}) ** 2", data).fit().rsquared
        with_it = formula.ols(f"{target} ~ ({' + '.join(baseline)}) ** 2 + pred", data).fit().rsquared
        increments.append((with_it - without) / (1 - without))
    found = explained(made, targets, baseline)
    assert found.figure.value == pytest.approx(np.mean(increments), rel=1e-9)
    assert found.figure.low < found.figure.value < found.figure.high
    assert found.figure.n == keep.sum()


def test_known_shares() -> None:
    rng = np.random.default_rng(0)
    x, y, z = rng.normal(size=(3, 20_000))
    covariates = design([z])
    targets = np.column_stack((x, 3 * x + 4 * y, z, np.ones_like(x)))
    np.testing.assert_allclose(partial_r2(targets, x + 5 * z, covariates), [1, 9 / 25, 0, 0], atol=0.02)
    assert partial_r2(y[:, None], 2 * z, covariates).tolist() == [0]  # the covariates hold it already


def test_chance_is_what_noise_gets() -> None:
    made = [table(60, seed) for seed in range(200)]
    for i, one in enumerate(made):
        one["pred"] = np.random.default_rng(1000 + i).normal(size=60)
    shares = []
    for one in made:
        keep = ~np.isnan(one["Subtlex_log10"])
        covariates = design([one[name][keep] for name in BASELINE])
        shares.append(partial_r2(one[SELF_PACED][keep][:, None], one["pred"][keep], covariates)[0])
    n, columns = covariates.shape
    assert np.mean(shares) == pytest.approx(1 / (n - columns), rel=0.35)


def test_a_word_follows_the_text_token_by_token(judge: Callable[..., Any], tokenizer: Any) -> None:
    asked: list[tuple[str, ...]] = []

    def rule(pieces: list[str], _: object) -> list[float]:
        asked.append(tuple(pieces))
        return [-50.0] * (len(pieces) - 1) + [-float(len(pieces[-1]))]

    parts = [tokenizer.decode([token]) for token in tokenizer.encode("runsxq", add_special_tokens=False).ids]
    assert len(parts) > 1
    found = surprisals(judge(rule), [("the dog", "runsxq"), ("the", "x")], Work())
    assert found.tolist() == [6.0, 1.0]  # the context costs nothing, every letter of the word does
    assert ["".join(pieces) for pieces in asked] == [
        *("the dog" + "".join(parts[: i + 1]) for i in range(len(parts))),  # no blank between, as in the pipeline
        "thex",
    ]


def rows(count: int) -> list[dict[str, Any]]:
    made = table(count)
    words = [{name: made[name][i] for name in COLUMNS[4:]} for i in range(count)]
    for i, word in enumerate(words):
        word |= {"item": "the dog " * (i % 3 + 1), "word": "runs" * (i % 4 + 1), "prev_item": "the", "prev_word": "dog"}
        if np.isnan(word["Subtlex_log10"]):
            word["Subtlex_log10"] = ""
    words[0]["prev_item"] = "None"
    return words


def save(folder: Path, words: list[dict[str, Any]], broken: str = "") -> Path:
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(words)
    (folder / "reading_data.csv").write_text(text.getvalue() + broken)
    return folder


def test_the_file_is_read_as_pandas_would(tmp_path: Path) -> None:
    words = rows(12)
    words[3]["item"] = ""
    words[4]["RTgopast"] = "fast"
    bad: list[str] = []
    found = read_words(save(tmp_path, words, "the dog,ru\n"), Work(on_bad=lambda name, why: bad.append(name)))
    path = tmp_path / "reading_data.csv"
    assert len(found) == 11 and bad == [f"{path}:6", f"{path}:14"]
    assert found[0].before is None and found[1].before == ("the", "dog")
    assert found[3].context == "None" and np.isnan(found[0].measured["Subtlex_log10"])


def test_columns_that_are_missing_are_named(tmp_path: Path) -> None:
    (tmp_path / "reading_data.csv").write_text("item,word\na,b\n")
    with pytest.raises(DataError, match=r"lacks the columns .*RTfirstfix"):
        read_words(tmp_path, Work())
    with pytest.raises(DataError, match="no row"):
        (tmp_path / "reading_data.csv").unlink()
        read_words(tmp_path, Work())


def test_both_scores_come_from_one_file(judge: Callable[..., Any], tmp_path: Path) -> None:
    scorer = judge(lambda pieces, _: [-float(len("".join(pieces)) % 5)] * len(pieces))
    found = reading(scorer, save(tmp_path, rows(80)), Work())
    assert found["reading_eye_tracking"].figure.n == 72  # 8 lack a frequency
    assert found["reading_self_paced"].figure.n == 72  # the one without a word before it lacks that as well
    few = reading(scorer, tmp_path, Work(limit=6))
    assert np.isnan(few["reading_eye_tracking"].figure.value)


def test_the_real_file_is_whole(shared_data: Path) -> None:
    words = read_words(shared_data / "eval" / "babylm2025" / "reading", Work())
    assert len(words) == 1726 and sum(word.before is None for word in words) == 206
