"""The runtime as a scorer, and `load_scorer`, which opens any model: the place where evaluate meets models."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from bitmar.api import BitMar, load
from bitmar.core.errors import ConfigError, DependencyError, FormatError, nearest, pip_install
from bitmar.core.ternary import F32
from bitmar.evaluate.continuation import Continuation, check_write, compare, write
from bitmar.evaluate.folder import Absent
from bitmar.evaluate.protocol import OnProgress, Picture, Scorer, Text, is_features
from bitmar.runtime.ask import evidence_for
from bitmar.runtime.backend import NUMPY
from bitmar.runtime.cache import ImageTokens
from bitmar.runtime.diagnosis import native_paths
from bitmar.runtime.options import GenerationOptions
from bitmar.runtime.text import encode

if TYPE_CHECKING:
    from bitmar.evaluate.torch_scorer import TorchScorer

ENGINES = ("auto", "runtime", "torch")


class RuntimeScorer:
    """The runtime, one text and one photo at a time."""

    pictures_at_once = 1
    rounding = 0.0

    def __init__(self, model: BitMar) -> None:
        self.model, self.name = model, str(model.path)
        self.vocab_size, self.has_tower = model.config.vocab_size, model.config.vision_tower is not None

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

    def caption(self, images: Sequence[Picture], *, beams: int | None = None, max_tokens: int = 32) -> list[str]:
        return [self.model.caption(self._encode(image), beams=beams, max_tokens=max_tokens) for image in images]

    def look(self, pictures: Sequence[Picture]) -> list[Picture]:
        return [self._encode(picture) for picture in pictures]

    def embed(self, texts: Sequence[str] = (), images: Sequence[Picture] = ()) -> tuple[F32, F32]:
        shown = [self.model.embed(image=self._encode(image)) for image in images]
        return self.model.embed_texts(texts), np.array(shown, np.float32).reshape(-1, self.model.config.hidden_size)

    def evidence(self, question: str, answer: str, picture: Picture) -> float:
        return evidence_for(answer, question, self._encode(picture), self.model.witness)

    def remembered(self, text: str) -> F32 | None:
        if self.model.config.memory_integration == "off":
            return None
        slots: F32 = self.model.remember(text).slots[0]
        return slots

    def encode(self, text: str) -> list[int]:
        return encode(self.model.tokenizer, text)

    def compare(
        self,
        contexts: Sequence[Sequence[int]],
        options: Sequence[Sequence[Sequence[int]]],
        *,
        on_progress: OnProgress | None = None,
    ) -> list[list[Continuation]]:
        found = []
        for context, choices in zip(contexts, options, strict=True):
            prefix = np.array([self.model.config.bos_token_id, *context])
            found.append(compare(self.model.engine, prefix, choices))
            if on_progress is not None:
                on_progress(len(found))
        return found

    def write(
        self,
        contexts: Sequence[str],
        options: GenerationOptions,
        until: Sequence[str] = (),
        *,
        on_progress: OnProgress | None = None,
    ) -> list[str]:
        model, texts = self.model, list[str]()
        check_write(options)
        for context in contexts:
            prefix = np.array([model.config.bos_token_id, *self.encode(context)])
            texts.append(write(model.engine, model.tokenizer, prefix, model.config.eos_token_id, options, until))
            if on_progress is not None:
                on_progress(len(texts))
        return texts

    def _encode(self, picture: Picture) -> ImageTokens:
        if isinstance(picture, ImageTokens):
            return picture
        if is_features(picture):
            return self.model.encode_image(features=picture)
        return self.model.encode_image(picture)

    def _score_ids(self, ids: Sequence[int], image: ImageTokens | None) -> F32:
        return self.model.score_ids([self.model.config.bos_token_id, *ids], image)


def packed(scorer: Scorer) -> BitMar:
    """The packed model; Absent for one that only PyTorch can load."""
    if not isinstance(scorer, RuntimeScorer):
        raise Absent("this needs a packed model: make one with `bitmar export`")
    return scorer.model


def load_scorer(source: str | Path | None = None, engine: str = "auto") -> RuntimeScorer | TorchScorer:
    """The model at `source`: a `.bitmar` file, a folder with one, a Hub id (None: the bundled one), or a checkpoint.

    engine: "runtime", "torch", or "auto": PyTorch for a checkpoint folder without a `.bitmar` file, else the runtime;
    or one of the runtime's own, as `bitmar.load` takes it: "numpy", "avx2", ...
    Raises ConfigError, FormatError, DependencyError (PyTorch is not installed).
    """
    known = [*ENGINES, NUMPY, *(name for name, _ in native_paths())]
    if engine not in known:
        raise ConfigError(f"an engine is one of {', '.join(known)}, not {engine!r}{nearest(engine, known)}")
    folder = Path(source or "")
    is_checkpoint = source is not None and (folder / "model.safetensors").is_file()
    unpacked = is_checkpoint and not any(folder.glob("*.bitmar"))
    if engine not in ("auto", "torch") or (engine == "auto" and not unpacked):
        return RuntimeScorer(load(source, engine=None if engine in ENGINES else engine))
    if not is_checkpoint:
        raise FormatError(f"{source} is no checkpoint folder (config.json, model.safetensors): PyTorch needs one")
    try:
        from bitmar.evaluate.torch_scorer import TorchScorer
    except ModuleNotFoundError as error:
        raise DependencyError(f"a checkpoint needs {error.name}: {pip_install('train')}") from error
    return TorchScorer.from_checkpoint(folder)
