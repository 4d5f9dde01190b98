"""Files that must not open: each is the good one with one lie in it, and each ends in one FormatError.

The lies are told with the checksum left out of account (`verify=False`) too: an attacker can compute one.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bitmar.core.container import open_container
from bitmar.core.errors import FormatError

Header = dict[str, Any]


def split(file: bytes) -> tuple[Header, bytearray]:
    (length,) = struct.unpack("<Q", file[:8])
    return json.loads(file[8 : 8 + length]), bytearray(file[8 + length :])


def join(header: Header | bytes, data: bytes) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + data


def metadata(key: str, value: str | None) -> Callable[[Header, bytearray], None]:
    def attack(header: Header, _: bytearray) -> None:
        if value is None:
            del header["__metadata__"][key]
        else:
            header["__metadata__"][key] = value

    return attack


def configured(**values: Any) -> Callable[[Header, bytearray], None]:
    def attack(header: Header, _: bytearray) -> None:
        config = json.loads(header["__metadata__"]["config"])
        header["__metadata__"]["config"] = json.dumps(config | values)

    return attack


def vision(**values: Any) -> Callable[[Header, bytearray], None]:
    def attack(header: Header, _: bytearray) -> None:
        header["__metadata__"]["vision"] = json.dumps(json.loads(header["__metadata__"]["vision"]) | values)

    return attack


def tokenizer(**values: Any) -> Callable[[Header, bytearray], None]:
    """Other parts of the tokenizer; `model_*` go into its BPE."""

    def attack(header: Header, _: bytearray) -> None:
        document = json.loads(header["__metadata__"]["tokenizer"])
        model = {key.removeprefix("model_"): value for key, value in values.items() if key.startswith("model_")}
        document |= {key: value for key, value in values.items() if not key.startswith("model_")}
        document["model"] |= model
        header["__metadata__"]["tokenizer"] = json.dumps(document)

    return attack


def entry(name: str, **values: Any) -> Callable[[Header, bytearray], None]:
    def attack(header: Header, _: bytearray) -> None:
        header[name] |= values

    return attack


def contents(name: str, value: bytes, at: int = 0) -> Callable[[Header, bytearray], None]:
    """Overwrite bytes of one tensor; `at` counts from its start, or from its end if negative."""

    def attack(header: Header, data: bytearray) -> None:
        start, end = header[name]["data_offsets"]
        place = start + at if at >= 0 else end + at
        data[place : place + len(value)] = value

    return attack


def without(name: str) -> Callable[[Header, bytearray], None]:
    """Take a tensor out, and close the hole that it leaves."""

    def attack(header: Header, data: bytearray) -> None:
        start, end = header.pop(name)["data_offsets"]
        del data[start:end]
        for key, other in header.items():
            if key != "__metadata__" and other["data_offsets"][0] >= end:
                other["data_offsets"] = [offset - (end - start) for offset in other["data_offsets"]]

    return attack


def extra(dtype: str, shape: list[int], size: int, name: str = "extra") -> Callable[[Header, bytearray], None]:
    def attack(header: Header, data: bytearray) -> None:
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + size]}
        data.extend(bytes(size))

    return attack


def misaligned(header: Header, data: bytearray) -> None:
    """One byte in front moves every float to an odd address."""
    for key, other in header.items():
        if key != "__metadata__":
            other["data_offsets"] = [offset + 1 for offset in other["data_offsets"]]
    header["front"] = {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}
    data.insert(0, 0)


def f32(*values: float) -> bytes:
    return np.array(values, "<f4").tobytes()


SLOW = {"type": "Replace", "pattern": {"Regex": "(a*)*b"}, "content": "aa"}
TOKEN = {"content": "c", "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
HEAD, SCALE, EMBEDDING = "lm_head.weight", "lm_head.scale", "model.embed_tokens.weight"
ATTACKS: dict[str, tuple[Callable[[Header, bytearray], None], str]] = {
    "another safetensors file": (metadata("format", None), "not a .bitmar file"),
    "future version": (metadata("format_version", "4"), "pip install --upgrade bitmar"),
    "version zero": (metadata("format_version", "0"), "format version"),
    "version no number": (metadata("format_version", "1e3"), "format version"),
    "version of a foreign script": (metadata("format_version", "²"), "format version"),
    "version endless": (metadata("format_version", "9" * 5000), "format version"),
    "no tokenizer": (metadata("tokenizer", None), "tokenizer"),
    "unknown metadata": (metadata("pickle", "..."), "pickle"),
    "configuration no JSON": (metadata("config", "{"), "damaged metadata 'config'"),
    "configuration a list": (metadata("config", "[]"), "no JSON object"),
    "card nested without end": (metadata("card", "[" * 200_000), "damaged metadata 'card'"),
    "unknown key": (configured(hiden_size=12), "did you mean 'hidden_size'"),
    "a billion layers": (configured(encoder_layers=10**9), "encoder_layers"),
    "more layers than there are": (configured(encoder_layers=2), "missing"),
    "fewer layers than there are": (configured(write_rule="literal"), "missing.*unexpected"),
    "another width": (configured(hidden_size=16), "not"),
    "vision size absent": (vision(size=None), "vision size"),
    "vision size not the tower's": (vision(size=32), "differs"),
    "vision std zero": (vision(std=[0.25, 0.0, 0.25]), "vision std"),
    "vision mean infinite": (vision(mean=[1e999, 0, 0]), "vision mean"),
    "vision mean of two": (vision(mean=[0, 0]), "vision mean"),
    "vision tower unknown": (vision(tower="clip"), "'clip' is none of"),
    "no tower": (configured(vision_tower=None), "bitvit"),
    "missing tensor": (without(SCALE), f"1 missing, such as '{SCALE}'"),
    "extra tensor": (extra("U8", [2], 2), "1 unexpected, such as 'extra'"),
    "extra empty tensor": (extra("F32", [0], 0), "1 unexpected"),
    "type that numpy has not": (extra("BF16", [2], 4), "BF16"),
    "type no text": (entry(HEAD, dtype={}), "has the type {}"),
    "type of half a byte": (extra("F4", [2], 1), "F4"),
    "hundred dimensions": (extra("U8", [1] * 100, 1), "100 dimensions"),
    "shape turned": (entry(HEAD, shape=[3, 20]), r"\(3, 20\), not U8 \(20, 3\)"),
    "type turned": (entry(HEAD, dtype="I8"), "int8"),
    "shape of zero": (entry(HEAD, shape=[0, 3]), "damaged"),
    "shape negative": (entry(HEAD, shape=[-20, -3]), "damaged"),
    "shape that overflows": (entry(HEAD, shape=[2**63, 2**63]), "damaged"),
    "offset past the end": (entry(HEAD, data_offsets=[10**9, 10**9 + 60]), "damaged"),
    "offset backwards": (entry(HEAD, data_offsets=[60, 0]), "damaged"),
    "offset on another tensor": (entry(HEAD, data_offsets=[0, 60]), "damaged"),
    "misaligned": (misaligned, "not aligned"),
    "scale NaN": (contents(SCALE, f32(np.nan)), "not finite"),
    "scale infinite": (contents(SCALE, f32(np.inf)), "not finite"),
    "scale zero": (contents(SCALE, f32(0)), "not positive"),
    "scale negative": (contents(SCALE, f32(-1)), "not positive"),
    "embedding's scale negative": (contents("model.embed_tokens.scale", f32(-1), at=-4), "not positive"),
    "norm NaN": (contents("model.encoder.norm.weight", f32(np.nan), at=-4), "not finite"),
    "norm near the end of float32": (contents("model.encoder.norm.weight", f32(3e38)), "beyond 1,000,000"),
    "scale near the end of float32": (contents(SCALE, f32(3e38)), "beyond 1,000,000"),
    "norm far below zero": (contents("model.decoder.norm.weight", f32(-1e9)), "beyond 1,000,000"),
    "tokenizer no JSON": (metadata("tokenizer", "{"), "damaged tokenizer"),
    "tokenizer a list": (metadata("tokenizer", "[]"), "damaged tokenizer"),
    "tokenizer nested without end": (metadata("tokenizer", "[" * 200_000), "damaged tokenizer"),
    "tokenizer of two models": (metadata("tokenizer", '{"model": 1, "model": 2}'), "comes twice"),
    "tokenizer without a decoder": (tokenizer(decoder=None), "decoder is none, not ByteLevel"),
    "tokenizer of words": (tokenizer(model_type="WordLevel"), "model is WordLevel, not BPE"),
    "vocabulary a list": (tokenizer(model_vocab=[]), "damaged tokenizer"),
    "chained normalizers": (tokenizer(normalizer={"type": "Sequence", "normalizers": [SLOW] * 40}), "normalizer"),
    "pre-tokenizer of a stranger": (tokenizer(pre_tokenizer={"type": "Split"} | SLOW), "pre_tokenizer is Replace"),
    "post-processor of a stranger": (tokenizer(post_processor={"type": "Sequence"}), "post_processor is Sequence"),
    "BPE that drops merges by chance": (tokenizer(model_dropout=0.5), "dropout"),
    "unknown part of the tokenizer": (tokenizer(surprise=1), "unknown part 'surprise'"),
    "unknown token unknown": (tokenizer(model_unk_token="<unk>"), "'<unk>' is not in its vocabulary"),
    "id past the vocabulary": (tokenizer(model_vocab={"a": 0, "b": 1, "é": 20}), "id 20, outside"),
    "id negative": (tokenizer(model_vocab={"a": 0, "b": 1, "é": -1}), "id -1, outside"),
    "id no number": (tokenizer(model_vocab={"a": 0, "b": 1, "é": "2"}), "id '2', outside"),
    "added id past the vocabulary": (tokenizer(added_tokens=[TOKEN | {"id": 20}]), "id 20, outside"),
    "one id for two": (tokenizer(added_tokens=[TOKEN | {"id": 1}]), "have one id"),
    "two ids for one": (tokenizer(added_tokens=[TOKEN | {"id": 3, "content": "a"}]), "'a' has two ids"),
    "no end token": (tokenizer(model_vocab={"a": 0, "b": 1}), "no token 2, the model's eos_token_id"),
    "code 3": (contents(HEAD, b"\xff"), "code 3"),
    "code 3 in the last place": (contents(HEAD, b"\xd5", at=-1), "code 3"),
    "weights in the padding": (contents("model.vision.fc1.weight", b"\xaa", at=-1), "not filled"),
    "embedding -128": (contents(EMBEDDING, b"\x80"), "-128"),
}


@pytest.mark.parametrize(("attack", "message"), ATTACKS.values(), ids=ATTACKS.keys())
@pytest.mark.parametrize("verify", [False, True])
def test_a_lie_is_refused_by_name(
    good_file: Path, tmp_path: Path, attack: Callable[[Header, bytearray], None], message: str, verify: bool
) -> None:
    header, data = split(good_file.read_bytes())
    attack(header, data)
    path = tmp_path / "attack.bitmar"
    path.write_bytes(join(header, bytes(data)))
    with pytest.raises(FormatError, match=r"attack\.bitmar: " + ("" if verify else f".*{message}")):
        open_container(path, verify=verify)


def test_the_untouched_file_survives_the_rewriting(good_file: Path, tmp_path: Path) -> None:
    path = tmp_path / "same.bitmar"
    path.write_bytes(join(*split(good_file.read_bytes())))
    open_container(path)


RAW = {
    "empty": (b"", "too short"),
    "seven bytes": (b"\0" * 7, "too short"),
    "zeros": (b"\0" * 4096, "damaged"),
    "a photo": (b"\xff\xd8\xff\xe0" + bytes(range(256)) * 4, "header claims"),
    "a pickle": (b"\x80\x04\x95" + b"cos\nsystem\n" * 20, "header claims"),
    "huge header": (struct.pack("<Q", 2**63) + b"{}", "header claims 9223372036854775808 bytes"),
    "header longer than the file": (struct.pack("<Q", 1000) + b"{}", "damaged"),
    "header no JSON": (join(b"not json", b""), "damaged"),
    "header no text": (join(b"\xff\xfe\xfd", b""), "damaged"),
    "header nested without end": (join(b"[" * 200_000, b""), "damaged"),
    "header nested in a tensor": (join(b'{"a":' * 100_000, b""), "damaged"),
    "nothing inside": (join({"__metadata__": {"format": "bitmar", "format_version": "1"}}, b""), "metadata"),
}


@pytest.mark.parametrize(("content", "message"), RAW.values(), ids=RAW.keys())
def test_what_is_no_container_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "attack.bitmar"
    path.write_bytes(content)
    with pytest.raises(FormatError, match=rf"attack\.bitmar: .*{message}"):
        open_container(path)


def test_metadata_alone_is_refused(good_file: Path, tmp_path: Path) -> None:
    header, _ = split(good_file.read_bytes())
    path = tmp_path / "attack.bitmar"
    path.write_bytes(join({"__metadata__": header["__metadata__"]}, b""))
    with pytest.raises(FormatError, match="holds no tensors"):
        open_container(path)


def test_a_missing_file_and_a_folder_are_one_error(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="No such file"):
        open_container(tmp_path / "nothing.bitmar")
    with pytest.raises(FormatError, match="is a folder"):
        open_container(tmp_path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.bitmar")
    with pytest.raises(FormatError, match="is no file"):
        open_container(tmp_path / "pipe.bitmar")


@settings(suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
@given(cut=st.floats(0, 1, exclude_max=True))
def test_no_prefix_opens(good_file: Path, tmp_path: Path, cut: float) -> None:
    content = good_file.read_bytes()
    path = tmp_path / "cut.bitmar"
    path.write_bytes(content[: int(len(content) * cut)])
    with pytest.raises(FormatError):
        open_container(path)


@settings(suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture], max_examples=300)
@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_no_flipped_bit_goes_unnoticed(good_file: Path, tmp_path: Path, place: float, bit: int) -> None:
    content = bytearray(good_file.read_bytes())
    content[int(len(content) * place)] ^= 1 << bit
    path = tmp_path / "flipped.bitmar"
    path.write_bytes(content)
    with pytest.raises(FormatError):
        open_container(path)
