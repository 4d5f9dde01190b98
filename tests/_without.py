"""The command in a process where a package cannot be imported: here another test may have imported it."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

_CODE = """
import sys
sys.modules[sys.argv[1]] = None
sys.argv[:2] = ["bitmar"]
from bitmar.__main__ import main
main()
"""


def without(package: str, *arguments: Any) -> str:
    """What the command says on its way out, in one line; it has to end with status 2."""
    command = [sys.executable, "-c", _CODE, package, *map(str, arguments)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert result.returncode == 2, result.stderr
    return " ".join(result.stderr.split())
