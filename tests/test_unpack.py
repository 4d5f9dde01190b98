"""A packed model as a checkpoint again: packed once more it is the same file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bitmar import load
from bitmar.carried import CARRIED
from bitmar.core.container import open_container, with_tensors
from bitmar.core.errors import FormatError
from bitmar.core.tensors import background_tensors, confidence_tensors
from bitmar.core.ternary import absmean, quantize_rows
from bitmar.export import export_checkpoint
from bitmar.runtime.locate import find_model
from bitmar.unpack import latent, latent_rows, unpack, unpacked

CONCEPTS = {"concepts": 9, "concept_classes": 13, "concept_tokens": 4}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        CONCEPTS,
        {"tower": "two stages"},
        {"quantization": "none"},
        {**CONCEPTS, "tower": "one stage, gelu", "vision_grid": 6},
    ],
)
def test_packed_again_it_is_the_same_file(
    make_pair: Callable[..., Any], tmp_path: Path, changes: dict[str, Any]
) -> None:
    packed = make_pair(**changes).bitmar
    calibrated = tmp_path / "calibrated.bitmar"
    with_tensors(packed.container, _calibration(packed.container), calibrated)
    again = export_checkpoint(unpack(calibrated, tmp_path / "hf"), tmp_path / "again.bitmar")
    assert again.read_bytes() == calibrated.read_bytes()


def _calibration(container: Any) -> dict[str, np.ndarray]:
    """Numbers of recall and, with concepts, of confidence, as `bitmar calibrate` would put them in."""
    rng = np.random.default_rng(0)
    specs = background_tensors(container.config) | (confidence_tensors() if container.config.concepts else {})
    made = {name: np.sort(rng.random(spec.shape)).astype(np.float32) for name, spec in specs.items()}
    return {name: (100 * v).astype(np.int8) if specs[name].dtype == "I8" else v for name, v in made.items()}


BUNDLED = [Path(find_model(None)), *sorted(Path(__file__).parents[1].joinpath("models").glob("*.bitmar"))]


@pytest.mark.parametrize("bundled", BUNDLED, ids=lambda path: path.name)
def test_a_bundled_model_comes_back_byte_for_byte(bundled: Path, tmp_path: Path) -> None:
    pytest.importorskip("transformers", reason="unpack needs bitmar[train]")
    again = export_checkpoint(unpack(bundled, tmp_path / "hf"), tmp_path / "again.bitmar")
    assert again.read_bytes() == bundled.read_bytes()


def test_in_pytorch_the_bundled_model_computes_the_same() -> None:
    torch = pytest.importorskip("torch", reason="unpack needs bitmar[train]")
    packed = load(engine="numpy")
    model = unpacked(packed.container).eval()
    shape = (packed.config.vision_grid**2, packed.config.vision_dim)
    features = np.maximum(np.random.default_rng(0).normal(0, 3, shape), 0).astype(np.float32)
    ids = [packed.config.bos_token_id, *packed.tokenizer.encode("A dog runs.", add_special_tokens=False).ids]
    with torch.no_grad():
        seen = torch.from_numpy(features).unsqueeze(0)
        logits = model(torch.tensor([ids]), vision_features=seen, write_memory=False).logits[0].numpy()
    np.testing.assert_allclose(logits, packed.logits(ids, packed.encode_image(features=features)), atol=1e-3)


def test_what_is_carried_belongs_to_the_features_of_the_checkpoint(
    make_pair: Callable[..., Any], tmp_path: Path
) -> None:
    folder = unpack(make_pair(tower="two stages").bitmar.path, tmp_path / "hf")
    preprocessing = folder / "preprocessor_config.json"
    preprocessing.write_text(preprocessing.read_text().replace('"size": 96', '"size": 64'))
    with pytest.raises(FormatError, match=r"model of other features .*--tower"):
        export_checkpoint(folder, tmp_path / "again.bitmar")
    (folder / CARRIED).unlink()
    assert open_container(export_checkpoint(folder, tmp_path / "again.bitmar")).config.vision_tower is None


@pytest.mark.parametrize("fault", ["cut", "another file"])
def test_damage_is_told(make_pair: Callable[..., Any], tmp_path: Path, fault: str) -> None:
    folder = unpack(make_pair(tower="two stages").bitmar.path, tmp_path / "hf")
    weights = (folder / CARRIED).read_bytes()
    (folder / CARRIED).write_bytes(weights[:-9] if fault == "cut" else (folder / "model.safetensors").read_bytes())
    with pytest.raises(FormatError, match=CARRIED):
        export_checkpoint(folder, tmp_path / "again.bitmar")


def test_unpacked_over_another_model_nothing_of_that_stays(make_pair: Callable[..., Any], tmp_path: Path) -> None:
    unpack(make_pair(tower="two stages").bitmar.path, tmp_path / "hf")
    plain = make_pair().bitmar
    again = export_checkpoint(unpack(plain.path, tmp_path / "hf"), tmp_path / "again.bitmar")
    assert again.read_bytes() == plain.path.read_bytes()
    assert load(again, engine="numpy").complete("the", max_tokens=8) == plain.complete("the", max_tokens=8)


@given(st.integers(1, 40), st.integers(1, 40), st.floats(1e-7, 1e3), st.integers(0, 2**32 - 1))
@settings(deadline=None)
def test_latent_weights_have_the_same_codes_and_scale(rows: int, columns: int, size: float, seed: int) -> None:
    weights = np.random.default_rng(seed).standard_t(2, (rows, columns)).astype(np.float32) * np.float32(size)
    codes, scale = absmean(weights)
    again = latent(codes, scale)
    np.testing.assert_array_equal(absmean(again)[0], codes)
    assert absmean(again)[1] == absmean(again[::-1])[1] == scale


@given(st.integers(1, 9), st.integers(1, 40), st.floats(1e-7, 1e3), st.integers(0, 2**32 - 1))
@settings(deadline=None)
def test_latent_rows_have_the_same_codes_and_scales(rows: int, columns: int, size: float, seed: int) -> None:
    table = np.random.default_rng(seed).standard_t(2, (rows, columns)).astype(np.float32) * np.float32(size)
    table[0, columns // 2 :] = 0
    codes, scale = quantize_rows(table)
    again = quantize_rows(latent_rows(codes, scale))
    np.testing.assert_array_equal(again[0], codes)
    np.testing.assert_array_equal(again[1], scale)


def test_more_weights_than_a_sum_counts_keep_their_codes() -> None:
    codes = np.where(np.random.default_rng(0).random((3000, 3000)) < 0.3, 0, 1).astype(np.int8)
    again, scale = absmean(latent(codes, np.float32(0.02)))
    np.testing.assert_array_equal(again, codes)
    assert scale == pytest.approx(0.02, rel=1e-5)
