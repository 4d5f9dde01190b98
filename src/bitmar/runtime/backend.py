"""The interface of an engine."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from bitmar.core.errors import nearest
from bitmar.core.ternary import F32, U8
from bitmar.runtime.cache import I64, ImageTokens
from bitmar.runtime.concepts import ConceptBank
from bitmar.runtime.memory import MemoryState, Write
from bitmar.runtime.options import GenerationOptions

VARIABLE = "BITMAR_KERNEL"  # the environment's wish: a kernel path, or "numpy"
NUMPY = "numpy"


class State(Protocol):
    """All that changes while a text goes on: of one sequence, or after `select` of several that stand at one position.

    Ids are int64. Raises FormatError where the weights give numbers that are not finite.
    """

    def read(self, ids: I64, /) -> None:
        """Take in a prompt (T,), T >= 1: prefill."""
        ...

    def next(self, token: int | None, options: GenerationOptions, u: float, /) -> int:
        """Take in `token` if there is one, and choose the next; `u` in [0, 1) decides where chance does."""
        ...

    def candidates(self, count: int, penalty: float, /) -> tuple[I64, F32]:
        """The likeliest continuations of each sequence, best first: ids and penalised log-probabilities (B, count)."""
        ...

    def select(self, sources: I64, /) -> None:
        """Replace the sequences by those numbered `sources` (B',), which may repeat."""
        ...

    def branch(self, sources: I64, tokens: I64, /) -> None:
        """`select`, and then each of them takes in its token (B',)."""
        ...

    def forward(self, ids: I64, write: Write = Write.NEVER, /) -> F32:
        """Run ids (B, T) after what each sequence has seen: hidden states (B, T, d)."""
        ...

    def logits(self, ids: I64, /) -> F32:
        """Next-token logits (T, V) after each of the ids (T,)."""
        ...

    def score(self, ids: I64, /) -> F32:
        """Natural log-probability (T - 1,) of each of the ids (T,) but the first."""
        ...

    def query(self, ids: I64, /) -> F32:
        """The memory's query q (C,) after the last of the ids (T,), nothing written. The model must have a memory."""
        ...

    def last_query(self) -> F32:
        """The memory's query q (C,) after the last token that one sequence has read. The model must have a memory."""
        ...

    def remember(self, ids: I64, /) -> MemoryState:
        """Write a whole sequence (T,) into the memory by segments: the new state. The model must have a memory."""
        ...

    def write_memory(self) -> MemoryState:
        """Write the last query into the memory of one sequence (eq. 1): what it reads from its next token on."""
        ...

    def replace_memory(self, memory: MemoryState, /) -> None:
        """Let the sequence read this memory from its next token on. The model must have a memory."""
        ...


class Backend(Protocol):
    """A model ready to run. It does not change: what does is in a `State`."""

    name: str  # "numpy", or the native engine's kernel path
    tower: Callable[[U8], F32] | None  # a square photo, uint8 (S, S, 3) -> patch features (N_p, D_v)
    concepts: ConceptBank | None  # words that a photo's features speak for

    def encode_photo(self, photo: U8, /) -> ImageTokens:
        """A square photo, uint8 (S, S, 3) -> what every text about it needs. There must be a tower."""
        ...

    def encode_features(self, features: F32, /) -> ImageTokens:
        """Patch features (N_p, D_v), of the tower or a teacher -> what every text about the image needs."""
        ...

    def start(self, image: ImageTokens | None = None, memory: MemoryState | None = None) -> State:
        """An empty sequence about `image`, reading `memory` (M_0 when None)."""
        ...

    def head(self, hidden: F32, /) -> F32:
        """Hidden states (T, d) -> next-token logits (T, V)."""
        ...


def engine_hint(name: str, runnable: list[str]) -> str:
    """The message for an unknown engine."""
    choices = [*runnable, NUMPY]
    return f"no engine {name!r} here{nearest(name, choices)}: choose from {', '.join(choices)}"
