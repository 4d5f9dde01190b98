"""Events reach a broker, also one that was away; Home Assistant is told what there is."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

pytest.importorskip("paho.mqtt.client", reason="MQTT needs bitmar[watch]")

from bitmar.core.errors import ConfigError, OutputError
from bitmar.session.layout import Episode
from bitmar.session.session import Recalled
from bitmar.watch.event import CaptionEvent, NoticeEvent
from bitmar.watch.mqtt import Mqtt
from bitmar.watch.source import Notice

from .broker import Broker

NEW = CaptionEvent("yard", 1.7e9, "A dog.", new=True)
KNOWN = CaptionEvent(
    "yard", 1.7e9, "A dog." * 100, new=False, like=Recalled(Episode(0, "Rex", 1.6e9), 0.95, None, 0.999)
)


@pytest.fixture
def broker() -> Iterator[Broker]:
    with Broker() as made:
        yield made


def test_events_and_what_home_assistant_needs(broker: Broker, until: Callable[..., Any]) -> None:
    said = list[str]()
    sink = Mqtt(f"mqtt://me@127.0.0.1:{broker.port}", "yard", said.append, discovery="homeassistant", password="pass")
    assert broker.logins == [("bitmar-yard", "me", "pass")]
    for event in (
        NEW,
        KNOWN,
        NoticeEvent("yard", Notice("lost", "unplugged")),
        NoticeEvent("yard", Notice("back", "after 3 s")),
    ):
        sink.send(event)
    sink.close()
    assert [json.loads(each)["event"] for each in broker.of("bitmar/yard/event")] == ["seen", "seen", "lost", "back"]
    assert broker.of("bitmar/yard/caption") == ["A dog.", ("A dog." * 100)[:255]]
    assert [json.loads(each)["event_type"] for each in broker.of("bitmar/yard/known")] == ["new", "known"]
    until(lambda: broker.of("bitmar/yard/status") == ["online", "offline", "online", "offline"])
    assert not said and sink.lost == 0
    retained = {topic for topic, _, kept in broker.published if kept}
    sensor, seen = (f"homeassistant/{kind}/config" for kind in ("sensor/bitmar_yard/caption", "event/bitmar_yard/seen"))
    assert retained == {sensor, seen, "bitmar/yard/caption", "bitmar/yard/status"}
    (text,) = broker.of(seen)
    document = json.loads(text)
    assert document["state_topic"] == "bitmar/yard/known" and document["event_types"] == ["new", "known"]
    assert document["availability_topic"] == "bitmar/yard/status" and document["device"]["identifiers"]


def test_a_broker_that_goes_is_waited_for(
    broker: Broker, until: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    said = list[str]()
    sink = Mqtt(f"mqtt://127.0.0.1:{broker.port}/my/topic", "yard", said.append)
    sink._client.reconnect_delay_set(1, 1)
    until(lambda: broker.of("my/topic/status"))
    broker.drop()
    until(lambda: said)
    assert "is lost" in said[0]
    until(lambda: "offline" in broker.of("my/topic/status"))  # the will
    sink.send(NEW)
    until(lambda: broker.of("my/topic/event"))
    until(lambda: len(said) == 2)
    assert "is back" in said[1]
    sink.close()
    assert sink.lost == 0 and not any(topic.startswith("homeassistant") for topic, *_ in broker.published)


def test_only_so_much_waits_for_a_broker(broker: Broker, until: Callable[..., Any]) -> None:
    said = list[str]()
    sink = Mqtt(f"mqtt://127.0.0.1:{broker.port}", "yard", said.append)
    broker.__exit__()
    until(lambda: said)
    for _ in range(200):
        sink.send(NEW)
    assert sink.lost > 0 and "an event is lost" in said[-1]
    sink.close()


def test_a_broker_that_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    with Broker(refuse=5) as broker, pytest.raises(OutputError, match=r"refuses: .*[Aa]uthor"):
        Mqtt(f"mqtt://me:wrong@127.0.0.1:{broker.port}", "yard", print)
    with pytest.raises(OutputError, match="Connection refused"):
        Mqtt("mqtt://127.0.0.1:9", "yard", print)
    with pytest.raises(OutputError, match="cannot be reached"):
        Mqtt("mqtt://no-such-host.invalid", "yard", print)


@pytest.mark.parametrize(
    "wrong", ["host", "http://host", "mqtt://", "mqtt://host:99999", "mqtt://host/a/+/b", "mqtt://host/%23"]
)
def test_what_is_no_broker(wrong: str) -> None:
    with pytest.raises(ConfigError, match="--mqtt"):
        Mqtt(wrong, "yard", print)
