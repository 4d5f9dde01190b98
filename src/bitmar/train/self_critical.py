"""Self-critical training: captions that the model itself draws, rewarded by CIDEr (arXiv 1612.00563).

Of several captions drawn for a picture each is judged against the others: what scores above their mean becomes
likelier, what scores below it less likely (arXiv 2003.09971). The reward is CIDEr against the training captions alone,
with an end token as the last word, so that breaking off in the middle of a sentence does not pay.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor

from bitmar.core.errors import DependencyError, pip_install
from bitmar.model.modeling_bitmar import BitMarForCausalLM

_WORD = re.compile(r"[a-z0-9]+(?:-[a-z0-9]+)*|'[a-z]+")
_END = " </s>"


class CiderReward:
    """CIDEr of single captions, with the document frequencies of all references.

    references: captions by image. The words are those of the Penn Treebank tokenizer in all but rare cases; the scores
    that are reported use that tokenizer itself (evaluate/coco_metrics.py).
    """

    def __init__(self, references: Mapping[int, Sequence[str]]) -> None:
        try:
            from pycocoevalcap.cider.cider_scorer import CiderScorer, cook_refs, cook_test
        except ModuleNotFoundError as error:
            raise DependencyError(f"objective: cider needs {error.name}: {pip_install('eval')}") from error
        self._cook = cook_test
        self._references = {
            image: cook_refs([_words(text) + _END for text in texts]) for image, texts in references.items()
        }
        self._scorer = CiderScorer()
        self._scorer.crefs = list(self._references.values())
        self._scorer.compute_doc_freq()

    def __call__(self, images: Sequence[int], captions: Sequence[str], ended: Sequence[bool]) -> Tensor:
        """(n,) float32, 0 to 10: one caption for each image. ended: whether its end token was written."""
        scores: list[float] = []
        documents = len(self._references)
        for start in range(0, len(images), documents):
            asked = slice(start, start + documents)
            self._scorer.ctest = [
                self._cook(_words(text) + (_END if end else ""))
                for text, end in zip(captions[asked], ended[asked], strict=True)
            ]
            references = [self._references[image] for image in images[asked]]
            # The scorer takes the number of documents from the length of this list, and scores as many as were asked.
            self._scorer.crefs = references + [None] * (documents - len(references))
            scores += map(float, self._scorer.compute_cider())
        return torch.tensor(scores)


def _words(text: str) -> str:
    return " ".join(_WORD.findall(text.lower()))


def self_critical_inputs(
    model: BitMarForCausalLM,
    inputs: Mapping[str, Tensor],
    reward: CiderReward,
    tokenizer: Tokenizer,
    samples: int,
) -> tuple[dict[str, Any], Tensor]:
    """A batch of captions drawn from the model, ready for `forward`, and their mean reward.

    inputs: a caption batch (image_ids (B,), and vision_features or pixel_values). The captions have the width of its
    input_ids, so that a compiled model meets one shape. Pictures given as pixels go through the tower without
    gradients: it stands still.
    """
    config, device = model.config, inputs["input_ids"].device
    width = inputs["input_ids"].shape[1]
    image_ids = inputs["image_ids"].repeat_interleave(samples)
    was_training = model.training
    model.eval()
    with torch.no_grad(), torch.compiler.set_stance("force_eager"):  # one token at a time: no shape occurs twice
        features = inputs.get("vision_features")
        if features is None:
            features = still_tower(model, inputs["pixel_values"])
        image = {"vision_features": features}
        image |= {name: inputs[name] for name in ("concept_ids", "concept_scores") if name in inputs}
        image = {name: value.repeat_interleave(samples, dim=0) for name, value in image.items()}
        drawn = model.generate(
            torch.full((len(image_ids), 1), config.bos_token_id, device=device),
            **image,
            write_memory=False,
            do_sample=True,
            top_k=0,
            max_new_tokens=width - 1,
            pad_token_id=config.pad_token_id,
        )
    model.train(was_training)
    ids = torch.full((len(drawn), width), config.pad_token_id, device=device)
    ids[:, : drawn.shape[1]] = drawn
    ends = (ids[:, 1:] == config.eos_token_id).int()
    mask = torch.cat((torch.ones_like(ends[:, :1]), 1 - (ends.cumsum(1) - ends).clamp(max=1)), dim=1)  # up to the end
    ended = ends.any(1).tolist()
    lengths = mask.sum(1).tolist()
    texts = tokenizer.decode_batch([row[1:n] for row, n in zip(ids.tolist(), lengths, strict=True)])
    scores = reward(image_ids.tolist(), texts, ended).to(device)
    groups = scores.view(-1, samples)
    others = (groups.sum(1, keepdim=True) - groups) / (samples - 1)
    batch = {
        "input_ids": ids,
        "labels": ids.masked_fill(mask == 0, -100),
        "attention_mask": mask,
        **image,
        "image_ids": image_ids,
        "row_weights": (groups - others).flatten(),
        "write_memory": False,
    }
    return batch, scores.mean()


def still_tower(model: BitMarForCausalLM, pixels: Tensor) -> Tensor:
    """Patch features (B, N_p, D_v) from a tower that does not learn, its batch norms neither."""
    tower = model.model.vision_tower
    assert tower is not None
    was_training = tower.training
    tower.eval()
    with torch.no_grad():
        features: Tensor = tower(pixels)
    tower.train(was_training)
    return features
