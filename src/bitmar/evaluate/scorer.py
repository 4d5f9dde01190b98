"""What every harness asks of a model: log-probabilities of texts and captions of pictures, from either half."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeGuard

import numpy as np
import numpy.typing as npt

from bitmar.core.errors import ConfigError, DependencyError, FormatError, nearest
from bitmar.core.image import PhotoSource
from bitmar.core.ternary import F32
from bitmar.runtime.api import BitMar, load
from bitmar.runtime.cache import ImageTokens

Text = str | Sequence[int]
"""A text, or its token ids without the begin token."""

Picture = PhotoSource
"""A photo as `load_photo` reads it, or a teacher's patch features: a float array (N_p, D_v)."""

OnProgress = Callable[[int], None]
"""Called with the number of texts that are done."""

HALVES = ("auto", "runtime", "torch")


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
        """Natural log-probability of every token of every text, float32 (T,), the first one behind the begin token.

        images: one for each text, or None where there is none. Raises ImageError, TokenizerError.
        """
        ...

    def caption(self, images: Sequence[Picture], *, beams: int = 1, max_tokens: int = 32) -> list[str]:
        """A sentence on each picture, greedily or by beam search. Raises ImageError."""
        ...


class RuntimeScorer:
    """The torch-free half, one text and one picture at a time."""

    pictures_at_once = 1

    def __init__(self, model: BitMar) -> None:
        self.model, self.name = model, str(model.path)

    def loglikelihood(
        self,
        texts: Sequence[Text],
        images: Sequence[Picture | None] | None = None,
        *,
        on_progress: OnProgress | None = None,
    ) -> list[F32]:
        scores = []
        for i, text in enumerate(texts):
            picture = None if images is None else images[i]
            image = None if picture is None else self._encode(picture)
            scores.append(self.model.score(text, image) if isinstance(text, str) else self._score_ids(text, image))
            if on_progress is not None:
                on_progress(i + 1)
        return scores

    def caption(self, images: Sequence[Picture], *, beams: int = 1, max_tokens: int = 32) -> list[str]:
        return [self.model.caption(self._encode(image), beams=beams, max_tokens=max_tokens) for image in images]

    def _encode(self, picture: Picture) -> ImageTokens:
        if is_features(picture):
            return self.model.encode_image(features=picture)
        return self.model.encode_image(picture)

    def _score_ids(self, ids: Sequence[int], image: ImageTokens | None) -> F32:
        return self.model.score_ids([self.model.config.bos_token_id, *ids], image)


def is_features(picture: object) -> TypeGuard[npt.NDArray[np.floating[Any]]]:
    """Whether a picture is a teacher's patch features: photos as arrays are always uint8."""
    return isinstance(picture, np.ndarray) and np.issubdtype(picture.dtype, np.floating)


def load_scorer(source: str | Path | None = None, half: str = "auto") -> Scorer:
    """The model at `source`: a `.bitmar` file, a folder with one, a Hub id (None: the bundled one), or a checkpoint.

    half: which one computes, "runtime", "torch" or "auto", PyTorch for a checkpoint folder without a `.bitmar` file.
    Raises ConfigError, FormatError, DependencyError (PyTorch is not installed).
    """
    if half not in HALVES:
        raise ConfigError(f"a model is computed by one of {', '.join(HALVES)}, not {half!r}{nearest(half, HALVES)}")
    folder = Path(source or "")
    is_checkpoint = source is not None and (folder / "model.safetensors").is_file()
    if half == "runtime" or (half == "auto" and not (is_checkpoint and not any(folder.glob("*.bitmar")))):
        return RuntimeScorer(load(source))
    if not is_checkpoint:
        raise FormatError(f"{source} is no checkpoint folder (config.json, model.safetensors): PyTorch needs one")
    try:
        from bitmar.evaluate.torch_scorer import TorchScorer
    except ModuleNotFoundError as error:
        raise DependencyError(f"a checkpoint needs {error.name}: pip install 'bitmar[train]'") from error
    return TorchScorer.from_checkpoint(folder)
