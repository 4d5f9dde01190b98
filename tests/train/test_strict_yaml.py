from __future__ import annotations

import math
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from bitmar.train.strict_yaml import parse_yaml


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *(("010", 10), ("0x1F", 31), ("0o17", 15), ("-3", -3), ("1_000", "1_000"), ("12:30", "12:30")),
        *(("1e3", 1000.0), ("2e-4", 2e-4), ("1.", 1.0), (".5", 0.5), ("-.inf", -math.inf), ("1E+2", 100.0)),
        *(("true", True), ("False", False), ("yes", "yes"), ("off", "off"), ("~", None), ("", None), ("null", None)),
        *(("2026-01-02", "2026-01-02"), ("'010'", "010"), ("<<", "<<"), ("{<<: {a: 1}}", {"<<": {"a": 1}})),
        ("a: &x {b: 1}\nc: *x", {"a": {"b": 1}, "c": {"b": 1}}),
        ("a: {b: [1, x]}\nc: no", {"a": {"b": [1, "x"]}, "c": "no"}),
    ],
)
def test_values(text: str, value: Any) -> None:
    found = parse_yaml(text)
    assert found == value and type(found) is type(value)


_DOUBLING = "0: &a0 [1, 1]\n" + "".join(f"{i}: &a{i} [*a{i - 1}, *a{i - 1}]\n" for i in range(1, 18))


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("{a: 1, a: 2}", "'a' stands here twice"),
        ("b:\n  a: 1\n  c: 2\n  a: 1", "'a' stands here twice"),
        ("[" * 3000, "nested too deep"),
        ("{a: " * 3000, "nested too deep"),
        ("- " * 3000, "nested too deep"),
        ("&a [*a]", "a reference to what it stands in"),
        ("&a {b: {c: *a}}", "a reference to what it stands in"),
        (_DOUBLING, "too large"),
        ("{[1]: 2}", "a key must be a text"),
        ("9" * 5000, "no such number"),
        ("0x" + "f" * 5000, "no such number"),
        (r'a: "\0"', "a zero byte or half a character"),
        (r'"\uD800": 1', "a zero byte or half a character"),
        ("!!python/name:os.system", "could not determine a constructor"),
        ("!!int x", "no such number"),
        ("!!float x", "no such number"),
        ("!!map x", "expected a mapping"),
        ("!!set {a}", "could not determine a constructor"),
        ("!!timestamp x", "could not determine a constructor"),
        ("!!bool x", "neither true nor false"),
        ("a: [", "expected"),
        ("\0", "special characters"),
    ],
)
def test_what_is_refused(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        parse_yaml(text)


def _is_number(text: str) -> bool:
    """Whether recipes read a text as a number that PyYAML, which dumps it without quotes, does not: "1e3"."""
    try:
        float(text)
    except ValueError:
        return False
    return True


_TEXTS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])).filter(
    lambda text: not _is_number(text)
)
_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | _TEXTS,
    lambda inner: st.lists(inner) | st.dictionaries(st.text("abc"), inner),
)


@given(_VALUES)
def test_what_is_dumped_is_read(value: Any) -> None:
    class Dumper(yaml.SafeDumper):
        def ignore_aliases(self, data: Any) -> bool:
            return True

    assert parse_yaml(yaml.dump(value, Dumper=Dumper)) == value


@given(st.text("[]{}:,-&*!|>?'\"#%@` \n\t01aé.e~<="))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        parse_yaml(text)
    except ValueError:
        return
