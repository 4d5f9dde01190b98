from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from bitmar.core.config import ModelConfig
from bitmar.runtime.cache import DecodingState


@given(
    sinks=st.integers(0, 3),
    window=st.integers(1, 6),
    calls=st.lists(st.integers(1, 9), max_size=8),
)
def test_it_holds_the_sinks_and_the_window_of_every_layer(sinks: int, window: int, calls: list[int]) -> None:
    config = ModelConfig(encoder_layers=1, decoder_layers=1, attention_sinks=sinks, attention_window=window)
    state, seen = DecodingState(config, None, None), 0
    for tokens in calls:
        new = state.advance(tokens)
        assert new.tolist() == list(range(seen, seen + tokens))
        marks = np.broadcast_to(new[None, None, :, None], (2, 1, tokens, 4)).astype(np.float32)
        for layer in range(2):
            keys, values = state.append(layer, marks, -marks)
            # During a call its queries see all that was kept before and everything new.
            assert keys[0, 0, :, 0].tolist() == state.positions.tolist()
            assert values[1, 0, :, 0].tolist() == (-state.positions).tolist()
        state.evict()
        seen += tokens
        kept = [p for p in range(seen) if p < sinks or p >= seen - window]
        assert state.positions.tolist() == kept


def test_selecting_beams_moves_every_layer() -> None:
    state = DecodingState(ModelConfig(encoder_layers=1, decoder_layers=1), None, None)
    state.advance(1)
    rows = np.arange(3, dtype=np.float32).reshape(3, 1, 1, 1)
    for layer in range(2):
        state.append(layer, rows, rows)
    state.select(np.array([2, 2, 0]))
    state.advance(1)
    for layer in range(2):
        keys, values = state.append(layer, rows, rows)
        assert keys[:, 0, 0, 0].tolist() == values[:, 0, 0, 0].tolist() == [2, 2, 0]
