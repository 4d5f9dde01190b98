"""`bitmar serve`: the model over HTTP, and the page to try it."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Annotated, Any

import typer

from bitmar.cli.app import USE, command
from bitmar.cli.common import Model
from bitmar.console import say
from bitmar.core.errors import ConfigError, DependencyError

KEY = "BITMAR_API_KEY"


@command(
    "bitmar serve",
    "bitmar serve --port 8000 --memory home.mem",
    "bitmar serve --host 0.0.0.0 --api-key secret",
    panel=USE,
)
def serve(
    model: Model = None,
    memory: Annotated[
        Path | None,
        typer.Option(
            "--memory",
            metavar="FILE.mem",
            help="Memory to keep. Default: memories end with the server.",
        ),
    ] = None,
    host: Annotated[str, typer.Option("--host", help="Address to listen on; 0.0.0.0 is all interfaces.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="0 chooses a free one.")] = 8000,
    api_key: Annotated[
        str | None,
        typer.Option("--api-key", envvar=KEY, help="Clients must send it as `Authorization: Bearer KEY`."),
    ] = None,
    allow_urls: Annotated[
        bool, typer.Option("--allow-urls", help="Fetch photos by http(s) address, from the public internet only.")
    ] = False,
    allow_host: Annotated[
        list[str] | None,
        typer.Option("--allow-host", metavar="NAME", help="Another host name to answer to. Can be repeated."),
    ] = None,
    cors: Annotated[
        list[str] | None,
        typer.Option(
            "--cors", metavar="ORIGIN", help="A site whose pages may call the server, such as https://example.org."
        ),
    ] = None,
    threads: Annotated[
        int | None, typer.Option("--threads", min=1, max=256, help="Requests in the engine at once. Default: cores.")
    ] = None,
    queue: Annotated[int, typer.Option("--queue", min=0, help="Requests that may wait; more are refused (429).")] = 8,
    max_body: Annotated[int, typer.Option("--max-body", min=1, help="Largest request body, in MB.")] = 16,
    timeout: Annotated[float, typer.Option("--timeout", min=0.1, help="Timeout of a request, in seconds.")] = 60.0,
) -> None:
    """Serve captions, questions and a memory over HTTP: OpenAI's endpoints, BitMar's own, and a page at /.

    It listens on this machine alone unless told otherwise. SIGHUP, or a new model file, loads the model anew.
    """
    try:
        from bitmar.serve.run import run
        from bitmar.serve.settings import LOOPBACK, Settings
    except ModuleNotFoundError as error:
        raise DependencyError(f"the server needs {error.name}: pip install 'bitmar[serve]'") from error
    if api_key is not None and not api_key.strip():
        raise ConfigError(f"the API key is empty: give one with --api-key or {KEY}, or leave both out")
    local = _is_loopback(host)
    hosts = (*LOOPBACK, *(name.lower() for name in allow_host or ())) if local or allow_host else ()
    more: dict[str, Any] = {} if threads is None else {"threads": threads}
    settings = Settings(
        model=model,
        memory=memory,
        api_key=api_key,
        allow_urls=allow_urls,
        origins=tuple(cors or ()),
        hosts=hosts,
        queue=queue,
        max_body=max_body * 1_000_000,
        request_seconds=timeout,
        **more,
    )

    def started(address: str, context: Any) -> None:
        say(f"{context.home.now.id} at {address} (the page), {address}/v1 (the API), {address}/openapi.json")
        if not local and api_key is None:
            say("warning: everyone who reaches this address may use it and read its memory; --api-key asks for a key")

    run(settings, host, port, started)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
