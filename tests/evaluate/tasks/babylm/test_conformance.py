"""An exported folder in the pipeline's hands, and our runner: the same score for every item.

The pipeline pins transformers 4.51.3. That comparison needs a second interpreter, named by BITMAR_COMPAT_PYTHON;
`scripts/compat.sh` makes one and runs this. The version that is installed here is always asked.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bitmar.evaluate.protocol import PictureScorer
from bitmar.evaluate.scorer import load_scorer
from bitmar.evaluate.tasks.babylm.choices import Choice, score_choices, score_pictured
from bitmar.evaluate.tasks.babylm.reading import surprisals
from bitmar.evaluate.work import Work

PROBE = Path(__file__).with_name("pipeline_probe.py")
HUB_ID = "someone/bitmar"
REVISION = "chck_1M"

CONTEXT = "The dog runs over the grass."
CHOICES = [  # as each task makes them; two options, since the pipeline batches column by column
    Choice.whole(("the dogs run over the grass", "the dogs runs over the grass"), "blimp"),
    Choice.whole(("café \N{SNOWMAN} — the man", "the man"), "supplement"),
    Choice.completed([CONTEXT] * 2, [" The man is green.", " The grass is green."], "ewok"),
    Choice.completed(["A dog ", "A green table "], ["can run.", "can run."], "comps"),
    Choice.completed(["Box 0 contains"] * 2, [" the grass.", " nothing."], "entity_tracking"),
    Choice.whole(("Create a noun: actignable. actignability", "Create a noun: actignable. actignableness"), "wug"),
    Choice.completed([CONTEXT * 9] * 2, [" The man", " The man runs over all of the grass."], "longer than the window"),
]
WORDS = [("the dog", "runs"), ("the man over", "grassy!"), ("The", "x"), ("None", "of"), ("caf", "é — é")]


def probe(python: str, items: dict[str, Any], work: Path, home: Path) -> dict[str, Any]:
    """What the pipeline finds with another interpreter's transformers."""
    (work / "items.json").write_text(json.dumps({**items, "out": str(work / "out.npz")}))
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME")}
    environment |= {"HF_HOME": str(home), "HF_HUB_OFFLINE": "1"}
    command = [python, str(PROBE), str(work / "items.json")]
    result = subprocess.run(command, capture_output=True, text=True, env=environment, check=False, timeout=600)
    assert result.returncode == 0, result.stderr[-4000:]
    with np.load(work / "out.npz") as found:
        return dict(found)


@pytest.fixture(params=["installed", "4.51.3"])
def python(request: pytest.FixtureRequest) -> str:
    """Interpreters to ask."""
    if request.param == "installed":
        return sys.executable
    other = os.environ.get("BITMAR_COMPAT_PYTHON")
    if not other:
        pytest.skip("BITMAR_COMPAT_PYTHON names no interpreter with transformers 4.51.3; `scripts/compat.sh` sets it")
    return other


def completions(choice: Choice) -> list[str]:
    return [text[start:] for text, start in zip(choice.options, choice.starts, strict=True)]


def ours(scorer: PictureScorer, pictured: list[Choice]) -> dict[str, np.ndarray]:
    return {
        "texts": np.concatenate(score_choices(scorer, CHOICES, Work())),
        "pictures": np.concatenate(score_pictured(scorer, pictured, Work())[1]),
        "words": surprisals(scorer, WORDS, Work()),
    }


def as_hub(home: Path, folder: Path, other: Path) -> None:
    """A local cache of a repository whose main branch is `folder` and whose revision is `other`."""
    repository = home / "hub" / f"models--{HUB_ID.replace('/', '--')}"
    (repository / "refs").mkdir(parents=True)
    for name, source, commit in (("main", folder, "a" * 40), (REVISION, other, "b" * 40)):
        (repository / "refs" / name).write_text(commit)
        shutil.copytree(source, repository / "snapshots" / commit, ignore=shutil.ignore_patterns("packed"))


def earlier(folder: Path, target: Path) -> Path:
    """The checkpoint with other weights, as an earlier step of its training would have them."""
    from safetensors.torch import load_file, save_file

    shutil.copytree(folder, target)
    weights = load_file(folder / "model.safetensors")
    weights["lm_head.weight"] = weights["lm_head.weight"].flip(0).contiguous()
    save_file(weights, target / "model.safetensors", metadata={"format": "pt"})
    return target


def test_item_by_item(python: str, folder: Path, photo: Callable[[int], Image.Image], tmp_path: Path) -> None:
    pictured = []
    for i in range(2):
        path = tmp_path / f"{i}.png"
        photo(i).save(path)
        answers = [" the grass", " a green dog", " man"]
        pictured.append(Choice.completed(["what is this"] * 3, answers, "vqa", picture=path))
    pictured.append(Choice.whole(("the man over the dog", "the dog over the man"), "winoground", picture=path))
    weights = {"folder": folder, "main": folder, REVISION: earlier(folder, tmp_path / "earlier")}
    as_hub(tmp_path / "home", folder, weights[REVISION])
    items = {
        "models": {"folder": (str(folder), None), "main": (HUB_ID, None), REVISION: (HUB_ID, REVISION)},
        "texts": [[choice.options, completions(choice)] for choice in CHOICES],
        "pictures": [[choice.options, completions(choice), str(choice.picture)] for choice in pictured],
        "words": WORDS,
    }
    theirs = probe(python, items, tmp_path, tmp_path / "home")
    assert python == sys.executable or theirs["version"] == "4.51.3"
    scores = {name: ours(load_scorer(source, "torch"), pictured) for name, source in weights.items()}
    for name, found in scores.items():
        for part, values in found.items():
            np.testing.assert_allclose(
                theirs[f"{name}/{part}"], values, rtol=1e-4, atol=1e-3, err_msg=f"{name}: {part}"
            )
    assert np.abs(scores[REVISION]["texts"] - scores["main"]["texts"]).max() > 1  # or the revision was not asked for

    # The engine sums in another order: a token that this tips over an int8 rounding moves by hundredths.
    for part, values in ours(load_scorer(folder / "packed"), pictured).items():
        np.testing.assert_allclose(values, scores["folder"][part], rtol=5e-3, atol=0.2, err_msg=f"packed: {part}")
