"""The layout of a folder of evaluation data: where each task finds what it reads."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from glob import glob
from pathlib import Path

from bitmar.core.errors import DataError

LONG_TEXTS = ("gutenberg_novels", "switchboard", "fairytales")
READ_TEXTS = ("switchboard", "gutenberg_novels", "wikipedia_leads")

_SHARDS = ("captions/flickr8k-val-*.tar", "captions/*val*.tar", "*val*.tar")  # the first that matches
_LABELLED = ("photos/caltech101-*.tar", "photos/*.tar")
_BABYLM = ("eval/babylm2025", "babylm2025", "eval/evaluation_data", "evaluation_data", "")
_BLIMP = ("blimp_filtered", "blimp_fast")
_ROOTS = ("", "full_eval", "evaluation_data/full_eval", "fast_eval", "evaluation_data/fast_eval")


class Absent(DataError):
    """The data of a task, or what it needs of the model, is not there: no fault, but nothing to measure."""


@dataclass(frozen=True)
class EvalData:
    """A folder laid out as in docs/report.md, and what else a report is given. captions: shards that are elsewhere.

    run: the model's training run. finetuned: a folder with finished fine-tunings. Every look-up raises Absent, saying
    what was looked for, if there is no such data.
    """

    folder: Path
    captions: Sequence[str] = ()
    run: Path | None = None
    finetuned: Path | None = None

    def tasks(self) -> Path:
        """The folder of lm-evaluation-harness' archives."""
        for name in ("eval/lm_eval", "lm_eval", ""):
            if any((self.folder / name).glob("*.jsonl.zip")):
                return self.folder / name
        raise Absent(f"{self.folder} has no eval/lm_eval")

    def babylm(self, names: Iterable[str]) -> Path:
        """The folder that has folders or archives of BabyLM's tasks, at least one of the names."""
        wanted = list(names)
        for name in _BABYLM:
            if (self.folder / name).is_dir() and find_source(self.folder / name, wanted):
                return self.folder / name
        raise Absent(f"{self.folder} has no eval/babylm2025 with {wanted[0]}")

    def blimp(self) -> Path:
        """BLiMP's pairs."""
        source = find_source(self.babylm(_BLIMP), _BLIMP)
        assert source is not None
        return source

    def shards(self) -> list[str]:
        """Patterns of WebDataset shards with captions that nothing was trained on."""
        return list(self.captions) or self._first(_SHARDS, "name shards with captions by --captions")

    def labelled(self) -> list[str]:
        """Patterns of shards with labelled photos."""
        return self._first(_LABELLED, "photos with a label in their .json")

    def nlvr(self) -> Path:
        """NLVR's questions."""
        for name in ("eval/nlvr1.zip", "eval/nlvr1", "nlvr1.zip", "nlvr1"):
            if (self.folder / name).exists():
                return self.folder / name
        raise Absent(f"{self.folder} has no eval/nlvr1.zip")

    def texts(self, names: Sequence[str]) -> list[str]:
        """The files `text/NAME.txt.xz` that exist, maybe none."""
        paths = (self.folder / "text" / f"{name}.txt.xz" for name in names)
        return [str(path) for path in paths if path.is_file()]

    def _first(self, patterns: Sequence[str], otherwise: str) -> list[str]:
        for pattern in patterns:
            if glob(str(self.folder / pattern)):
                return [str(self.folder / pattern)]
        raise Absent(f"{self.folder} has no {patterns[0]}: {otherwise}")


def files_of(*sources: str | Path) -> list[Path]:
    """The files that paths, folders and patterns name; none for a URL."""
    found: list[Path] = []
    for source in sources:
        for name in sorted(glob(str(source), recursive=True)):
            path = Path(name)
            found += [path] if path.is_file() else sorted(inner for inner in path.rglob("*") if inner.is_file())
    return found


def find_source(data: Path, names: Sequence[str]) -> Path | None:
    """The first of the folders (or `NAME.zip`) that is there; `data` is the pipeline's `evaluation_data`, or in it."""
    if data.stem in names and data.exists():
        return data
    for name in names:
        for root in _ROOTS:
            for path in (data / root / name, data / root / f"{name}.zip"):
                if path.exists():
                    return path
    return None
