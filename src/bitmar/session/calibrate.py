"""Teach a packed model how photos look to its tower, so that recall knows what a resemblance is worth.

A memory of one episode cannot tell a familiar photo from a strange one. A thousand photos can, each in several views:
what changes from view to view tells no photos apart, what differs between photos does (linear discriminant analysis),
and how often one photo resembles another's episode by chance says how sure a resemblance is. With that in its file, in
at most half a megabyte, a model's recall is calibrated from the first episode on.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

from bitmar.core.container import Container, write_container
from bitmar.core.errors import DataError
from bitmar.core.tensors import (
    BACKGROUND_MEAN,
    BACKGROUND_PROJECT,
    BACKGROUND_STRANGERS,
    BACKGROUND_WHITEN,
    STRANGERS,
    background_width,
    scale_name,
)
from bitmar.core.ternary import F32, quantize_rows
from bitmar.session.recall import F64, TURNS, Background, TurnedKeys, spread, whitening
from bitmar.session.session import Model

LEAST, ENOUGH = 256, 1200  # photos: fewer say nothing of rare resemblances, more change little
_FLOOR = 0.3  # of the mean variance between views, which a few views underrate; 0.03 to 1 do much the same
_DAMP = 0.3  # of the mean variance between photos, so that directions of which few photos speak count little
_PARTS = 4  # each is a stranger to a projection fitted on the others: photos that were fitted resemble each other less
_KEPT = 320  # directions in which photos differ the most, among which the projection is looked for


def views(photo: Image.Image, rng: np.random.Generator) -> Iterator[Image.Image]:
    """The four quarter turns that an episode keeps, the photo itself first; then four ways to meet it again."""
    yield photo
    for turn in (Image.Transpose.ROTATE_90, Image.Transpose.ROTATE_180, Image.Transpose.ROTATE_270):
        yield photo.transpose(turn)
    yield _crop(photo, rng.uniform(0.55, 0.9), rng)
    yield photo.rotate(rng.choice([-1, 1]) * rng.uniform(5, 15))
    small = photo.resize((max(photo.width // 4, 1), max(photo.height // 4, 1)))
    yield small.filter(ImageFilter.GaussianBlur(0.5)) if rng.random() < 0.3 else small
    light = ImageEnhance.Brightness(photo).enhance(rng.choice([0.5, 1.5]))
    yield ImageOps.mirror(_jpeg(light if rng.random() < 0.5 else photo.convert("L").convert("RGB")))


def _crop(photo: Image.Image, side: float, rng: np.random.Generator) -> Image.Image:
    width, height = max(round(photo.width * side), 1), max(round(photo.height * side), 1)
    left, top = int(rng.integers(photo.width - width + 1)), int(rng.integers(photo.height - height + 1))
    return photo.crop((left, top, left + width, top + height))


def _jpeg(photo: Image.Image) -> Image.Image:
    file = io.BytesIO()
    photo.save(file, "JPEG", quality=40)
    return Image.open(file).convert("RGB")


def pooled_views(model: Model, photo: Image.Image, rng: np.random.Generator) -> F32:
    """The pooled features of a photo's `views`, (V, D_v). Raises ImageError for a model without a tower."""
    found = [model.image_tokens(view).pooled for view in views(photo, rng)]
    return np.stack([pooled for pooled in found if pooled is not None])


def background(photos: Iterable[F32]) -> Background:
    """From photos that are as different as those that the model will meet.

    photos: of each, the pooled features of its views (V, D_v), V >= 1 and the same for all: the photo as an episode
    keeps it, in its `TURNS` if there are more views than these, then others. Fewer photos than `LEAST`: DataError.
    """
    found = [spread(one) for one in photos]
    if len(found) < LEAST:
        raise DataError(f"{len(found)} photos are too few to tell how rare a resemblance is: give at least {LEAST}")
    seen: F32 = np.stack(found)  # (n, V, D_v)
    parts = [np.arange(part, len(seen), _PARTS) for part in range(_PARTS)]
    pairs = np.concatenate([_among(seen[part], *_fit(np.delete(seen, part, axis=0))) for part in parts])
    mean, whiten = _fit(seen)
    return Background(mean, whiten, _rare(pairs))


def _rare(pairs: F64) -> F32:
    """The resemblance that one pair in 1, 10^0.5, ... exceeds, (STRANGERS,), rising; where there are too few pairs to
    say, each step is as long as the last.
    """
    said = min(int(2 * np.log10(len(pairs))), STRANGERS - 1)
    rare = np.quantile(pairs, 1 - 10 ** (-np.arange(said + 1) / 2))
    step = rare[-1] - rare[-2]
    further = rare[-1] + step * np.arange(1, STRANGERS - said)
    rising: F32 = np.minimum(np.concatenate((rare, further)), 0.9999).astype(np.float32)
    return rising


def _fit(seen: F32) -> tuple[F32, F32]:
    """Mean (D_v,) and projection (D_v, r), as precise as a file keeps them."""
    mean: F32 = seen[:, 0].mean(axis=0)
    codes, scale = quantize_rows(np.ascontiguousarray(_project(seen - mean).T, np.float32))
    whiten: F32 = (codes * scale).T
    return mean, whiten


def _among(seen: F32, mean: F32, whiten: F32) -> F64:
    """How much each of these photos resembles the episode of each other one."""
    turns = TURNS if seen.shape[1] > TURNS else 1
    keys = (seen[:, :turns] - mean) @ whiten
    keys /= np.maximum(np.linalg.norm(keys, axis=-1, keepdims=True), 1e-12)
    kept = np.pad(keys, ((0, 0), (0, TURNS - turns), (0, 0)))
    resemblance = TurnedKeys(kept.reshape(len(kept), -1).astype(np.float64)).among()
    pairs: F64 = resemblance[~np.eye(len(kept), dtype=bool)]
    return pairs


def _project(centred: F32) -> F64:
    """(D_v, r): directions in which photos differ and views do not, about as wide as one another."""
    width = background_width(centred.shape[-1])
    first = centred[:, 0]
    main = _main_directions(first, max(_KEPT, width)).astype(np.float64)
    photos = first @ main
    changes = ((centred[:, 1:] - centred[:, :1]) @ main).reshape(-1, main.shape[1])
    between, within = photos.T @ photos / len(photos), changes.T @ changes / max(len(changes), 1)
    floor = _FLOOR * np.trace(within) / len(within) or 1.0
    steady = whitening(within + floor * np.eye(len(within)))
    variances, axes = np.linalg.eigh(steady.T @ between @ steady)
    widths = np.sqrt(np.maximum(variances, 0) + _DAMP * max(float(np.mean(variances)), 1e-12))
    best = (axes / widths)[:, ::-1][:, :width]
    projected: F64 = main @ steady @ best
    padded: F64 = np.pad(projected, ((0, 0), (0, width - projected.shape[1])))
    return padded


def _main_directions(x: F32, count: int) -> F32:
    """Orthonormal directions (w, count or fewer) in which rows of x (n, w) vary the most, by subspace iteration."""
    count = min(count, *x.shape)
    directions: F32 = np.random.default_rng(0).standard_normal((x.shape[1], count)).astype(np.float32)
    for _ in range(4):
        directions, _ = np.linalg.qr(x.T @ (x @ directions))
    return directions


def with_background(container: Container, known: Background, out: str | Path) -> Path:
    """Write the model with this background in place of any that it has. Another checksum makes it another model."""
    codes, scale = quantize_rows(np.ascontiguousarray(known.whiten.T))
    tensors = {
        **container.tensors,
        BACKGROUND_MEAN: known.mean,
        BACKGROUND_PROJECT: codes,
        scale_name(BACKGROUND_PROJECT): scale,
        BACKGROUND_STRANGERS: known.strangers,
    }
    tensors.pop(BACKGROUND_WHITEN, None)
    write_container(
        out,
        tensors,
        config=container.config,
        tokenizer_json=container.tokenizer_json,
        vision=container.vision,
        card=container.card,
    )
    return Path(out)
