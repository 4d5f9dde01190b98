"""The memory's ablation: variants differ in the memory alone, differences are told from chance."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bitmar.api import BitMar, load
from bitmar.core.errors import ConfigError
from bitmar.evaluate.passages import heldout_documents
from bitmar.evaluate.photos import another_view
from bitmar.evaluate.tables import Results
from bitmar.evaluate.tasks import memory, memory_trials
from bitmar.evaluate.tasks.babylm.choices import Choice
from bitmar.evaluate.tasks.memory import Album, Sources, ablate_memory, episodes
from bitmar.evaluate.tasks.memory_tables import conclusion, tables, whole_table
from bitmar.evaluate.tasks.memory_trials import (
    LITERAL,
    OFF,
    ON,
    OTHERS,
    PERPLEXITY,
    UNRECITED,
    UNWRITTEN,
    Measure,
    document_ids,
    documents,
    grammar,
    literal,
    variants,
    write_weights,
)
from bitmar.evaluate.work import Work
from bitmar.runtime.cache import ImageTokens
from bitmar.runtime.memory import Write

TEXT = " ".join(f"the dog runs over the green grass and the man runs {i}" for i in range(40))  # over 512 tokens


@pytest.fixture(scope="module")
def model(folder: Path) -> BitMar:
    return load(folder / "packed" / "model.bitmar", engine="numpy")


@pytest.fixture(scope="module")
def models(model: BitMar) -> dict[str, BitMar]:
    return variants(model)


def measure(first: np.ndarray, second: np.ndarray, **changes: Any) -> Measure:
    values: dict[str, Any] = {"task": "t", "name": "n", "unit": "u", "better": "higher", "weights": np.ones(len(first))}
    return Measure(**{**values, "values": {ON: first, OFF: second}, **changes})


# Chance and difference.


def test_a_planted_difference_is_found_and_noise_is_not() -> None:
    rng = np.random.default_rng(0)
    noise = rng.normal(size=300)
    better = measure(noise + 0.1 + 0.1 * rng.normal(size=300), noise)
    assert better.verdict(ON, OFF) == "helps" and better.verdict(OFF, ON) == "hurts"
    same = measure(noise, noise + 0.5 * rng.choice([-1, 1], 300))
    assert same.verdict(ON, OFF) == "no difference shown"


def test_lower_is_better_where_it_is() -> None:
    assert measure(np.arange(20.0), np.arange(20.0) + 1, better="lower").verdict(ON, OFF) == "helps"


def test_a_perplexity_counts_tokens_and_its_difference_is_a_share() -> None:
    losses = {ON: np.array([2.0, 8.0]), OFF: np.array([4.0, 16.0])}
    found = Measure("t", "n", PERPLEXITY, "lower", losses, np.array([2.0, 8.0]))
    assert found.figure(ON) == pytest.approx(math.e)
    assert found.difference(ON, OFF).value == pytest.approx(1 / math.e - 1)


def test_one_unit_says_nothing_about_chance() -> None:
    found = measure(np.array([1.0]), np.array([0.0]))
    assert found.verdict(ON, OFF) == "no difference shown"
    assert json.loads(json.dumps(found.difference(ON, OFF).to_dict())) == {"value": 1.0, "low": None, "high": None}


# The variants.


def test_off_is_the_same_network_without_the_read(folder: Path, models: dict[str, BitMar]) -> None:
    import torch
    from safetensors.torch import load_file

    from bitmar.export import read_config
    from bitmar.model.configuration_bitmar import BitMarConfig
    from bitmar.model.modeling_bitmar import BitMarForCausalLM

    reference = BitMarForCausalLM(BitMarConfig(**read_config(folder).to_dict())).eval()
    reference.load_state_dict(load_file(folder / "model.safetensors"))
    ids = [1, 20, 30, 40, 50]
    with torch.no_grad():
        off = reference(input_ids=torch.tensor([ids]), read_memory=False).logits[0].numpy()
    np.testing.assert_allclose(models[OFF].logits(ids), off, atol=2e-3)
    assert np.abs(models[ON].logits(ids) - off).max() > 0.01


def test_variants_share_every_weight(models: dict[str, BitMar]) -> None:
    on = models[ON].container.tensors
    for model in models.values():
        changed = {name for name, tensor in model.container.tensors.items() if on.get(name) is not tensor}
        assert changed <= {f"model.memory.{name}" for name in ("write_weights", "read_beta", "stale")}


def test_literal_is_equation_1_and_2(models: dict[str, BitMar]) -> None:
    model = models[LITERAL]
    before = model.container.tensors["model.memory.slots"]
    prompt = model._prompt("the")  # shorter than a segment: one write
    query = model.engine.start().query(prompt)
    weights = model.container.tensors["model.memory.write_weights"]
    after = before + model.config.memory_alpha * np.outer(weights, query)
    np.testing.assert_allclose(model.remember("the").slots[0], after, atol=1e-5)
    memory: Any = model.engine.memory  # type: ignore[attr-defined]
    scores = before @ query
    read = np.exp(scores - scores.max()) / np.exp(scores - scores.max()).sum()
    old = memory.initial_state()._replace(usage=np.full((1, len(before)), 0.01, np.float32))
    np.testing.assert_allclose(memory.read(query[None, None], old)[0, 0], read @ before, atol=1e-5)


def test_the_write_weights_are_a_mean_address(model: BitMar, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bitmar.evaluate.tasks.memory_trials.SENTENCES", {"one": ("the dog",)})
    memory: Any = model.engine.memory  # type: ignore[attr-defined]
    query = model.engine.start().query(model._prompt("the dog"))
    logits = memory.write_beta * (memory.slots @ (memory.address @ query)) - memory.protect
    address = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
    if len(model._prompt("the dog")) <= model.config.memory_segment:  # one write: its address, and its length
        np.testing.assert_allclose(write_weights(model), address, atol=1e-4)


def test_a_model_without_a_memory_is_refused(model: BitMar) -> None:
    for integration, message in (("off", "nothing to switch off"), ("concat", '"off"')):
        config = replace(model.config, memory_integration=integration)
        stub: Any = type("Stub", (), {"config": config})()
        with pytest.raises(ConfigError, match=message):
            variants(stub)


def test_a_model_of_the_literal_rule_has_no_further_one(model: BitMar) -> None:
    slots = model.config.memory_slots
    trained = BitMar(literal(model.container, np.ones(slots, np.float32)), engine="numpy")
    assert set(variants(trained)) == {ON, OFF}


# The tasks.


def test_documents_are_scored_as_the_model_scores_them(models: dict[str, BitMar]) -> None:
    on = models[ON]
    texts = document_ids(on, [TEXT, "short", TEXT[::-1]], most=5)
    assert len(texts) == 2
    stream, past, pieces = documents(models, texts, lambda: None)
    assert set(stream.values) == {ON, OFF, LITERAL, UNWRITTEN}
    exact = [on.engine.start().score(ids).sum() for ids in texts]
    np.testing.assert_allclose(stream.values[UNWRITTEN], -np.array(exact), rtol=1e-5)
    assert not np.allclose(stream.values[ON], stream.values[UNWRITTEN], rtol=1e-6)  # something was written and read
    reach = on.config.attention_sinks + on.config.attention_window
    assert (stream.weights - past.weights).tolist() == [reach, reach]
    assert (pieces.weights < stream.weights).all()


def test_what_a_piece_reads_is_what_the_ones_before_it_wrote(models: dict[str, BitMar]) -> None:
    config = replace(models[ON].config, sequence_length=16)
    on = BitMar(replace(models[ON].container, config=config), engine="numpy")
    (ids,) = document_ids(on, [TEXT], most=1)
    begin, text = ids[:1], ids[1:49]
    memory, total = None, 0.0
    for start in range(0, 48, 16):
        piece = np.concatenate((begin, text[start : start + 16]))
        if start:
            total += float(on.score_ids(piece, memory=memory).sum())
        memory = on.engine.start(None, memory).remember(piece)
    found = documents({ON: on, OFF: models[OFF]}, [ids[:49]], lambda: None)[2]
    assert found.values[ON][0] == pytest.approx(-total, rel=1e-5) and found.weights.tolist() == [32]


def test_a_tie_counts_half(models: dict[str, BitMar]) -> None:
    pairs = [Choice.whole(texts, "f") for texts in (("the dog", "the dog"), ("the dog runs", "the the the"))]
    (found,) = grammar(models, pairs, lambda: None)
    assert found.values[ON][0] == 0.5 and found.values[ON][1] in (0.0, 1.0)


@pytest.fixture
def album(model: BitMar, photo: Callable[[int], Any]) -> Album:
    views = [[ImageTokens(model.encode_image(photo(i)).tokens, None) for i in range(8)] for _ in range(2)]
    return Album(*views, [f"Photo {i} of the dog." for i in range(8)])


def test_what_is_remembered_is_recited_and_what_is_not_is_not(models: dict[str, BitMar], album: Album) -> None:
    found = {m.name: m for m in episodes(models, album, seeds=2, count=4, tick=lambda: None)}
    assert [m.units for m in found.values()] == [8] * 5
    captions = found["caption of 4 remembered by the model's rule"]
    assert set(captions.values) == {ON, OFF, LITERAL, UNWRITTEN, OTHERS}
    assert not np.array_equal(captions.values[ON], captions.values[OTHERS])
    said = found["name out of 4 remembered in a session, said in the caption"]
    assert UNRECITED in said.values and LITERAL not in said.values
    assert said.figure(OFF) == 0 and said.figure(UNRECITED) == 0 and said.figure(OTHERS) == 0


def test_seeds_repeat(models: dict[str, BitMar], album: Album) -> None:
    once, again = (episodes(models, album, seeds=1, count=4, tick=lambda: None) for _ in range(2))
    for a, b in zip(once, again, strict=True):
        for name in a.values:
            np.testing.assert_array_equal(a.values[name], b.values[name])


def test_another_view_is_smaller_and_mirrored(photo: Callable[[int], Any]) -> None:
    whole = photo(3)
    view = another_view(whole, np.random.default_rng(0))
    assert view.width * view.height == pytest.approx(0.8 * whole.width * whole.height, rel=0.02)
    mirrored = np.asarray(another_view(whole, np.random.default_rng(0), area=1.0), int)
    assert np.abs(mirrored - np.asarray(whole)[:, ::-1]).mean() < 12


def test_held_out_documents_are_a_share(tmp_path: Path) -> None:
    path = tmp_path / "lines.txt"
    path.write_text("\n".join(f"line number {i}" for i in range(2000)))
    some = [text for _, text in heldout_documents([path], 0.05)]
    assert 50 < len(some) < 160
    assert len(list(heldout_documents([path], 1))) == 2000


# The whole.


@pytest.fixture
def cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    """Costs of one run each."""
    monkeypatch.setattr(memory_trials, "_PROCESSES", 1)
    monkeypatch.setattr(memory_trials, "STEPS", 2)
    monkeypatch.setattr(memory, "speed", lambda models: memory_trials.speed(models, context=8, runs=2))


def test_the_whole_table(model: BitMar, shard: Callable[..., Path], tmp_path: Path, cheap: None) -> None:
    text, pairs = tmp_path / "text.txt", tmp_path / "pairs.jsonl"
    text.write_text(f"{TEXT}\n\n{TEXT.upper()}\n\n{TEXT[40:]}")
    pairs.write_text(json.dumps({"sentence_good": "the dog runs", "sentence_bad": "dog the runs"}) + "\n")
    bad: list[str] = []
    sources = Sources([str(shard(8, broken=(3,)))], [text], pairs, heldout=1)
    found = ablate_memory(model, sources, Work(16, on_bad=lambda name, reason: bad.append(name)), seeds=1)
    assert len(bad) == 1 and bad[0].endswith("003")
    rows = {(row["task"], row["measure"]): row for row in found.to_dict()["rows"]}
    assert {task for task, _ in rows} == {"long documents", "captions", "recall", "grammar", "speed", "RAM"}
    ram = rows["RAM", "process that writes 32 tokens"]["figures"]
    assert set(ram) == {ON, OFF, LITERAL} and all(10 < peak < 2000 for peak in ram.values())
    assert json.loads(json.dumps(found.to_dict(), allow_nan=False))
    document = json.loads(json.dumps(found.to_dict()))
    brief, *_ = tables(Results.of("ablation", document, "m"))
    assert len(brief.rows) == len(found.measures) and all(len(row) == len(brief.head) for row in brief.rows)
    assert whole_table(document).count("\n|") >= len(found.measures)
    assert len(document["conclusion"]) == 1 + sum(not m.cost for m in found.measures)
    assert document["conclusion"][0] in brief.note


def test_missing_data_is_named_and_left_out(model: BitMar, tmp_path: Path, cheap: None) -> None:
    text = tmp_path / "text.txt"
    text.write_text("much too short")
    found = ablate_memory(model, Sources(texts=[text], heldout=1), Work(2), seeds=1)
    assert set(found.left_out) == {"long documents", "captions, recall", "grammar"}
    assert "--heldout 1" in found.left_out["long documents"]
    with pytest.raises(ConfigError, match=r"--data .*--text FILE.*--blimp"):
        ablate_memory(model, Sources(), Work())


def test_a_harmful_memory_is_called_so(models: dict[str, BitMar]) -> None:
    found = measure(np.zeros(9), np.ones(9))
    text = conclusion([found.to_dict()])
    assert text[0] == "t, n: the memory hurts" and "by chance alone" in text[1]


def test_both_engines_write_alike(folder: Path, models: dict[str, BitMar]) -> None:
    pytest.importorskip("bitmar._native", reason="the native engine was not built")
    native = variants(load(folder / "packed" / "model.bitmar"))
    ids = document_ids(models[ON], [TEXT], most=1)[0]
    for name in (ON, LITERAL):
        engine: Any = native[name].engine
        engine.kv_int16 = True
        slow: Any = models[name].engine
        a = engine.start().forward(ids[None, :64], Write.ENDED)
        b = slow.start().forward(ids[None, :64], Write.ENDED)
        np.testing.assert_allclose(a, b, atol=0.05)
