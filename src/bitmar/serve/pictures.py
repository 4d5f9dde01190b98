"""From the address of a photo in a request to its bytes."""

from __future__ import annotations

import base64
import binascii
import re

from bitmar.serve.errors import ApiError
from bitmar.serve.fetch import fetch
from bitmar.serve.settings import Settings

_DATA = re.compile(r"data:([\w.+-]+/[\w.+-]+)?((?:;[\w.+-]+=[\w.+-]+)*)(;base64)?,", re.IGNORECASE)


async def photo_of(url: str, settings: Settings) -> bytes:
    """The photo of a data: URL, or where the server allows it of an http(s) one. Raises ApiError."""
    scheme = url[:8].partition(":")[0].lower()
    if scheme == "data":
        return _data(url)
    if scheme in ("http", "https"):
        if settings.allow_urls:
            return await fetch(url, settings.max_body)
        raise _invalid(
            "this server fetches no addresses: send the photo itself as data:image/jpeg;base64,..., "
            "or start the server with --allow-urls"
        )
    raise _invalid(f"a photo is a data: URL such as data:image/jpeg;base64,..., not {url[:40]!r}")


def _data(url: str) -> bytes:
    head = _DATA.match(url)
    if head is None:
        raise _invalid("a data: URL of a photo looks like data:image/jpeg;base64,...")
    kind, _, encoded = head.groups()
    if kind is not None and not kind.lower().startswith("image/"):
        raise _invalid(f"a data: URL of {kind} is no photo; one of an image/... is")
    if not encoded:
        raise _invalid("a data: URL of a photo must be in base64: data:image/jpeg;base64,...")
    try:
        return base64.b64decode("".join(url[head.end() :].split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise _invalid(f"the base64 of the photo is broken: {error}") from None


def _invalid(message: str) -> ApiError:
    return ApiError(400, message, code="invalid_image_url", param="image_url")
