"""Questions about a photo, answered in a word or two with how sure the answer is.

The model has met questions in training as text: "What color is the dog? brown". An answer is worth something only if
the photo moved it: the question is asked without the photo too, and where the answer is no likelier with it, there is
none. What the photo's concepts say counts as evidence by Bayes' rule: for yes, that of the things asked about; for any
other answer, that of the answer.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from tokenizers import Tokenizer

from bitmar.core.errors import ConfigError
from bitmar.runtime.backend import Backend
from bitmar.runtime.cache import I64, ImageTokens
from bitmar.runtime.confidence import Witness
from bitmar.runtime.generate import sample
from bitmar.runtime.options import GenerationOptions
from bitmar.runtime.text import checked, encode

CANNOT_TELL = "I cannot tell"

_LONGEST = 8  # tokens of an answer
_MOVED = 0.1  # nats an answer must gain by the photo; below it is what anybody would guess
_COLORS = ("black", "white", "red", "blue", "green", "yellow", "brown", "orange", "pink", "purple", "gray", "tan")
_CLOSED = {  # questions with answers to choose from, by how they begin
    "what color": _COLORS,
    "what colour": _COLORS,
    "how many": tuple(map(str, range(9))),
}
_POLAR = ("is", "are", "was", "were", "does", "do", "did", "has", "have", "can", "could", "will", "would")


@dataclass(frozen=True, slots=True)
class Answer:
    """text: the answer, or `CANNOT_TELL`. confidence: the answer's probability beside the photo; against the others
    where there are answers to choose from. gain: nats by which the photo made it likelier. guess: the likeliest answer.
    """

    text: str
    confidence: float
    gain: float
    guess: str

    @property
    def certain(self) -> bool:
        """Whether the photo, and not the question alone, decided the answer."""
        return self.text != CANNOT_TELL


def tidy(question: str) -> str:
    """A question as the model has met them: "is there a dog" -> "Is there a dog?". Raises ConfigError for none."""
    text = " ".join(checked(question).split()).rstrip("?.! ")
    if not text:
        raise ConfigError('ask a question, such as "What color is the dog?"')
    return f"{text[0].upper()}{text[1:]}?"


def is_polar(question: str) -> bool:
    """Whether yes or no is asked for."""
    return question.split(" ", 1)[0].lower() in _POLAR and " or " not in question


def choices_of(question: str) -> list[str]:
    """The answers to choose from: yes and no, colors, numbers; [] where the model says what it likes."""
    if is_polar(question):
        return ["yes", "no"]
    return next((list(known) for start, known in _CLOSED.items() if question.lower().startswith(start)), [])


def evidence_for(answer: str, question: str, image: ImageTokens | None, witness: Witness | None) -> float:
    """Nats by which the concepts of a photo speak for an answer; 0 without a concept bank."""
    if witness is None or image is None or image.concepts is None:
        return 0.0
    if is_polar(question):
        return sum(witness.weights_of_evidence(question, image.concepts)) if answer == "yes" else 0.0
    return max(witness.weights_of_evidence(answer, image.concepts), default=0.0)


def ask(
    backend: Backend,
    tokenizer: Tokenizer,
    witness: Witness | None,
    bos: int,
    eos: int,
    question: str,
    image: ImageTokens | None,
) -> Answer:
    """See `BitMar.ask`. Without a photo the guess is what the question alone makes likeliest."""
    asked = tidy(question)
    prompt = np.array([bos, *encode(tokenizer, asked)])
    choices = choices_of(asked)
    if not choices:
        state = backend.start(image)
        state.read(prompt)
        written = list(sample(state, eos, GenerationOptions(max_tokens=_LONGEST)))
        choices = [tokenizer.decode(written).strip()]
        if not choices[0]:
            return Answer(CANNOT_TELL, 0.0, 0.0, "")
    ends = [np.array([*encode(tokenizer, f" {choice}"), eos]) for choice in choices]
    seen, blind = (
        np.array([_likelihood(backend, prompt, end, each) for end in ends], np.float64) for each in (image, None)
    )
    seen += [evidence_for(choice, asked, image, witness) for choice in choices]
    best = int(np.argmax(seen))
    if len(choices) == 1:
        confidence, gain = float(np.exp(min(seen[0], 0.0))), float(seen[0] - blind[0])
    else:
        shares, before = (np.exp(x - np.logaddexp.reduce(x)) for x in (seen, blind))
        confidence, gain = float(shares[best]), float(np.log(shares[best] / before[best]))
    text = choices[best] if gain >= _MOVED else CANNOT_TELL
    return Answer(text, confidence, gain, choices[best])


def _likelihood(backend: Backend, prompt: I64, end: I64, image: ImageTokens | None) -> float:
    """Log-probability of the answer's tokens after the question."""
    scores = backend.start(image).score(np.concatenate((prompt, end)))
    return float(scores[len(prompt) - 1 :].sum())
