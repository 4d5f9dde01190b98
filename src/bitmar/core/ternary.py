"""BitNet b1.58 quantisation and its 2-bit packing in plain numpy: the reference of every faster kernel.

Ma et al. 2024, "The Era of 1-bit LLMs" (arXiv 2402.17764), section 2. Weights take three values {-1, 0, +1}
times one scale per matrix; activations are int8 with one scale per token, so that no token's rounding depends
on another's.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from bitmar.core.errors import FormatError

F32 = npt.NDArray[np.float32]
I8 = npt.NDArray[np.int8]
U8 = npt.NDArray[np.uint8]

_MIN_SCALE = np.float32(1e-5)  # an all-zero matrix or token still has a finite reciprocal
_SHIFTS = np.arange(0, 8, 2, dtype=np.uint8)  # four codes a byte, the first in the lowest bits


def absmean(weight: F32) -> tuple[I8, np.float32]:
    """Ternarise `weight` (out, in): codes in {-1, 0, 1} (out, in) and the scale mean|W|, at least 1e-5."""
    scale = absmean_of(np.abs(weight).sum(dtype=np.float32), weight.size)
    return np.clip(np.rint(weight / scale), -1, 1).astype(np.int8), np.float32(scale)


def absmean_of(total: F32 | np.float32, count: int) -> F32:
    """The scale of `count` weights with this sum of |W|."""
    scale: F32 = np.maximum((total / np.float64(count)).astype(np.float32), _MIN_SCALE)
    return scale


def quantize_activations(x: F32) -> tuple[I8, F32]:
    """Quantise each row of `x` (..., in) by its max-abs: q (..., in) in [-127, 127], scale (..., 1).

    Of a row that holds NaN or an infinity the scale is none either, so that what is computed from it shows.
    """
    scale = np.maximum(np.abs(x).max(axis=-1, keepdims=True), _MIN_SCALE) / np.float32(127)
    # The clip matters in the last place only: max|x| / scale can round to just over 127.
    # NaN, for which there is no integer, becomes 127.
    with np.errstate(invalid="ignore"):
        codes = np.fmax(np.fmin(np.rint(x / scale), np.float32(127)), np.float32(-127))
    return codes.astype(np.int8), scale.astype(np.float32)


def quantize_rows(table: F32) -> tuple[I8, F32]:
    """Quantise an embedding `table` (V, d) row by row to int8 (V, d) with scales (V, 1)."""
    return quantize_activations(table)


def pack2(codes: I8) -> U8:
    """Pack `codes` (out, in) in {-1, 0, 1} into bytes (out, ceil(in / 4)).

    Column j is stored as code + 1 in bits 2 * (j % 4) of byte j // 4; a last partial byte is filled with zero
    weights. Raises ValueError for any other code: that is a fault of the caller, not of a file.
    """
    if codes.size and (codes.min() < -1 or codes.max() > 1):
        raise ValueError("ternary codes must be -1, 0 or 1")
    rows, columns = codes.shape
    padded = np.ones((rows, -(-columns // 4) * 4), dtype=np.uint8)
    padded[:, :columns] = codes + 1
    packed: U8 = np.bitwise_or.reduce(padded.reshape(rows, -1, 4) << _SHIFTS, axis=-1)
    return packed


def unpack2(packed: U8, in_features: int) -> I8:
    """Undo `pack2`: codes (out, in_features). Raises FormatError for a wrong width or as `check_codes`."""
    if packed.ndim != 2 or packed.shape[1] != -(-in_features // 4):
        raise FormatError(f"{in_features} packed weights a row need {-(-in_features // 4)} bytes, found {packed.shape}")
    check_codes(packed, in_features)
    codes: I8 = ((packed[..., None] >> _SHIFTS) & 3).astype(np.int8) - np.int8(1)
    return codes.reshape(len(packed), -1)[:, :in_features]


def check_codes(packed: U8, in_features: int) -> None:
    """Raise FormatError if `packed` (out, ceil(in / 4)) holds the unused code 3 or weights in its padding."""
    if np.any(packed & (packed >> 1) & 0b01010101):  # both bits of a pair set
        raise FormatError("holds the code 3, which stands for no ternary weight")
    used = in_features % 4
    if used and np.any(packed[:, -1] >> (2 * used) != 0b01010101 >> (2 * used)):
        raise FormatError("the last byte of a row is not filled with zero weights")


def ternary_linear(xq: I8, x_scale: F32, codes: I8, w_scale: float | np.float32) -> F32:
    """y = W x for xq (..., in), x_scale (..., 1), codes (out, in): int32 sums, float32 result (..., out)."""
    accumulated = xq.astype(np.int32) @ codes.T.astype(np.int32)
    result: F32 = accumulated.astype(np.float32) * x_scale * np.float32(w_scale)
    return result
