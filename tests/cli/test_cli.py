"""Help, exit statuses, and what happens around the commands."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer

import bitmar
from bitmar.cli import app
from bitmar.core.errors import pip_install

from .._without import without


def commands(command: Any, name: str = "") -> list[str]:
    """All of them, also those of groups."""
    inner = getattr(command, "commands", {})
    return [each for sub in inner for each in commands(inner[sub], f"{name} {sub}")] if inner else [name.strip()]


HEAVY = {"numpy", "PIL", "tokenizers", "torch", "transformers", "safetensors", "webdataset"}


def python(code: str, *arguments: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


@pytest.mark.parametrize("command", commands(typer.main.get_command(app)))
def test_help_shows_examples(cli: Callable[..., Any], command: str) -> None:
    result = cli(*command.split(), "--help")
    assert result.exit_code == 0
    text = result.stdout[result.stdout.index("Examples") :]
    assert f"$ bitmar {command}" in text


def test_help_imports_nothing_heavy() -> None:
    code = f"""
import sys
from bitmar.cli import app
app(["--help"], standalone_mode=False)
assert not {HEAVY!r} & set(sys.modules), {HEAVY!r} & set(sys.modules)
"""
    result = python(code)
    assert result.returncode == 0, result.stderr


def test_the_module_is_the_command(model: Path) -> None:
    result = subprocess.run([sys.executable, "-m", "bitmar", "--version"], capture_output=True, text=True, timeout=300)
    assert (result.returncode, result.stdout.strip()) == (0, f"bitmar {bitmar.__version__}")


def test_using_a_model_needs_no_torch(model: Path, photo: Path, tmp_path: Path) -> None:
    code = """
import sys
for name in ("torch", "transformers", "webdataset", "yaml"):
    sys.modules[name] = None
from bitmar.cli import app
model, photo = sys.argv[1:]
for command in (["caption", photo], ["complete", "a", "--max-tokens", "3"], ["score", "a"]):
    assert not app([*command, "--model", model], standalone_mode=False), command
assert not app(["info", model], standalone_mode=False)
assert app(["export", "nowhere", "out.bitmar"], standalone_mode=False) == 2
"""
    result = python(code, model, photo)
    assert result.returncode == 0, result.stderr
    assert "error: nowhere" in result.stderr


def test_a_missing_extra_is_named(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("output: x")
    assert pip_install("train") in without("yaml", "train", recipe)


def test_ctrl_c_promises_nothing_where_nothing_is_kept(
    cli: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("bitmar.api.load", stop)
    result = cli("complete", "text")
    assert (result.exit_code, result.stdout, result.stderr) == (130, "", "stopped\n")


def test_ctrl_c_names_what_the_same_command_goes_on_from(
    cli: Callable[..., Any], model: Path, shard: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bitmar.api import BitMar

    captioned = BitMar.caption
    calls: list[int] = []

    def stop_at_the_second(self: BitMar, *arguments: Any, **options: Any) -> str:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return captioned(self, *arguments, **options)

    monkeypatch.setattr(BitMar, "caption", stop_at_the_second)
    command = ("caption", "--data", shard, "--out", tmp_path / "out.json", "--model", model)
    result = cli(*command)
    assert result.exit_code == 130
    assert result.stderr.splitlines()[-1].startswith(f"stopped; {tmp_path / 'out.json.partial'} is kept")
    cli(*command)
    assert len((tmp_path / "out.json").read_text().splitlines()) == 4  # the third photo is broken


@pytest.mark.parametrize("module", ["typer", "bitmar.cli.finetune", "numpy", "tokenizers"])
def test_ctrl_c_in_the_middle_of_an_import_is_one_line(model: Path, module: str) -> None:
    code = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
module, model = sys.argv[1:]
class Press:
    def find_spec(self, name, *_):
        if name == module:
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Press())
from bitmar.__main__ import main
sys.argv = ["bitmar", "complete", "a", "--model", model]
main()
"""
    result = python(code, module, model)
    assert (result.returncode, result.stdout, result.stderr) == (130, "", "stopped\n")


def test_help_flows_to_the_width_it_has() -> None:
    def lines(columns: int, *words: str) -> list[str]:
        environment = {**os.environ, "COLUMNS": str(columns)}
        command = [sys.executable, "-m", "bitmar", *words, "--help"]
        result = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
        return result.stdout.partition("Examples")[0].splitlines()

    for words in ((), ("caption",)):
        narrow = lines(60, *words)
        assert max(map(len, narrow)) <= 60 and not any("…" in line for line in narrow)
    assert any("The same command goes on where a stopped one was." in line for line in lines(200, "caption"))


def test_shells_can_complete() -> None:
    environment = {**os.environ, "_BITMAR_COMPLETE": "complete_bash", "COMP_WORDS": "bitmar cap", "COMP_CWORD": "1"}
    code = "import sys; sys.argv = ['bitmar']; from bitmar.__main__ import main; main()"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=300)
    assert result.stdout.split() == ["caption"]


def test_a_full_disk_is_one_line(fails: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "out.json")

    monkeypatch.setattr("bitmar.api.load", full)
    assert fails("complete", "text") == "error: out.json: No space left on device"


def test_a_fault_of_ours_keeps_its_traceback(cli: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bitmar.api.load", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        cli("complete", "text")


def test_a_closed_pipe_is_silent(model: Path) -> None:
    command = [sys.executable, "-m", "bitmar", "complete", "a", "--model", str(model), "--max-tokens", "9"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()  # as `| head` does when it has enough
        assert process.stderr.read() == ""
        assert process.wait(timeout=300) == 1


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["caption"], "name a photo"),
        (["caption", "a.jpg", "--limit", 3], "--limit, --out and --cluster belong to --data"),
        (["caption", "--data", "a.tar"], "--out captions.json"),
        (["caption", "--data", "a.tar", "b.json"], "--out captions.json"),
        (["caption", "--data", "a.tar", "--json", "photo.jpg"], "not to photo.jpg"),
        (["caption", "--data", "a.tar", "--out", "photo.jpg"], "not to photo.jpg"),
        (["caption", "--data", "a.tar", "--out", "a.json", "--json", "b.json"], "--out captions.json"),
        (["caption", "photo.jpg", "--out", "a.json"], "--out and --cluster belong to --data"),
        (["caption", "--data", "a.tar", "--json", "b.json", "--limit", 0], "at least 1"),
        (["tokenizer", "train", "out"], "--text PATH"),
        (["tokenizer", "train", "out", "--text", "a/x.txt", "--text", "b/x.txt"], "NAME=PATH"),
        (["tokenizer", "info", "./nowhere"], "no tokenizer at"),
        (["features", "a.tar", "out", "--tower", "dinov3:base"], "did you mean 'dinov2'"),
        (["info", "./nowhere"], "no such file or folder"),
        (["complete", "a", "--model", "./nowhere"], "no such file or folder"),
    ],
)
def test_arguments_that_make_no_sense(fails: Callable[..., str], arguments: list[Any], message: str) -> None:
    assert message in fails(*arguments)
