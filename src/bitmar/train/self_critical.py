"""Self-critical training: captions that the model itself draws, and what they are worth (arXiv 1612.00563).

Of several captions drawn for a picture each is judged against the others: what scores above their mean becomes
likelier, what scores below it less likely (arXiv 2003.09971). Rewards know the training captions alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor

from bitmar.core.vocabulary import Vocabulary
from bitmar.data.caption_batches import CaptionBatches
from bitmar.model.arguments import Rows
from bitmar.model.modeling_bitmar import BitMarForCausalLM
from bitmar.train.rewards import CiderReward, NamingReward
from bitmar.train.stages import Fit

# Images, captions, and whether their end token was written -> what each is worth.
Reward = Callable[[Sequence[int], Sequence[str], Sequence[bool]], Tensor]


class Critic:
    """A forward over captions that the model draws, in place of those of the batch."""

    def __init__(
        self,
        model: BitMarForCausalLM,
        captions: CaptionBatches,
        tokenizer: Tokenizer,
        stage: Fit,
        names: Sequence[str] = (),
    ) -> None:
        """names: the concepts that `stage.naming` rewards."""
        self.model, self.tokenizer, self.stage = model, tokenizer, stage
        references = captions.references()
        self.cider = CiderReward(references)
        self.naming = NamingReward(references, Vocabulary(names)) if stage.naming else None

    def reward(self, images: Sequence[int], captions: Sequence[str], ended: Sequence[bool]) -> Tensor:
        worth = self.cider(images, captions, ended)
        return worth if self.naming is None else worth + self.stage.naming * self.naming(images, captions)

    def __call__(self, wrapped: torch.nn.Module, **inputs: Any) -> dict[str, Any]:
        """wrapped: the model as it is called in training, which on many devices is not the model itself."""
        batch, reward = self_critical_inputs(self.model, inputs, self.reward, self.tokenizer, self.stage.samples)
        output = wrapped(**batch)
        terms = {name: output.get(name) for name in ("contrastive_loss", "memory_loss", "read_weights")}
        return {"loss": self.stage.reward * output.loss, "reward": reward, **terms}


def self_critical_inputs(
    model: BitMarForCausalLM,
    inputs: Mapping[str, Tensor],
    reward: Reward,
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
        "write_memory": False,
        "rows": Rows(
            image_ids=image_ids,
            weights=(groups - others).flatten(),
            evidence=bool(model.config.concept_evidence),  # `generate` drew with it
        ),
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
