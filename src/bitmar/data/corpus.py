"""A tokenised corpus on disk: per domain two memory-mapped streams of tokens, one to train on, one held out.

A stream is its documents one after another, each as BOS text EOS; a tokenizer whose BOS is its EOS (GPT-2)
gets only the EOS. Whether a document is held out depends on a hash of its text alone, so the share stays out
whatever the domain, the order of the files or the run, and a copy of a held-out document is held out with it.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from bitmar import console
from bitmar.core.errors import ConfigError, DataError, OutputError, nearest
from bitmar.core.files import sync_folder, write_atomically
from bitmar.data.questions import questions
from bitmar.data.text import MAX_DOCUMENT, Domain
from bitmar.data.tokenizer import SpecialIds, fingerprint, plain_encoder, special_ids

Part = Literal["train", "heldout"]
PARTS: tuple[Part, ...] = ("train", "heldout")

_LAYOUT = 2  # raised whenever the same inputs would give other files
_CHUNK = 512  # documents per call of the tokenizer: enough to feed all its threads
_CHUNK_CHARS = 1 << 20  # characters, after which a call is made with fewer


@dataclass(frozen=True, slots=True)
class TokenStream:
    """tokens (n,) uint16 or uint32, memory-mapped; offsets (documents + 1,) int64: document i is
    `tokens[offsets[i]:offsets[i + 1]]`."""

    tokens: npt.NDArray[Any]
    offsets: npt.NDArray[np.int64]

    def __len__(self) -> int:
        """How many documents."""
        return len(self.offsets) - 1

    def document(self, index: int) -> npt.NDArray[Any]:
        """One document's tokens, its BOS and EOS included."""
        return self.tokens[self.offsets[index] : self.offsets[index + 1]]


@dataclass(frozen=True, slots=True)
class CorpusDomain:
    """One domain, ready to draw from. `bytes` counts the UTF-8 text of both parts."""

    name: str
    weight: float
    train: TokenStream
    heldout: TokenStream
    bytes: int

    def stream(self, part: Part) -> TokenStream:
        """The stream to train on, or the held-out one."""
        return self.heldout if part == "heldout" else self.train


@dataclass(frozen=True, slots=True)
class Corpus:
    """Every domain by name, and the special ids its streams were written with."""

    domains: Mapping[str, CorpusDomain]
    special: SpecialIds

    def __getitem__(self, name: str) -> CorpusDomain:
        if name not in self.domains:
            hint = nearest(name, self.domains)
            raise ConfigError(f"the corpus has no domain {name!r}{hint}; it has {', '.join(self.domains)}")
        return self.domains[name]

    def only(self, *names: str) -> Corpus:
        """The corpus with these domains alone. An unknown name: ConfigError with the nearest."""
        return Corpus({name: self[name] for name in names}, self.special)

    def summary(self) -> dict[str, dict[str, float]]:
        """Per domain: documents, tokens of each part, weight, UTF-8 bytes per token (specials counted)."""
        return {
            domain.name: {
                "documents": len(domain.train) + len(domain.heldout),
                "train_tokens": len(domain.train.tokens),
                "heldout_tokens": len(domain.heldout.tokens),
                "weight": domain.weight,
                "bytes_per_token": round(domain.bytes / (len(domain.train.tokens) + len(domain.heldout.tokens)), 3),
            }
            for domain in self.domains.values()
        }


class Piece(NamedTuple):
    """Some documents of a domain in their order, as they are written.

    tokens, lengths: by part, BOS and EOS included. bytes: of their UTF-8 text.
    """

    tokens: dict[Part, npt.NDArray[Any]]
    lengths: dict[Part, list[int]]
    bytes: int


def token_type(tokenizer: Tokenizer) -> np.dtype[Any]:
    """Of its ids on disk."""
    return np.dtype(np.uint16 if tokenizer.get_vocab_size() <= 1 << 16 else np.uint32)


def tokenised(domain: Domain, documents: Iterator[str], tokenizer: Tokenizer, heldout: float) -> Iterator[Piece]:
    """The documents of a domain, or of one of its files, a piece at a time."""
    encoder, special, dtype = plain_encoder(tokenizer), special_ids(tokenizer), token_type(tokenizer)
    start = [] if special.bos == special.eos else [special.bos]
    for chunk in _chunks(_parts(domain, documents, heldout)):
        encodings = encoder.encode_batch_fast([text for _, text in chunk], add_special_tokens=False)
        ids: dict[Part, list[int]] = {part: [] for part in PARTS}
        lengths: dict[Part, list[int]] = {part: [] for part in PARTS}
        for (part, _), encoding in zip(chunk, encodings, strict=True):
            ids[part] += [*start, *encoding.ids, special.eos]
            lengths[part].append(len(start) + len(encoding.ids) + 1)
        tokens = {part: np.array(found, dtype) for part, found in ids.items()}
        yield Piece(tokens, lengths, sum(len(text.encode()) for _, text in chunk))


def here(domain: Domain, tokenizer: Tokenizer, heldout: float, on_read: Callable[[int], None]) -> Iterator[Piece]:
    """All documents of a domain, tokenised in this process; on_read: told the bytes of the files that were read."""
    return tokenised(domain, domain.documents(on_read=on_read), tokenizer, heldout)


def build_corpus(
    domains: Mapping[str, Domain | Mapping[str, Any] | str],
    tokenizer: Tokenizer,
    cache_dir: str | Path,
    *,
    heldout: float = 0.01,
    progress: bool = True,
    tokenise: Callable[[Domain, Tokenizer, float, Callable[[int], None]], Iterator[Piece]] = here,
) -> Corpus:
    """Tokenise `domains` (name -> `Domain`, a mapping of its fields, or a path) once, and open the result.

    Each domain is a folder of `cache_dir`, named after a hash of its files' contents, how they are read, the
    tokenizer and the held-out share. One that is there is opened as it is; one that is missing is built
    beside its place and renamed when complete, so that a killed build starts again with the domain it was in.
    `heldout` is the share of documents kept out of training. tokenise: who does it, `here` or the nodes of a cluster
    (`corpus_work.on_nodes`). Raises ConfigError, DataError (no such file, nothing in it).
    """
    if not domains:
        raise ConfigError("a corpus needs at least one text domain")
    if not 0 <= heldout < 1:
        raise ConfigError(f"heldout is a share of the documents, at least 0 and below 1, not {heldout}")
    special, print_ = special_ids(tokenizer), fingerprint(tokenizer)
    opened = {}
    for name, value in domains.items():
        domain = Domain.of(value)
        folder = Path(cache_dir) / f"{_safe(name)}-{_key(domain, print_, heldout)}"
        if not folder.is_dir():
            _build(name, domain, tokenise, tokenizer, heldout, folder, progress)
        opened[name] = _open(name, domain.weight, folder)
    return Corpus(opened, special)


def _safe(name: str) -> str:
    return "".join(letter if letter.isalnum() else "_" for letter in name)


def _key(domain: Domain, tokenizer_print: str, heldout: float) -> str:
    """Everything the tokens on disk depend on: contents, not names or dates (weights apply when drawing)."""
    how = {field: value for field, value in asdict(domain).items() if field not in ("path", "weight")}
    digest = hashlib.sha256(json.dumps([_LAYOUT, MAX_DOCUMENT, how, tokenizer_print, heldout]).encode())
    for file in domain.files() if domain.path is not None else ():
        digest.update(_sha256(file))
        digest.update(file.suffix.encode())
    return digest.hexdigest()[:16]


def _sha256(file: Path) -> bytes:
    digest = hashlib.sha256()
    with open(file, "rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.digest()


def _build(
    name: str,
    domain: Domain,
    tokenise: Callable[..., Iterator[Piece]],
    tokenizer: Tokenizer,
    heldout: float,
    folder: Path,
    progress: bool,
) -> None:
    partial = folder.with_name(f"{folder.name}.partial-{secrets.token_hex(4)}")
    try:
        partial.mkdir(parents=True)
        with console.progress(size=True, hidden=not progress) as bar:
            size = sum(file.stat().st_size for file in domain.files()) if domain.path is not None else None
            task = bar.add_task(f"tokenising {name}", total=size)

            def advance(count: int) -> None:
                bar.advance(task, count)

            written = _write(partial, tokenise(domain, tokenizer, heldout, advance), token_type(tokenizer))
        if not any(written["tokens"].values()):
            raise DataError(f"text domain {name!r} has no document in it: {domain.path or domain.dataset}")
        write_atomically(partial / "domain.json", json.dumps(written, indent=1).encode())
        try:
            partial.rename(folder)
        except OSError:
            if not folder.is_dir():  # else another process has finished the same domain first
                raise
        sync_folder(folder.parent)
    except OSError as error:
        raise OutputError(f"cannot write {folder}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _parts(domain: Domain, documents: Iterator[str], heldout: float) -> Iterator[tuple[Part, str]]:
    """Writer of tokenised documents: each goes as a whole to one part, cut into paragraphs or not."""

    def pieces() -> Iterator[tuple[Part, str]]:
        for text in documents:
            part: Part = "heldout" if is_held_out(text, heldout) else "train"
            for piece in text.split("\n") if domain.paragraphs else (text,):
                if piece := piece.strip():
                    yield part, piece

    if not domain.questions:
        return pieces()
    # None about what is held out, which would be met in the passage; some of them are held out themselves.
    asked = questions(piece for part, piece in pieces() if part == "train")
    return (("heldout" if is_held_out(text, heldout) else "train", text) for text in asked)


def _chunks(parts: Iterator[tuple[Part, str]]) -> Iterator[list[tuple[Part, str]]]:
    chunk: list[tuple[Part, str]] = []
    size = 0
    for each in parts:
        chunk.append(each)
        size += len(each[1])
        if len(chunk) == _CHUNK or size >= _CHUNK_CHARS:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def _write(folder: Path, pieces: Iterator[Piece], dtype: np.dtype[Any]) -> dict[str, Any]:
    offsets: dict[Part, list[int]] = {part: [0] for part in PARTS}
    size = 0
    with open(folder / "train.bin", "wb") as train, open(folder / "heldout.bin", "wb") as held:
        files = {"train": train, "heldout": held}
        for piece in pieces:
            size += piece.bytes
            for part in PARTS:
                files[part].write(piece.tokens[part].tobytes())
                for length in piece.lengths[part]:
                    offsets[part].append(offsets[part][-1] + length)
        for part in PARTS:
            files[part].flush()
            os.fsync(files[part].fileno())  # or a power cut leaves zeros where the folder says that all is there
    for part in PARTS:
        offsets_file = io.BytesIO()
        np.save(offsets_file, np.array(offsets[part], np.int64))
        write_atomically(folder / f"{part}.offsets.npy", offsets_file.getvalue())
    return {"dtype": dtype.name, "bytes": size, "tokens": {part: offsets[part][-1] for part in PARTS}}


def is_held_out(text: str, share: float) -> bool:
    """Whether a document is among the `share` that is never trained on: a hash of its text alone decides."""
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") < share * 2**64


def _open(name: str, weight: float, folder: Path) -> CorpusDomain:
    try:
        about = json.loads((folder / "domain.json").read_text())
        train, heldout = (_stream(folder, part, about) for part in PARTS)
        return CorpusDomain(name, weight, train, heldout, int(about["bytes"]))
    except (OSError, ValueError, KeyError, TypeError, EOFError) as error:
        raise DataError(f"the tokenised text in {folder} is damaged ({error}); delete that folder") from None


def _stream(folder: Path, part: Part, about: Mapping[str, Any]) -> TokenStream:
    dtype, count, file = np.dtype(about["dtype"]), about["tokens"][part], folder / f"{part}.bin"
    offsets = np.load(folder / f"{part}.offsets.npy", allow_pickle=False)
    if file.stat().st_size != count * dtype.itemsize or offsets.ndim != 1 or offsets.dtype != np.int64:
        raise ValueError(f"{file.name} has not the {count} tokens it should")
    if offsets[:1] != [0] or offsets[-1] != count or (np.diff(offsets) < 0).any():
        raise ValueError(f"{part}.offsets.npy does not fit {file.name}")
    # numpy cannot map an empty file, which is what a small domain's held-out share may be
    tokens = np.memmap(file, dtype, "r") if count else np.empty(0, dtype)
    return TokenStream(tokens, offsets)
