"""The PyTorch half as a `Scorer`: in batches, in float32, for checkpoints and for models that are being trained."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import Tensor

from bitmar.core.errors import FormatError, ImageError
from bitmar.core.image import load_photo, preprocess
from bitmar.core.ternary import F32
from bitmar.evaluate.scorer import OnProgress, Picture, Text, is_features
from bitmar.export import read_config
from bitmar.model.configuration_bitmar import BitMarConfig
from bitmar.model.image_processing_bitmar import BitMarImageProcessor
from bitmar.model.modeling_bitmar import BitMarForCausalLM
from bitmar.runtime.text import check_ids, encode

_BATCH_TOKENS = 4096
_MOST_ROWS = 128
_PIECE = 1024  # tokens of one forward; a longer text goes through the cache, so that attention's T x T stays small
_LOGITS = 1 << 25  # that exist at the same time


class TorchScorer:
    """A BitMar model in PyTorch. The model's mode (training or not) is as before after every call.

    model: on any device, weights in float32. tokenizer: the one it was trained with. photos: how its tower wants
    them; None where pictures come as features only.
    """

    def __init__(
        self,
        model: BitMarForCausalLM,
        tokenizer: Tokenizer,
        photos: BitMarImageProcessor | None = None,
        *,
        name: str = "model",
        pictures_at_once: int = 64,
    ) -> None:
        self.model, self.photos = model, photos
        self.name, self.pictures_at_once = name, pictures_at_once
        self.tokenizer = Tokenizer.from_str(tokenizer.to_str())
        self.tokenizer.encode_special_tokens = True  # a text to be scored cannot write <eos>
        self.tokenizer.no_truncation()
        self.tokenizer.no_padding()

    @classmethod
    def from_checkpoint(cls, folder: str | Path) -> TorchScorer:
        """From a checkpoint folder, on the GPU if there is one. Raises FormatError for a damaged or incomplete one."""
        folder = Path(folder)
        model = BitMarForCausalLM(BitMarConfig(**read_config(folder).to_dict()))
        try:
            model.load_state_dict(load_file(folder / "model.safetensors"))
            tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
            photos = BitMarImageProcessor.from_pretrained(folder)
        except (OSError, RuntimeError, SafetensorError) as error:
            raise FormatError(f"{folder} is no whole checkpoint: {error}") from error
        except Exception as error:  # the tokenizer's Rust side raises nothing narrower
            raise FormatError(f"{folder / 'tokenizer.json'} cannot be read: {error}") from error
        device = "cuda" if torch.cuda.is_available() else "cpu"
        return cls(model.float().to(device), tokenizer, photos, name=str(folder))

    def loglikelihood(
        self,
        texts: Sequence[Text],
        images: Sequence[Picture | None] | None = None,
        *,
        on_progress: OnProgress | None = None,
    ) -> list[F32]:
        config = self.model.config
        rows = [encode(self.tokenizer, text) if isinstance(text, str) else list(text) for text in texts]
        rows = [check_ids(row, config.vocab_size).tolist() if row else [] for row in rows]
        scores: list[F32] = [np.zeros(0, np.float32)] * len(rows)
        done = sum(not row for row in rows)
        for batch in _by_length(rows):
            pictures = None if images is None else [images[i] for i in batch]
            for i, score in zip(batch, self._score([rows[i] for i in batch], pictures), strict=True):
                scores[i] = score
            done += len(batch)
            if on_progress is not None:
                on_progress(done)
        return scores

    def caption(self, images: Sequence[Picture], *, beams: int = 1, max_tokens: int = 32) -> list[str]:
        config, captions = self.model.config, []
        for start in range(0, len(images), self.pictures_at_once):
            with self._evaluating():
                features = self._features(images[start : start + self.pictures_at_once])
                prompt = torch.full((len(features), 1), config.bos_token_id, device=features.device)
                written = self.model.generate(
                    prompt,
                    attention_mask=torch.ones_like(prompt),
                    vision_features=features,
                    max_new_tokens=max_tokens,
                    num_beams=beams,
                    do_sample=False,
                    eos_token_id=config.eos_token_id,
                    pad_token_id=config.pad_token_id,
                )
            captions += [self._text(row) for row in written[:, 1:].tolist()]
        return captions

    @contextmanager
    def _evaluating(self) -> Iterator[None]:
        training, kind = self.model.training, self.model.device.type
        self.model.eval()
        try:
            with torch.no_grad(), torch.autocast(kind, enabled=False):
                yield
        finally:
            self.model.train(training)

    def _text(self, ids: list[int]) -> str:
        eos = self.model.config.eos_token_id
        return self.tokenizer.decode(ids[: ids.index(eos)] if eos in ids else ids).strip()

    def _score(self, rows: list[list[int]], pictures: list[Picture | None] | None) -> list[F32]:
        """Rows of token ids, none of them empty -> their log-probabilities; one batch, padded on the right."""
        device, config = self.model.device, self.model.config
        length = max(map(len, rows))
        target = torch.full((len(rows), length), config.pad_token_id)
        mask = torch.zeros(len(rows), length, dtype=torch.long)
        for i, row in enumerate(rows):
            target[i, : len(row)] = torch.tensor(row)
            mask[i, : len(row)] = 1
        # What predicts token t stands at t - 1; the last token predicts nothing that is asked for.
        ids = torch.cat((torch.full((len(rows), 1), config.bos_token_id), target[:, :-1]), dim=1).to(device)
        target, mask = target.to(device), mask.to(device)
        scores = torch.zeros(len(rows), length, device=device)
        with self._evaluating():
            seen: dict[str, Tensor] = {}
            if pictures is not None and any(picture is not None for picture in pictures):
                shown = torch.tensor([picture is not None for picture in pictures], device=device)
                seen = {"vision_features": self._features(pictures), "image_mask": shown}
            for start, hidden in self._hidden(ids, mask, seen):
                valid = mask[:, start : start + hidden.shape[1]] != 0
                wanted = target[:, start : start + hidden.shape[1]][valid]
                scores[:, start : start + hidden.shape[1]][valid] = self._log_probabilities(hidden[valid], wanted)
        return [score[: len(row)].numpy() for score, row in zip(scores.cpu(), rows, strict=True)]

    def _hidden(self, ids: Tensor, mask: Tensor, seen: dict[str, Tensor]) -> Iterator[tuple[int, Tensor]]:
        """Hidden states (B, t, d) and where they begin; in pieces if the (then single) text is long."""
        body = self.model.model
        if ids.shape[1] <= _PIECE:
            yield 0, body(ids, attention_mask=mask, **seen).last_hidden_state
            return
        cache = body.new_cache()
        for start in range(0, ids.shape[1], _PIECE):
            yield start, body(ids[:, start : start + _PIECE], past_key_values=cache, **seen).last_hidden_state

    def _log_probabilities(self, hidden: Tensor, target: Tensor) -> Tensor:
        """Hidden states (n, d) and the tokens that follow (n,) -> (n,), never holding n x V logits."""
        rows = max(1, _LOGITS // self.model.config.vocab_size)
        pieces = zip(hidden.split(rows), target.split(rows), strict=True)
        return torch.cat([-F.cross_entropy(self.model.lm_head(h).float(), t, reduction="none") for h, t in pieces])

    def _features(self, pictures: Sequence[Picture | None]) -> Tensor:
        """Patch features (B, N_p, D_v); zeros where there is no picture."""
        config = self.model.config
        shape = (config.vision_grid**2, config.vision_dim)
        features = torch.zeros(len(pictures), *shape, device=self.model.device)
        photos = []
        for i, picture in enumerate(pictures):
            if is_features(picture):
                values = np.asarray(picture, np.float32)
                if values.shape != shape or not np.isfinite(values).all():
                    raise ImageError(f"patch features are finite and of the shape {shape}, not {values.shape}")
                features[i] = torch.from_numpy(values).to(features.device)
            elif picture is not None:
                photos.append(i)
        if photos:
            features[photos] = self._look([pictures[i] for i in photos])
        return features

    def _look(self, photos: Sequence[Picture | None]) -> Tensor:
        tower, processor = self.model.model.vision_tower, self.photos
        if tower is None or processor is None:
            raise ImageError(
                f"{self.name} has no vision tower, it was trained on another network's patch features: give it those"
            )
        size, mean, std = processor.size, processor.image_mean, processor.image_std
        pixels = [preprocess(load_photo(photo), size=size, mean=mean, std=std) for photo in photos if photo is not None]
        return tower(torch.from_numpy(np.stack(pixels)).to(self.model.device)).float()


def _by_length(rows: Sequence[Sequence[int]]) -> Iterator[list[int]]:
    """Indices of the rows that are not empty, in batches of (nearly) one length, so that hardly anything is padded."""
    batch: list[int] = []
    for i in sorted((i for i, row in enumerate(rows) if row), key=lambda i: len(rows[i])):
        length = len(rows[i])  # the longest so far
        most = 1 if length > _PIECE else min(_MOST_ROWS, _BATCH_TOKENS // length)
        if len(batch) >= most:
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch
