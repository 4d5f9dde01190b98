"""Fitting a concept bank: keys that find concepts in a photo's pooled patch features.

Two kinds of keys stand in a bank. The backbone's own classifier, trained on a million photos, gives one key a class; a
softmax over them is read like the memory of eq. 2, and the classes of one noun add up. For what classes do not name
(people, actions, colours, grass), logistic regression on captioned and labelled photos gives a key of its own to every
concept. The score of a concept is the larger of the two.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from bitmar.core.vocabulary import Vocabulary
from bitmar.data.concepts import Labels, class_concepts
from bitmar.data.concepts.bank import F32, ConceptBank
from bitmar.data.features import FeatureStore

_STEPS, _RATE, _ROWS, _DROPOUT = 400, 1e-3, 512, 0.8  # chosen by the mean average precision on validation captions
_SURE = 0.3  # from here on a class probability casts doubt on a caption's silence
_SILENT = 0.2  # weight of "not there" where only a label was given
_SHARES = (5e-4, 0.5)  # of the photos that show a concept, at least and at most
HELD_OUT = 1  # of the folds of labelled photos
_UNSEEN = -20.0  # bias of a concept that no photo has shown


class Banks(NamedTuple):
    """whole: of all photos. folds: the i-th without the captioned photos i, i + folds, ... held_out: without the
    labelled photos HELD_OUT, HELD_OUT + folds, ..."""

    whole: ConceptBank
    folds: list[ConceptBank]
    held_out: ConceptBank


def pooled_features(store: FeatureStore, views: int) -> F32:
    """Mean over the patches of the first `views` views of every photo: (n, views, D_v)."""
    out = np.empty((len(store), views, store.dim), np.float32)
    for i in range(len(store)):
        for view in range(views):
            out[i, view] = store.stored(i, view).astype(np.float32).mean(0)
    return out if store.scale is None else out * np.float32(store.scale)


def caption_targets(store: FeatureStore, vocabulary: Vocabulary) -> F32:
    """(n, K): a concept counts whole from two captions on, half for one."""
    targets = np.zeros((len(store), len(vocabulary)), np.float32)
    for i in range(len(store)):
        for caption in store[i].captions:
            targets[i, vocabulary.find(caption)] += 0.5
    return targets.clip(0, 1)


def label_targets(labels: Sequence[str], vocabulary: Vocabulary) -> F32:
    """(n, K): 1 for the concepts of a photo's label."""
    of = Labels(vocabulary)
    targets = np.zeros((len(labels), len(vocabulary)), np.float32)
    for i, label in enumerate(labels):
        targets[i, of(label)] = 1
    return targets


def fit_bank(
    vocabulary: Vocabulary,
    captioned: tuple[F32, F32],
    labelled: tuple[F32, F32],
    classifier: tuple[F32, F32],
    *,
    narrow: tuple[F32, F32] | None = None,
    prune: int = 0,
    folds: int = 4,
    seed: int = 0,
) -> Banks:
    """The bank, and those that have not seen a part of the photos.

    captioned, labelled: pooled features (n, views, D_v) and targets (n, K). classifier: keys and bias of the backbone's
    classes, which teach what labels leave open; narrow: those that the banks get in their place, to read the last
    channels alone. prune: concepts that classes stand for and fewer than N photos show come last, without keys of
    their own. A model that is trained on scores of photos which their own captions had shaped would trust them too
    much: so a training photo's scores come from the bank that has not seen it.
    """
    k, d = len(vocabulary), captioned[0].shape[-1]
    classes = class_concepts(vocabulary)[: len(classifier[1])]  # a backbone may have none
    shown = (captioned[1] > 0).sum(0) + (labelled[1] > 0).sum(0)
    few = np.isin(np.arange(k), classes) & (shown < prune)
    order, own = np.argsort(few, kind="stable"), int((~few).sum())
    vocabulary = Vocabulary([vocabulary.names[i] for i in order])
    captioned, labelled = ((pooled, targets[:, order]) for pooled, targets in (captioned, labelled))
    classes = class_concepts(vocabulary)[: len(classifier[1])]
    empty = ConceptBank(
        vocabulary.names, np.zeros((k, d), np.float32), np.full(k, _UNSEEN, np.float32), *classifier, classes
    )
    views = captioned[0].shape[1]
    of_class = np.zeros(k, bool)
    of_class[classes[classes >= 0]] = True

    def spread(pair: tuple[F32, F32]) -> tuple[F32, F32, F32]:
        pooled, targets = pair
        flat = pooled.reshape(-1, d)
        return flat, np.repeat(targets, pooled.shape[1], 0), empty.class_scores(flat)

    x, y, p = spread(captioned)
    weight = np.where((y == 0) & (p > _SURE), 0, 1).astype(np.float32)
    x2, y2, p2 = spread(labelled)
    y2 = np.maximum(y2, np.where(of_class, p2, 0)).astype(np.float32)
    weight2 = np.where((y2 > 0) | of_class, 1, _SILENT).astype(np.float32)
    fold_of = np.repeat(np.arange(len(captioned[0])) % folds, views)
    fold_of_labelled = np.repeat(np.arange(len(labelled[0])) % folds, labelled[0].shape[1]) + folds
    number = np.concatenate((fold_of, fold_of_labelled))
    inputs, targets, weights = (
        torch.from_numpy(np.concatenate(parts))
        for parts in ((x, x2), (y[:, :own], y2[:, :own]), (weight[:, :own], weight2[:, :own]))
    )

    def fitted(without: int | None) -> ConceptBank:
        rows = torch.from_numpy(np.flatnonzero(number != (-1 if without is None else without)))
        keys, bias = _logistic(inputs, targets, weights, rows, seed)
        return ConceptBank(vocabulary.names, keys, bias, *(narrow or classifier), classes)

    whole = fitted(None)
    share = whole.scores(captioned[0][:, 0]).mean(0).clip(*_SHARES)
    prior = np.log(share / (1 - share)).astype(np.float32)
    return Banks(replace(whole, prior=prior), [fitted(i) for i in range(folds)], fitted(folds + HELD_OUT))


def _logistic(x: Tensor, y: Tensor, weight: Tensor, rows: Tensor, seed: int) -> tuple[F32, F32]:
    """Keys (K, D_v) and bias (K,), by Adam with most inputs dropped: few of a photo's features can be relied on."""
    generator = torch.Generator().manual_seed(seed)
    mean, deviation = x[rows].mean(0), x[rows].std(0) + 1e-3
    w = torch.zeros(x.shape[1], y.shape[1], requires_grad=True)
    b = torch.full((y.shape[1],), -3.0, requires_grad=True)
    optimizer = torch.optim.Adam([w, b], lr=_RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, _STEPS)
    for _ in range(_STEPS):
        batch = rows[torch.randint(len(rows), (_ROWS,), generator=generator)]
        kept = (torch.rand(_ROWS, x.shape[1], generator=generator) >= _DROPOUT) / (1 - _DROPOUT)
        logits = ((x[batch] - mean) / deviation * kept) @ w + b
        loss = F.binary_cross_entropy_with_logits(logits, y[batch], weight[batch], reduction="sum") / _ROWS
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        keys = (w / deviation.unsqueeze(1)).T.contiguous()
        bias = b - keys @ mean
        never = y[rows].amax(0) < 0.5
        bias[never] = _UNSEEN
        keys[never] = 0
    return keys.numpy(), bias.numpy()
