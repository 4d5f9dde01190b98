"""Fields of OpenAI's that mean something only when they are not empty, and which clients send empty."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, WithJsonSchema


def _empty(value: Any) -> None:
    if value:
        raise ValueError("this model has no such thing: leave it out")


Nothing = Annotated[
    None,
    BeforeValidator(_empty),
    WithJsonSchema(
        {"anyOf": [{"type": "null"}, {"type": "array", "maxItems": 0}, {"type": "object", "maxProperties": 0}]}
    ),
]
