from __future__ import annotations

from bitmar.core.errors import nearest


def test_nearest_names_a_close_choice_and_stays_silent_otherwise() -> None:
    assert nearest("hiden_size", ["hidden_size", "num_heads"]) == " (did you mean 'hidden_size'?)"
    assert nearest("zzz", ["hidden_size"]) == ""
