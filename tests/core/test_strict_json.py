from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitmar.core.strict_json import kind_of, parse_json

_PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(1 << 63), (1 << 64) - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=4),
    max_leaves=12,
)


@given(_PLAIN)
def test_plain_json_comes_back_as_it_was(value: object) -> None:
    try:
        text = json.dumps(value).encode()
    except UnicodeEncodeError:
        return
    assert parse_json(text) == json.loads(text) or "surrogate" in str(value)


@given(st.binary(max_size=60))
def test_any_bytes_give_a_value_or_a_value_error(data: bytes) -> None:
    try:
        parse_json(data)
    except ValueError as error:
        assert str(error)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"[" * 100_000, "nested"),
        (b"[" * 40 + b"]" * 40, "nested"),
        (b'{"a":' * 40 + b"1" + b"}" * 40, "nested"),
        (b'{"a": NaN}', "NaN"),
        (b'{"a": -Infinity}', "Infinity"),
        (b'{"a": 1e999}', "64 bits"),
        (b'{"a": 1' + b"0" * 5000 + b"}", "64 bits"),
        (b'{"a": 18446744073709551616}', "64 bits"),
        (b'{"a": 1, "a": 2}', "'a' comes twice"),
        (b'{"a": "\\ud83d"}', "surrogate"),
        (b'{"\\ud83d": 1}', "surrogate"),
        (b'{"a": "\xff"}', "not UTF-8"),
        ('{"a": 1}'.encode("utf-16"), "not UTF-8"),
        (b"{", "not JSON"),
        (b"", "not JSON"),
        (b"{} {}", "not JSON"),
    ],
)
def test_what_is_refused(text: bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        parse_json(text)


def test_a_byte_order_mark_and_a_pair_of_surrogates_are_fine() -> None:
    assert parse_json('\ufeff{"a": "\\ud83d\\ude00"}'.encode()) == {"a": "\U0001f600"}


def test_kinds_are_named_in_the_words_of_json() -> None:
    kinds = [kind_of(value) for value in (None, True, 1, 1.5, "x", [], {})]
    assert kinds == ["null", "true or false", "a number", "a number", "a string", "a list", "an object"]
