"""The layout of a folder of evaluation data, as the report reads it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from glob import glob
from pathlib import Path

from bitmar.core.errors import DataError
from bitmar.evaluate.tasks.babylm.files import find_source
from bitmar.evaluate.tasks.babylm.registry import TASKS

SHARDS = ("captions/flickr8k-val-*.tar", "captions/*val*.tar", "*val*.tar")  # the first that matches
LONG_TEXTS = ("gutenberg_novels", "switchboard", "fairytales")
READ_TEXTS = ("switchboard", "gutenberg_novels", "wikipedia_leads")


class Absent(DataError):
    """A section's data are not there: no fault, but nothing to measure."""


@dataclass
class EvalData:
    """A folder laid out as in docs/report.md. captions: shards that are somewhere else.

    Every property raises Absent, saying what was looked for, if there is no such data.
    """

    folder: Path
    captions: Sequence[str] = ()
    _hashes: dict[Path, str] = field(default_factory=dict, repr=False)

    @cached_property
    def tasks(self) -> Path:
        """The folder of lm-evaluation-harness' archives."""
        return self._first("eval/lm_eval", "lm_eval", holding="*.jsonl.zip")

    @cached_property
    def babylm(self) -> Path:
        """The folder that has folders or archives of BabyLM's tasks."""
        for name in ("eval/babylm2025", "babylm2025", "eval/evaluation_data", "evaluation_data", ""):
            folder = self.folder / name
            if folder.is_dir() and any(find_source(folder, task.folders) for task in TASKS.values()):
                return folder
        raise Absent(f"{self.folder} has no eval/babylm2025 with BabyLM's tasks")

    @cached_property
    def blimp(self) -> Path:
        """BLiMP's pairs."""
        source = find_source(self.babylm, TASKS["blimp"].folders)
        if source is None:
            raise Absent(f"{self.babylm} has no blimp_filtered")
        return source

    @cached_property
    def shards(self) -> list[str]:
        """Patterns of WebDataset shards with captions that nothing was trained on."""
        if self.captions:
            return list(self.captions)
        for pattern in SHARDS:
            if glob(str(self.folder / pattern)):
                return [str(self.folder / pattern)]
        raise Absent(f"{self.folder} has no {SHARDS[0]}: name shards with captions by --captions")

    @cached_property
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

    def files(self, *sources: str | Path) -> list[Path]:
        """The files that paths, folders and patterns name; none for a URL."""
        found: list[Path] = []
        for source in sources:
            for name in sorted(glob(str(source), recursive=True)):
                path = Path(name)
                found += [path] if path.is_file() else sorted(inner for inner in path.rglob("*") if inner.is_file())
        return found

    def sha256(self, path: Path) -> str:
        """Of a file's contents, read once."""
        if path not in self._hashes:
            digest = hashlib.sha256()
            try:
                with path.open("rb") as stream:
                    while chunk := stream.read(1 << 20):
                        digest.update(chunk)
            except OSError as error:
                raise DataError(f"{path} cannot be read: {error.strerror}") from error
            self._hashes[path] = digest.hexdigest()
        return self._hashes[path]

    def _first(self, *names: str, holding: str) -> Path:
        for name in (*names, ""):
            folder = self.folder / name
            if folder.is_dir() and any(folder.glob(holding)):
                return folder
        raise Absent(f"{self.folder} has no {names[0]}")
