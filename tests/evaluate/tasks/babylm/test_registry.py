"""Tasks by name."""

from __future__ import annotations

import pytest

from bitmar.core.errors import ConfigError
from bitmar.evaluate.tasks.babylm.registry import TASKS, find_tasks


def test_names() -> None:
    assert [task.name for task in find_tasks(None)] == list(TASKS)
    assert [task.name for task in find_tasks(["ewok", "blimp"])] == ["blimp", "ewok"]
    with pytest.raises(ConfigError, match=r"'wino_ground' \(did you mean 'winoground'\?\)"):
        find_tasks(["blimp", "wino_ground"])


def test_the_folders_of_the_pipeline() -> None:
    folders = {name for task in TASKS.values() for name in task.folders}
    assert len(TASKS) == 11 and len(folders) == 15
    assert [task.name for task in TASKS.values() if task.sees] == ["vqa", "winoground", "devbench"]
