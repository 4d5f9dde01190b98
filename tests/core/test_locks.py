from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from bitmar.core.errors import OutputError
from bitmar.core.locks import sole_writer


def test_the_second_writer_is_told_and_the_next_gets_in(tmp_path: Path) -> None:
    path = tmp_path / "new" / "out.json"
    with sole_writer(path):
        other = sole_writer(tmp_path / "new" / "other.json")
        with other, pytest.raises(OutputError, match="another process"), sole_writer(path):
            pass
        code = "import sys; from bitmar.core.locks import sole_writer\nwith sole_writer(sys.argv[1]): pass"
        child = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=False)
        assert "OutputError" in child.stderr
    with sole_writer(path):
        pass
    assert not list((tmp_path / "new").iterdir())


def test_a_killed_writer_leaves_no_lock(tmp_path: Path) -> None:
    code = "import os, sys; from bitmar.core.locks import sole_writer\nwith sole_writer(sys.argv[1]): os._exit(9)"
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path / "out")], check=False).returncode == 9
    with sole_writer(tmp_path / "out"):
        pass
    assert not list(tmp_path.iterdir())


def test_a_fault_inside_gives_the_lock_back(tmp_path: Path) -> None:
    with pytest.raises(KeyError), sole_writer(tmp_path / "out"):
        raise KeyError
    with sole_writer(tmp_path / "out"):
        pass


def test_where_nothing_can_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot write"), sole_writer(tmp_path / "file" / "out"):
        pass
