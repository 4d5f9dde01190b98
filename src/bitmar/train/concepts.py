"""Fitting a concept bank: keys that find concepts in a photo's pooled patch features.

Two kinds of keys stand in a bank. The backbone's own classifier, trained on a million photos, gives one key a class; a
softmax over them is read like the memory of eq. 2, and the classes of one noun add up. For what classes do not name
(people, actions, colours, grass), logistic regression on captioned and labelled photos gives a key of its own to every
concept. The score of a concept is the larger of the two.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

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
_UNSEEN = -20.0  # bias of a concept that no photo has shown


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
    folds: int = 4,
    seed: int = 0,
) -> tuple[ConceptBank, list[ConceptBank]]:
    """The bank, and one for every fold i of the captioned photos, fitted without the photos i, i + folds, ...

    captioned, labelled: pooled features (n, views, D_v) and targets (n, K). classifier: keys and bias of the backbone's
    classes. A model that is trained on scores of photos which their own captions had shaped would trust them too much:
    so a training photo's scores come from the bank that has not seen it.
    """
    classes = class_concepts(vocabulary)[: len(classifier[1])]  # a backbone may have none
    k, d = len(vocabulary), captioned[0].shape[-1]
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
    number = np.concatenate((np.repeat(np.arange(len(captioned[0])) % folds, views), np.full(len(x2), -1)))
    inputs, targets, weights = (
        torch.from_numpy(np.concatenate(parts)) for parts in ((x, x2), (y, y2), (weight, weight2))
    )

    def fitted(without: int | None) -> ConceptBank:
        rows = torch.from_numpy(np.flatnonzero(number != (-2 if without is None else without)))
        keys, bias = _logistic(inputs, targets, weights, rows, seed)
        return ConceptBank(vocabulary.names, keys, bias, *classifier, classes)

    whole = fitted(None)
    share = whole.scores(captioned[0][:, 0]).mean(0).clip(*_SHARES)
    prior = np.log(share / (1 - share)).astype(np.float32)
    return replace(whole, prior=prior), [fitted(fold) for fold in range(folds)]


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
