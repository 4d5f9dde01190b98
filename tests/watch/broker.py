"""A broker of MQTT 3.1.1 in a thread: as much of it as the tests need, over a real socket."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from dataclasses import dataclass, field
from typing import Any

CONNECT, PUBLISH, PINGREQ, DISCONNECT = 1, 3, 12, 14


@dataclass
class Broker:
    """Keeps (topic, payload, retained) of all that is published, and the wills of those who vanish.

    refuse: the code that a connection is answered with, 0 to accept.
    """

    refuse: int = 0
    port: int = 0
    published: list[tuple[str, str, bool]] = field(default_factory=list)
    logins: list[tuple[str, str | None, str | None]] = field(default_factory=list)  # client, user, password
    connections: list[socket.socket] = field(default_factory=list)

    def __enter__(self) -> Broker:
        self.listening = socket.create_server(("127.0.0.1", self.port))
        self.port = self.listening.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: Any) -> None:
        with contextlib.suppress(OSError):
            self.listening.shutdown(socket.SHUT_RDWR)
        self.listening.close()
        self.drop()

    def drop(self) -> None:
        """Break all connections."""
        while self.connections:
            connection = self.connections.pop()
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            connection.close()

    def of(self, topic: str) -> list[str]:
        return [payload for name, payload, _ in self.published if name == topic]

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self.listening.accept()
            except OSError:
                return
            self.connections.append(connection)
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        will = None
        try:
            with connection.makefile("rb") as stream:
                while head := stream.read(1):
                    kind, flags, body = head[0] >> 4, head[0] & 15, stream.read(_length(stream))
                    if kind == CONNECT:
                        will = self._login(body)
                        connection.sendall(bytes([0x20, 2, 0, self.refuse]))
                    elif kind == PUBLISH:
                        topic, rest = _text(body)
                        if flags >> 1 & 3:
                            connection.sendall(bytes([0x40, 2]) + rest[:2])
                            rest = rest[2:]
                        self.published.append((topic, rest.decode(), bool(flags & 1)))
                    elif kind == PINGREQ:
                        connection.sendall(bytes([0xD0, 0]))
                    elif kind == DISCONNECT:
                        return
        except OSError:
            pass
        if will is not None:
            self.published.append(will)

    def _login(self, body: bytes) -> tuple[str, str, bool]:
        flags = body[7]
        client, rest = _text(body[10:])
        topic, rest = _text(rest)
        message, rest = _text(rest)
        user = password = None
        if flags & 128:
            user, rest = _text(rest)
        if flags & 64:
            password, rest = _text(rest)
        self.logins.append((client, user, password))
        return topic, message, bool(flags & 32)


def _length(stream: Any) -> int:
    length = place = 0
    while True:
        (byte,) = stream.read(1)
        length |= (byte & 127) << place
        place += 7
        if byte < 128:
            return length


def _text(body: bytes) -> tuple[str, bytes]:
    (length,) = struct.unpack(">H", body[:2])
    return body[2 : 2 + length].decode(), body[2 + length :]
