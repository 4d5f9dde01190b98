"""When a camera's picture has changed enough to look at it: simple arithmetic on a small grey copy of each frame."""

from __future__ import annotations

import numpy as np

from bitmar.watch.source import Grey

WIDTH, HEIGHT = 48, 36  # of a small frame
PATIENCE = 2.0  # seconds that something may go on moving before it is looked at all the same
_LEVELS = 16  # of 256 that a spot must change by
_FLAT = 4  # levels between the darkest and the brightest spot of a picture that shows nothing: it is dark, or covered


class Changes:
    """Finds the frames worth a look: other than the last one that was looked at, and still, or moving for long.

    share: of the picture that must have changed, above 0 and below 1.
    """

    def __init__(self, share: float) -> None:
        self.share = share
        self._seen: Grey | None = None
        self._last: Grey | None = None
        self._since: float | None = None  # the first frame that differed

    def worth(self, frame: Grey, clock: float) -> bool:
        """Whether to look at this small frame, which comes after the ones before; clock: seconds."""
        last, self._last = self._last, frame
        if int(frame.max()) - int(frame.min()) < _FLAT or (
            self._seen is not None and changed(frame, self._seen) < self.share
        ):
            self._since = None
            return False
        if self._since is None or clock < self._since:  # a stream that begins anew may turn its clock back
            self._since = clock
        still = last is None or changed(frame, last) < self.share / 2
        return still or clock - self._since >= PATIENCE

    def looked(self, frame: Grey) -> None:
        """This small frame was looked at: what comes is compared with it."""
        self._seen, self._since = frame, None


def changed(one: Grey, other: Grey) -> float:
    """The share of the picture in which two small frames differ, whatever the light of the whole has done."""
    difference = one.astype(np.int16) - other
    return float((np.abs(difference - np.median(difference)) > _LEVELS).mean())
