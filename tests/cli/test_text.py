"""`bitmar complete` and `bitmar score` against the API."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import bitmar

Cli = Callable[..., Any]


@pytest.mark.parametrize("options", [{}, {"temperature": 0.9, "top_k": 20, "top_p": 0.9, "seed": 4}, {"beams": 2}])
def test_complete_goes_on_as_the_api_does(cli: Cli, model: Path, photo: Path, options: dict[str, Any]) -> None:
    words = [part for name, value in options.items() for part in (f"--{name.replace('_', '-')}", value)]
    result = cli("complete", "A dog", "--model", model, "--image", photo, "--max-tokens", 9, *words)
    assert result.exit_code == 0
    assert result.stdout == "A dog" + bitmar.load(model).complete("A dog", photo, max_tokens=9, **options) + "\n"


def test_complete_as_json(cli: Cli, model: Path) -> None:
    document = json.loads(cli("complete", "A dog", "--model", model, "--json", "--max-tokens", 9).stdout)
    assert document["text"] == "A dog" and document["tokens"] <= 9
    assert document["completion"] == bitmar.load(model).complete("A dog", max_tokens=9)


@pytest.mark.parametrize(
    "option, value, message",
    [("--beams", 65, "beams from 1 to 64"), ("--top-p", 0, "top_p"), ("--temperature", -1, "temperature")],
)
def test_options_out_of_range(fails: Callable[..., str], model: Path, option: str, value: float, message: str) -> None:
    assert message in fails("complete", "A", "--model", model, option, value)


def test_score_is_the_sum_of_its_tokens(cli: Cli, model: Path, photo: Path) -> None:
    document = json.loads(cli("score", "Ü dog", "--model", model, "--image", photo, "--json").stdout)
    values = bitmar.load(model).score("Ü dog", photo)
    assert [token["log_probability"] for token in document["tokens"]] == pytest.approx(values.tolist(), abs=1e-4)
    assert document["log_probability"] == pytest.approx(float(values.sum()), abs=1e-3)
    lines = cli("score", "Ü dog", "--model", model, "--image", photo).stdout.splitlines()
    assert len(lines) == len(values) + 1 and f"{len(values)} tokens" in lines[-1]


def test_an_empty_text_has_no_perplexity(cli: Cli, model: Path) -> None:
    assert json.loads(cli("score", "", "--model", model, "--json").stdout)["perplexity"] is None
