"""Concepts, captions and questions for photos without, tags for texts, rewards: one small run through all of it."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training needs bitmar[train]")
pytest.importorskip("pycocoevalcap", reason="the rewards need bitmar[eval]")

from safetensors.torch import load_file  # noqa: E402

import bitmar  # noqa: E402
from bitmar.core.container import open_container  # noqa: E402
from bitmar.core.errors import ConfigError  # noqa: E402
from bitmar.core.tensors import CONFIDENCE  # noqa: E402
from bitmar.data.concepts.bank import ConceptBank  # noqa: E402
from bitmar.data.towers.packed import PackedTower  # noqa: E402
from bitmar.export import export_checkpoint  # noqa: E402
from bitmar.train import concept_stage, concepts  # noqa: E402
from bitmar.train.concept_stage import ConceptData  # noqa: E402
from bitmar.train.confidence import with_bank  # noqa: E402
from bitmar.train.recipe import load_recipe  # noqa: E402
from bitmar.train.run import run  # noqa: E402
from bitmar.train.sources import batches  # noqa: E402
from bitmar.train.workspace import Workspace  # noqa: E402

Write = Callable[..., Path]


def relabelled(source: Path, target: Path, meta: list[dict[str, Any]]) -> Path:
    """The photos of a shard with other sidecars, as many as there are of these."""
    with tarfile.open(source) as old, tarfile.open(target, "w") as new:
        for i, member in enumerate(m for m in old.getmembers() if m.name.endswith(".png")):
            if i == len(meta):
                break
            photo, sidecar = old.extractfile(member), json.dumps(meta[i]).encode()
            assert photo is not None
            new.addfile(member, photo)
            info = tarfile.TarInfo(member.name.replace(".png", ".json"))
            info.size = len(sidecar)

            new.addfile(info, io.BytesIO(sidecar))
    return target


@pytest.fixture
def seeing(recipe: dict[str, Any], world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A recipe of three kinds of photos: a stage on photos, whose tower the concepts are of, likelihood and rewards."""
    monkeypatch.setattr(concepts, "_STEPS", 10)
    rng = np.random.default_rng(0)
    for name, where, width in (("classifier", PackedTower, 12), ("last_classifier", concept_stage, 4)):
        classes = rng.standard_normal((1000, width)).astype(np.float32), np.zeros(1000, np.float32)
        monkeypatch.setattr(where, name, lambda *_, classes=classes: classes, raising=False)
    box = {"label": "zebra", "boxes_rel": [["zebra", [0.6, 0.1, 0.9, 0.8]], ["zebra", "no box"]]}
    labels = [box, {"label": "nonsense of no kind"}, {"label": "banana"}, {"label": "cat and dog"}, {}]
    relabelled(world / "train.tar", tmp_path / "labelled.tar", [{"captions": ["-"], **label} for label in labels])
    relabelled(world / "val.tar", tmp_path / "plain.tar", [{"captions": [""]}] * 4)
    lines = [
        f"A {what} stands on the {where} today." for what in ("dog", "cat", "horse") for where in ("field", "road")
    ]
    (tmp_path / "tagged.txt").write_text("\n".join([*lines, "question : What is this? answer : a dog"]))
    recipe["cache"] = str(tmp_path / "data")
    recipe["data"] |= {
        "labelled": [str(tmp_path / "labelled.tar")],
        "plain": [str(tmp_path / "plain.tar")],
        "tagged": [str(tmp_path / "tagged.txt")],
        "views": 2, "labelled_views": 2, "plain_views": 1,
    }  # fmt: skip
    recipe["model"] |= {"concept_evidence": 0.5}
    stage = recipe["stages"][0]
    training = {**stage["training"], "steps": 1, "accumulation": 1, "save_words": False}
    plain = {**stage, "controller": False, "training": training, "text_rows": 2, "further_rows": 2}
    mix = {"photos": 0.3, "labelled": 0.2, "plain": 0.1, "tagged": 0.2, "text": 0.2}
    on_features = {**plain, "pictures": "features", "tower": "stage:first", "concepts": "words", "mix": mix}
    recipe["stages"] = [
        {**plain, "name": "first"},
        {"name": "words", "kind": "concepts", "tower": "stage:first", "least": 3, "tokens": 3, "folds": 2,
         "prune": True, "class_width": 4},
        {**on_features, "name": "eyes", "start": "first", "photo_questions": 0.2, "label_questions": 0.5, "repeat": 0.5,
         "hidden": 0.5, "training": {**training, "steps": 10}},
        {**on_features, "name": "reward", "start": "eyes", "objective": "cider", "samples": 2,
         "mix": {"photos": 0.4, "chains": 0.3, "text": 0.3}, "rewarded": {"photos": 2, "labelled": 1},
         "training": {**training, "steps": 10}},
    ]  # fmt: skip
    return recipe


def test_from_concepts_to_rewards(seeing: dict[str, Any], write: Write, tmp_path: Path) -> None:
    path = write(seeing)
    with pytest.raises(ConfigError, match="eyes starts from first, which is not finished"):
        run(load_recipe(path), only="eyes")
    output = run(load_recipe(path))
    bank = ConceptBank.load(output / "words" / "concepts.safetensors")
    assert {"red", "field", "zebra"} <= set(bank.names) and len(bank.class_bias) == 1000
    own = len(bank.keys)
    assert bank.names.index("red") < own <= bank.names.index("zebra")  # a single photo shows a zebra
    model = bitmar.load(output, engine="numpy")
    assert model.config.concepts == len(bank.names) and model.config.concept_tokens == 3
    assert (model.config.concept_keys, model.config.concept_class_width) == (own, 4)
    assert model.config.concept_evidence == 0.5
    packed = export_checkpoint(output / "reward", tmp_path / "again.bitmar")  # what was calibrated lies with the stage
    again = open_container(packed).tensors
    np.testing.assert_array_equal(again[CONFIDENCE], model.container.tensors[CONFIDENCE])
    blind = with_bank(model, ConceptBank.load(output / "words" / "heldout.safetensors"), tmp_path / "blind.bitmar")
    features = np.random.default_rng(0).random((model.config.vision_grid**2, 12), np.float32)
    seen, unseen = (each.encode_image(features=features).concepts for each in (model, blind))
    assert seen is not None and unseen is not None and 0 < np.abs(seen - unseen).max() < 1
    weights = load_file(output / "eyes" / "model.safetensors")
    for name in ("keys", "prior"):
        np.testing.assert_array_equal(weights[f"model.concepts.{name}"].numpy(), getattr(bank, name))
    named = {Path(source).name for source in open_container(output / "model.bitmar").card["training_data"]}
    assert {"train.tar", "labelled.tar", "plain.tar", "tagged.txt", "text.txt"} <= named
    kept = {file: file.stat().st_mtime_ns for file in (tmp_path / "data").glob("*.*")}
    assert len([file for file in kept if file.name.startswith(("tags-", "said-"))]) == 5

    loaded = load_recipe(path)
    workspace, eyes, reward = Workspace(loaded), loaded.stages[2], loaded.stages[3]
    sources = batches(eyes, workspace)[0].sources  # type: ignore[arg-type]
    assert {name: "vision_features" in source[0] for name, source in sources.items()} == {
        "text": False, "labelled": True, "plain": True, "tagged": False, "photos": True,
    }  # fmt: skip
    for name in ("photos", "labelled", "plain", "tagged"):
        batch = sources[name][0]
        assert batch["concept_ids"].shape == batch["concept_scores"].shape == (len(batch["input_ids"]), 3)
    assert len(sources["labelled"].images) == 3  # what has no label that names a concept stays out
    sources = batches(reward, workspace)[0].sources  # type: ignore[arg-type]
    assert (sources["photos"].chains.episodes, sources["chains"].chains.episodes) == (1, 2)
    rewarded = sources["photos"].references()
    assert len(rewarded) == 2 * 24 + 3 and rewarded[0] == rewarded[24]
    assert {file: file.stat().st_mtime_ns for file in (tmp_path / "data").glob("*.*")} == kept  # nothing made again

    said = ConceptData(loaded.bank_stage("words"), workspace).said("labelled")
    assert all("zebra" in caption for caption in said[0].captions) and not said[1].captions
    questions = [question for kind in said[0].questions for question in kind]
    assert "Where is the zebra? on the right" in questions and "How many zebras are there? 1" in questions


def test_a_changed_label_makes_only_what_needs_it_again(seeing: dict[str, Any], write: Write, tmp_path: Path) -> None:
    seeing["stages"] = seeing["stages"][:3]
    seeing["stages"][2]["training"]["steps"] = 1
    run(load_recipe(write(seeing)))
    before = {file.name for file in (tmp_path / "data").glob("said-*")}
    (tmp_path / "tagged.txt").write_text("A horse stands on the grass today.\n" * 3)
    loaded = load_recipe(write(seeing))
    ConceptData(loaded.bank_stage("words"), Workspace(loaded)).said("plain")
    assert len({file.name for file in (tmp_path / "data").glob("said-*")} - before) == 1


def test_starts_from_a_packed_model_with_another_tower(
    seeing: dict[str, Any], write: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    seeing["stages"] = [seeing["stages"][0]]
    seeing["stages"][0]["training"]["learning_rate"] = 1e-30
    packed = run(load_recipe(write(seeing))) / "model.bitmar"
    other = {**seeing, "output": str(tmp_path / "other"), "tokenizer": {"load": str(packed)}}
    other["tower"] = {**seeing["tower"], "out_dim": 8}
    other["stages"] = [{**seeing["stages"][0], "name": "again", "start": str(packed)}]
    run(load_recipe(write(other)))
    said = " ".join(capsys.readouterr().err.split())
    assert "begun anew: " in said and "model.vision.fc1.weight" in said and "embed_tokens" not in said
    first, again = (
        open_container(path).tensors["model.embed_tokens.weight"] for path in (packed, tmp_path / "other/model.bitmar")
    )
    np.testing.assert_array_equal(first, again)
    packed.rename(tmp_path / "gone.bitmar")
    other["tokenizer"] = seeing["tokenizer"]
    other["output"] = str(tmp_path / "third")
    with pytest.raises(ConfigError, match=r"again starts from .*model\.bitmar, which is not there"):
        run(load_recipe(write(other)))


def test_what_starts_from_a_stage_with_concepts_has_them_too(seeing: dict[str, Any], write: Write) -> None:
    plain = ["stages.reward.concepts=null", "stages.reward.mix=null", "stages.reward.rewarded=null"]
    with pytest.raises(ConfigError, match="starts from eyes, so it needs concepts: words"):
        load_recipe(write(seeing), plain)


@pytest.mark.parametrize(
    "assignment, message",
    [
        ("stages.eyes.concepts=wrods", "'wrods' is no earlier stage of concepts (did you mean 'words'?)"),
        ("stages.eyes.mix.lables=1", "unknown key 'lables' (did you mean 'labelled'?)"),
        ("stages.eyes.mix.text=0.5", "shares must add up to 1, not to 1.3"),
        ("stages.eyes.mix.text=-0.1", "shares must not be below 0"),
        ("stages.eyes.concepts=null", "labelled needs the name of a stage of concepts in `concepts`"),
        ("stages.eyes.tower=dinov2:small", "its concepts are of the tower"),
        ("stages.eyes.captions=[x.tar]", "with concepts it trains on data.captions"),
        ("stages.eyes.pictures=photos", "they need pictures: features"),
        ("stages.eyes.mix={photos: 0.5, chains: 0.5}", "mix: chains is for objective: cider"),
        ("stages.eyes.rewarded={labelled: 1}", "rewarded is for objective: cider"),
        ("stages.reward.rewarded={photos: 0}", "photos must be at least 1"),
        ("stages.reward.concepts=null", "chains is for objective: cider with concepts"),
        ("stages.words.folds=1", "folds is a number from 2 to 64, not 1"),
        ("stages.words.least=0", "least is a number from 1 to 2,147,483,648, not 0"),
        ("stages.words.token=3", "unknown key 'token' (did you mean 'tokens'?)"),
        ("stages.words.tower=stage:frist", "'frist' is no earlier stage on photos (did you mean 'first'?)"),
        (
            "stages.words.kind=concept",
            "kind must be fit, distill or concepts, not 'concept' (did you mean 'concepts'?)",
        ),
        ("data.labelled=[]", "labelled is in its mix, but there is no data.labelled"),
        ("data.tagged=[]", "needs captions to choose from in data.tagged"),
        ("data.labeled=[x]", "unknown key 'labeled' (did you mean 'labelled'?)"),
        ("data.plain_views=0", "plain_views is a number from 1 to 1,024, not 0"),
        ("model.concepts=3", "model.concepts is not set here: a stage of kind concepts finds it"),
    ],
)
def test_what_makes_no_sense(seeing: dict[str, Any], write: Write, assignment: str, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        load_recipe(write(seeing), [assignment])
    assert message in str(error.value)
