"""Events for an MQTT broker, and what Home Assistant needs to find them by itself.

Topics below `bitmar/NAME`: `event`, each event as JSON; `caption`, the latest one; `known`, "new" or "known" with each;
`status`, "online" or "offline", which the broker itself says of a process that has died.
"""

from __future__ import annotations

import json
import threading
from typing import Any
from urllib.parse import unquote, urlsplit

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion

from bitmar import __version__
from bitmar.core.errors import ConfigError, OutputError
from bitmar.watch.event import Event
from bitmar.watch.sinks import GRACE, WAITING, Say

SECONDS = 10.0  # for the broker's first answer
LONGEST = 60  # seconds between two attempts to have it back
_STATE = 255  # characters that a state of Home Assistant may have


class Mqtt:
    """address: mqtt://[USER[:PASSWORD]@]HOST[:PORT][/TOPIC], or mqtts:// with TLS. discovery: Home Assistant's prefix;
    "" announces nothing.

    A broker that goes away is waited for, and gets what it missed, up to WAITING messages. Raises ConfigError for a
    wrong address, OutputError for a broker that cannot be reached or refuses at first.
    """

    def __init__(self, address: str, name: str, say: Say, *, discovery: str = "", password: str | None = None) -> None:
        try:
            parts = urlsplit(address)
            port = parts.port
        except ValueError as error:
            raise ConfigError(f"--mqtt: {error}") from error
        if parts.scheme not in ("mqtt", "mqtts") or not parts.hostname or parts.query or parts.fragment:
            raise ConfigError("--mqtt is an address such as mqtt://user@host:1883/topic, or mqtts:// with TLS")
        topic = unquote(parts.path).strip("/") or f"bitmar/{name}"
        if any(sign in topic for sign in "+#\0"):
            raise ConfigError(f"--mqtt: a topic to publish to has no +, no # and no zero byte: {topic!r}")
        self.lost, self._say, self._name, self._discovery = 0, say, name, discovery.strip("/")
        self._topic, self._host = topic, parts.hostname
        self._answered, self._refused, self._online = threading.Event(), "", "online"
        self._gone = False
        client = paho.Client(CallbackAPIVersion.VERSION2, client_id=f"bitmar-{name}"[:64])
        if parts.username is not None:
            secret = unquote(parts.password) if parts.password is not None else password
            client.username_pw_set(unquote(parts.username), secret)
        if parts.scheme == "mqtts":
            client.tls_set()
        client.will_set(f"{topic}/status", "offline", qos=1, retain=True)
        client.max_queued_messages_set(WAITING)
        client.reconnect_delay_set(1, LONGEST)
        client.on_connect, client.on_disconnect = self._connected, self._disconnected
        self._client = client
        self._connect(port or (8883 if parts.scheme == "mqtts" else 1883))

    def _connect(self, port: int) -> None:
        self._client.connect_timeout = SECONDS
        try:
            self._client.connect(self._host, port)
        except (OSError, ValueError) as error:
            cause = getattr(error, "strerror", None) or error
            raise OutputError(f"the MQTT broker {self._host}:{port} cannot be reached: {cause}") from error
        self._client.loop_start()
        if not self._answered.wait(SECONDS) or self._refused:
            self._client.loop_stop()
            cause = self._refused or f"no answer within {SECONDS:g} seconds"
            raise OutputError(f"the MQTT broker {self._host}:{port} refuses: {cause}")

    def send(self, event: Event) -> None:
        """See `Sink`."""
        document = event.document()
        self._publish("event", json.dumps(document, ensure_ascii=False))
        if document["event"] == "seen":
            self._publish("caption", document["caption"][:_STATE], retain=True)
            if document["new"] is not None:
                about = {"event_type": "new" if document["new"] else "known", **document}
                self._publish("known", json.dumps(about, ensure_ascii=False))
        elif document["event"] in ("lost", "back"):
            self._online = "offline" if document["event"] == "lost" else "online"
            self._publish("status", self._online, retain=True)

    def close(self) -> None:
        """See `Sink`."""
        if self._client.is_connected():
            self._client.publish(f"{self._topic}/status", "offline", qos=1, retain=True).wait_for_publish(GRACE)
            self._client.disconnect()
        self._client.loop_stop()

    def _publish(self, part: str, payload: str, *, retain: bool = False) -> None:
        sent = self._client.publish(f"{self._topic}/{part}", payload, qos=1, retain=retain)
        if sent.rc == paho.MQTT_ERR_QUEUE_SIZE and part == "event":
            self.lost += 1
            self._say(f"MQTT: an event is lost: {WAITING} messages are waiting for {self._host}")

    def _connected(self, client: Any, _: Any, __: Any, reason: Any, ___: Any) -> None:
        """In paho's thread, also after each return of the broker, which may have forgotten everything."""
        if reason.is_failure:
            self._refused = str(reason)
        else:
            for topic, document in self.announcements().items():
                client.publish(topic, json.dumps(document), qos=1, retain=True)
            client.publish(f"{self._topic}/status", self._online, qos=1, retain=True)
            if self._gone:
                self._gone = False
                self._say(f"MQTT: {self._host} is back")
        self._answered.set()

    def _disconnected(self, _: Any, __: Any, ___: Any, reason: Any, ____: Any) -> None:
        if reason.is_failure and not self._gone and self._answered.is_set() and not self._refused:
            self._gone = True
            self._say(f"MQTT: {self._host} is lost ({reason}); tried again until it is back")

    def announcements(self) -> dict[str, dict[str, Any]]:
        """Topics and documents of Home Assistant's discovery: the caption as a sensor, what is new as an event."""
        if not self._discovery:
            return {}
        unique = f"bitmar_{self._name}".replace("-", "_")
        shared = {
            "availability_topic": f"{self._topic}/status",
            "device": {"identifiers": [unique], "name": f"BitMar {self._name}", "manufacturer": "BitMar"},
            "origin": {"name": "bitmar", "sw_version": __version__},
        }
        sensor = {
            "name": "Caption",
            "unique_id": f"{unique}_caption",
            "icon": "mdi:image-text",
            "state_topic": f"{self._topic}/caption",
            "json_attributes_topic": f"{self._topic}/event",
        }
        event = {
            "name": "Seen",
            "unique_id": f"{unique}_seen",
            "icon": "mdi:eye",
            "state_topic": f"{self._topic}/known",
            "event_types": ["new", "known"],
        }
        return {
            f"{self._discovery}/sensor/{unique}/caption/config": {**sensor, **shared},
            f"{self._discovery}/event/{unique}/seen/config": {**event, **shared},
        }
