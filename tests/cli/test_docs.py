"""The documentation is true: its code runs, its recipes load, its commands exist with these options."""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from PIL import Image

from bitmar.cli import app

ROOT = Path(__file__).resolve().parents[2]
DOCS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "docs/tutorials").glob("*.md"))]


def blocks(path: Path, language: str, after: str = "", before: str = "\0") -> list[str]:
    """The fenced blocks of one language (a pattern), between two headings if these are named; lists indent them."""
    text = path.read_text(encoding="utf-8").partition(before)[0]
    text = text[text.index(after) :]
    found = re.findall(rf"^( *)```{language}\n(.*?)^ *```$", text, re.DOTALL | re.MULTILINE)
    return ["".join(line.removeprefix(indent) for line in block.splitlines(True)) for indent, block in found]


@pytest.fixture
def here(model: Path, photo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the files that the documentation speaks of."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(model, "model.bitmar")
    Path("notes.txt").write_text("This is no photo.")
    Path("photos").mkdir()
    shutil.copy(photo, "photos/cat.jpg")
    Path("photos/cat.txt").write_text("A cat.\nA green cat.")
    return tmp_path


def execute(codes: list[str]) -> dict[str, Any]:
    """One after the other in one namespace, as a reader would type them."""
    assert codes
    names: dict[str, Any] = {"__name__": "documentation"}
    for code in codes:
        exec(compile(code, "documentation", "exec"), names)
    return names


def test_the_format_can_be_read_with_the_stock_library(here: Path) -> None:
    names = execute(blocks(ROOT / "docs/format.md", "python"))
    assert names["weight"].shape == (260, 12)


@pytest.mark.parametrize("name", ["remember-and-recall", "add-a-task"])
def test_the_tutorials(here: Path, name: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)  # one color is nothing to remember
    Image.fromarray(noise).save("photo.jpg")
    names = execute(blocks(ROOT / f"docs/tutorials/{name}.md", "python"))
    assert "memory" in names or len(names["right"]) > 1


def test_the_site_shows_every_document() -> None:
    site = (ROOT / "mkdocs.yml").read_text()
    assert not {path.name for path in DOCS[1:] if path.name not in site}


def test_the_api_without_torch(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = execute(blocks(ROOT / "docs/api.md", "python", before="## Training half"))
    assert names["logits"].shape == (1 + len(names["ids"]), 260)
    assert "notes.txt: not a picture" in capsys.readouterr().out


def test_the_api_with_torch(here: Path, trained: Path, recipe: Path) -> None:
    shutil.copytree(trained / "joint", "checkpoint")
    recipe.rename("recipe.yaml")
    names = execute(["import bitmar", *blocks(ROOT / "docs/api.md", "python", after="## Training half")])
    assert (here / "packed.bitmar").exists()
    assert names["again"].memory.slots.shape[1:] == (4, 8)


def test_photos_of_ones_own_become_a_shard(here: Path) -> None:
    pytest.importorskip("webdataset", reason="the example needs bitmar[dev]")
    from bitmar.data.sources import iter_webdataset

    execute(blocks(ROOT / "docs/data.md", "python"))
    (sample,) = iter_webdataset("mine-00000.tar")
    assert sample.captions == ("A cat.", "A green cat.")


def test_the_recipe_of_the_documentation_loads(here: Path) -> None:
    pytest.importorskip("yaml", reason="recipes need bitmar[train]")
    from bitmar.train.recipe import load_recipe

    (text,) = blocks(ROOT / "docs/recipes.md", "yaml")
    Path("recipe.yaml").write_text(text)
    assert [stage.name for stage in load_recipe("recipe.yaml").stages] == ["tower", "language", "joint"]


@pytest.mark.parametrize("path", sorted((ROOT / "recipes").glob("*.yaml")), ids=lambda path: path.name)
def test_the_recipes_of_the_project_load(path: Path) -> None:
    pytest.importorskip("yaml", reason="recipes need bitmar[train]")
    from bitmar.train.recipe import load_recipe

    assert load_recipe(path).stages


def commands() -> list[str]:
    """Every `bitmar ...` line of the documentation, and every example of the help."""
    lines = [line.strip() for path in DOCS for block in blocks(path, "(?:sh|console)") for line in block.splitlines()]

    def examples(command: Any) -> list[str]:
        inner = [line for sub in getattr(command, "commands", {}).values() for line in examples(sub)]
        return [*re.findall(r"\$ (.*)\[/cyan\]", command.epilog or ""), *inner]

    lines += examples(typer.main.get_command(app))
    found = [line.split(" #")[0] for line in lines if re.match(r"(torchrun .*-m )?bitmar ", line)]
    return list(dict.fromkeys(line[line.index("bitmar ") :] for line in found))


@pytest.mark.parametrize("line", commands())
def test_commands_of_the_documentation_exist(line: str) -> None:
    """Parsed, not run: an option that is gone or renamed is an error."""
    command: Any = typer.main.get_command(app)
    _, *words = shlex.split(line)
    if words == ["COMMAND", "--help"]:
        return
    while hasattr(command, "commands"):
        command = command.commands[words.pop(0)]
    command.make_context("bitmar", words)


def test_the_documentation_has_commands() -> None:
    assert len(commands()) > 25


def test_links_between_documents_hold(here: Callable[..., Any]) -> None:
    for path in DOCS:
        for target in re.findall(r"\]\((?!https?://)([^)#]+)", path.read_text(encoding="utf-8")):
            assert (path.parent / target).exists(), f"{path.name} links to {target}"
