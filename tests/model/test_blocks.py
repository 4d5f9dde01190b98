from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from bitmar.model.blocks import Block


def kept_for_backward(model: Any, batch: dict[str, Tensor]) -> int:
    """Values that a training forward keeps."""
    kept: list[int] = []

    def pack(tensor: Tensor) -> Tensor:
        kept.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        model(**batch, labels=batch["input_ids"])
    return sum(kept)


def test_checkpointing_keeps_less_and_gives_the_same_gradients(
    tiny_model: Callable[..., Any], inputs: Callable[..., dict[str, Tensor]]
) -> None:
    plain, spare, batch = tiny_model().train(), tiny_model().train(), inputs(length=12)
    spare.gradient_checkpointing_enable()
    assert kept_for_backward(spare, batch) < 0.7 * kept_for_backward(plain, batch)
    for model in (plain, spare):
        torch.manual_seed(0)
        model(**batch, labels=batch["input_ids"]).loss.backward()
    for (name, ours), theirs in zip(plain.named_parameters(), spare.parameters(), strict=True):
        if ours.grad is None:
            assert theirs.grad is None, name
        else:
            torch.testing.assert_close(theirs.grad, ours.grad, msg=name)


def test_a_closed_gate_keeps_the_memory_out(tiny_config: Callable[..., Any], tiny_model: Callable[..., Any]) -> None:
    model = tiny_model()
    block = next(module for module in model.modules() if isinstance(module, Block) and hasattr(module, "memory_gate"))
    x, memory = torch.randn(1, 4, tiny_config().hidden_size), torch.randn(1, 4, tiny_config().memory_dim)
    given: list[Tensor] = []
    block.attn.forward = lambda x, *_: (given.append(x), torch.zeros_like(x))[1]  # type: ignore[assignment, method-assign]
    with torch.no_grad():
        opened = [block.memory_gate.fill_(gate) is None or block(x, None, memory) for gate in (0.0, 0.5)]
    alone = x + block.mlp(block.mlp_norm(x))
    torch.testing.assert_close(opened[0], alone)
    assert not torch.allclose(opened[1], alone)
