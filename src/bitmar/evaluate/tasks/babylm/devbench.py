"""DevBench (arXiv 2406.10215), the three tasks of it that BabyLM takes: vocabulary, grammar, and likeness of objects.

The two choices go as in the pipeline: of four pictures the first fits the text, and a picture fits as well as the
prompt around the text is likely beside it, the mean over the prompt's tokens. For likeness, the pipeline compares
hidden states that only PyTorch models of its own list show; here a picture is its mean vision token, the point that
the contrastive loss has trained (paper section 3.4.2), on both halves.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bitmar.core.errors import BitMarError, DataError, DependencyError, ImageError, pip_install
from bitmar.core.image import load_photo
from bitmar.data.archives import read_files, read_rows
from bitmar.evaluate.figure import F64, Figure, shares
from bitmar.evaluate.protocol import Picture, PictureScorer
from bitmar.evaluate.tasks.babylm.choices import points_of
from bitmar.evaluate.tasks.babylm.scores import Score
from bitmar.evaluate.work import Work

CHOICES = {"devbench_vocabulary": "lex-viz_vocab", "devbench_grammar": "gram-trog"}
THINGS, HUMAN, HUMAN_KEY = "sem-things", "spose_similarity.mat", "spose_sim"
_PROMPT = "The caption for this image is: {}."
_PHOTOS = 64


@dataclass(frozen=True, slots=True)
class Trial:
    """pictures: files, the right one first; text: what they are asked for, "" where nothing is."""

    pictures: tuple[Path, ...]
    text: str


def read_trials(folder: Path, work: Work) -> list[Trial]:
    """The rows of manifest.csv: columns image1, image2, ... and text1. Raises DataError."""
    manifest = folder / "manifest.csv"
    ((label, contents),) = read_files(manifest, ".csv")
    rows = read_rows(label, contents)
    _, header = next(rows, (0, []))
    columns = sorted(name for name in header if name.startswith("image") and name[5:].isdigit())
    if not columns:
        raise DataError(f"{manifest} has no column image1: take DevBench's own manifest")
    trials = []
    for begin, row in rows:
        cells = dict(zip(header, row, strict=False))
        names = [cells.get(column, "") for column in columns]
        if not all(names) or any("\0" in name or ".." in Path(name).parts for name in names):
            work.on_bad(f"{manifest}:{begin}", "too few fields, or a picture outside the folder")
            continue
        trials.append(Trial(tuple(folder / name for name in names), cells.get("text1", "")))
    if not trials:
        raise DataError(f"{manifest} holds no row that can be read")
    return trials


def choose(scorer: PictureScorer, folder: Path, work: Work) -> Score:
    """How often the first picture fits best. A trial that lacks a picture is reported and skipped."""
    trials = work.some(read_trials(folder, work))
    points = []
    for done, trial in enumerate(trials, 1):
        try:
            shown = scorer.look([load_photo(path) for path in trial.pictures])
        except ImageError as error:
            work.on_bad(str(trial.pictures[0]), str(error))
            continue
        rows = scorer.loglikelihood([_PROMPT.format(trial.text)] * len(shown), shown)
        points.append(points_of(np.array([row.mean(dtype=np.float64) for row in rows])))
        work.on_step(work.name, done, len(trials))
    if not points:
        raise DataError(f"the pictures of {folder} are missing or broken, the first of them {trials[0].pictures[0]}")
    uids = [folder.name] * len(points)
    figure = Figure.mean_share(points, uids, chance=1 / len(trials[0].pictures))
    return Score("accuracy", figure, {"UID": shares(points, uids)})


def things(scorer: PictureScorer, folder: Path, human: Path, work: Work) -> Score:
    """Spearman's correlation of the cosines of all pairs of pictures with how alike people find them.

    Every picture is needed, since the human matrix has a row for each; the interval counts pictures, not pairs.
    """
    trials = read_trials(folder, work)
    wanted = read_similarities(human)
    if wanted.shape != (len(trials), len(trials)):
        raise DataError(f"{human} is a matrix {wanted.shape}, but the manifest names {len(trials)} pictures")
    places = np.array(work.some(range(len(trials))))
    points: list[np.ndarray] = []
    for start in range(0, len(places), _PHOTOS):
        paths = [trials[i].pictures[0] for i in places[start : start + _PHOTOS]]
        photos: list[Picture] = [load_photo(path) for path in paths]
        points.append(scorer.embed(images=photos)[1])
        work.on_step(work.name, min(start + _PHOTOS, len(places)), len(places))
    embedded = np.concatenate(points).astype(np.float64)
    lower = np.tril_indices(len(places), k=-1)
    likeness = Figure.rank_correlation(
        (embedded @ embedded.T)[lower], wanted[np.ix_(places, places)][lower], n=len(places)
    )
    return Score("spearman", likeness)


def read_similarities(path: Path) -> F64:
    """The human matrix (n, n) of a MATLAB file. Raises DataError, DependencyError."""
    try:
        from scipy.io import loadmat
    except ModuleNotFoundError as error:
        raise DependencyError(f"DevBench's matrix needs scipy: {pip_install('eval')}") from error
    try:
        return np.asarray(loadmat(path)[HUMAN_KEY], np.float64)
    except Exception as error:  # a damaged file meets almost any exception
        raise DataError(f"{path} cannot be read ({error}): download it again") from error


def devbench(scorer: PictureScorer, source: Path, work: Work) -> dict[str, Score]:
    """The scores of the parts that are there; one that fails is reported alone. Raises DataError if none is left."""
    assets, scores = source / "assets", dict[str, Score]()
    parts: dict[str, tuple[str, Callable[[Path], Score]]] = {
        name: (folder, lambda path: choose(scorer, path, work)) for name, folder in CHOICES.items()
    }
    human = source / "evals" / THINGS / HUMAN
    parts["devbench_likeness"] = (THINGS, lambda path: things(scorer, path, human, work))
    faults = []
    for name, (folder, score) in parts.items():
        if (assets / folder).is_dir():
            try:
                scores[name] = score(assets / folder)
            except BitMarError as error:
                faults.append(str(error))
                work.on_bad(name, str(error))
    if not scores:
        raise DataError(
            "; ".join(faults) or f"{source} holds none of assets/{', assets/'.join(f for f, _ in parts.values())}"
        )
    return scores
