"""Documents laid end to end and cut into rows of one length: a domain's rows, numbered without end."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from bitmar.data.corpus import TokenStream


class Packing:
    """Rows of `length` tokens from one stream: row i of pass p has the number p * len(packing) + i.

    Every pass holds every token once. With a `key` (non-negative integers) the documents of each pass are in
    another order, drawn from (key, pass); without, always in the stream's order.
    """

    def __init__(self, stream: TokenStream, length: int, key: tuple[int, ...] | None) -> None:
        self.stream, self.length, self.key = stream, length, key
        self._kept: tuple[int, npt.NDArray[np.int64], npt.NDArray[np.int64]] | None = None

    def __len__(self) -> int:
        """Rows in one pass."""
        return -(-len(self.stream.tokens) // self.length)

    def row(self, number: int) -> npt.NDArray[Any]:
        """(<= length,) tokens; fewer only in the last row of a pass."""
        turn, row = divmod(number, len(self))
        order, starts = self._laid_out(turn)
        begin = row * self.length
        end = min(begin + self.length, int(starts[-1]))
        first = int(np.searchsorted(starts, begin, side="right")) - 1
        last = int(np.searchsorted(starts, end, side="left"))
        tokens = np.concatenate([self.stream.document(int(order[place])) for place in range(first, last)])
        return tokens[begin - int(starts[first]) : end - int(starts[first])]

    def _laid_out(self, turn: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """The documents' order in pass `turn`, and where each begins there, with the end of the last."""
        kept = self._kept
        if kept is None or kept[0] != turn:
            count = len(self.stream)
            order = np.arange(count)
            if self.key is not None:
                order = np.random.default_rng([*self.key, turn]).permutation(count)
            starts = np.concatenate([[0], np.cumsum(np.diff(self.stream.offsets)[order])])
            self._kept = kept = (turn, order, starts)  # a cache: the same whoever asks
        return kept[1], kept[2]
