"""A classifier on a checkpoint's hidden states: the head of BabyLM 2025's pipeline, saved as a folder and read back."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn as nn
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from tokenizers import Tokenizer
from torch import Tensor
from transformers.utils import logging as transformers_logging

from bitmar.core.errors import ConfigError, FormatError, nearest
from bitmar.core.files import write_atomically
from bitmar.data.sources import OnBad
from bitmar.model.configuration_bitmar import BitMarConfig
from bitmar.model.modeling_bitmar import BitMarModel
from bitmar.train.runs import WEIGHTS, check_checkpoint
from bitmar.train.tasks import Label, Task, read_examples

POOLINGS = ("last", "mean")
CARD = "classifier.json"
_ROWS = 64  # of one forward without gradients
Row = Sequence[int] | Tensor  # token ids, or a state (d,)
_GROUP = 8  # rows of a batch that go through the body together on a CPU


class Head(nn.Sequential):
    """Pooled states (B, d) -> logits (B, C): norm, linear, GELU, norm, dropout, linear; the norms have no weights."""

    def __init__(self, width: int, classes: int, dropout: float = 0.1) -> None:
        super().__init__(
            nn.LayerNorm(width, elementwise_affine=False),
            nn.Linear(width, width),
            nn.GELU(),
            nn.LayerNorm(width, elementwise_affine=False),
            nn.Dropout(dropout),
            nn.Linear(width, classes),
        )


class Classifier(nn.Module):
    """A text model with a head that names one of `labels`.

    body: a `BitMarModel`, with `last_hidden_state`. task: how lines become texts. pooling: "last", the state
    of the last token (the first one of a causal model has seen nothing), or "mean". max_length: longest input in
    tokens; of a pair the longer text is cut. The memory of a BitMar body is read as it was trained, and not written,
    in training as in use.
    """

    body: Any

    def __init__(
        self,
        body: Any,
        tokenizer: Tokenizer,
        task: Task,
        labels: Sequence[Label],
        *,
        pooling: str = "last",
        max_length: int = 512,
    ) -> None:
        super().__init__()
        if pooling not in POOLINGS:
            raise ConfigError(f"pooling is one of {', '.join(POOLINGS)}, not {pooling!r}{nearest(pooling, POOLINGS)}")
        if max_length < 2:
            raise ConfigError(f"max_length must be at least 2 tokens, not {max_length}")
        self.body, self.head = body, Head(body.config.hidden_size, len(labels))
        self.task, self.labels, self.pooling = task, tuple(labels), pooling
        self.max_length = min(max_length, getattr(body.config, "max_position_embeddings", None) or max_length)
        self.tokenizer = Tokenizer.from_str(tokenizer.to_str())
        self.tokenizer.encode_special_tokens = True  # a text cannot write <eos>
        self.tokenizer.no_padding()
        self.tokenizer.enable_truncation(self.max_length)  # "longest_first", the pipeline's truncation=True

    @classmethod
    def from_checkpoint(cls, folder: str | Path, task: Task, labels: Sequence[Label], **options: Any) -> Classifier:
        """On a checkpoint folder, with a fresh head. Raises FormatError for a folder that is none, or not whole."""
        folder = check_checkpoint(folder).parent
        with _reading(folder), _quiet():
            body, found = BitMarModel.from_pretrained(folder, output_loading_info=True)
            tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        if missing := sorted(found["missing_keys"]):
            raise FormatError(f"{folder} is not whole: {len(missing)} tensors are missing, {missing[0]} among them")
        if getattr(body, "vision_tower", None) is not None:  # these tasks have no pictures; it is most of the weights
            body.vision_tower = body.config.vision_tower = None
        body.config.auto_map = {}  # the folder of a classifier carries no code
        return cls(body.float(), tokenizer, task, labels, **options)

    def encode(self, texts: Sequence[tuple[str, ...]]) -> list[list[int]]:
        """Token ids, as the checkpoint's tokenizer writes a text or a pair: BOS first, nothing between the two."""
        return [encoding.ids for encoding in self.tokenizer.encode_batch([t if len(t) > 1 else t[0] for t in texts])]

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        states: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """input_ids, attention_mask (B, T), padded on the right, or the states (B, d) of a frozen body; labels (B,) ->
        logits (B, C), loss, accuracy."""
        if states is None:
            assert input_ids is not None and attention_mask is not None
            states = self._pooled(input_ids, attention_mask)
        logits = self.head(states)
        if labels is None:
            return {"logits": logits}
        accuracy = (logits.argmax(-1) == labels).float().mean()
        return {"logits": logits, "loss": F.cross_entropy(logits, labels), "accuracy": accuracy}

    def _pooled(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """States to judge by (B, d).

        In training rows of like length go through the body together, a group at a time: on a CPU padding costs what
        tokens cost, and a row's state does not depend on its neighbours.
        """
        lengths = attention_mask.sum(1)
        order = lengths.argsort(stable=True)
        groups = order.split(_GROUP) if input_ids.device.type == "cpu" and self.training else (order,)
        pooled = torch.cat([self._states(input_ids[rows], attention_mask[rows], lengths[rows]) for rows in groups])
        return pooled[order.argsort()]

    def _states(self, input_ids: Tensor, attention_mask: Tensor, lengths: Tensor) -> Tensor:
        longest = int(lengths.max())
        input_ids, attention_mask = input_ids[:, :longest], attention_mask[:, :longest]
        states = self.body(
            input_ids=input_ids, attention_mask=attention_mask, use_cache=False, write_memory=False
        ).last_hidden_state  # (B, T, d)
        if self.pooling == "last":
            return cast(Tensor, states[torch.arange(len(states), device=states.device), lengths - 1])
        return cast(Tensor, (states * attention_mask.unsqueeze(-1)).sum(1) / lengths.unsqueeze(-1))

    def freeze(self) -> None:
        """From now on only the head is trained."""
        self.body.requires_grad_(False)

    def pad(self, rows: Sequence[Row]) -> dict[str, Tensor]:
        """Rows of token ids as input_ids and attention_mask (B, T); states as `states` (B, d)."""
        states = [row for row in rows if isinstance(row, Tensor)]
        if states:
            return {"states": torch.stack(states)}
        ids = torch.full((len(rows), max(map(len, rows))), self.body.config.pad_token_id or 0)
        mask = torch.zeros_like(ids)
        for i, row in enumerate(rows):
            ids[i, : len(row)], mask[i, : len(row)] = torch.tensor(row), 1
        return {"input_ids": ids, "attention_mask": mask}

    def probabilities(self, rows: Sequence[Row], on_progress: Callable[[int], None] | None = None) -> Tensor:
        """Rows of token ids, or states -> probabilities (n, C) on the CPU. The model's mode is as before afterwards."""
        return self._each(lambda **inputs: self(**inputs)["logits"].float().softmax(-1), rows, on_progress)

    def states(self, rows: Sequence[Row], on_progress: Callable[[int], None] | None = None) -> Tensor:
        """Rows of token ids -> the states to judge by (n, d) on the CPU, as `probabilities` has them."""
        return self._each(self._pooled, rows, on_progress)

    @torch.no_grad()
    def _each(self, f: Callable[..., Tensor], rows: Sequence[Row], on_progress: Callable[[int], None] | None) -> Tensor:
        was_training, device = self.training, next(self.parameters()).device
        self.eval()
        found: dict[int, Tensor] = {}
        order = sorted(range(len(rows)), key=lambda i: len(rows[i]))  # rows of one length need no padding
        for start in range(0, len(order), _ROWS):
            batch = order[start : start + _ROWS]
            inputs = {name: tensor.to(device) for name, tensor in self.pad([rows[i] for i in batch]).items()}
            found.update(zip(batch, f(**inputs).cpu(), strict=True))
            if on_progress is not None:
                on_progress(start + len(batch))
        self.train(was_training)
        return torch.stack([found[i] for i in range(len(rows))])

    def predict(self, path: str | Path, on_bad: OnBad | None = None) -> Iterator[dict[str, Any]]:
        """Its predictions for every line of a jsonl file, which needs no labels: {"line", "pred", "probability"}.

        Lines are counted from 1; one that does not fit the task goes to `on_bad` and is left out. Raises DataError.
        """
        examples = read_examples(path, self.task, on_bad, labelled=False)
        for example, row in zip(examples, self.probabilities(self.encode([e.texts for e in examples])), strict=True):
            best = int(row.argmax())
            yield {"line": example.number + 1, "pred": self.labels[best], "probability": round(row[best].item(), 5)}

    def write_weights(self, path: Path) -> None:
        """All weights as one safetensors file, atomically."""
        write_atomically(path, save({name: tensor.contiguous() for name, tensor in self.state_dict().items()}))

    def save(self, folder: str | Path) -> Path:
        """Writes the folder that `load_classifier` reads. The weights come last: with them it is whole."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        task = {name: getattr(self.task, name) for name in Task.__dataclass_fields__}
        card = {"task": task, "labels": self.labels, "pooling": self.pooling, "max_length": self.max_length}
        self.body.config.save_pretrained(folder)
        write_atomically(folder / "tokenizer.json", self.tokenizer.to_str(pretty=True).encode())
        write_atomically(folder / CARD, json.dumps(card, indent=2).encode())
        self.write_weights(folder / WEIGHTS)
        return folder


def load_classifier(folder: str | Path) -> Classifier:
    """A fine-tuned model, on the GPU if there is one. Raises FormatError for a folder that is damaged or none."""
    folder = Path(folder)
    if not (folder / CARD).is_file() or not (folder / WEIGHTS).is_file():
        raise FormatError(f"{folder} is no fine-tuned model: give the folder of a finished seed, such as OUT/seed-42")
    with _reading(folder), _quiet():
        card = json.loads((folder / CARD).read_text(encoding="utf-8"))
        fields: Any = {n: tuple(v) if isinstance(v, list) else v for n, v in card.pop("task").items()}
        task = Task(**fields)
        body = BitMarModel(BitMarConfig.from_pretrained(folder))
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        model = Classifier(body.float(), tokenizer, task, card.pop("labels"), **card)
        model.load_state_dict(load_file(folder / WEIGHTS))
    return model.eval().to("cuda" if torch.cuda.is_available() else "cpu")


@contextmanager
def _reading(folder: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        raise FormatError(f"{folder} cannot be read: {error}") from error
    except Exception as error:
        if type(error) is not Exception:
            raise
        raise FormatError(
            f"{folder / 'tokenizer.json'} cannot be read: {error}"
        ) from error  # the tokenizer's Rust side


@contextmanager
def _quiet() -> Iterator[None]:
    """Without transformers' bars, and its report on the language-modelling head, which a classifier leaves out."""
    before, bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(before)
        if bars:
            transformers_logging.enable_progress_bar()
