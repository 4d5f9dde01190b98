"""The PyTorch half as a `Scorer`: in batches, in float32, for checkpoints and for models that are being trained."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import Tensor
from transformers import StoppingCriteriaList

from bitmar.core.errors import FormatError, ImageError
from bitmar.core.image import load_photo, preprocess
from bitmar.core.ternary import F32
from bitmar.evaluate.continuation import Continuation, check_write, cut
from bitmar.evaluate.protocol import OnProgress, Picture, Text, is_features
from bitmar.export import read_config
from bitmar.model.configuration_bitmar import BitMarConfig
from bitmar.model.image_processing_bitmar import BitMarImageProcessor
from bitmar.model.modeling_bitmar import BitMarForCausalLM
from bitmar.runtime.cache import ImageTokens
from bitmar.runtime.options import GenerationOptions
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

    rounding = 0.1  # a sum in another order may tip an int8 rounding, which moves single tokens by hundredths

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
        self.vocab_size, self.has_tower = model.config.vocab_size, None not in (photos, model.model.vision_tower)
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

    def caption(self, images: Sequence[Picture], *, beams: int | None = None, max_tokens: int = 32) -> list[str]:
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
                    num_beams=beams or 1,
                    do_sample=False,
                    eos_token_id=config.eos_token_id,
                    pad_token_id=config.pad_token_id,
                )
            captions += [self._text(row).strip() for row in written[:, 1:].tolist()]
        return captions

    def look(self, pictures: Sequence[Picture]) -> list[Picture]:
        seen: list[Picture] = []
        for start in range(0, len(pictures), self.pictures_at_once):
            with self._evaluating():
                seen += list(self._features(pictures[start : start + self.pictures_at_once]).cpu().numpy())
        return seen

    def embed(self, texts: Sequence[str] = (), images: Sequence[Picture] = ()) -> tuple[F32, F32]:
        """As trained: the mean of the encoder's states over <bos> text <eos>, and that of the vision tokens."""
        body, config, device = self.model.model, self.model.config, self.model.device
        rows = [[config.bos_token_id, *encode(self.tokenizer, text), config.eos_token_id] for text in texts]
        written, shown = torch.zeros(len(rows), config.hidden_size), torch.zeros(len(images), config.hidden_size)
        with self._evaluating():
            for batch in _by_length(rows):
                length = max(len(rows[i]) for i in batch)
                ids = torch.full((len(batch), length), config.pad_token_id)
                mask = torch.zeros_like(ids)
                for row, i in enumerate(batch):
                    ids[row, : len(rows[i])], mask[row, : len(rows[i])] = torch.tensor(rows[i]), 1
                pooled = body(ids.to(device), attention_mask=mask.to(device)).text_pooled
                written[batch] = F.normalize(pooled.float(), dim=-1).cpu()
            for start in range(0, len(images), self.pictures_at_once):
                some = slice(start, start + self.pictures_at_once)
                shown[some] = F.normalize(body.vision(self._features(images[some])).float().mean(1), dim=-1).cpu()
        return written.numpy(), shown.numpy()

    def evidence(self, question: str, answer: str, picture: Picture) -> float:
        """None: the concepts' words are the packed model's."""
        return 0.0

    def remembered(self, text: str) -> F32 | None:
        if self.model.config.memory_integration == "off":
            return None
        ids = torch.tensor([[self.model.config.bos_token_id, *encode(self.tokenizer, text)]], device=self.model.device)
        with self._evaluating():
            slots: F32 = self.model.model(ids, write_memory=True).memory.slots[0].cpu().numpy()
        return slots

    def encode(self, text: str) -> list[int]:
        return encode(self.tokenizer, text)

    def compare(
        self,
        contexts: Sequence[Sequence[int]],
        options: Sequence[Sequence[Sequence[int]]],
        *,
        on_progress: OnProgress | None = None,
    ) -> list[list[Continuation]]:
        rows: dict[tuple[int, ...], list[tuple[int, int]]] = {}  # what goes in -> the (context, option) read from it
        for c, (context, choices) in enumerate(zip(contexts, options, strict=True)):
            for o, option in enumerate(choices):
                rows.setdefault((self.model.config.bos_token_id, *context, *option[:-1]), []).append((c, o))
        inputs, askers = list(rows), list(rows.values())
        found = [[Continuation(0.0, True)] * len(choices) for choices in options]
        missing = [len(choices) for choices in options]
        done = sum(not count for count in missing)
        for batch in _by_length(inputs):
            asked = [(row, c, o, len(contexts[c])) for row, i in enumerate(batch) for c, o in askers[i]]
            targets = [(row, start, options[c][o]) for row, c, o, start in asked]
            answers = self._follow([inputs[i] for i in batch], targets)
            for (_, c, o, _), answer in zip(asked, answers, strict=True):
                found[c][o] = answer
                missing[c] -= 1
                done += missing[c] == 0
            if on_progress is not None:
                on_progress(done)
        return found

    def write(
        self,
        contexts: Sequence[str],
        options: GenerationOptions,
        until: Sequence[str] = (),
        *,
        on_progress: OnProgress | None = None,
    ) -> list[str]:
        check_write(options)
        rows = [[self.model.config.bos_token_id, *self.encode(context)] for context in contexts]
        texts = [""] * len(rows)
        done = 0
        for batch in self._alike(rows, 1 if options.temperature else self.pictures_at_once):
            for i, text in zip(batch, self._write([rows[i] for i in batch], options, until), strict=True):
                texts[i] = text
            done += len(batch)
            if on_progress is not None:
                on_progress(done)
        return texts

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
        return self.tokenizer.decode(ids[: ids.index(eos)] if eos in ids else ids)

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

    def _follow(self, rows: list[tuple[int, ...]], targets: list[tuple[int, int, Sequence[int]]]) -> list[Continuation]:
        """Inputs of one batch, and for each answer its row, the place before its first token, and its tokens."""
        device, length = self.model.device, max(map(len, rows))
        ids = torch.full((len(rows), length), self.model.config.pad_token_id)
        mask = torch.zeros_like(ids)
        for i, row in enumerate(rows):
            ids[i, : len(row)], mask[i, : len(row)] = torch.tensor(row), 1
        # One entry for each token of each answer: whose it is, where it is predicted, and what it should be.
        wanted = [
            (a, row, start + t, token)
            for a, (row, start, tokens) in enumerate(targets)
            for t, token in enumerate(tokens)
        ]
        answer, line, place, token = torch.tensor(wanted, dtype=torch.long, device=device).reshape(-1, 4).unbind(1)
        totals = torch.zeros(len(targets), dtype=torch.float64, device=device)
        misses = torch.zeros_like(totals)
        with self._evaluating():
            for start, hidden in self._hidden(ids.to(device), mask.to(device), {}):
                here = (place >= start) & (place < start + hidden.shape[1])
                states = hidden[line[here], place[here] - start]
                for h, t, a in zip(
                    *(x.split(self._head_rows) for x in (states, token[here], answer[here])), strict=True
                ):
                    logits = self.model.lm_head(h).float()
                    totals.index_add_(0, a, -F.cross_entropy(logits, t, reduction="none").double())
                    misses.index_add_(0, a, (logits.argmax(-1) != t).double())
        return [Continuation(total, not miss) for total, miss in zip(totals.tolist(), misses.tolist(), strict=True)]

    def _write(self, rows: list[list[int]], options: GenerationOptions, until: Sequence[str]) -> list[str]:
        """Prompts of one length -> what follows each."""
        config, prompt = self.model.config, torch.tensor(rows, device=self.model.device)

        def stopped(ids: Tensor, scores: Tensor, **_: object) -> Tensor:
            texts = [self.tokenizer.decode(row) for row in ids[:, prompt.shape[1] :].tolist()]
            return torch.tensor([any(stop in text for stop in until) for text in texts], device=ids.device)

        chance: dict[str, Any] = {}
        if options.temperature:
            chance = {"temperature": float(options.temperature), "top_k": options.top_k, "top_p": float(options.top_p)}
        devices = [self.model.device] if self.model.device.type == "cuda" else []
        with self._evaluating(), torch.random.fork_rng(devices, enabled=options.seed is not None):
            if options.seed is not None:
                torch.manual_seed(options.seed)
            written = self.model.generate(
                prompt,
                attention_mask=torch.ones_like(prompt),
                max_new_tokens=options.max_tokens,
                do_sample=bool(options.temperature),
                repetition_penalty=float(options.repetition_penalty),
                stopping_criteria=StoppingCriteriaList([stopped]) if until else None,
                eos_token_id=config.eos_token_id,
                pad_token_id=config.pad_token_id,
                **chance,
            )
        return [cut(self._text(row), until) for row in written[:, prompt.shape[1] :].tolist()]

    @staticmethod
    def _alike(rows: Sequence[Sequence[int]], most: int) -> Iterator[list[int]]:
        """Indices of the rows, in batches of one length."""
        by_length: dict[int, list[int]] = {}
        for i, row in enumerate(rows):
            by_length.setdefault(len(row), []).append(i)
        for places in by_length.values():
            for start in range(0, len(places), most):
                yield places[start : start + most]

    def _hidden(self, ids: Tensor, mask: Tensor, seen: dict[str, Tensor]) -> Iterator[tuple[int, Tensor]]:
        """Hidden states (B, t, d) and where they begin; in pieces if the (then single) text is long."""
        body = self.model.model
        if ids.shape[1] <= _PIECE:
            yield 0, body(ids, attention_mask=mask, **seen).last_hidden_state
            return
        cache = body.new_cache()
        for start in range(0, ids.shape[1], _PIECE):
            yield start, body(ids[:, start : start + _PIECE], past_key_values=cache, **seen).last_hidden_state

    @property
    def _head_rows(self) -> int:
        """Tokens whose logits may exist at the same time."""
        return max(1, _LOGITS // int(self.model.config.vocab_size))

    def _log_probabilities(self, hidden: Tensor, target: Tensor) -> Tensor:
        """Hidden states (n, d) and the tokens that follow (n,) -> (n,), never holding n x V logits."""
        pieces = zip(hidden.split(self._head_rows), target.split(self._head_rows), strict=True)
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
        pixels = []
        for photo in photos:
            if photo is None or isinstance(photo, ImageTokens):
                raise ImageError("these ImageTokens are the runtime half's: give the photo itself")
            pixels.append(preprocess(load_photo(photo), size=size, mean=mean, std=std))
        features: Tensor = tower(torch.from_numpy(np.stack(pixels)).to(self.model.device))
        return features.float()


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
