"""`bitmar watch`: a folder, a video or a camera, for as long as it runs."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Annotated, Any

import typer

from bitmar.cli.app import SKIPPED, STOPPED, USE, command
from bitmar.cli.common import Beams, Model, needs
from bitmar.console import say
from bitmar.core.errors import ConfigError

PASSWORD = "BITMAR_MQTT_PASSWORD"
PER_MINUTE = 10  # captions of a camera or a video


@command(
    "bitmar watch photos/ --memory home.mem --json events.jsonl",
    "bitmar watch /dev/video0 --per-minute 4",
    "bitmar watch rtsp://user:password@192.168.1.20/stream --name garden --mqtt mqtt://homeassistant.local",
    "bitmar watch holiday.mp4 --json -",
    panel=USE,
)
def watch(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE", help="A folder, a video file, a camera (/dev/video0), or a stream's address (rtsp://...)."
        ),
    ],
    model: Model = None,
    memory: Annotated[
        Path | None,
        typer.Option("--memory", metavar="FILE.mem", help="Memory of what was seen before. Default: a temporary one."),
    ] = None,
    remember: Annotated[
        bool, typer.Option("--remember/--no-remember", help="Write what is new into the memory.")
    ] = True,
    lines: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Add a line of JSON per event; - for standard output.")
    ] = None,
    webhook: Annotated[str | None, typer.Option("--webhook", metavar="URL", help="POST each event as JSON.")] = None,
    mqtt: Annotated[
        str | None,
        typer.Option(
            "--mqtt",
            metavar="ADDRESS",
            help=f"Publish each event: mqtt://USER@HOST:PORT/TOPIC, or mqtts://. The password: ${PASSWORD}.",
        ),
    ] = None,
    discovery: Annotated[
        str,
        typer.Option(
            "--discovery", metavar="PREFIX", help="With --mqtt: Home Assistant's prefix; '' for no discovery."
        ),
    ] = "homeassistant",
    name: Annotated[
        str | None, typer.Option("--name", help="Name of the source in events and topics.", show_default=False)
    ] = None,
    per_minute: Annotated[
        int | None,
        typer.Option(
            "--per-minute",
            metavar="N",
            min=1,
            help=f"Captions a minute, at most. Default: {PER_MINUTE}; of a folder any number.",
            show_default=False,
        ),
    ] = None,
    change: Annotated[
        float, typer.Option("--change", metavar="SHARE", help="Share of a camera's picture that must change.")
    ] = 0.02,
    existing: Annotated[
        bool, typer.Option("--existing", help="With a folder: start with the photos already in it.")
    ] = False,
    beams: Beams = None,
) -> None:
    """Describe what is new in a folder, a video or a camera's view, and name what was seen before.

    A photo that comes to lie in the folder, or a frame in which enough has changed, gets a caption. The memory tells
    whether it was "never seen" or is "like Tuesday 14:02: our dog Rex", and remembers what is new. `bitmar remember`
    may teach it names while it runs.

    A camera, a disk or a broker that is lost is waited for. Ctrl-C ends it. If anything was skipped or lost, the exit
    status is 1.
    """
    with needs("watch"):
        from bitmar.watch.choose import open_source, slug
        from bitmar.watch.sinks import JsonLines, Lines, Sink, Webhook
        from bitmar.watch.watcher import Watcher
    from bitmar import load

    if not 0 < change < 1:
        raise ConfigError(f"--change is a share of the picture, above 0 and below 1, not {change:g}")
    if name is not None and slug(name) != name:
        raise ConfigError(f"--name is made of small letters, digits and -, as {slug(name)!r}, not {name!r:.80}")
    with ExitStack() as opened, _told_to_stop() as stop:
        with needs("watch"):
            watched = opened.enter_context(closing(open_source(source, existing=existing)))
        loaded = load(model)
        session = None
        if loaded.config.memory_integration != "off" or memory is not None:
            session = opened.enter_context(loaded.memory(memory, wait=1.0))
        sinks: list[Sink] = []
        out = say if lines is not None and str(lines) == "-" else typer.echo
        sinks.append(Lines(out, say))
        if lines is not None:
            sinks.append(opened.enter_context(closing(JsonLines(lines, say))))
        if webhook is not None:
            sinks.append(opened.enter_context(closing(Webhook(webhook, say))))
        if mqtt is not None:
            with needs("watch"):
                from bitmar.watch.mqtt import Mqtt
            password = os.environ.get(PASSWORD)
            made = Mqtt(mqtt, name or slug(watched.name), say, discovery=discovery, password=password)
            sinks.append(opened.enter_context(closing(made)))
        if name is not None:
            watched.name = name
        if per_minute is None and not watched.waits:
            per_minute = PER_MINUTE
        options: dict[str, Any] = {"beams": beams}
        watcher = Watcher(
            loaded, session, sinks, remember=remember, per_minute=per_minute, share=change, options=options
        )
        if watched.endless:
            say(f"watching {watched.name}{_there(watched, existing)}; Ctrl-C ends it")
        watcher.run(watched, stop)
    lost = sum(sink.lost for sink in sinks)
    parts = [
        (watcher.captions, f"caption{'s' * (watcher.captions != 1)}"),
        (watcher.skipped, "skipped"),
        (lost, f"event{'s' * (lost != 1)} lost"),
    ]
    say(", ".join(f"{count} {what}" for count, what in parts if count or what == parts[0][1]))
    if stop.is_set() and not watched.endless:
        raise typer.Exit(STOPPED)
    if watcher.skipped or lost:
        raise typer.Exit(SKIPPED)


def _there(source: Any, existing: bool) -> str:
    found = getattr(source, "found", 0)
    return f" ({found} photos are there already; --existing describes these too)" if found and not existing else ""


@contextlib.contextmanager
def _told_to_stop() -> Iterator[threading.Event]:
    """An event that Ctrl-C and SIGTERM set: the current write is finished. A second Ctrl-C ends it at once."""
    stop = threading.Event()

    def ask(number: int, _: Any) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    if threading.current_thread() is not threading.main_thread():  # where Python allows no handlers
        yield stop
        return
    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
