from __future__ import annotations

import json
import time
from datetime import datetime

from bitmar.session.layout import Episode
from bitmar.session.session import Recalled
from bitmar.watch.event import CaptionEvent, NoticeEvent, iso, when
from bitmar.watch.source import Notice


def at(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


NOW = at("2026-11-28 14:30")  # a Saturday


def test_times_as_people_say_them() -> None:
    for then, said in {
        "2026-11-28 00:01": "today 00:01",
        "2026-11-27 23:59": "Friday 23:59",
        "2026-11-22 14:02": "Sunday 14:02",
        "2026-11-21 14:30": "21 November 14:30",
        "2025-11-28 09:05": "28 November 2025 09:05",
        "2026-11-29 08:00": "29 November 08:00",  # a clock that was set back
    }.items():
        assert when(at(then), NOW) == said


REX = Recalled(Episode(3, "our dog Rex", at("2026-11-24 14:02")), 0.93456, None, 0.999)


def test_a_shot_as_a_line_and_as_a_document() -> None:
    new = CaptionEvent("yard", NOW, "A dog on grass.", confidence=0.831, general="an animal", new=True, remembered=5)
    assert new.line() == "14:30:00  A dog on grass. (83% sure; never seen)"
    known = CaptionEvent("yard", NOW, "A dog on grass.", "in/a.jpg", new=False, like=REX)
    assert known.line() == "14:30:00  in/a.jpg: A dog on grass. (like Tuesday 14:02: our dog Rex)"
    assert CaptionEvent("x", NOW, "our dog Rex", like=REX).known == "like Tuesday 14:02"
    doubtful = CaptionEvent("clip.mp4", NOW, "A bus.", at=3725.5, confidence=0.2, general="a vehicle")
    assert doubtful.line() == "1:02:05  not sure: A bus. (surely a vehicle) (20% sure)"
    document = json.loads(json.dumps(known.document()))
    assert document["event"] == "seen" and document["new"] is False and document["photo"] == "in/a.jpg"
    assert document["known"] == "like Tuesday 14:02: our dog Rex"
    assert document["like"] == {"slot": 3, "text": "our dog Rex", "time": iso(REX.episode.time), "score": 0.9346}
    assert set(new.document()) == set(document) and new.document()["like"] is None
    assert datetime.fromisoformat(document["time"]).timestamp() == NOW


def test_a_notice_as_a_line_and_as_a_document() -> None:
    lost = NoticeEvent("yard", Notice("lost", "Connection refused", time=NOW))
    assert lost.line() == "14:30:00  yard: lost, Connection refused"
    assert lost.document() == {"event": "lost", "time": iso(NOW), "source": "yard", "reason": "Connection refused"}
    skipped = NoticeEvent("in", Notice("skipped", "in/a.jpg: the file is empty", "in/a.jpg"))
    assert skipped.line() == "skipped in/a.jpg: the file is empty" and skipped.document()["photo"] == "in/a.jpg"
    assert abs(skipped.notice.time - time.time()) < 60
