from __future__ import annotations

import numpy as np
import pytest

from bitmar.watch.changes import HEIGHT, PATIENCE, WIDTH, Changes, changed

RNG = np.random.default_rng(0)
SCENE = RNG.integers(40, 200, (HEIGHT, WIDTH)).astype(np.uint8)


def with_something(width: int, left: int = 5) -> np.ndarray:
    frame = SCENE.copy()
    frame[10:20, left : left + width] = 255 - frame[10:20, left : left + width] // 2
    return frame


def test_the_light_of_the_whole_is_no_change() -> None:
    assert changed(SCENE + np.uint8(40), SCENE) == 0
    noise = RNG.integers(-8, 9, SCENE.shape)
    assert changed((SCENE + noise).astype(np.uint8), SCENE) == 0
    assert changed(with_something(10), SCENE) == pytest.approx(100 / SCENE.size, rel=0.2)


def look(changes: Changes, frames: list[np.ndarray], step: float = 0.5) -> list[int]:
    """Which frames were looked at."""
    seen = []
    for i, frame in enumerate(frames):
        if changes.worth(frame, i * step):
            changes.looked(frame)
            seen.append(i)
    return seen


def test_what_came_and_stays_is_looked_at_once_and_its_leaving_too() -> None:
    frames = [SCENE] * 4 + [with_something(10)] * 4 + [SCENE] * 4
    assert look(Changes(0.02), frames) == [0, 5, 9]  # each time when it is still
    assert look(Changes(0.2), frames) == [0]


def test_what_moves_on_and_on_is_looked_at_all_the_same() -> None:
    moving = [SCENE] * 2 + [with_something(10, left=3 * i) for i in range(10)]
    first, second, *_ = look(Changes(0.02), moving)
    assert (first, second) == (0, 2 + round(PATIENCE / 0.5))


def test_a_dark_picture_shows_nothing() -> None:
    dark = np.full_like(SCENE, 3)
    assert look(Changes(0.02), [dark] * 3 + [SCENE] * 2 + [dark] * 3 + [SCENE] * 3) == [4]


def test_a_clock_that_turns_back_costs_no_more_than_the_patience() -> None:
    changes = Changes(0.02)
    look(changes, [SCENE])
    assert not changes.worth(with_something(10, 3), 1000.0)
    assert not changes.worth(with_something(10, 20), 0.0)
    assert changes.worth(with_something(10, 3), PATIENCE)
