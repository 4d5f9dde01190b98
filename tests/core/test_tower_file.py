from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bitmar.core.container import open_container
from bitmar.core.errors import FormatError
from bitmar.core.sealed import MODEL, TOWER, form_of
from bitmar.core.tower_file import open_tower, write_tower

from ..towers import random_tower

VISION = {"size": 9, "mean": [0.5] * 3, "std": [0.25] * 3}


@pytest.fixture(scope="module")
def tower_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tower") / "tower.bitmar"
    config, tensors = random_tower(np.random.default_rng(3))
    write_tower(path, config, tensors, vision=VISION, card={"source": "a test"})
    return path


def test_what_is_written_is_read(tower_file: Path) -> None:
    config, tensors = random_tower(np.random.default_rng(3))
    file = open_tower(tower_file)
    assert (file.config, file.vision, file.card) == (config, VISION, {"source": "a test"})
    assert file.tensors.keys() == tensors.keys()
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(file.tensors[name], tensor)
    assert file.checksum.startswith(file.fingerprint)


def test_each_kind_of_file_is_called_by_its_name(tower_file: Path, good_file: Path, tmp_path: Path) -> None:
    assert form_of(tower_file) is TOWER and form_of(good_file) is MODEL and form_of(tmp_path / "none") is None
    with pytest.raises(FormatError, match=r"a vision tower alone.*--tower"):
        open_container(tower_file)
    with pytest.raises(FormatError, match="a whole model"):
        open_tower(good_file)


def test_what_cannot_be_opened_is_not_written(tmp_path: Path) -> None:
    config, tensors = random_tower(np.random.default_rng(3))
    name = next(name for name in tensors if name.endswith(".scale"))
    bad = {
        "NaN": {**tensors, name: tensors[name] * np.float32(np.nan)},
        "zero": {**tensors, name: tensors[name] * 0},
        "another type": {**tensors, name: tensors[name].astype(np.float64)},
        "missing": {key: tensor for key, tensor in tensors.items() if key != name},
    }
    for what, given_tensors in bad.items():
        with pytest.raises(FormatError, match="refusing to write"):
            write_tower(tmp_path / what, config, given_tensors, vision=VISION, card={})
    with pytest.raises(FormatError, match="vision size"):
        write_tower(tmp_path / "size", config, tensors, vision={**VISION, "size": 8}, card={})
    assert not list(tmp_path.iterdir())


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)
@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_no_flipped_bit_goes_unnoticed(tower_file: Path, tmp_path: Path, place: float, bit: int) -> None:
    content = bytearray(tower_file.read_bytes())
    content[int(len(content) * place)] ^= 1 << bit
    path = tmp_path / "flipped.bitmar"
    path.write_bytes(content)
    with pytest.raises(FormatError):
        open_tower(path)


def test_no_prefix_opens(tower_file: Path, tmp_path: Path) -> None:
    content, path = tower_file.read_bytes(), tmp_path / "cut.bitmar"
    for end in range(0, len(content), 37):
        path.write_bytes(content[:end])
        with pytest.raises(FormatError):
            open_tower(path)
