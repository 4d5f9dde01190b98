"""`bitmar eval caption`, `retrieval`, `nlvr` and `probes`, from shards to files of figures."""

from __future__ import annotations

import io
import json
import shutil
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bitmar.api import BitMar

Cli = Callable[..., Any]
Fails = Callable[..., str]
Make = Callable[..., Path]

needs_java = pytest.mark.skipif(shutil.which("java") is None, reason="the COCO tokenizer needs Java")


@needs_java
def test_captions_are_scored_and_grounded(cli: Cli, model: Path, shard: Path, tmp_path: Path) -> None:
    pytest.importorskip("pycocoevalcap")
    out, lines = tmp_path / "new" / "caption.json", tmp_path / "lines.jsonl"
    arguments = ["eval", "caption", "--data", shard, "--model", model, "--max-tokens", 5, "--no-java"]
    result = cli(*arguments, "--json", out, "--captions", lines)
    assert result.exit_code == 1, result.output  # one photo is broken
    assert "things-00000/002" in result.stderr and "CIDEr" in result.stdout
    document = json.loads(out.read_text())
    assert document["captions"]["photos"] == document["grounding"]["photos"] == 4
    assert document["captions"]["absent"]["spice"] and "spice" not in document["captions"]["java"]
    assert set(document["grounding"]["likelihood"]) == {"right", "shuffled", "blank", "none"}
    assert [skipped["name"] for skipped in document["skipped"]] == ["things-00000/002"]
    assert len(lines.read_text().splitlines()) == 4
    assert [path.name for path in out.parent.iterdir()] == [out.name]


@needs_java
def test_a_stopped_run_goes_on(
    cli: Cli, model: Path, shard: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("pycocoevalcap")
    out, whole, captions, seen = tmp_path / "a.json", tmp_path / "b.json", BitMar.caption, []
    arguments = ["eval", "caption", "--data", shard, "--model", model, "--max-tokens", 5, "--no-java"]
    cli(*arguments, "--json", whole)

    def stop_at_the_third(self: BitMar, *given: Any, **options: Any) -> str:
        seen.append(given)
        if len(seen) == 3:
            raise KeyboardInterrupt
        return captions(self, *given, **options)

    monkeypatch.setattr(BitMar, "caption", stop_at_the_third)
    assert cli(*arguments, "--json", out).exit_code == 130
    assert not out.exists() and (tmp_path / "a.json.partial").exists()
    assert cli(*arguments, "--json", out).exit_code == 1
    assert len(seen) == 3 + 2 + 1 and out.read_text() == whole.read_text()  # two captions were kept; a blank one more


def test_retrieval_is_written(cli: Cli, model: Path, shard: Path, tmp_path: Path) -> None:
    out = tmp_path / "retrieval.json"
    result = cli("eval", "retrieval", "--data", shard, "--model", model, "--json", out, "--pool", 3, "--queries", 2)
    assert result.exit_code == 1, result.output
    document = json.loads(out.read_text())
    assert document["contrastive"]["image_to_text"]["candidates"] == 8
    assert document["pool_pmi"]["text_to_image"]["queries"] == 3
    assert document["reranked"]["image_to_text"]["queries"] == 2
    assert "cosine" in result.stdout
    printed = cli("eval", "retrieval", "--data", shard, "--model", model, "--json", "-", "--pool", 3, "--queries", 2)
    assert json.loads(printed.stdout) == document


@pytest.fixture
def questions(tmp_path: Path, jpeg: Callable[..., bytes]) -> Path:
    lines = [{"image": f"{c}.jpg", "sentence": f"It is {c}.", "label": "true"} for c in ("red", "blue")]
    lines.append({"image": "none.jpg", "sentence": "It is there.", "label": "false"})
    with zipfile.ZipFile(tmp_path / "n.zip", "w") as archive:
        for colour in ("red", "blue"):
            archive.writestr(f"{colour}.jpg", jpeg(colour))
        archive.writestr("n.jsonl", "\n".join(map(json.dumps, lines)))
    return tmp_path / "n.zip"


def test_questions_made_from_captions(cli: Cli, model: Path, shard: Path, tmp_path: Path) -> None:
    out = tmp_path / "questions.json"
    result = cli("eval", "questions", "--data", shard, "--model", model, "--json", out)
    assert result.exit_code == 1 and "skipped" in result.stderr
    document = json.loads(out.read_text())
    assert document["photos"] == 4 and document["kinds"]["truth"]["questions"] == 4
    assert "without the photo" in result.stdout and "truth" in result.stdout


def test_names_of_labelled_photos(
    cli: Cli, fails: Fails, model: Path, jpeg: Callable[..., bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    with tarfile.open(folder / "things-0.tar", "w") as tar:
        for name, data in (
            ("a.jpg", jpeg("red")), ("a.json", b'{"label": "dog"}'), ("b.jpg", jpeg("blue")),
            ("b.json", b'{"label": "xyz"}'), ("c.jpg", b"no photo"), ("c.json", b'{"label": "cat"}'),
        ):  # fmt: skip
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    out = tmp_path / "naming.json"
    result = cli("eval", "naming", "--data", folder / "*.tar", "--model", model, "--json", out)
    assert result.exit_code == 1 and "things-0/c" in result.stderr and "no noun: xyz" in result.stdout
    document = json.loads(out.read_text())
    assert document["command"] == "eval naming" and document["by_label"] == {"dog": [0, 1]}
    assert document["unknown"] == {"xyz": 1} and document["reliability"] is None
    monkeypatch.setenv("BITMAR_DATA", str(tmp_path))  # the same photos, which nobody has to name
    assert json.loads(cli("eval", "naming", "--model", model, "--json", "-").stdout)["by_label"] == {"dog": [0, 1]}
    monkeypatch.delenv("BITMAR_DATA")
    assert "BITMAR_DATA" in fails("eval", "naming", "--model", model)


def test_questions_are_answered(cli: Cli, fails: Fails, model: Path, questions: Path, tmp_path: Path) -> None:
    out = tmp_path / "nlvr.json"
    result = cli("eval", "nlvr", "--data", questions, "--model", model, "--json", out)
    assert result.exit_code == 1 and "n.jsonl:3" in result.stderr
    document = json.loads(out.read_text())
    assert document["questions"] == 2 and document["majority"] == 1 and "majority" in result.stdout
    assert not out.with_name("nlvr.json.partial").exists()
    assert cli("eval", "nlvr", "--data", questions, "--model", model, "--limit", 2).exit_code == 0
    assert "there is no" in fails("eval", "nlvr", "--data", tmp_path / "x.zip", "--model", model)


def test_probes_pass_a_sound_model(cli: Cli, model: Path, shard: Path, tmp_path: Path) -> None:
    out = tmp_path / "probes.json"
    result = cli("eval", "probes", "--model", model, "--json", out)
    assert result.exit_code == 0, result.output
    document = json.loads(out.read_text())
    states = {probe["name"]: probe["passed"] for probe in document["probes"]}
    assert states.pop("image") is None and states.pop("ties") is None and set(states.values()) == {True}
    (tmp_path / "pairs.jsonl").write_text('{"sentence_good": "She runs.", "sentence_bad": "She run."}\n')
    more = cli("eval", "probes", "--model", model, "--data", shard, "--blimp", tmp_path / "pairs.jsonl", "--json", "-")
    probes = {probe["name"]: probe for probe in json.loads(more.stdout)["probes"]}
    assert probes["image"]["details"]["photos"] == 4 and probes["ties"]["passed"]


def test_a_failed_probe_is_an_exit_status(cli: Cli, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bitmar.evaluate.tasks.probes._SLACK", -1000)
    result = cli("eval", "probes", "--model", model)
    assert result.exit_code == 1 and "FAILED" in result.stdout


@pytest.mark.parametrize("command", ["caption", "retrieval"])
def test_a_model_without_sight_says_what_it_needs(
    fails: Fails, make_model: Make, shard: Path, tmp_path: Path, command: str
) -> None:
    blind = make_model(tmp_path / "blind.bitmar", tower=False)
    assert "--features" in fails("eval", command, "--data", shard, "--model", blind)
    assert "no shard at" in fails("eval", command, "--data", tmp_path / "none.tar")


@pytest.mark.parametrize("task", ["caption", "retrieval", "questions"])
def test_a_misspelt_shard_leaves_nothing(fails: Fails, model: Path, tmp_path: Path, task: str) -> None:
    arguments = ["--data", tmp_path / "x.tar", "--model", model, "--json", tmp_path / "o.json"]
    assert "no shard at" in fails("eval", task, *arguments) and not list(tmp_path.iterdir())
