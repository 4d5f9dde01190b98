"""One set of weights with its memory on, off, and as the paper's equations 1 and 2 have it to the letter."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from bitmar.api import BitMar
from bitmar.core.container import Container
from bitmar.core.errors import ConfigError
from bitmar.core.ternary import F32
from bitmar.evaluate.passages import SENTENCES
from bitmar.runtime.text import encode

ON, OFF, LITERAL = "on", "off", "literal"
# The weights of ON, with something else in the memory or nothing made of it.
UNWRITTEN, OTHERS, UNRECITED = "unwritten", "others", "unrecited"
MEANING = {
    OFF: "the same weights, no read and no write; they were trained beside a memory, so that part of what is lost "
    "here another training would have put elsewhere",
    ON: "the memory as it was trained",
    LITERAL: "eq. 1 and 2 of the paper to the letter; W_w is the mean learned address, as long as one of them",
    UNWRITTEN: "as on, but nothing is written: what is left is M_0, trained like any other weight",
    OTHERS: "as on, with the episodes of other photos in the memory",
    UNRECITED: "as on, but what the session recalls is not copied: the slots alone speak",
}
"""What each variant is."""

_WRITE_WEIGHTS, _READ_BETA, _STALE = (f"model.memory.{name}" for name in ("write_weights", "read_beta", "stale"))
_NO_USAGE = np.float32(-40)  # softplus of it is 0


def variants(model: BitMar) -> dict[str, BitMar]:
    """ON, OFF and, unless the model was trained with the literal rule, LITERAL; all on the engine of `model`.

    Everything but the memory is the same to the bit. Raises ConfigError for a model without a memory, and for one
    whose integration ("concat") has a projection that would fall away with the memory.
    """
    config = model.config
    if config.memory_integration == "off":
        raise ConfigError("this model was built without a memory: there is nothing to switch off")
    if config.memory_integration == "concat":
        raise ConfigError(
            'memory_integration "concat" sends the text through the memory\'s projection: it has no "off"'
        )
    container, engine = model.container, model.engine.name
    off = replace(container, config=replace(config, memory_integration="off"))
    found = {ON: model, OFF: BitMar(off, engine=engine)}
    if config.write_rule != "literal":
        found[LITERAL] = BitMar(literal(container, write_weights(model)), engine=engine)
    return found


def literal(container: Container, weights: F32) -> Container:
    """The same model under M <- M + alpha W_w q^T (eq. 1) and softmax(M q) (eq. 2), with W_w = `weights` (K,).

    The paper's rule has neither usage nor a temperature, so beta is 1 and the usage is left out of the read.
    """
    paper = {
        _WRITE_WEIGHTS: np.ascontiguousarray(weights, np.float32),
        _READ_BETA: np.ones((), np.float32),
        _STALE: np.full((), _NO_USAGE),
    }
    config = replace(container.config, write_rule="literal")
    return replace(container, config=config, tensors={**container.tensors, **paper})


def write_weights(model: BitMar) -> F32:
    """W_w (K,) for a model that never learned one: the mean of the addresses that it writes plain sentences to.

    Its length is the root mean square of theirs, so that a literal write changes the memory as much as a learned one
    does. That is a stand-in for the paper's learned vector: where "literal" is worse, training it might have
    helped. The sentences are `SENTENCES`, which belong to no test.
    """
    addresses = np.stack([_address(model, text) for kind in SENTENCES.values() for text in kind])
    mean = addresses.mean(axis=0)
    length = np.sqrt(np.mean(np.sum(addresses * addresses, axis=1)))
    weights: F32 = (mean * length / np.linalg.norm(mean)).astype(np.float32)
    return weights


def _address(model: BitMar, text: str) -> F32:
    """The address a (K,) that a write of `text` into M_0 used, read off from what it changed: alpha a_k (q - M_k)."""
    engine = model.engine
    prompt = np.array([model.config.bos_token_id, *encode(model.tokenizer, text)])
    before = model.container.tensors["model.memory.slots"].astype(np.float64)
    query = engine.start().query(prompt)
    change = model.remember(text).slots[0] - before
    toward = query - before
    alpha = max(model.config.memory_alpha, 1e-12)
    address: F32 = (np.sum(change * toward, axis=1) / (alpha * np.sum(toward * toward, axis=1))).astype(np.float32)
    return address
