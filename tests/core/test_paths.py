from __future__ import annotations

from pathlib import Path

import pytest

from bitmar.core.errors import ConfigError
from bitmar.core.paths import VARIABLE, data_files, data_folder, expand


def test_names_are_filled_in_at_any_depth_and_nothing_else_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HERE", "/data")
    values = {"a": ["$HERE/x-{00000..00003}.tar", 3, None], "b": {"c": "litert:${HERE}s/$ 5 $"}, "$HERE": True}
    found = expand(values)
    assert found == {"a": ["/data/x-{00000..00003}.tar", 3, None], "b": {"c": "litert:/datas/$ 5 $"}, "$HERE": True}


def test_the_environment_goes_before_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HERE", raising=False)
    assert expand("$HERE/x", {"HERE": "stated"}) == "stated/x"
    monkeypatch.setenv("HERE", "given")
    assert expand("$HERE/x", {"HERE": "stated"}) == "given/x"
    monkeypatch.setenv("HERE", "")
    with pytest.raises(ConfigError, match=r"\$HERE is not set"):
        expand("$HERE/x")


def test_the_data_folder_is_named_by_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    assert data_folder() == tmp_path
    (tmp_path / "a.tar").touch()
    assert data_files("*.tar") == [str(tmp_path / "*.tar")] and data_files("*.zip") == []
    monkeypatch.setenv(VARIABLE, str(tmp_path / "nowhere"))
    with pytest.raises(ConfigError, match="no folder"):
        data_folder()
    monkeypatch.delenv(VARIABLE)
    assert data_files("*.tar") == []
    with pytest.raises(ConfigError, match=f"set {VARIABLE}"):
        data_folder()
