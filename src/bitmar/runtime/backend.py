"""What a program needs of an engine."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from bitmar.core.errors import nearest
from bitmar.core.ternary import F32, U8
from bitmar.runtime.cache import I64, ImageTokens
from bitmar.runtime.concepts import ConceptBank
from bitmar.runtime.memory import MemoryState
from bitmar.runtime.options import GenerationOptions

VARIABLE = "BITMAR_KERNEL"  # the environment's wish: a kernel path, or "numpy"
NUMPY = "numpy"


class Backend(Protocol):
    """A model ready to run. Stateless: all that changes while a text goes on is in what `start` returns.

    A state holds one sequence, or after `branch` several that stand at one position.
    """

    name: str  # "numpy", or the native engine's kernel path
    tower: Callable[[U8], F32] | None  # a square photo, uint8 (S, S, 3) -> patch features (N_p, D_v)

    concepts: ConceptBank | None  # words that a photo's features speak for

    def encode_features(self, features: F32) -> ImageTokens:
        """Patch features (N_p, D_v), of the tower or a teacher -> what every text about the image needs."""
        ...

    def start(self, image: ImageTokens | None = None, memory: MemoryState | None = None) -> Any:
        """The state of an empty sequence about `image`, reading `memory` (M_0 when None)."""
        ...

    def read(self, ids: I64, state: Any) -> None:
        """Take in a prompt (T,), T >= 1."""
        ...

    def next(self, state: Any, token: int | None, options: GenerationOptions, u: float) -> int:
        """Take in `token` if there is one, and choose the next; `u` in [0, 1) decides where chance does."""
        ...

    def candidates(self, state: Any, count: int, penalty: float) -> tuple[I64, F32]:
        """The likeliest continuations of each sequence, best first: ids and penalised log-probabilities (B, count)."""
        ...

    def branch(self, state: Any, sources: I64, tokens: I64) -> None:
        """Replace the sequences by those numbered `sources` (B',), each followed by its token (B',)."""
        ...

    def forward(self, ids: I64, state: Any, /) -> F32:
        """Run ids (B, T) after what each sequence has seen (`state.select` repeats them): hidden states (B, T, d)."""
        ...

    def head(self, hidden: F32, /) -> F32:
        """Hidden states (T, d) -> next-token logits (T, V)."""
        ...

    def logits(self, ids: I64, state: Any) -> F32:
        """Next-token logits (T, V) after each of the ids (T,)."""
        ...

    def score(self, ids: I64, state: Any) -> F32:
        """Natural log-probability (T - 1,) of each of the ids (T,) but the first."""
        ...

    def query(self, ids: I64, state: Any) -> F32:
        """The memory's query q (C,) after the last of the ids (T,), nothing written. The model must have a memory."""
        ...

    def remember(self, ids: I64, state: Any) -> MemoryState | None:
        """Write a whole sequence (T,) into the memory by segments: the new state, None without a memory."""
        ...

    def last_query(self, state: Any) -> F32:
        """The memory's query q (C,) after the last token that one sequence has read. The model must have a memory."""
        ...

    def write_memory(self, state: Any) -> MemoryState:
        """Write that query into the memory of one sequence (eq. 1): what it reads from its next token on."""
        ...

    def replace_memory(self, state: Any, memory: MemoryState) -> None:
        """Let the sequence read this memory from its next token on. The model must have a memory."""
        ...


def engine_hint(name: str, runnable: list[str]) -> str:
    """What to say about an engine that is not there."""
    choices = [*runnable, NUMPY]
    return f"no engine {name!r} here{nearest(name, choices)}: choose from {', '.join(choices)}"
