"""Shares of zeros."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bitmar.api import BitMar
from bitmar.core.errors import FormatError
from bitmar.core.ternary import absmean, unpack2
from bitmar.plots.zeros import gaussian_zeros, zeros_of_model, zeros_of_run


def test_gaussian_weights_as_they_are_rounded() -> None:
    codes, _ = absmean(np.random.default_rng(0).standard_normal((1000, 1000)).astype(np.float32))
    assert np.mean(codes == 0) == pytest.approx(gaussian_zeros(), abs=0.003)
    assert gaussian_zeros() == pytest.approx(0.31, abs=0.001) and gaussian_zeros(2 / 3) == pytest.approx(
        0.405, abs=0.001
    )


def test_every_matrix_of_a_model(model: BitMar) -> None:
    found = {matrix.name: matrix for matrix in zeros_of_model(model.container)}
    head = found["lm_head"]
    codes = unpack2(model.container.tensors["lm_head.weight"], 12)
    assert head.zeros == np.mean(codes == 0) and head.weights == codes.size == 260 * 12
    assert (head.part, head.family, head.layer, head.before) == ("other", "lm_head", None, None)
    deep = found["model.decoder.layers.1.attn.qkv_proj"]
    assert (deep.part, deep.family, deep.layer) == ("decoder", "qkv_proj", 1)
    assert found["model.vision.fc1"].family == "vision.fc1"
    assert {matrix.part for matrix in found.values()} == {"encoder", "decoder", "vision tower", "other"}


def test_a_run_is_read_from_its_last_stage_and_its_first(run: Path) -> None:
    found = zeros_of_run(run)
    assert {(matrix.before, matrix.zeros) for matrix in found} == {(0.3, 0.4)}  # the abandoned stage would say 0.5
    assert sum(matrix.weights for matrix in found) > 260 * 12
    assert {matrix.zeros for matrix in zeros_of_run(run, "first")} == {0.3}


def test_damage_is_named_and_absence_is_none(run: Path) -> None:
    path = run / "second/zero_fraction.json"
    path.write_text('{"layers": {"lm_head": {}}}')
    with pytest.raises(FormatError, match=r"zero_fraction.json is damaged"):
        zeros_of_run(run)
    for stage in ("first", "second"):
        (run / stage / "zero_fraction.json").unlink()
    assert zeros_of_run(run) == []
