"""`bitmar remember`, `recall`, `memory ...`, and --memory, against the API; docs/memory.md does as it says."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import bitmar

Cli = Callable[..., Any]
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: Path) -> list[str]:
    """a.jpg, b.jpg and c.jpg in the working folder, beside model.bitmar."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(model, "model.bitmar")
    names = ["a.jpg", "b.jpg", "c.jpg"]
    for seed, name in enumerate(names):
        colours = np.random.default_rng(seed).integers(0, 256, (3, 4, 3), dtype=np.uint8)
        Image.fromarray(colours).resize((64, 48)).save(name)
    return names


@pytest.fixture
def home(cli: Cli, photos: list[str]) -> list[str]:
    """Three episodes in home.mem: two photos and a text. Returns the options that every command needs."""
    options = ["--memory", "home.mem", "--model", "model.bitmar"]
    for words in (["a.jpg", "our dog Rex"], ["b.jpg"], ["The key lies under the mat."]):
        result = cli("remember", *words, *options)
        assert result.exit_code == 0, result.output
    return options


def test_remember_then_recall(cli: Cli, home: list[str]) -> None:
    result = cli("recall", "a.jpg", *home)
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert len(lines) == 2 and lines[0].endswith("our dog Rex") and lines[1].endswith("(no text)")
    assert "ahead of the next; too few episodes to say" in result.stderr
    assert cli("recall", "where is the key", *home, "-k", 1).stdout.endswith("The key lies under the mat.\n")
    document = json.loads(cli("recall", "a.jpg", *home, "--json").stdout)
    (best, _) = document["recalled"]
    expected = bitmar.load("model.bitmar").memory("home.mem").recall(image="a.jpg")[0]
    assert best["text"] == "our dog Rex" and best["photo"] == expected.episode.photo
    assert best["score"] == pytest.approx(expected.score, abs=1e-4) and best["confidence"] is None


def test_what_was_overwritten_is_named(cli: Cli, home: list[str]) -> None:
    assert "overwritten" not in cli("remember", "c.jpg", "the fourth", *home).stderr
    result = cli("remember", "the fifth", *home)
    assert "overwritten, the least used: 'our dog Rex'" in result.stderr
    assert "(overwrote 'our dog Rex')" in cli("memory", "show", "home.mem", "--model", "model.bitmar").stdout
    document = json.loads(cli("remember", "the sixth", *home, "--json").stdout)
    assert document["slot"] == 1 and document["lost"]["text"] == ""
    assert "kept in part" in cli("remember", "long " * 200, *home).stderr


def test_more_slots_than_the_model_has(cli: Cli, home: list[str]) -> None:
    model = home[2:]
    assert cli("remember", "a text", *home, "--slots", 9).exit_code == 0
    assert "4 of 9 slots" in cli("memory", "stats", "home.mem", *model).stdout
    for i in range(5):
        assert "overwritten" not in cli("remember", f"text {i}", *home).stderr
    assert "overwritten" in cli("remember", "one too many", *home).stderr
    assert cli("memory", "merge", "all.mem", "home.mem", *model, "--slots", 20).exit_code == 0
    assert "9 of 20 slots" in cli("memory", "stats", "all.mem", *model).stdout
    assert cli("recall", "a.jpg", *home).stdout and cli("caption", "a.jpg", *home).exit_code == 0
    assert [cli("remember", "x", *home, "--slots", slots).exit_code for slots in (0, 65537)] == [2, 2]


def test_show_stats_forget(cli: Cli, home: list[str]) -> None:
    model = home[2:]
    shown = json.loads(cli("memory", "show", "home.mem", *model, "--json").stdout)
    assert [episode["slot"] for episode in shown] == [2, 1, 0]
    stats = json.loads(cli("memory", "stats", "home.mem", *model, "--json").stdout)
    assert (stats["episodes"], stats["with_photo"], stats["with_text"]) == (3, 2, 2)
    assert stats["bytes"] == Path("home.mem").stat().st_size
    assert "3 of 4 slots" in cli("memory", "stats", "home.mem", *model).stdout
    assert cli("memory", "forget", "home.mem", 0, 1, *model).exit_code == 0
    assert len(cli("memory", "show", "home.mem", *model).stdout.splitlines()) == 1
    assert cli("memory", "forget", "home.mem", "--all", *model).exit_code == 0
    result = cli("recall", "a.jpg", *home)
    assert result.exit_code == 0 and "remembers nothing with a photo yet" in result.stderr
    assert json.loads(cli("recall", "key", *home, "--json").stdout)["recalled"] == []


def test_export_import_merge(cli: Cli, home: list[str], make_model: Callable[..., Path]) -> None:
    model = home[2:]
    assert "3 episodes" in cli("memory", "export", "home.mem", "out.jsonl", *model).stderr
    assert "3 added" in cli("memory", "import", "new.mem", "out.jsonl", *model).stderr
    assert "0 added, 3 there already" in cli("memory", "merge", "new.mem", "home.mem", *model).stderr
    make_model(Path("other.bitmar"), seed=1)
    result = cli("memory", "import", "other.mem", "out.jsonl", "--model", "other.bitmar")
    assert "2 added, 1 without their photos" in result.stderr and "1 of another model and without text" in result.stderr


def test_damage_can_be_saved(cli: Cli, fails: Callable[..., str], home: list[str]) -> None:
    data = bytearray(Path("home.mem").read_bytes())
    data[data.index(b"our dog Rex")] ^= 1
    Path("home.mem").write_bytes(data)
    assert "--salvage" in fails("memory", "show", "home.mem", *home[2:])
    assert "--salvage" in fails("memory", "export", "home.mem", "out.jsonl", *home[2:])
    result = cli("memory", "export", "home.mem", "out.jsonl", "--salvage", *home[2:])
    assert result.exit_code == 0 and "2 episodes in out.jsonl; 1 damaged ones left out" in result.stderr


def test_generating_commands_read_it(cli: Cli, home: list[str]) -> None:
    model = bitmar.load("model.bitmar")
    memory = model.memory("home.mem")
    result = cli("caption", "a.jpg", *home)
    assert result.stdout.strip() == model.caption("a.jpg", memory=memory)
    assert "remembered with a photo like this: 'our dog Rex' (score" in result.stderr
    (one,) = json.loads(cli("caption", "a.jpg", *home, "--json").stdout)["captions"]
    assert one["recalled"]["text"] == "our dog Rex"
    written = cli("complete", "The dog", *home, "--max-tokens", 9).stdout
    assert written == "The dog" + model.complete("The dog", memory=memory, max_tokens=9) + "\n"
    Path("text.txt").write_text("The dog runs over the grass.\n" * 3)
    assert cli("read", "text.txt", *home, "--json", "-").exit_code == 0


@pytest.mark.parametrize(
    "words, message",
    [
        (["recall", "a.jpg", "--memory", "none.mem"], "none.mem: no such memory; `bitmar remember"),
        (["caption", "a.jpg", "--memory", "none.mem"], "no such memory"),
        (["memory", "show", "none.mem"], "no such memory"),
        (["remember", "none.jpg", "text", "--memory", "home.mem"], "none.jpg: no such file"),
        (["remember", "two", "texts", "--memory", "home.mem"], "'two' is no photo"),
        (["remember", " ", "--memory", "home.mem"], "nothing to remember"),
        (["remember", "a.jpg", "--memory", "none/home.mem"], "no folder none"),
        (["remember", "a.jpg", "--memory", "a.jpg"], "a.jpg: no memory file"),
        (["memory", "forget", "home.mem"], "name the slots"),
        (["memory", "forget", "home.mem", "3"], "slot 3 holds nothing"),
        (["memory", "import", "home.mem", "a.jpg"], "a.jpg: not what"),
        (["memory", "import", "home.mem", "none.jsonl"], "none.jsonl: cannot be read"),
        (["caption", "--data", "x.tar", "--json", "x.json", "--memory", "home.mem"], "not with --data"),
    ],
)
def test_bad_input(fails: Callable[..., str], home: list[str], words: list[str], message: str) -> None:
    assert message in fails(*words, "--model", "model.bitmar")


def test_a_photo_of_one_colour(fails: Callable[..., str], home: list[str]) -> None:
    Image.new("RGB", (30, 30), "green").save("green.jpg")
    assert "one colour" in fails("remember", "green.jpg", "what is this", *home)


def test_a_memory_of_another_model(fails: Callable[..., str], home: list[str], make_model: Any) -> None:
    make_model(Path("other.bitmar"), seed=1)
    assert "another model" in fails("recall", "a.jpg", "--memory", "home.mem", "--model", "other.bitmar")


def test_the_documentation(photos: list[str]) -> None:
    text = (ROOT / "docs/memory.md").read_text(encoding="utf-8")
    codes = re.findall(r"^```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    assert len(codes) >= 2
    names: dict[str, Any] = {}
    for code in codes:
        exec(compile(code, "docs/memory.md", "exec"), names)
    assert len(names["live"]) == len(names["memory"])
    np.testing.assert_array_equal(
        names["values"], names["memory"].file.column("value", np.flatnonzero(names["memory"].file.has("text")))
    )
