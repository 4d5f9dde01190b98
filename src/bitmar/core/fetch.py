"""A photo from an http(s) address: of limited size, in limited time, and only where somebody asks for it."""

from __future__ import annotations

import http.client
import threading
import time
import urllib.error
import urllib.request
from concurrent.futures import Future
from concurrent.futures import TimeoutError as Late  # Python 3.10 has two
from typing import Any
from urllib.parse import urlsplit

from bitmar.core.errors import ImageError

MAX_BYTES = 64 << 20
SECONDS = 20.0
REDIRECTS = 3
_CHUNK = 1 << 16


def is_address(name: str) -> bool:
    """Whether a photo's name is an http(s) URL."""
    return name[:8].partition(":")[0].lower() in ("http", "https")


def fetch_photo(url: str, *, max_bytes: int = MAX_BYTES, seconds: float = SECONDS) -> bytes:
    """The bytes at an http(s) address, which any function that takes a photo reads.

    seconds: for all of it, names and redirects (at most three) included. Private addresses are fetched too: a program
    that takes addresses from strangers has to check them first, as `bitmar serve` does. Raises ImageError.
    """
    # A thread, because no timeout of a socket bounds a name that does not resolve or a head that comes byte by byte.
    fetched: Future[bytes] = Future()
    limit = time.monotonic() + seconds
    threading.Thread(target=_fetch, args=(fetched, url, max_bytes, limit), daemon=True).start()
    try:
        return fetched.result(timeout=seconds)
    except ImageError:
        raise
    except (TimeoutError, Late):
        reason = f"no whole photo came within {seconds:g} seconds"
    except urllib.error.HTTPError as error:
        reason = f"the server answers {error.code} {error.reason}"
    except urllib.error.URLError as error:
        reason = f"cannot be fetched: {getattr(error.reason, 'strerror', None) or error.reason}"
    except (OSError, ValueError, http.client.HTTPException) as error:
        reason = f"cannot be fetched: {error or type(error).__name__}"
    raise ImageError(f"{url:.200}: {reason}")


def _fetch(fetched: Future[bytes], url: str, max_bytes: int, limit: float) -> None:
    try:
        fetched.set_result(_read(url, max_bytes, limit))
    except BaseException as error:  # the caller's to tell
        fetched.set_exception(error)


def _read(url: str, max_bytes: int, limit: float) -> bytes:
    if not is_address(url) or not urlsplit(url).hostname:
        raise ImageError(f"{url:.200}: a photo's address begins with http:// or https:// and the name of a host")
    request = urllib.request.Request(url, headers={"User-Agent": "bitmar", "Accept": "image/*"})
    opener = urllib.request.build_opener(_Redirects)
    with opener.open(request, timeout=max(limit - time.monotonic(), 0.001)) as response:
        told = response.headers.get("Content-Length", "")
        length = int(told) if told.isdecimal() else None
        data = bytearray()
        while max(len(data), length or 0) <= max_bytes and (part := response.read1(_CHUNK)):
            data += part
            if time.monotonic() > limit:
                raise TimeoutError
    if max(len(data), length or 0) > max_bytes:
        raise ImageError(f"{url:.200}: larger than {max_bytes:,} bytes")
    if length is not None and len(data) < length:
        raise ImageError(f"{url:.200}: the connection ended after {len(data):,} of {length:,} bytes")
    return bytes(data)


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Only a few, and to nothing but http(s)."""

    max_redirections = REDIRECTS

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        if not is_address(newurl):
            raise ImageError(f"{req.full_url:.200}: leads to {newurl:.80}, which is no http(s) address")
        return super().redirect_request(req, fp, code, msg, headers, newurl)
