"""How many words a run has seen, and the checkpoints that BabyLM wants at given numbers of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from bitmar.train.state import StatefulCallback

_BLANK = "ĠĊĉčċČ"  # space, newline, tab, carriage return, vertical tab and form feed as byte-level BPE writes them


def babylm_milestones() -> list[int]:
    """Words at which BabyLM wants a checkpoint, in millions: 1..10, then by 10 to 100, then by 100 to 1,000."""
    return [*range(1, 10), *range(10, 100, 10), *range(100, 1001, 100)]


class WordCounter:
    """Counts the words of token ids as `str.split` would on their (ASCII) white space, by a table over the vocabulary.

    A word begins at a token with something else than white space in it, if the token begins with white space or
    follows white space or a special token. A row that begins in the middle of a text begins no word unless it shows it.
    """

    def __init__(self, tokenizer: Any, vocab_size: int) -> None:
        special = {number for number, token in tokenizer.get_added_tokens_decoder().items() if token.special}
        self._visible = torch.zeros(vocab_size, dtype=torch.bool)
        self._blank_first = torch.zeros(vocab_size, dtype=torch.bool)
        self._opens = torch.zeros(vocab_size, dtype=torch.bool)  # what follows may begin a word
        for token, number in tokenizer.get_vocab(with_added_tokens=True).items():
            if number in special:
                self._opens[number] = True
            else:
                self._visible[number] = bool(token.strip(_BLANK))
                self._blank_first[number] = token[:1] in _BLANK
                self._opens[number] = token[-1:] in _BLANK

    def count(self, ids: Tensor, mask: Tensor | None = None) -> int:
        """Words that begin in ids (B, T), where mask (B, T) is not 0."""
        ids = ids.cpu()
        begins = self._blank_first[ids]
        begins[:, 1:] |= self._opens[ids[:, :-1]]
        begins &= self._visible[ids]
        return int((begins if mask is None else begins & (mask.cpu() != 0)).sum())


class WordsSeen(StatefulCallback):
    """The words of all batches so far, over all ranks and resumes.

    save: called with N when N million words have been seen, for the N of `babylm_milestones`.
    """

    def __init__(self, save: Callable[[int], None] | None = None) -> None:
        self.seen = 0
        self._save = save
        self._pending = babylm_milestones()

    def state_dict(self) -> dict[str, Any]:
        return {"seen": self.seen}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        self.seen = saved["seen"]
        self._pending = [n for n in babylm_milestones() if n * 1_000_000 > self.seen]

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        while self._pending and self.seen >= self._pending[0] * 1_000_000:
            millions = self._pending.pop(0)
            if self._save is not None and state.is_world_process_zero:
                self._save(millions)
