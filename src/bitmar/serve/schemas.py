"""The requests and answers, as OpenAPI describes them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from bitmar.core.errors import nearest
from bitmar.serve.nothing import Nothing

IMAGE = "A photo: `data:image/jpeg;base64,...`, or an http(s) address where the server was started with --allow-urls."


class Body(BaseModel):
    """A request: unknown fields are refused, with the nearest known one."""

    model_config = ConfigDict(extra="forbid", strict=True)

    @model_validator(mode="before")
    @classmethod
    def _known(cls, data: Any) -> Any:
        for name in data if isinstance(data, dict) else ():
            if name not in cls.model_fields:
                raise ValueError(f"unknown field {name!r:.80}{nearest(str(name), cls.model_fields)}")
        return data


# Chat.


class ImageUrl(Body):
    """url: see `IMAGE`. detail: there is only one."""

    url: str = Field(description=IMAGE)
    detail: Literal["auto", "low", "high"] | None = None


class TextPart(Body):
    """A piece of a message that is text."""

    type: Literal["text"]
    text: str


class ImagePart(Body):
    """A piece of a message that is a photo."""

    type: Literal["image_url"]
    image_url: ImageUrl


Part = Annotated[TextPart | ImagePart, Field(discriminator="type")]


class Message(Body):
    """One turn. Photos stand in a user's; a system's text is read by nobody, the model was not trained to obey one."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[Part]
    name: str | None = None
    refusal: str | None = None
    # Of an answer that a client sends back whole.
    annotations: Nothing = None
    audio: Nothing = None
    function_call: Nothing = None
    tool_calls: Nothing = None


Stop = Annotated[str, Field(min_length=1, max_length=1000)]


class StreamOptions(Body):
    """include_usage: a last chunk with the usage and no choices."""

    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class Options(Body):
    """How to write, as `bitmar.GenerationOptions`."""

    temperature: float | None = Field(default=None, ge=0, le=2, description="0 is greedy, and the default.")
    top_p: float | None = Field(default=None, gt=0, le=1)
    seed: int | None = Field(default=None, ge=-(2**63), lt=2**63)

    def chosen(self) -> dict[str, Any]:
        """Those that were asked for, by their names there."""
        values = {name: getattr(self, name) for name in Options.model_fields}
        if self.seed is not None:
            values["seed"] = self.seed % 2**63  # -1 is one like any other
        return {name: value for name, value in values.items() if value is not None}


class ResponseFormat(Body):
    """Text; the model cannot be held to JSON."""

    type: Literal["text"]


class ChatRequest(Options):
    """OpenAI's request. Fields that the model cannot honour (tools, penalties) are refused, not ignored."""

    model: str = Field(description="One of `/v1/models`, or `bitmar`.")
    messages: list[Message] = Field(min_length=1, max_length=1000)
    max_tokens: int | None = Field(default=None, ge=1, description="The server's own limit holds as well.")
    max_completion_tokens: int | None = Field(default=None, ge=1)
    stop: Stop | Annotated[list[Stop], Field(max_length=4)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: Literal[1] | None = None
    logprobs: Literal[False] | None = None
    presence_penalty: float | None = Field(default=None, ge=0, le=0)
    frequency_penalty: float | None = Field(default=None, ge=0, le=0)
    response_format: ResponseFormat | None = None
    tools: Nothing = None
    functions: Nothing = None
    function_call: Nothing = None
    logit_bias: Nothing = None
    top_logprobs: Literal[0] | None = None
    audio: Nothing = None
    prediction: Nothing = None
    web_search_options: Nothing = None
    tool_choice: Literal["none", "auto"] | None = None
    memory: bool = Field(default=True, description="Read what the server remembers.")
    # Of no meaning here, but sent by clients that do not ask for anything by it.
    user: str | None = None
    reasoning_effort: str | None = None
    verbosity: str | None = None
    metadata: dict[str, Any] | None = None
    store: bool | None = None
    service_tier: str | None = None
    parallel_tool_calls: bool | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    modalities: list[Literal["text"]] | None = None

    @property
    def stops(self) -> list[str]:
        """Texts that end the answer and do not stand in it."""
        if self.stop is None:
            return []
        return [self.stop] if isinstance(self.stop, str) else self.stop


class Usage(BaseModel):
    """In tokens; a photo counts as its vision tokens."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class Answer(BaseModel):
    """The model's message."""

    role: Literal["assistant"] = "assistant"
    content: str
    refusal: None = None


class Choice(BaseModel):
    """The one answer. finish_reason: "stop" by itself or at a stop text, "length" at the limit."""

    index: int = 0
    message: Answer
    logprobs: None = None
    finish_reason: Literal["stop", "length"]


class ChatCompletion(BaseModel):
    """OpenAI's answer."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[Choice]
    usage: Usage
    system_fingerprint: str


class ModelCard(BaseModel):
    """A model that is served."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "bitmar"


class ModelList(BaseModel):
    """The models that are served: one."""

    object: Literal["list"] = "list"
    data: list[ModelCard]


# Embeddings.


class EmbeddingRequest(Body):
    """Texts and photos, side by side in one space: the cosine of a caption and its photo is high."""

    model: str
    input: str | Annotated[list[str | Part], Field(min_length=1, max_length=2048)]
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: int | None = Field(default=None, ge=1)
    user: str | None = None


class Embedding(BaseModel):
    """A vector of length 1; in base64 as little-endian float32."""

    object: Literal["embedding"] = "embedding"
    index: int
    embedding: list[float] | str


class EmbeddingUsage(BaseModel):
    """In tokens."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingList(BaseModel):
    """OpenAI's answer."""

    object: Literal["list"] = "list"
    data: list[Embedding]
    model: str
    usage: EmbeddingUsage


# Our own.


class CaptionRequest(Options):
    """A sentence about a photo."""

    image: str = Field(description=IMAGE)
    beams: int | None = Field(
        default=None,
        ge=1,
        le=8,
        description="Beam search, which cannot stream; 1 is greedy. Without: the one of several captions that "
        "the photo bears out.",
    )
    max_tokens: int = Field(default=32, ge=1, le=256)
    stream: bool = Field(default=False, description="As server-sent events: `piece`s, then `done`.")
    memory: bool = Field(default=True, description="Begin with what was remembered where the photo is surely known.")


class AskRequest(Body):
    """A question about a photo."""

    image: str = Field(description=IMAGE)
    question: str = Field(min_length=1, max_length=2000)


class RememberRequest(Body):
    """A photo, a text, or a text about a photo."""

    image: str | None = Field(default=None, description=IMAGE)
    text: str = Field(default="", max_length=10_000)


class RecallRequest(Body):
    """Either a photo or a text."""

    image: str | None = Field(default=None, description=IMAGE)
    text: str | None = Field(default=None, max_length=10_000)
    k: int = Field(default=3, ge=1, le=100, description="So many episodes, the best first.")


class SlotsRequest(Body):
    """A text, a photo, or both."""

    image: str | None = Field(default=None, description=IMAGE)
    text: str = Field(default="", max_length=2000)


class EpisodeOut(BaseModel):
    """Something remembered. time: seconds since 1970. photo: a hash of its thumbnail. usage: 1 is just used; the least
    used is overwritten first. lost: the text that this one has overwritten. change: what remembering it has done: new,
    updated (the same photo had another text) or unchanged; null elsewhere."""

    slot: int
    text: str
    time: float
    photo: str | None
    usage: float
    cut: bool
    lost: str | None
    change: str | None


class RecalledOut(BaseModel):
    """An episode that was called up. score: resemblance, at most 1. margin: the score less the best of all others.
    confidence: the chance that a photo never shown would resemble none of the episodes this much."""

    episode: EpisodeOut
    score: float
    margin: float | None
    confidence: float | None


class Caption(BaseModel):
    """confidence: the chance that it is about the right thing, null where nothing is known of that. general: what is
    sure of the photo in general. recited: characters at the beginning that are copied from `recalled`."""

    caption: str
    finish_reason: Literal["stop", "length"]
    confidence: float | None
    general: str | None
    recited: int
    recalled: RecalledOut | None
    model: str
    milliseconds: float


class AskAnswer(BaseModel):
    """answer: "I cannot tell" where the photo makes the likeliest answer (`guess`) no likelier than the question alone
    does. confidence: the guess's probability. gain: nats by which the photo made it likelier."""

    answer: str
    confidence: float
    gain: float
    guess: str
    model: str


class RecallAnswer(BaseModel):
    """The best first."""

    recalled: list[RecalledOut]


class MemoryAnswer(BaseModel):
    """All episodes, the latest first."""

    slots: int
    bytes: int
    file: str | None
    episodes: list[EpisodeOut]


class Forgotten(BaseModel):
    """The slot that was emptied."""

    forgotten: int


class HeldSlot(BaseModel):
    """A slot that holds an episode, and its text."""

    slot: int
    text: str


class SlotsAnswer(BaseModel):
    """weights: how much the model reads each slot after this text about this photo; they sum to 1."""

    weights: list[float]
    held: list[HeldSlot]


class Health(BaseModel):
    """reload_error: why the model that was to replace this one did not."""

    status: Literal["ok"]
    model: str
    fingerprint: str
    engine: str
    memory: bool
    uptime: float
    reloads: int
    reload_error: str | None


class ErrorDetail(BaseModel):
    """code: for programs. param: the part of the request that is wrong."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorAnswer(BaseModel):
    """Every answer that is no 2xx."""

    error: ErrorDetail
