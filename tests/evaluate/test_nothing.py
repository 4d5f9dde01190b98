"""Pictures of nothing are of many kinds, and the same ones every time."""

from __future__ import annotations

from bitmar.evaluate.nothing import nothing


def test_pictures_of_nothing() -> None:
    pictures = list(nothing(28))
    assert len({picture.tobytes() for picture in pictures}) == 28
    assert {(picture.mode, picture.size) for picture in pictures} == {("RGB", (256, 256))}
    assert [picture.tobytes() for picture in nothing(28)] == [picture.tobytes() for picture in pictures]
    assert next(nothing(3, seed=1)).tobytes() != pictures[0].tobytes()
