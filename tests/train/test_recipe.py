from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from bitmar.core.config import ModelConfig
from bitmar.core.errors import ConfigError
from bitmar.train.recipe import load_recipe
from bitmar.train.stages import Concepts, Distill, Fit

RECIPES = Path(__file__).resolve().parents[2] / "recipes"
Write = Callable[..., Path]

DISTILL = {"name": "tower", "kind": "distill", "teacher": "litert:x.tflite", "training": {"steps": 2}}


def refused(write: Write, values: dict[str, Any], *overrides: str) -> str:
    with pytest.raises(ConfigError) as error:
        load_recipe(write(values), overrides)
    return str(error.value)


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.yaml")), ids=lambda path: path.name)
def test_every_recipe_of_the_repository_loads(path: Path) -> None:
    recipe = load_recipe(path)
    assert any(isinstance(stage, Fit) for stage in recipe.stages)
    assert recipe.path == str(path)


def test_the_papers_recipe_has_the_papers_network() -> None:
    recipe = load_recipe(RECIPES / "bitmar-14m.yaml")
    stage = recipe.stages[0]
    assert isinstance(stage, Fit)
    assert recipe.model_config(stage) == ModelConfig(activation="gelu")  # the authors' code; the paper is silent
    t = stage.training
    assert (t.learning_rate, t.t0, t.t_mult, t.eta_min, t.weight_decay, t.clip) == (2e-4, 1000, 2, 0.1, 0.02, 0.3)
    assert (stage.text_rows * t.accumulation, stage.caption_rows * t.accumulation, t.log_every) == (128, 128, 500)
    assert (stage.contrastive, stage.memory, stage.text_share, stage.controller) == (1.5, 0.1, 0.5, True)


@pytest.mark.parametrize(
    "assignment, hint",
    [
        ("ouput=x", "unknown key 'ouput' (did you mean 'output'?)"),
        ("tokenizer.trian=300", "unknown key 'trian' (did you mean 'train'?)"),
        ("data.caption=[x]", "unknown key 'caption' (did you mean 'captions'?)"),
        ("stages.0.text.lines.wieght=2", "'wieght' in a text domain (did you mean 'weight'?)"),
        ("data.text.lines.wieght=2", "'wieght' in a text domain (did you mean 'weight'?)"),
        ("model.hiden_size=3", "'hiden_size' (did you mean 'hidden_size'?)"),
        ("tower.dephts=[1]", "'dephts' (did you mean 'depths'?)"),
        ("stages.0.text_shares=1", "'text_shares' (did you mean 'text_share'?)"),
        ("stages.all.training.learning_rat=1", "'learning_rat' (did you mean 'learning_rate'?)"),
        ("stages.0.kind=fitt", "kind must be fit, distill or concepts, not 'fitt' (did you mean 'fit'?)"),
        ("path=x", "unknown key 'path'"),
    ],
)
def test_an_unknown_key_names_the_nearest_at_every_level(
    recipe: dict[str, Any], write: Write, assignment: str, hint: str
) -> None:
    assert hint in refused(write, recipe, assignment)


def test_an_unknown_weight_of_a_distillation(recipe: dict[str, Any], write: Write) -> None:
    recipe["stages"] = [{**DISTILL, "weights": {"clases": 1}}]
    assert "unknown key 'clases' (did you mean 'classes'?)" in refused(write, recipe)


@pytest.mark.parametrize(
    "assignment, message",
    [
        ("stages.0.training.steps=many", "stages.0 (all): training: steps must be a whole number, not 'many'"),
        ("stages.0.training.steps=1.5", "steps must be a whole number, not 1.5"),
        ("stages.0.training.steps=true", "steps must be a whole number, not True"),
        ("stages.0.training.steps=0", "steps must be at least 1, not 0"),
        (f"stages.0.training.steps=1{'0' * 40}", "steps is too large: 1000"),
        (f"stages.0.training.learning_rate=1{'0' * 60}", "learning_rate must be above 0, at most 100"),
        (f"stages.0.text_share=1{'0' * 60}", "text_share is between 0 and 1"),
        ("stages.0.caption_rows=2147483647", "caption_rows is a number from 1 to 65,536, not 2,147,483,647"),
        ("stages.0.contrastive=-1", "contrastive is a number from 0 to 1,000,000.0, not -1.0"),
        ("stages.0.memory_rate=-1", "memory_rate is a number from 0"),
        (f"stages.0.start={'a' * 5000}", "is no earlier fit stage, no folder"),
        ("tokenizer.train=259", "train is the size of a byte-level vocabulary, 260 to 1,048,576, not 259"),
        ("data.views=0", "views is a number from 1 to 1,024, not 0"),
        ("data.view_colour=2", "view_colour is a number from 0 to 1, not 2.0"),
        (r'output="a\0b"', "is not valid YAML"),
        ("stages.0.training.learning_rate=fast", "learning_rate must be a number, not 'fast'"),
        ("stages.0.training.learning_rate=.nan", "learning_rate must be a number, not nan"),
        ("stages.0.training.learning_rate=-1", "learning_rate must be above 0"),
        ("stages.0.training.betas=[0.9]", "betas must be a list of 2"),
        ("stages.0.training.betas=[0.9, 1.0]", "betas must be at least 0 and below 1"),
        ("stages.0.training.schedule=cosin", "did you mean 'cosine'"),
        ("stages.0.training.compile=1", "compile must be true or false, not 1"),
        ("stages.0.training.decay_share=0", "decay_share"),
        ("stages.0.training=[1]", "training: expected a mapping"),
        ("stages.0.pictures=photo", "did you mean 'photos'"),
        ("stages.0.pictures=features", "needs the teacher's name in `tower`"),
        ("stages.0.text_share=1.1", "text_share is between 0 and 1"),
        ("stages.0.episodes=3", "caption_rows 4 must be a multiple of episodes 3"),
        ("stages.0.name=../all", "a stage's name is a folder's"),
        ("stages=[]", "`stages` is empty"),
        ("stages={a: 1}", "`stages` is empty"),
        ("tokenizer.load=gpt2", "tokenizer: give either `train: SIZE` or `load: NAME_OR_FOLDER`"),
        ("tokenizer=gpt2", "tokenizer: expected a mapping, found 'gpt2'"),
        ("data.heldout=1", "heldout is a share"),
        ("data.text.lines.split=lines", "text.lines: split: 'lines' is not one of"),
        ("data.text.lines=3", "text.lines"),
        ("model.num_heads=3", "hidden_size 16 must be a multiple of num_heads 3"),
        ("model.vocab_size=300", "model.vocab_size is not set here: it comes from the tokenizer"),
        ("tower.image_size=65", "image_size 65 must be a multiple of 32"),
        ("tower=null", "pictures: photos needs the top-level key `tower`"),
        ("output=", "output must be text, not None"),
    ],
)
def test_a_value_that_makes_no_sense(recipe: dict[str, Any], write: Write, assignment: str, message: str) -> None:
    assert message in refused(write, recipe, assignment)


def test_defaults_are_taken_by_the_stages_that_have_them(recipe: dict[str, Any], write: Write) -> None:
    recipe["defaults"] = {"rows": 3, "caption_length": 9, "training": {"steps": 7, "clip": 0.5}}
    recipe["stages"] += [DISTILL, {**DISTILL, "name": "second", "training": {"clip": 0.1}}]
    fit, first, second = load_recipe(write(recipe)).stages
    assert isinstance(fit, Fit) and fit.caption_length == 24  # its own
    assert isinstance(first, Distill) and isinstance(second, Distill) and first.rows == second.rows == 3
    found = [(stage.training.steps, stage.training.clip) for stage in (fit, first, second)]
    assert found == [(10, 0.5), (2, 0.5), (7, 0.1)]
    overridden = load_recipe(write(recipe), ["defaults.training.clip=0.2"]).stages
    assert [stage.training.clip for stage in overridden if not isinstance(stage, Concepts)] == [0.2, 0.2, 0.1]


@pytest.mark.parametrize(
    "assignment, message",
    [
        (
            "defaults.caption_lenght=9",
            "defaults: no stage has the key 'caption_lenght' (did you mean 'caption_length'?)",
        ),
        ("defaults.rows=9", "defaults: no stage has the key 'rows'"),
        ("defaults.name=all", "defaults: no stage has the key 'name'"),
        ("defaults.samples=one", "stages.0 (all): samples must be a whole number, not 'one'"),
        ("defaults.training.stepps=9", "stages.0 (all): training: unknown key 'stepps' (did you mean 'steps'?)"),
        ("defaults.training=9", "defaults: training: expected a mapping, found 9"),
        ("defaults=[a]", "defaults: expected a mapping, found ['a']"),
    ],
)
def test_wrong_defaults(recipe: dict[str, Any], write: Write, assignment: str, message: str) -> None:
    assert message in refused(write, recipe, assignment)


def test_a_missing_key_is_named(recipe: dict[str, Any], write: Write) -> None:
    del recipe["stages"][0]["training"]["steps"]
    assert "stages.0 (all): training: the key 'steps' is missing" in refused(write, recipe)
    del recipe["output"]
    assert "the key 'output' is missing" in refused(write, recipe, "stages.0.training.steps=1")


def test_numbers_and_lists_as_yaml_has_them(recipe: dict[str, Any], write: Write) -> None:
    path = write(recipe)
    path.write_text(path.read_text().replace("learning_rate: 0.004", "learning_rate: 4e-3"))
    assert yaml.safe_load(path.read_text())["stages"][0]["training"]["learning_rate"] == "4e-3"
    loaded = load_recipe(
        path, ["data.captions=one.tar", "stages.0.training.clip=1", "stages.0.training.report_to=trackio"]
    )
    training = loaded.stages[0].training
    assert training.learning_rate == 0.004 and training.clip == 1.0
    assert loaded.data.captions == ("one.tar",) and training.report_to == ("trackio",)


def test_overrides_reach_every_depth(recipe: dict[str, Any], write: Write) -> None:
    settings = ["output=elsewhere", "stages.0.training.steps=7", "stages.all.text_share=0", "card.licence=mine"]
    loaded = load_recipe(write(recipe), settings)
    stage = loaded.stages[0]
    assert (loaded.output, stage.training.steps, loaded.card) == ("elsewhere", 7, {"licence": "mine"})
    assert isinstance(stage, Fit) and stage.text_share == 0.0


@pytest.mark.parametrize(
    "assignment, message",
    [
        ("output", "--set needs KEY=VALUE"),
        ("=3", "--set needs KEY=VALUE"),
        ("output=[1", "is not valid YAML"),
        ("stages.7.rows=1", "--set stages.7.rows=1: no item '7' in a list of 1"),
        ("stages.al.rows=1", "did you mean 'all'"),
        ("output.x=1", "--set output.x=1: there is no key 'x'"),
    ],
)
def test_overrides_that_lead_nowhere(recipe: dict[str, Any], write: Write, assignment: str, message: str) -> None:
    assert message in refused(write, recipe, assignment)


def test_the_order_of_stages(recipe: dict[str, Any], write: Write, tmp_path: Path) -> None:
    stage = recipe["stages"][0]
    tower = dict(DISTILL)

    def stages(*values: dict[str, Any]) -> dict[str, Any]:
        return {**recipe, "stages": list(values)}

    first, second = {**stage, "name": "first"}, {**stage, "name": "second"}
    load_recipe(write(stages(tower, first, {**second, "start": "first", "tower_from": "tower"})))
    load_recipe(write(stages({**first, "start": str(tmp_path)})))
    later = stages({**first, "start": "second"}, second)
    assert "start 'second' is no earlier fit stage, no folder and no FILE.bitmar" in refused(write, later)
    assert "(did you mean 'first'?)" in refused(write, stages(first, {**second, "start": "frist"}))
    assert "start 'tower' is no earlier fit stage" in refused(write, stages(tower, {**first, "start": "tower"}))
    blind = {**first, "pictures": "none"}
    load_recipe(write(stages(first, {**second, "tower_from": "first"})))
    assert "is no earlier stage with a tower" in refused(write, stages({**first, "tower_from": "tower"}, tower))
    assert "is no earlier stage with a tower" in refused(write, stages(blind, {**second, "tower_from": "first"}))
    second |= {"pictures": "features", "tower": "stage:first"}
    found = load_recipe(write(stages(first, second))).stages[1]
    assert isinstance(found, Fit) and found.tower == f"bitmar:{tmp_path / 'run' / 'first' / 'model.bitmar'}"
    assert "'frist' is no earlier stage on photos (did you mean 'first'?)" in refused(
        write, stages(first, {**second, "tower": "stage:frist"})
    )
    assert "'first' is no earlier stage on photos" in refused(write, stages(blind, second))
    assert "tower_from is for pictures: photos" in refused(
        write, stages(tower, {**first, "tower_from": "tower", "pictures": "none"})
    )
    assert "two stages are called 'all'" in refused(write, stages(stage, stage))
    assert "litert:FILE.tflite, not 'dinov2:base'" in refused(write, stages({**tower, "teacher": "dinov2:base"}))
    assert "distillation needs the top-level key `tower`" in refused(write, {**stages(tower), "tower": None})


def test_a_file_that_is_no_recipe(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    with pytest.raises(ConfigError, match="cannot read the recipe"):
        load_recipe(path)
    for content in ("- a\n- b\n", "just words\n", ""):
        path.write_text(content)
        with pytest.raises(ConfigError, match="a recipe is a mapping"):
            load_recipe(path)
    path.write_bytes(b"a: \xff\xfe")
    with pytest.raises(ConfigError, match="not valid YAML"):
        load_recipe(path)


def test_a_path_may_begin_with_a_named_root(
    write: Write, recipe: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PHOTOS", raising=False)
    captions = "data.captions=[$PHOTOS/a.tar]"
    assert "$PHOTOS is not set" in refused(write, recipe, captions)
    assert load_recipe(write(recipe), (captions, "roots.PHOTOS=here")).data.captions == ("here/a.tar",)
    monkeypatch.setenv("PHOTOS", "there")
    assert load_recipe(write(recipe), (captions, "roots.PHOTOS=here")).data.captions == ("there/a.tar",)
    assert "roots: a mapping" in refused(write, recipe, "roots=[a]")
    assert "roots: a mapping" in refused(write, recipe, "roots.PHOTOS=1")
