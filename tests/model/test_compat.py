"""One checkpoint, two versions of transformers: the same tokens, pixels, logits and texts.

Needs a second interpreter with the older version, named by BITMAR_COMPAT_PYTHON; `scripts/compat.sh` makes one and
runs this.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

PROBE = Path(__file__).with_name("compat_probe.py")


def probe(python: str, folder: Path, work: Path) -> dict[str, np.ndarray]:
    work.mkdir()
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME")}
    environment |= {"HF_HOME": str(work), "HF_HUB_OFFLINE": "1"}
    command = [python, str(PROBE), str(folder), str(work / "out.npz")]
    result = subprocess.run(command, capture_output=True, text=True, env=environment, check=False, timeout=600)
    assert result.returncode == 0, result.stderr[-4000:]
    with np.load(work / "out.npz") as found:
        return dict(found)


def test_both_versions_agree(checkpoint_folder: Path, tmp_path: Path) -> None:
    other = os.environ.get("BITMAR_COMPAT_PYTHON")
    if not other:
        pytest.skip("BITMAR_COMPAT_PYTHON names no interpreter with transformers 4.51.3; `scripts/compat.sh` sets it")
    ours = probe(sys.executable, checkpoint_folder, tmp_path / "ours")
    theirs = probe(other, checkpoint_folder, tmp_path / "theirs")
    versions = [json.loads(str(found.pop("versions"))) for found in (ours, theirs)]
    assert versions[0]["transformers"] != versions[1]["transformers"], versions
    for name in ours:
        if versions[0]["torch"] == versions[1]["torch"]:
            np.testing.assert_array_equal(theirs[name], ours[name], err_msg=name)
        else:  # another torch sums in another order
            np.testing.assert_allclose(theirs[name], ours[name], rtol=1e-4, atol=1e-4, err_msg=name)
    for found in (ours, theirs):
        np.testing.assert_array_equal(found["logits"], found["twin_logits"])
        np.testing.assert_array_equal(found["greedy"], found["greedy_uncached"])
        np.testing.assert_array_equal(found["sample"], found["sample_uncached"])
