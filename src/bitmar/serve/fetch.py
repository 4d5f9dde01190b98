"""Photos that a request names by address, fetched so that nobody can make this machine look into its own network.

Server-side request forgery comes in by names that resolve to private addresses, by redirects, and by names that resolve
differently the second time (DNS rebinding). So a name is resolved once for each hop, all its addresses must be public,
and the connection goes to an address that was checked, while the certificate is checked against the name.
"""

from __future__ import annotations

import asyncio
import socket
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

import anyio
import httpx

from bitmar.serve.errors import ApiError

SECONDS = 10.0
REDIRECTS = 3
_TRANSLATED = ip_network("64:ff9b::/96")  # an IPv4 address in its last 32 bits (RFC 6052)

Address = IPv4Address | IPv6Address


def is_public(address: Address) -> bool:
    """Whether an address belongs to the open internet, also one that carries an IPv4 address within."""
    if isinstance(address, IPv6Address):
        if address in _TRANSLATED:
            return is_public(IPv4Address(int(address) & 0xFFFFFFFF))
        inner = address.ipv4_mapped or address.sixtofour or (address.teredo and address.teredo[1])
        if address.is_site_local or (inner is not None and not is_public(inner)):
            return False
    return address.is_global and not (address.is_multicast or address.is_reserved or address.is_unspecified)


async def resolve(host: str, port: int) -> list[Address]:
    """All addresses of a name. Raises ApiError for one that has none."""
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        raise _refused(f"the name {host!r:.80} has no address") from None
    return [ip_address(str(entry[4][0]).partition("%")[0]) for entry in found]


async def fetch(url: str, most: int) -> bytes:
    """The bytes at an http(s) address, at most `most`. Raises ApiError for all that is not a public photo."""
    try:
        with anyio.fail_after(SECONDS):
            # No proxies of the environment: they would resolve names themselves.
            async with httpx.AsyncClient(trust_env=False, timeout=SECONDS, follow_redirects=False) as client:
                return await _follow(client, url, most)
    except TimeoutError:
        raise _refused(f"no photo came within {SECONDS:g} seconds") from None
    except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError) as error:
        raise _refused(f"the photo could not be fetched: {type(error).__name__} {error}") from error


async def _follow(client: httpx.AsyncClient, url: str, most: int) -> bytes:
    target = httpx.URL(url)
    for _ in range(REDIRECTS + 1):
        request = await _checked(client, target)
        response = await client.send(request, stream=True)
        try:
            if response.is_redirect:
                target = target.join(response.headers["location"])
                continue
            if response.status_code != 200:
                raise _refused(f"the photo's server answers {response.status_code}")
            return await _read(response, most)
        finally:
            await response.aclose()
    raise _refused(f"more than {REDIRECTS} redirects")


async def _checked(client: httpx.AsyncClient, target: httpx.URL) -> httpx.Request:
    """A request to a checked address of this name."""
    if target.scheme not in ("http", "https") or not target.host:
        raise _refused(f"a photo's address begins with http:// or https://, not {str(target)!r:.80}")
    if target.userinfo:
        raise _refused("a photo's address holds no user name and no password")
    host = target.raw_host.decode()
    addresses = await resolve(host, target.port or (443 if target.scheme == "https" else 80))
    if not addresses or not all(map(is_public, addresses)):
        raise _refused(f"{host!r:.80} is no address of the public internet")
    request = client.build_request(
        "GET",
        target.copy_with(host=str(addresses[0])),
        headers={"Host": target.netloc.decode(), "Accept": "image/*", "Accept-Encoding": "identity"},
    )
    request.extensions["sni_hostname"] = host
    return request


async def _read(response: httpx.Response, most: int) -> bytes:
    data = bytearray()
    async for part in response.aiter_raw():
        data += part
        if len(data) > most:
            raise _refused(f"the photo is larger than {most:,} bytes")
    return bytes(data)


def _refused(message: str) -> ApiError:
    return ApiError(400, message, code="invalid_image_url")
