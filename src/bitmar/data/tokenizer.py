"""Byte-level BPE: train one, load one, and know its special ids."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

from bitmar import console
from bitmar.core.container import open_container
from bitmar.core.errors import TokenizerError
from bitmar.core.files import write_atomically
from bitmar.data.shards import expand_shards
from bitmar.data.sources import OnBad, iter_webdataset
from bitmar.data.text import Domain, clean_caption

SPECIALS = ("<pad>", "<bos>", "<eos>", "<image>")
"""Ids 0 to 3 of every tokenizer trained here."""

_LONG_WORD = re.compile(r"(\S{256})(?=\S)")
_LONG_GAP = re.compile(r"(\s{256})\s+")
_ROLES = {
    "pad": ("<pad>", "[PAD]", "<|endoftext|>"),
    "bos": ("<bos>", "<s>", "<|endoftext|>"),
    "eos": ("<eos>", "</s>", "<|endoftext|>"),
    "image": ("<image>",),
}


@dataclass(frozen=True, slots=True)
class SpecialIds:
    """Ids with a role. GPT-2 has one special token: bos = eos = pad = 50256; `image` may be absent."""

    pad: int
    bos: int
    eos: int
    image: int | None


def train_bpe(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """A byte-level BPE (GPT-2's scheme) of at most `vocab_size` entries, trained on `texts`.

    Ids 0..3 are `<pad> <bos> <eos> <image>`, 4..259 the bytes, so any text can be encoded.
    Few texts give fewer merges than asked for. A run of more than 256 characters without a space is trained on in parts
    of 256, and a run of white space is cut there: the time that a word takes grows with the square of its length.
    Raises TokenizerError if the bytes and specials do not fit, or there is no text at all.
    """
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    if vocab_size < len(alphabet) + len(SPECIALS):
        raise TokenizerError(f"a byte-level vocabulary has at least {len(alphabet) + len(SPECIALS)} entries")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIALS),
        initial_alphabet=sorted(alphabet),
        show_progress=False,
    )
    count = 0

    def counted() -> Iterator[str]:
        nonlocal count
        for text in texts:
            if text and not text.isspace():
                count += 1
                yield _LONG_GAP.sub(r"\1", _LONG_WORD.sub(r"\1\n", text))

    tokenizer.train_from_iterator(counted(), trainer)
    if not count:
        raise TokenizerError("there is no text to train a tokenizer on")
    return tokenizer


def load_tokenizer(spec: str | Path) -> Tokenizer:
    """A tokenizer from a tokenizer.json, a folder with one (or GPT-2's encoder.json + vocab.bpe), a .bitmar file, or
    the Hub.

    Anything that is no path on this machine is taken for a Hub name ("gpt2"). Raises TokenizerError.
    """
    path = Path(spec)
    if path.suffix == ".bitmar":
        return Tokenizer.from_str(open_container(path).tokenizer_json)
    try:
        if path.is_file():
            return Tokenizer.from_file(str(path))
        if path.is_dir():
            return _load_folder(path)
    except TokenizerError:
        raise
    except Exception as error:  # the Rust side raises bare Exception for every fault of a file
        raise TokenizerError(f"{path} is no readable tokenizer: {error}") from error
    if path.suffix == ".json" or path.is_absolute() or str(spec).startswith("."):
        raise TokenizerError(f"no tokenizer at {path}; train one with `bitmar tokenizer train`")
    try:
        return Tokenizer.from_pretrained(str(spec))
    except Exception as error:
        raise TokenizerError(
            f"{str(spec)!r} is no file or folder here, nor does the Hub give it ({_first_line(error)}); "
            "train one with `bitmar tokenizer train`"
        ) from error


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _load_folder(folder: Path) -> Tokenizer:
    if (file := folder / "tokenizer.json").is_file():
        return Tokenizer.from_file(str(file))
    for vocab, merges in (("encoder.json", "vocab.bpe"), ("vocab.json", "merges.txt")):
        if (folder / vocab).is_file() and (folder / merges).is_file():
            tokenizer = Tokenizer(models.BPE.from_file(str(folder / vocab), str(folder / merges)))
            tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
            tokenizer.decoder = decoders.ByteLevel()
            if tokenizer.token_to_id("<|endoftext|>") is not None:
                tokenizer.add_special_tokens([AddedToken("<|endoftext|>", special=True)])
            return tokenizer
    raise TokenizerError(f"{folder} has neither tokenizer.json nor encoder.json + vocab.bpe")


def special_ids(tokenizer: Tokenizer) -> SpecialIds:
    """The special ids, by the names in use (`<bos>`, `<s>`, `<|endoftext|>`). No end: TokenizerError."""
    found = {
        role: next((id_ for name in names if (id_ := tokenizer.token_to_id(name)) is not None), None)
        for role, names in _ROLES.items()
    }
    eos = found["eos"]
    if eos is None:
        raise TokenizerError(f"the tokenizer has no end token (one of {', '.join(_ROLES['eos'])})")
    bos = eos if found["bos"] is None else found["bos"]
    pad = eos if found["pad"] is None else found["pad"]
    return SpecialIds(pad=pad, bos=bos, eos=eos, image=found["image"])


def fingerprint(tokenizer: Tokenizer) -> str:
    """SHA-256 of everything that decides how it encodes."""
    return hashlib.sha256(tokenizer.to_str().encode()).hexdigest()


def plain_encoder(tokenizer: Tokenizer) -> Tokenizer:
    """A copy that reads special tokens' names as plain text: data must not be able to write `<eos>`."""
    copy = Tokenizer.from_str(tokenizer.to_str())
    copy.encode_special_tokens = True
    copy.no_truncation()
    copy.no_padding()
    return copy


def train_from_sources(
    out: str | Path,
    domains: Mapping[str, Domain | Mapping[str, Any] | str],
    captions: Sequence[str] = (),
    *,
    vocab_size: int = 8192,
    every: int = 1,
    progress: bool = True,
    on_bad: OnBad | None = None,
) -> dict[str, Any]:
    """`bitmar tokenizer train`: train on text domains and the captions of shards, write tokenizer.json.

    every: train on each n-th document (of every domain and of the captions); the report is over the first
    thousand documents that were left out, or, with every=1, over the first thousand. on_bad(name, reason): a sample of
    the shards that is skipped.
    Returns {"path", "vocab_size", "bytes_per_token": {domain: float}}.
    """
    if every < 1:
        raise TokenizerError(f"every counts documents from 1, not {every}")
    parsed = {name: Domain.of(value) for name, value in domains.items()}
    for domain in parsed.values():  # what is not there is told before the rest is read
        if domain.path is not None:
            domain.files()
    shards = expand_shards(captions)
    samples: dict[str, list[str]] = {}

    def texts() -> Iterator[str]:
        with console.progress(hidden=not progress) as bar:
            for name, documents in _all_documents(parsed, shards, on_bad):
                task = bar.add_task(name, total=None)
                sample = samples.setdefault(name, [])
                for number, document in enumerate(documents):
                    if number % every == 0:
                        yield document
                    if len(sample) < 1000 and (every == 1 or number % every == 1):
                        sample.append(document)
                    bar.update(task, advance=1)
                bar.update(task, total=bar.tasks[task].completed)

    tokenizer = train_bpe(texts(), vocab_size)
    path = Path(out)
    path = path if path.suffix == ".json" else path / "tokenizer.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, tokenizer.to_str(pretty=True).encode())
    return {
        "path": str(path),
        "vocab_size": tokenizer.get_vocab_size(),
        "bytes_per_token": {name: round(bytes_per_token(tokenizer, sample), 3) for name, sample in samples.items()},
    }


def _all_documents(
    domains: Mapping[str, Domain], shards: Sequence[str], on_bad: OnBad | None
) -> Iterator[tuple[str, Iterable[str]]]:
    for name, domain in domains.items():
        yield name, domain.documents()
    if shards:
        photos = iter_webdataset(shards, on_bad)
        yield (
            "captions",
            (clean for photo in photos for text in photo.captions if (clean := clean_caption(text))),
        )


def bytes_per_token(tokenizer: Tokenizer, texts: Sequence[str]) -> float:
    """UTF-8 bytes per token over `texts` (0.0 for none): how much text one step of the model covers."""
    tokens = sum(len(encoding.ids) for encoding in plain_encoder(tokenizer).encode_batch_fast(list(texts)))
    return sum(len(text.encode()) for text in texts) / tokens if tokens else 0.0
