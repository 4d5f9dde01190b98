"""`bitmar doctor` and `bitmar bench`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bitmar.runtime import diagnosis

Cli = Callable[..., Any]


def test_doctor_says_what_runs_and_why(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BITMAR_KERNEL", "numpy")
    document = json.loads(cli("doctor", "--json").stdout)
    assert document["chosen"] == "numpy" and "BITMAR_KERNEL=numpy" in document["because"]
    text = cli("doctor").stdout
    assert "engine: numpy" in text and all(path["name"] in text for path in document["paths"])


def test_doctor_misses_the_native_engine(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BITMAR_KERNEL", raising=False)
    monkeypatch.setattr(diagnosis, "native_paths", lambda: [])
    assert "C++ compiler" in json.loads(cli("doctor", "--json").stdout)["because"]


@pytest.mark.parametrize("wish", ["sse", "avx", "NUMPY"])
def test_doctor_names_the_engines_that_can_be_asked_for(cli: Cli, monkeypatch: pytest.MonkeyPatch, wish: str) -> None:
    pytest.importorskip("bitmar._native", reason="the native engine was not built")
    monkeypatch.setenv("BITMAR_KERNEL", wish)
    for words in (["doctor"], ["doctor", "--json"]):
        result = cli(*words)
        assert (
            result.exit_code == 1 and f"no engine {wish!r} here" in result.output and "portable, numpy" in result.output
        )
    assert json.loads(result.stdout)["chosen"] is None


def test_an_engine_that_is_not_there(fails: Callable[..., str], model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BITMAR_KERNEL", "nunpy")
    assert "nunpy" in fails("complete", "A dog", "--model", model)


@pytest.mark.parametrize("paths", [["numpy"], ["numpy", "portable"]])
def test_bench_measures_what_it_says(cli: Cli, model: Path, tmp_path: Path, paths: list[str]) -> None:
    if "portable" in paths:
        pytest.importorskip("bitmar._native", reason="the native engine was not built")
    chosen = [part for path in paths for part in ("--path", path)]
    result = cli("bench", "--model", model, "--tokens", 3, *chosen, "--json", tmp_path / "bench.json")
    assert result.exit_code == 0, result.output
    figures = json.loads((tmp_path / "bench.json").read_text())["paths"]
    assert list(figures) == paths
    for name, found in figures.items():
        assert set(found["tokens_per_second"]) == {"64", "256", "1024"} and found["photo_ms"] > 0
        assert 0 < found["first_token_s"] < 60 and 10 < found["peak_rss_mb"] < 2000
        assert ("limits" in found) == (name != "numpy")
        if name != "numpy":
            assert found["limits"]["64"]["bytes_per_token"] < found["limits"]["1024"]["bytes_per_token"]
    assert "prefill" in result.stdout
