"""The interface of a model to every harness: log-probabilities of texts, captions of photos. The runtime and
PyTorch both give it (`scorer`)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeGuard

import numpy as np
import numpy.typing as npt

from bitmar.core.image import PhotoSource
from bitmar.core.ternary import F32
from bitmar.evaluate.continuation import Continuation
from bitmar.runtime.cache import ImageTokens
from bitmar.runtime.options import GenerationOptions

Text = str | Sequence[int]
"""A text, or its token ids without the begin token."""

Picture = PhotoSource | ImageTokens
"""A photo as `load_photo` reads it, a teacher's patch features: a float array (N_p, D_v), or what `look` returned."""

OnProgress = Callable[[int], None]
"""Called with the number of texts that are done."""


class Scorer(Protocol):
    """A model to be measured.

    name: of the model, for reports. pictures_at_once: how many it likes to caption in one call.
    A sample's result does not depend on the others in the call, and nothing is written into the memory.
    """

    name: str
    pictures_at_once: int

    def loglikelihood(
        self,
        texts: Sequence[Text],
        images: Sequence[Picture | None] | None = None,
        *,
        on_progress: OnProgress | None = None,
    ) -> list[F32]:
        """Natural log-probability of every token of every text, float32 (T,), the first one given the begin token.

        images: one for each text, or None where there is none. Raises ImageError, TokenizerError.
        """
        ...

    def caption(self, images: Sequence[Picture], *, beams: int | None = None, max_tokens: int = 32) -> list[str]:
        """A sentence on each picture. beams: of a search, 1 is greedy; None: as the model captions by itself."""
        ...


class PictureScorer(Scorer, Protocol):
    """The interface of a model to tasks on photos and probes; the runtime and PyTorch both have it.

    has_tower: whether it takes photos. vocab_size: of its tokens. rounding: how far, in nats, a token's log-probability
    may move when its text is computed beside others, because sums run in another order; 0 where they do not.
    """

    has_tower: bool
    vocab_size: int
    rounding: float

    def look(self, pictures: Sequence[Picture]) -> list[Picture]:
        """Pictures run through the tower once, to be given to any number of calls of this scorer. Raises ImageError."""
        ...

    def embed(self, texts: Sequence[str] = (), images: Sequence[Picture] = ()) -> tuple[F32, F32]:
        """Texts (n, d) and pictures (m, d) in the space of the contrastive loss, all of length 1."""
        ...

    def evidence(self, question: str, answer: str, picture: Picture) -> float:
        """Nats by which a photo's concepts speak for an answer (`runtime.ask`); 0 where the model has none."""
        ...

    def remembered(self, text: str) -> F32 | None:
        """The memory's slots (K, C) after a text is written into it as every call finds it; None without a memory."""
        ...


class TextScorer(Scorer, Protocol):
    """The interface to tasks that compare answers or let the model write; both scorers have it."""

    def encode(self, text: str) -> list[int]:
        """Token ids of a text, nothing put before them. Raises TokenizerError."""
        ...

    def compare(
        self,
        contexts: Sequence[Sequence[int]],
        options: Sequence[Sequence[Sequence[int]]],
        *,
        on_progress: OnProgress | None = None,
    ) -> list[list[Continuation]]:
        """For every context (ids after the begin token, may be empty) each of its options (ids, may be empty).

        `on_progress(n)`: contexts that are done. A context is not computed again for options of one token.
        """
        ...

    def write(
        self,
        contexts: Sequence[str],
        options: GenerationOptions,
        until: Sequence[str] = (),
        *,
        on_progress: OnProgress | None = None,
    ) -> list[str]:
        """How each context goes on, up to the first of the texts `until`, which is left out. No beams: ConfigError.

        With a seed, each text is drawn as it would be alone.
        """
        ...


def is_features(picture: object) -> TypeGuard[npt.NDArray[np.floating[Any]]]:
    """Whether a picture is a teacher's patch features: photos as arrays are always uint8."""
    return isinstance(picture, np.ndarray) and np.issubdtype(picture.dtype, np.floating)
