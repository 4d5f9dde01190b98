from __future__ import annotations

import json
import shlex
from importlib.metadata import Distribution
from types import SimpleNamespace
from typing import Any

import pytest

from bitmar.core.errors import nearest, pip_install


def test_nearest_names_a_close_choice_and_stays_silent_otherwise() -> None:
    assert nearest("hiden_size", ["hidden_size", "num_heads"]) == " (did you mean 'hidden_size'?)"
    assert nearest("zzz", ["hidden_size"]) == ""


@pytest.mark.parametrize(
    ("noted", "command"),
    [
        (None, "pip install 'bitmar[train]'"),
        ({"url": "file:///home/a%20b/bitmar", "dir_info": {}}, "pip install '/home/a b/bitmar[train]'"),
        ({"url": "file:///bitmar", "dir_info": {"editable": True}}, "pip install --editable '/bitmar[train]'"),
        ({"url": "file:///dist/bitmar.whl", "archive_info": {}}, "pip install 'bitmar[train]'"),
        ({"url": "https://host/bitmar", "vcs_info": {"vcs": "git"}}, "pip install 'bitmar[train]'"),
    ],
)
def test_an_extra_comes_from_where_the_package_came(
    monkeypatch: pytest.MonkeyPatch, noted: dict[str, Any] | None, command: str
) -> None:
    installed = SimpleNamespace(read_text=lambda _: noted and json.dumps(noted))
    monkeypatch.setattr(Distribution, "from_name", lambda _: installed)
    assert pip_install("train") == command
    assert shlex.split(command)[-1].endswith("bitmar[train]")
