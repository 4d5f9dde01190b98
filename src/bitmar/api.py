"""The front door: load a model, show it a photo, let it write."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from functools import cached_property, partial
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any, TextIO

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from bitmar.core.config import ModelConfig
from bitmar.core.container import Container, open_container
from bitmar.core.errors import NOT_FINITE, ConfigError, FormatError, ImageError
from bitmar.core.image import PhotoSource, load_photo, to_square
from bitmar.core.ternary import F32
from bitmar.generation import Caption, Generation, Writing
from bitmar.reading import Passage, Reader, read_stream
from bitmar.runtime.ask import Answer, ask
from bitmar.runtime.backend import State
from bitmar.runtime.cache import I64, ImageTokens
from bitmar.runtime.choose import choose_backend
from bitmar.runtime.confidence import Witness
from bitmar.runtime.embedding import TextEncoder, pooled_image, unit
from bitmar.runtime.layers import Weights
from bitmar.runtime.locate import find_model
from bitmar.runtime.memory import EpisodicMemory, MemoryState, check_state
from bitmar.runtime.options import GenerationOptions, Options
from bitmar.runtime.text import check_ids, encode
from bitmar.session.session import Session

if TYPE_CHECKING:
    from typing_extensions import Unpack


def load(path_or_hub_id: str | Path | None = None, *, engine: str | None = None) -> BitMar:
    """Load a model: None for the bundled one, a `.bitmar` file, a folder that holds one, or a Hub id.

    engine: None for the fastest, "numpy", or a path of the native kernels (see `bitmar doctor`). Raises FormatError
    for a damaged or missing file, ConfigError for an engine that cannot run, BitMarError if the Hub cannot give it.
    """
    return BitMar(open_container(find_model(path_or_hub_id)), engine=engine)


def _reload(path: str, checksum: str, engine: str | None) -> BitMar:
    container = open_container(path)
    if container.checksum != checksum:
        raise FormatError(f"{path}: another model than the one that was pickled: load it anew")
    return BitMar(container, engine=engine)


class BitMar:
    """A loaded model. Calls do not influence each other: a memory is passed in and returned."""

    def __init__(self, container: Container, *, engine: str | None = None) -> None:
        self.container, self._wish = container, engine
        self.path, self.card, self.vision = container.path, container.card, container.vision
        self.config: ModelConfig = container.config
        self.engine = choose_backend(container, engine)  # before the tokenizer: it reads the whole file, then lets go
        self.tokenizer: Tokenizer = container.load_tokenizer()
        self.tokenizer.encode_special_tokens = True  # a user's text cannot write <eos>
        self.tokenizer.no_truncation()
        self.tokenizer.no_padding()

    def __repr__(self) -> str:
        return f"BitMar({str(self.path)!r})"

    def __reduce__(self) -> tuple[Callable[..., BitMar], tuple[str, str, str | None]]:
        """Pickled by reference: another process loads the file again. Raises FormatError there if it has changed."""
        return _reload, (str(self.path.resolve()), self.container.checksum, self._wish)

    def __copy__(self) -> BitMar:
        return self  # no call changes it

    def __deepcopy__(self, _: Any) -> BitMar:
        return self

    # Pictures.

    def encode_image(self, photo: PhotoSource | None = None, *, features: npt.ArrayLike | None = None) -> ImageTokens:
        """Prepare a picture once for any number of captions and completions.

        photo: a path, bytes, a file object, a PIL image or a uint8 array (H, W, 3). features: in its place, the
        teacher's patch features (N_p, D_v), which a model without a vision tower needs. Raises ImageError.
        """
        if (photo is None) == (features is None):
            raise ImageError("encode_image needs either a photo or features, and not both")
        if features is not None:
            return self._finite(self.engine.encode_features(self._check_features(features)))
        if self.engine.tower is None:
            raise ImageError(
                "this model has no vision tower, it was trained on another network's patch features: "
                f"pass those as encode_image(features=...), float {self._feature_shape}, "
                "or load a model with a built-in tower"
            )
        assert photo is not None
        return self._finite(self.engine.encode_photo(to_square(load_photo(photo), self.vision["size"])))

    def _finite(self, image: ImageTokens) -> ImageTokens:
        if not np.isfinite(image.tokens).all():
            raise FormatError(NOT_FINITE)
        return image

    @property
    def _feature_shape(self) -> tuple[int, int]:
        return self.config.vision_grid**2, self.config.vision_dim

    def _check_features(self, features: npt.ArrayLike) -> F32:
        try:
            array = np.asarray(features, dtype=np.float32)
        except (TypeError, ValueError) as error:
            raise ImageError(f"the patch features must be an array of numbers: {error}") from error
        if array.shape != self._feature_shape:
            raise ImageError(f"the patch features must have the shape {self._feature_shape}, not {array.shape}")
        if not np.isfinite(array).all():
            raise ImageError("the patch features hold values that are not finite")
        return array

    def _image(self, image: PhotoSource | ImageTokens | None) -> ImageTokens | None:
        return None if image is None else self.image_tokens(image)

    def image_tokens(self, image: PhotoSource | ImageTokens) -> ImageTokens:
        """A photo encoded; `ImageTokens` as they are, if they are this model's. Raises ImageError."""
        if not isinstance(image, ImageTokens):
            return self.encode_image(image)
        if image.tokens.shape != (self.config.vision_tokens, self.config.hidden_size):
            raise ImageError("these ImageTokens come from another model: encode the photo with this one")
        return image

    def _need_memory(self) -> None:
        if self.config.memory_integration == "off":
            raise ConfigError('this model has no memory (memory_integration is "off")')

    def _start(
        self, image: PhotoSource | ImageTokens | None, memory: MemoryState | Session | None, given: I64
    ) -> State:
        return self._starting(self._image(image), memory, given)()

    def _starting(
        self, seen: ImageTokens | None, memory: MemoryState | Session | None, given: I64
    ) -> Callable[[], State]:
        """A maker of empty states about an image, all with the memory of this moment. given: tokens by which a crowded
        session chooses what is read, none of them yet to be predicted."""
        if memory is not None:
            self._need_memory()
            if isinstance(memory, Session):
                memory = memory.state_for(self, lambda: self.engine.start(seen).query(given))
            check_state(memory, self.config)
        return partial(self.engine.start, seen, memory)

    # Writing.

    def caption(
        self,
        image: PhotoSource | ImageTokens,
        *,
        memory: MemoryState | Session | None = None,
        recite: bool = True,
        **options: Unpack[Options],
    ) -> Caption:
        """A sentence on a photo, with its `confidence`: `generate` without a text, of at most 32 tokens.

        Of several sentences it is the one that the photo bears out; with beams=1 the likeliest, token by token.
        Raises ImageError or ConfigError.
        """
        if image is None:
            raise ImageError("caption needs a picture; `complete` writes without one")
        options.setdefault("max_tokens", 32)
        written = self.generate("", image, memory=memory, recite=recite, **options)
        return Caption(written.text.strip(), written.confidence, written.general)

    def ask(self, image: PhotoSource | ImageTokens, question: str) -> Answer:
        """The answer to a question about a photo: yes or no, how many, what color, what is it, where.

        It is "I cannot tell" where the photo makes the answer no likelier than the question alone. Raises ImageError,
        TokenizerError, or ConfigError for an empty question.
        """
        seen = self._image(image)
        if seen is None:
            raise ImageError("ask needs a photo; `complete` goes on with a text alone")
        ends = self.config.bos_token_id, self.config.eos_token_id
        return ask(self.engine, self.tokenizer, self.witness, *ends, question, seen)

    def complete(
        self,
        text: str,
        image: PhotoSource | ImageTokens | None = None,
        *,
        memory: MemoryState | Session | None = None,
        recite: bool = True,
        **options: Unpack[Options],
    ) -> str:
        """How the text goes on, without the text itself: the text of `generate`."""
        return self.generate(text, image, memory=memory, recite=recite, **options).text

    def generate(
        self,
        text: str = "",
        image: PhotoSource | ImageTokens | None = None,
        *,
        memory: MemoryState | Session | None = None,
        recite: bool = True,
        **options: Unpack[Options],
    ) -> Generation:
        """Go on with a text, with or without a picture.

        memory: a session (see `memory`), or what `remember` returned; it is read, not written, but the episode that a
        session recalls for the picture counts as used.
        recite: where the session is sure that it has seen this picture, say what was remembered with it, word for word
        and as a sentence (`session.recite`). Without, its slots only colour what the model says.
        options: as in `GenerationOptions`. Raises ImageError, TokenizerError, ConfigError.
        """
        return self._write(text, image, memory, recite, options).at_once()

    def _write(
        self,
        text: str,
        image: PhotoSource | ImageTokens | None,
        memory: MemoryState | Session | None,
        recite: bool,
        options: Options,
    ) -> Writing:
        chosen = GenerationOptions.of(**options)
        if chosen.beams is not None and 2 * chosen.beams > self.config.vocab_size:
            raise ConfigError(f"{chosen.beams} beams are too many for a vocabulary of {self.config.vocab_size}")
        start = perf_counter()
        seen = self._image(image)
        times = start, perf_counter()
        session = memory if isinstance(memory, Session) else None
        prompt = self._prompt(text)
        return Writing(self, self._starting(seen, memory, prompt), text, prompt, seen, session, recite, chosen, times)

    def likelihood(self, tokens: Sequence[int], image: ImageTokens) -> float:
        """The mean log-probability of a caption's tokens and its end.

        They are read again, as one prompt: evidence, a penalty, a memory or chance may have chosen them.
        """
        ids = np.array([self.config.bos_token_id, *tokens, self.config.eos_token_id])
        return float(self.engine.start(image).score(ids).mean())

    @cached_property
    def witness(self) -> Witness | None:
        """The evidence of the model's concepts for captions; None without a concept bank."""
        bank = self.engine.concepts
        if bank is None:
            return None
        names = (self.tokenizer.decode([int(i) for i in ids if i >= 0]).strip() for ids in bank.words)
        return Witness(self.container, bank, tuple(names))

    def stream(
        self,
        text: str = "",
        image: PhotoSource | ImageTokens | None = None,
        *,
        memory: MemoryState | Session | None = None,
        recite: bool = True,
        **options: Unpack[Options],
    ) -> Generator[str, None, Generation]:
        """`generate` piece by piece; never half a character. Beam search cannot stream: ConfigError.

        Arguments are checked at the call, not at the first piece. The generator returns what `generate` would have:
        `result = yield from model.stream(...)`.
        """
        if GenerationOptions.of(**options).searches:
            raise ConfigError("beam search knows its text only at the end: stream with beams=1")
        return self._write(text, image, memory, recite, options).pieces()

    # Remembering and scoring.

    def memory(self, path: str | Path | None = None, *, slots: int | None = None, wait: float = 0.0) -> Session:
        """The memory of this device: a session in the file `path`, made at the first `remember`, or in RAM.

        slots, wait: as in `Session`. Raises ConfigError; MemoryFileError for a damaged file, or another model's.
        """
        return Session(self, path, slots=slots, wait=wait)

    def query(self, text: str, image: PhotoSource | ImageTokens | None = None) -> F32:
        """The memory's query after a text, with a picture or without: q (C,) of eq. 2, with an empty memory.

        The model must have a memory. Raises ImageError, TokenizerError.
        """
        return self.engine.start(self._image(image)).query(self._prompt(text))

    def logits(
        self,
        ids: npt.ArrayLike,
        image: PhotoSource | ImageTokens | None = None,
        *,
        memory: MemoryState | Session | None = None,
    ) -> F32:
        """Next-token logits, float32 (T, V), after each of the ids (T,). Nothing is put before them.

        Raises TokenizerError for ids outside the vocabulary, ImageError.
        """
        checked = check_ids(ids, self.config.vocab_size)
        return self._start(image, memory, checked[:1]).logits(checked)

    def score(
        self, text: str, image: PhotoSource | ImageTokens | None = None, *, memory: MemoryState | Session | None = None
    ) -> F32:
        """Natural log-probability of each token of a text, float32 (T,), the first after the begin token."""
        return self.score_ids(self._prompt(text), image, memory=memory)

    def score_ids(
        self,
        ids: npt.ArrayLike,
        image: PhotoSource | ImageTokens | None = None,
        *,
        memory: MemoryState | Session | None = None,
    ) -> F32:
        """`score` for token ids (T,), with nothing put before them: float32 (T - 1,), of all but the first."""
        checked = check_ids(ids, self.config.vocab_size)
        return self._start(image, memory, checked[:1]).score(checked)

    def embed(self, text: str | None = None, *, image: PhotoSource | ImageTokens | None = None) -> F32:
        """Where a text or a picture lies in the space of the contrastive loss (section 3.4.2): float32 (d,), length 1.

        The product of a caption and a picture is their cosine; it ranks, it is no probability. Raises ConfigError for
        both or neither, ImageError, TokenizerError.
        """
        if (text is None) == (image is None):
            raise ConfigError("embed takes either a text or image=..., and not both")
        if text is not None:
            vector: F32 = self.embed_texts([text])[0]
            return vector
        tokens = self._image(image)
        assert tokens is not None
        return unit(pooled_image(tokens))

    def embed_texts(self, texts: Sequence[str]) -> F32:
        """`embed` for many texts, (n, d), much faster than one by one. Raises ConfigError for a bare string."""
        if isinstance(texts, str):
            raise ConfigError("embed_texts takes a list of texts; `embed` takes one")
        return unit(self._encoder.pooled([np.append(self._prompt(text), self.config.eos_token_id) for text in texts]))

    @cached_property
    def _encoder(self) -> TextEncoder:
        return TextEncoder(self.container)

    def read(
        self,
        texts: str | TextIO | Iterable[str],
        image: PhotoSource | ImageTokens | None = None,
        *,
        memory: MemoryState | Session | None = None,
        remember: bool = False,
        every: int = 1024,
    ) -> Iterator[Passage]:
        """Read a stream of any length as one text: how likely each `every` tokens of it were.

        texts: an open file or `sys.stdin`, or any iterable of texts. The RAM and the time per token stay constant,
        however long it goes on (section 3.1). remember: write each segment (`memory_segment` tokens) when it ends, and
        read it from then on: into the session, as an episode of its text, or without a session into a state that
        `Passage.memory` returns. Raises ConfigError or ImageError at the call, TokenizerError or MemoryFileError on the
        way.
        """
        session = memory if isinstance(memory, Session) else None
        if remember:
            self._need_memory()
        return read_stream(Reader(self, self._start(image, memory, self._prompt("")), session, remember), texts, every)

    def remember(
        self, text: str, image: PhotoSource | ImageTokens | None = None, *, memory: MemoryState | Session | None = None
    ) -> MemoryState:
        """Write a text, about a picture or not, into a memory: the state afterwards; `memory` stays as it is.

        Raises ConfigError for a model that was built without a memory.
        """
        self._need_memory()
        prompt = self._prompt(text)
        return self._start(image, memory, prompt).remember(prompt)

    def read_weights(
        self,
        text: str = "",
        image: PhotoSource | ImageTokens | None = None,
        *,
        memory: MemoryState | Session | None = None,
    ) -> F32:
        """How much the model reads each slot of its memory after a text, about a picture or not: float32 (K,), sum 1
        (w of eq. 2); K is the session's if it has more. Raises ConfigError for a model that was built without a memory.
        """
        self._need_memory()
        if isinstance(memory, Session):
            return memory.read_weights(self, self.query(text, image))
        prompt = self._prompt(text)
        query = self._start(image, memory, prompt).query(prompt)
        state = self._memory_reader.initial_state() if memory is None else memory
        weights: F32 = self._memory_reader.read_weights(query[None, None], state)[0, 0]
        return weights

    @cached_property
    def _memory_reader(self) -> EpisodicMemory:
        return EpisodicMemory(Weights(self.container), self.config)

    def _prompt(self, text: str) -> I64:
        return np.array([self.config.bos_token_id, *encode(self.tokenizer, text)])
