"""Plain text: where documents come from, where each one ends, and how text and captions are tidied."""

from __future__ import annotations

import codecs
import gzip
import io
import lzma
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from glob import glob, has_magic
from pathlib import Path
from typing import Any, BinaryIO, Literal, TextIO

from bitmar.core.errors import ConfigError, DataError, DependencyError, nearest, pip_install

Split = Literal["auto", "blank", "line", "file"]
Clean = Literal["plain", "spacing", "caption"]

SPLITS = ("auto", "blank", "line", "file")
CLEANERS = ("plain", "spacing", "caption")
TEXT_SUFFIXES = (".txt", ".txt.xz", ".txt.gz", ".txt.zst")
MAX_DOCUMENT = 8192
"""Characters after which a document continues as a new one, so that no whole novel is held out or left in."""

_PEEKED = 1 << 16  # bytes that tell whether a file is UTF-8
_LONGEST = 1 << 22  # characters of a line that are held at once
_DETECT_CHARS = 4 << 20  # how far `split="auto"` reads; a collection of novels has its first blank line late

# C0/C1 controls but tab and newline, the byte-order mark wherever concatenation left it, and lone surrogates,
# which JSON may carry but UTF-8 cannot.
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ufeff\ud800-\udfff]")
_BEFORE_MARK = re.compile(r"\s+([.,!?;:]+)(?=[\s\"')\]]|$)")
_BEFORE_CLITIC = re.compile(r"\s+('(?:s|re|ve|ll|d|m)|n't)\b", re.IGNORECASE)
_STRONG_END = re.compile(r"[!?][\"')\]]*$|\.[\"')\]]+$")
_WEAK_END = re.compile(r"[\s.,;:\-]+$")


def clean_text(text: str, how: Clean = "plain") -> str:
    """Text made safe and, on request, tidy.

    "plain" drops control characters, byte-order marks and lone surrogates. "spacing" also collapses runs of
    white space within a line and closes the gap that tokenised corpora leave before punctuation ("what's
    that ?"). "caption" is `clean_caption`.
    """
    if how == "caption":
        return clean_caption(text)
    text = _CONTROL.sub("", text)
    return "\n".join(_tidy(line) for line in text.split("\n")) if how == "spacing" else text


def clean_caption(caption: str) -> str:
    """One caption as one tidy sentence: the form in which every caption is trained, whatever set it is from.

    Control characters (NUL among them) go, white space collapses, the gap before punctuation closes (Flickr8k
    and Flickr30k write "A dog ."), the first letter becomes a capital, and the sentence ends in a full stop
    unless it ends in "!", "?" or a closed quotation. A caption without a letter or digit becomes "". Cleaning
    twice changes nothing.
    """
    text = _tidy(_CONTROL.sub("", re.sub(r"\s", " ", caption)))
    first = re.search(r"[^\W_]", text)
    if first is None:
        return ""
    capital = first.group().upper()
    if len(capital) == 1:  # "ß".upper() is "SS"
        text = text[: first.start()] + capital + text[first.end() :]
    return text if _STRONG_END.search(text) else _WEAK_END.sub("", text) + "."


def _tidy(line: str) -> str:
    line = _BEFORE_MARK.sub(r"\1", " ".join(line.split()))
    return _BEFORE_CLITIC.sub(r"\1", line)


@dataclass(frozen=True, slots=True)
class Domain:
    """One kind of text in a corpus.

    path:    a text file, a folder of them, a glob, or a list of these (.txt, .txt.xz, .txt.gz, .txt.zst).
    dataset: instead of `path`, a Hugging Face dataset (Hub name or local folder), with `config`, `subset`
             (its split) and `column`.
    weight:  how often its tokens are seen while a domain of weight 1 is seen once (0.5: every other row).
    split:   where a document ends. "blank": at blank lines (stories, articles, dialogues); "line": every line
             is one (captions, sentences); "file": only at the end of the file; "auto": "blank" if the file
             has blank lines within, else "line".
    clean:   see `clean_text`.
    paragraphs: every line of a document stands alone in training, though the document is held out as a whole.
    questions: in place of its documents, questions about them (`bitmar.data.questions`).
    """

    path: str | Sequence[str] | None = None
    dataset: str | None = None
    config: str | None = None
    subset: str = "train"
    column: str = "text"
    weight: float = 1.0
    split: Split = "auto"
    clean: Clean = "plain"
    paragraphs: bool = False
    questions: bool = False

    def __post_init__(self) -> None:
        if (self.path is None) == (self.dataset is None):
            raise ConfigError("a text domain needs exactly one of `path` (files) and `dataset` (Hugging Face)")
        paths = self.path if isinstance(self.path, list | tuple) else [] if self.path is None else [self.path]
        if not all(isinstance(path, str | Path) for path in paths):
            raise ConfigError(f"a domain's path is a file, a folder, a glob or a list of these, not {self.path!r:.60}")
        for name in ("dataset", "config", "subset", "column"):
            if not isinstance(value := getattr(self, name), str | None):
                raise ConfigError(f"{name} of a text domain must be text, not {value!r:.60}")
        for name in ("paragraphs", "questions"):
            if not isinstance(value := getattr(self, name), bool):
                raise ConfigError(f"{name} of a text domain is true or false, not {value!r:.60}")
        _one_of("split", self.split, SPLITS)
        _one_of("clean", self.clean, CLEANERS)
        if isinstance(self.weight, bool) or not isinstance(self.weight, int | float) or not 0 < self.weight <= 1000:
            raise ConfigError(f"a domain's weight is a number above 0, at most 1000, not {self.weight!r}")

    @classmethod
    def of(cls, value: Domain | Mapping[str, Any] | str) -> Domain:
        """A domain from a recipe: a mapping of these fields, or only the path. Unknown key: ConfigError."""
        if isinstance(value, Domain):
            return value
        if isinstance(value, str):
            return cls(path=value)
        if not isinstance(value, Mapping):
            raise ConfigError(f"a text domain is a path or a mapping of its keys, not {value!r:.60}")
        fields = tuple(cls.__dataclass_fields__)
        for key in value:
            if key not in fields:
                raise ConfigError(f"unknown key {key!r} in a text domain{nearest(key, fields)}")
        return cls(**value)

    def files(self) -> list[Path]:
        """The files, sorted, of a domain with a `path`. Nothing there: DataError."""
        patterns = [self.path] if isinstance(self.path, str) else list(self.path or ())
        return [file for pattern in patterns for file in _text_files(str(pattern))]

    def documents(self, on_read: Callable[[int], None] | None = None) -> Iterator[str]:
        """Its documents, cleaned, never empty; `on_read(bytes)` reports progress through the files."""
        if self.dataset is not None:
            yield from self._cleaned(iter_hf_dataset(self.dataset, self.subset, self.column, self.config))
        else:
            for file in self.files():
                yield from self.documents_of(file, on_read)

    def documents_of(self, file: str | Path, on_read: Callable[[int], None] | None = None) -> Iterator[str]:
        """Those of one of its files."""
        return self._cleaned(iter_documents(file, self.split, on_read=on_read))

    def _cleaned(self, texts: Iterable[str]) -> Iterator[str]:
        for text in texts:
            if document := clean_text(text, self.clean).strip():
                yield document


def _one_of(name: str, value: str, choices: Sequence[str]) -> None:
    if value not in choices:
        hint = nearest(str(value), choices)
        raise ConfigError(f"{name}: {value!r} is not one of {', '.join(choices)}{hint}")


def _text_files(pattern: str) -> list[Path]:
    path = Path(pattern)
    if path.is_dir():
        found = [file for file in path.rglob("*") if file.name.endswith(TEXT_SUFFIXES)]
    elif path.is_file():
        found = [path]
    else:
        found = [Path(file) for file in glob(pattern, recursive=True)] if has_magic(pattern) else []
    if not found:
        raise DataError(f"no text at {pattern}{near_path(path)}; give a text file, a folder of them, or a glob")
    return sorted(found)


def near_path(path: Path) -> str:
    """A hint naming the file beside `path` whose name is nearest, or ""."""
    try:
        return nearest(path.name[:255], [file.name for file in path.parent.iterdir()])
    except (OSError, ValueError):  # no such folder, or none that may be read
        return ""


def iter_documents(
    path: str | Path,
    split: Split = "auto",
    *,
    max_chars: int = MAX_DOCUMENT,
    on_read: Callable[[int], None] | None = None,
) -> Iterator[str]:
    """The documents of one text file (.txt, or compressed as .xz, .gz, .zst), without outer white space.

    `split` is explained at `Domain`. A document longer than `max_chars` continues as another, cut at a line
    end or, in a longer line, at a space. A file that is missing, cut off, or in UTF-16, UTF-32 or no text at all raises
    DataError with its name; single bytes that are not UTF-8 become U+FFFD.
    """
    path = Path(path)
    _one_of("split", split, SPLITS)
    seen = 0
    with reading(path), _open_text(path) as (text, raw):
        if split == "auto":
            with _open_text(path) as (head, _):
                split = _detect(head.read(_DETECT_CHARS))
        for number, document in enumerate(_group(_lines(text), split, max_chars)):
            yield document
            if on_read is not None and number % 64 == 0:
                on_read(raw.tell() - seen)
                seen = raw.tell()
        if on_read is not None:
            on_read(raw.tell() - seen)


def _detect(head: str) -> Split:
    return "blank" if re.search(r"\n[^\S\n]*\n", head.strip()) else "line"


def _lines(text: TextIO) -> Iterator[str]:
    """Lines, of which an endless one does not fill the memory."""
    while line := text.readline(_LONGEST):
        yield line


def _group(lines: Iterable[str], split: Split, max_chars: int) -> Iterator[str]:
    block: list[str] = []
    size = 0
    for line in lines:
        line = line.strip()
        for piece in _pieces(line, max_chars, max_chars - size):
            if block and size + len(piece) > max_chars:
                yield "\n".join(block)
                block, size = [], 0
            if piece:
                block.append(piece)
                size += len(piece) + 1
        if block and (split == "line" or (split == "blank" and not line)):
            yield "\n".join(block)
            block, size = [], 0
    if block:
        yield "\n".join(block)


def _pieces(line: str, limit: int, room: int) -> Iterator[str]:
    """`line` in parts of at most `limit` characters, cut at spaces where there are any.

    The first part fills the `room` left in its document, if that is worth it: a title stays with its text.
    """
    start, most = 0, room if len(line) > limit and room > limit // 2 else limit
    while len(line) - start > most:
        cut = line.rfind(" ", start + most // 2, start + most)
        cut = cut if cut > start else start + most
        yield line[start:cut].strip()
        start, most = cut, limit
    yield line[start:].strip()


@contextmanager
def _open_text(path: Path) -> Iterator[tuple[TextIO, BinaryIO]]:
    """The decoded text and, for progress, the raw file under it. Raises DataError for what is no UTF-8."""
    openers: dict[str, Callable[[BinaryIO], Any]] = {".xz": lzma.open, ".gz": gzip.open, ".zst": _open_zstd}
    with open(path, "rb") as raw:
        binary: Any = io.BufferedReader(openers[path.suffix](raw), _PEEKED) if path.suffix in openers else raw
        _check_encoding(path, binary.peek(_PEEKED)[:_PEEKED])
        yield io.TextIOWrapper(binary, encoding="utf-8", errors="replace"), raw


def _check_encoding(path: Path, begin: bytes) -> None:
    """Text in UTF-16 or UTF-32 has a byte-order mark, or a NUL beside each Latin letter; UTF-8 has neither."""
    marked = begin.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE, codecs.BOM_UTF32_BE))
    if marked or (begin.count(0) > 8 and begin.count(0) * 20 > len(begin)):
        name = "UTF-16 or UTF-32" if marked else "UTF-16, UTF-32 or no text"
        raise DataError(f"{path} is {name}, not UTF-8: convert it with `iconv -f UTF-16 -t UTF-8`")
    if begin.decode("utf-8", "replace").count("\ufffd") * 4 > len(begin):
        raise DataError(f"{path} is no text in UTF-8: convert it, with `iconv -t UTF-8`")


def _open_zstd(raw: BinaryIO) -> Any:
    try:
        import zstandard
    except ImportError:
        raise DependencyError(f"reading .zst text needs an extra: {pip_install('train')}") from None
    decompressor: Any = zstandard.ZstdDecompressor()
    return decompressor.stream_reader(raw, read_across_frames=True)


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turns what can go wrong while `path` is read into a DataError that names it."""
    try:
        yield
    except FileNotFoundError:
        raise DataError(f"no file {path}{near_path(path)}") from None
    except (EOFError, lzma.LZMAError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{path} is cut off or damaged ({error}); fetch it again") from None
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from None


def iter_hf_dataset(name: str, split: str = "train", column: str = "text", config: str | None = None) -> Iterator[str]:
    """The texts in `column` of a Hugging Face dataset (Hub name or local folder), streamed.

    Raises DataError where the dataset or the column is missing, DependencyError without `datasets`.
    """
    try:
        from datasets import load_dataset
    except ImportError:
        raise DependencyError(f"Hugging Face datasets need an extra: {pip_install('train')}") from None
    try:
        rows = iter(load_dataset(name, config, split=split, streaming=True))
        first = next(rows, None)
    except Exception as error:  # the library raises a dozen unrelated types for a wrong name or no network
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(f"cannot load dataset {name!r} (split {split!r}): {reason}") from error
    if first is None:
        return
    if column not in first:
        hint = nearest(column, first)
        raise DataError(f"dataset {name!r} has no column {column!r}{hint}; it has {', '.join(first)}")
    yield _text_in(first, column, name)
    while (row := _next_row(rows, name)) is not None:
        yield _text_in(row, column, name)


def _next_row(rows: Iterator[Any], name: str) -> Any:
    """None at the end."""
    try:
        return next(rows, None)
    except Exception as error:  # as above: a shard that is cut off, a connection that is lost
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(f"dataset {name!r} cannot be read to its end: {reason}") from error


def _text_in(row: Mapping[str, Any], column: str, name: str) -> str:
    """Its text, "" where it has none."""
    value = row.get(column)
    if not isinstance(value, str | None):
        raise DataError(f"column {column!r} of dataset {name!r} holds {value!r:.40}, not text: name another column")
    return value or ""
