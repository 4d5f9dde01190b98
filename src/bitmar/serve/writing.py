"""Generation for a request: the one place where requests become calls of `BitMar`."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

from bitmar import BitMar
from bitmar.generation import Generation
from bitmar.runtime.ask import Answer
from bitmar.runtime.options import searches
from bitmar.runtime.text import encode
from bitmar.serve.errors import ApiError
from bitmar.serve.home import Home, Served

_CHARACTERS = 64  # of a token at most: a longer text is refused before it is tokenized


@dataclass(frozen=True, slots=True)
class Task:
    """text: to go on with; a question about the photo where `asks`. photo: its file's bytes. stops: texts that end what
    is written. memory: read what is remembered."""

    text: str = ""
    photo: bytes | None = None
    asks: bool = False
    options: dict[str, Any] = field(default_factory=dict)
    stops: Sequence[str] = ()
    memory: bool = True


@dataclass(frozen=True, slots=True)
class Written:
    """The result of a task. prompt, tokens: counted. seconds: from its turn to its end.

    made: an answer of `ask`, or what was generated; None where a stop text ended it.
    """

    text: str
    finish_reason: str
    prompt: int
    tokens: int
    seconds: float
    made: Generation | Answer | None


def write(home: Home, served: Served, task: Task) -> Generator[str, None, Written]:
    """Give the text piece by piece, in a thread; blanks around it are left out. Raises ApiError and BitMar's errors."""
    start, model = perf_counter(), served.model
    prompt = check_length(served, task.text)
    image = None if task.photo is None else model.encode_image(task.photo)
    if image is not None:
        prompt += len(image.tokens)
    if task.asks and image is not None:
        answer = model.ask(image, task.text)
        yield answer.text
        tokens = len(encode(model.tokenizer, answer.text))
        return Written(answer.text, "stop", prompt, tokens, perf_counter() - start, answer)
    begun = _begin(home, served, task, image)
    stop, text, result = StopAt(task.stops), "", None
    while not stop.found:
        try:
            piece = stop.push(next(begun))
        except StopIteration as end:
            result, piece = end.value, stop.rest()
        piece = piece if text else piece.lstrip()
        if piece:
            text += piece
            yield piece
        if result is not None:
            break
    reason = "stop" if result is None else result.finish_reason
    tokens = len(encode(model.tokenizer, text)) if result is None else len(result.tokens)
    return Written(text.rstrip(), reason, prompt, tokens, perf_counter() - start, result)


def _begin(home: Home, served: Served, task: Task, image: Any) -> Generator[str, None, Generation]:
    if searches(task.options.get("beams")):
        return _at_once(home, served, task, image)
    if served.session is None or not task.memory:
        return served.model.stream(task.text, image, **task.options)
    with home.memory(served) as session:  # read at the call; the pieces come without it
        return served.model.stream(task.text, image, memory=session, **task.options)


def _at_once(home: Home, served: Served, task: Task, image: Any) -> Generator[str, None, Generation]:
    if served.session is None or not task.memory:
        whole = served.model.generate(task.text, image, **task.options)
    else:
        with home.memory(served) as session:
            whole = served.model.generate(task.text, image, memory=session, **task.options)
    yield whole.text
    return whole


def check_length(served: Served, text: str) -> int:
    """The tokens of a text. Raises ApiError for more than the model sees at once."""
    tokens = served.context + 1
    if len(text) <= _CHARACTERS * served.context:
        tokens = len(encode(served.model.tokenizer, text)) + 1
    if tokens > served.context:
        raise ApiError(
            400,
            f"this model's context is {served.context} tokens, and the text has more: send a shorter one "
            "(`bitmar read` reads texts of any length)",
            code="context_length_exceeded",
        )
    return tokens


class StopAt:
    """Holds back what may be the beginning of a stop text until that is known."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops, self._held, self.found = stops, "", False

    def push(self, piece: str) -> str:
        """The text that may be shown."""
        self._held += piece
        ends = [place for stop in self._stops if (place := self._held.find(stop)) >= 0]
        if ends:
            self.found = True
            return self._held[: min(ends)]
        keep = max((n for stop in self._stops for n in range(1, len(stop)) if self._held.endswith(stop[:n])), default=0)
        shown, self._held = self._held[: len(self._held) - keep], self._held[len(self._held) - keep :]
        return shown

    def rest(self) -> str:
        """The held-back text, once nothing follows."""
        return self._held


def embed(model: BitMar, inputs: Sequence[str | bytes]) -> list[Any]:
    """The vector of each text or photo."""
    texts = [item for item in inputs if isinstance(item, str)]
    vectors = iter(model.embed_texts(texts) if texts else ())
    return [next(vectors) if isinstance(item, str) else model.embed(image=item) for item in inputs]
