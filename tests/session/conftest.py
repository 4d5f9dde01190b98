"""Fixtures of a session's tests: a tiny random model in both halves."""

from .._pairs import Pair, make_pair, tokenizer

__all__ = ["Pair", "make_pair", "tokenizer"]
