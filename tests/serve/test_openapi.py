"""The server is as its OpenAPI document says, asked by schemathesis with what that allows and what it forbids."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


def test_schemathesis_finds_nothing(serve: Callable[..., Any], tmp_path: Path) -> None:
    pytest.importorskip("schemathesis", reason="needs schemathesis (bitmar[dev])")
    server = serve(api_key="secret", upload_seconds=1.0)
    command = [
        sys.executable, "-m", "schemathesis.cli", "run", f"{server.url}/openapi.json",
        "--header", "Authorization: Bearer secret", "--seed", "1", "--no-color",
        "--max-examples", "3", "--phases", "coverage,fuzzing",
        "--exclude-checks", "positive_data_acceptance",  # no schema tells a photo from other base64
        "--generation-database", "none",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=300, env=dict(os.environ))
    assert done.returncode == 0, done.stdout[-9000:] + done.stderr[-2000:]
    assert "passed" in done.stdout


def test_every_endpoint_is_described(serve: Callable[..., Any]) -> None:
    document = serve().client.get("/openapi.json").json()
    paths = document["paths"]
    for name in ("caption", "ask", "remember", "recall", "slots", "memory", "models", "embeddings", "chat/completions"):
        assert f"/v1/{name}" in paths
    for operation in (operation for methods in paths.values() for operation in methods.values()):
        assert operation.get("summary") and operation.get("description") and "422" not in operation["responses"]
    assert set(paths["/v1/caption"]["post"]["requestBody"]["content"]) == {"application/json", "image/*"}
    assert "HTTPValidationError" not in str(document)
