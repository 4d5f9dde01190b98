"""A fit stage: from a recipe's words to a model, its batches, and a trainer."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from bitmar.core.files import write_atomically
from bitmar.data.caption_batches import CaptionBatches
from bitmar.model.checkpoint import save_checkpoint
from bitmar.model.configuration_bitmar import BitMarConfig
from bitmar.model.modeling_bitmar import BitMarForCausalLM
from bitmar.train.card import card_of
from bitmar.train.controller import ControllerCallback
from bitmar.train.monitor import evaluate, forward_arguments, gates, loss_terms, save_attention_maps, zero_fractions
from bitmar.train.ranks import is_main, main_first, wait
from bitmar.train.recipe import PACKED
from bitmar.train.self_critical import Critic, still_tower
from bitmar.train.sources import batches, concepts_of
from bitmar.train.stages import Fit
from bitmar.train.start import CONCEPTS, TOWER, VALUES, bank_sizes, load_packed, load_weights, put_concepts
from bitmar.train.trainer import BatchTrainer, reporting_full_disk
from bitmar.train.words import WordCounter, WordsSeen
from bitmar.train.workspace import Workspace


class FitTrainer(BatchTrainer):
    """Adds to `BatchTrainer` what only a BitMar model has: chains of episodes, held-out checks, words seen."""

    def __init__(
        self,
        *args: Any,
        stage: Fit,
        checks: dict[str, Any],
        counter: WordCounter,
        words: WordsSeen,
        controller: ControllerCallback | None = None,
        critic: Critic | None = None,
        **kwargs: Any,
    ) -> None:
        self.stage, self.checks, self.counter, self.words, self.controller = stage, checks, counter, words, controller
        self.critic = critic
        super().__init__(*args, callbacks=[c for c in (words, controller) if c is not None], **kwargs)
        self._initial_zeros = zero_fractions(self.model)
        self._flops: tuple[float, int] | None = None  # what was spent, and the step, at the last log or resume

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        if self._flops is None:
            self._flops = float(self.state.total_flos), self.state.global_step
        source = self.train_dataset.source.which(int(inputs["batch_number"]))[0]
        if self.critic is not None and source == "photos":
            return super().compute_loss(partial(self.critic, model), inputs, return_outputs)
        stage = self.stage
        if stage.episodes > 1 and source == stage.chained():  # other photos stand alone
            inputs = forward_arguments(inputs, episodes=stage.episodes, one_shot=stage.one_shot)
        else:
            inputs = forward_arguments(inputs)
        if stage.tower_rate == 0 and "pixel_values" in inputs:
            inputs["vision_features"] = still_tower(self.model, inputs.pop("pixel_values"))
        words = self.counter.count(inputs["input_ids"], inputs["attention_mask"])
        self.words.seen += int(self._over_ranks(words, "sum"))
        loss, output = super().compute_loss(model, inputs, return_outputs=True)
        if self.controller is not None and output.alignment is not None:
            self.controller.cosine = float(self._over_ranks(output.alignment, "mean"))
        return (loss, output) if return_outputs else loss

    def _over_ranks(self, value: torch.Tensor | int, how: str) -> torch.Tensor:
        reduced: torch.Tensor = self.accelerator.reduce(torch.as_tensor(value, device=self.args.device), how)
        return reduced

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """Adds learning rates of their own: a distilled tower wants smaller steps, a memory may want larger ones."""
        optimizer: torch.optim.Optimizer | None = self.optimizer
        if optimizer is not None:
            return optimizer
        optimizer = super().create_optimizer(model)
        for names, rate in rates(self.stage).items():
            if rate in (0.0, 1.0):
                continue
            inside = {id(p) for p in parameters_in(self.model, names)}
            for group in list(optimizer.param_groups):
                own = [p for p in group["params"] if id(p) in inside]
                group["params"] = [p for p in group["params"] if id(p) not in inside]
                if own:
                    rest = {k: v for k, v in group.items() if k != "params"}
                    optimizer.add_param_group({**rest, "params": own, "lr": group["lr"] * rate})
        return optimizer

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs:
            zeros = zero_fractions(self.model)
            logs |= gates(self.model) | {"words": self.words.seen}
            logs["zero_fraction"] = round(sum(zeros.values()) / max(1, len(zeros)), 5)
            step, every = self.state.global_step, self.stage.evaluate_every
            flops, (spent, since) = float(self.state.total_flos + self.current_flos), self._flops or (0.0, 0)
            logs["flops_per_step"] = (flops - spent) / max(1, step - since)
            self._flops = flops, step
            before = self.state.log_history[-1]["step"] if self.state.log_history else 0
            if self.checks and (step // every > before // every or step >= self.state.max_steps):
                logs |= evaluate(self.model, self.checks)
                if self.is_world_process_zero():
                    self._write_zero_fractions(zeros)
                    save_attention_maps(self.model, self.checks, Path(self.args.output_dir) / f"attention-{step}.npz")
        super().log(logs, start_time)

    def _write_zero_fractions(self, zeros: dict[str, float]) -> None:
        path = Path(self.args.output_dir) / "zero_fraction.json"
        layers = {name: {"initial": self._initial_zeros[name], "now": value} for name, value in zeros.items()}
        write_atomically(path, json.dumps({"step": self.state.global_step, "layers": layers}, indent=1).encode())


def rates(stage: Fit) -> dict[tuple[str, ...], float]:
    """By the names of modules and parameters: the factor on the learning rate of what is in them."""
    return {("vision_tower",): stage.tower_rate, ("memory", "memory_proj", "memory_gate"): stage.memory_rate}


def parameters_in(model: torch.nn.Module, names: tuple[str, ...]) -> list[torch.nn.Parameter]:
    """The parameters that are called, or lie in modules that are called, like one of `names`."""
    return [p for path, p in model.named_parameters() if not set(names).isdisjoint(path.split("."))]


def build_model(stage: Fit, workspace: Workspace, folders: Mapping[str, Path]) -> BitMarForCausalLM:
    """The stage's model, fresh or from an earlier stage, with its distilled tower in place.

    folders: of all stages, by name.
    """
    from bitmar.data.tokenizer import special_ids

    tokenizer, concepts = workspace.tokenizer(), concepts_of(stage, workspace)
    special = special_ids(tokenizer)
    sizes = {} if concepts is None else bank_sizes(concepts.bank, concepts.stage.tokens)
    config = workspace.recipe.model_config(
        stage,
        vocab_size=tokenizer.get_vocab_size(),
        bos_token_id=special.bos,
        eos_token_id=special.eos,
        pad_token_id=special.pad,
        **({} if special.image is None else {"image_token_id": special.image}),
        **sizes,
    )
    torch.manual_seed(stage.training.seed)
    model = BitMarForCausalLM(BitMarConfig(**config.to_dict()))
    lacking = {VALUES}
    if (stage.start or "").endswith(PACKED):
        if anew := load_packed(model, Path(str(stage.start))):
            workspace.console.print(f"{stage.name}: of another shape in {stage.start}, begun anew: {', '.join(anew)}")
    elif stage.start:
        lacking = load_weights(model, folders.get(stage.start, Path(stage.start)), (TOWER, CONCEPTS))
    if concepts is not None and VALUES in lacking:
        put_concepts(model, concepts.bank, tokenizer, torch.from_numpy(_some_features(stage, workspace)))
    if stage.tower_from and model.model.vision_tower is not None:
        load_weights(model.model.vision_tower, folders[stage.tower_from], inside=TOWER)
    for names, rate in rates(stage).items():
        for parameter in parameters_in(model, names) if rate == 0 else ():
            parameter.requires_grad_(False)
    model.contrastive_weight, model.memory_weight = stage.contrastive, stage.memory
    return model


def _some_features(stage: Fit, workspace: Workspace) -> npt.NDArray[np.float32]:
    store = workspace.captioned_features(stage)
    return np.stack([store.features(i) for i in range(min(8, len(store)))])


def fit(stage: Fit, workspace: Workspace, folders: Mapping[str, Path]) -> None:
    """Runs a fit stage in its folder, from the last complete checkpoint if there is one; folders: of all stages."""
    settings, output = stage.training, folders[stage.name]
    with main_first(workspace.cache):
        source, checks = batches(stage, workspace)
        tokenizer = workspace.tokenizer()
        vision = vision_preprocessing(stage, workspace)
    model = build_model(stage, workspace, folders)
    tokenizer_json = tokenizer.to_str()
    if settings.compile:
        for block in (*model.model.encoder.layers, *model.model.decoder.layers, model.model.vision, model.model.fusion):
            block.compile()
        if model.model.vision_tower is not None and stage.tower_rate != 0:
            model.model.vision_tower.compile()

    def save(folder: Path) -> None:
        with reporting_full_disk(folder, "Free some space and run the same command again to resume"):
            save_checkpoint(folder, model, tokenizer_json, vision, card_of(workspace.recipe))

    critic = None
    if stage.objective == "cider":
        concepts, photos = concepts_of(stage, workspace), source.sources["photos"]
        assert isinstance(photos, CaptionBatches)
        critic = Critic(model, photos, tokenizer, stage, () if concepts is None else concepts.bank.names)
    trainer = FitTrainer(
        model,
        source,
        settings,
        output,
        name=stage.name,
        terms=loss_terms,
        counted=tuple(name for name in ("contrastive", "memory") if getattr(stage, name) > 0),
        on_checkpoint=save,
        on_saved=workspace.mirror.push_checkpoint if workspace.mirror else None,
        stage=stage,
        checks=checks,
        counter=WordCounter(tokenizer, model.config.vocab_size),
        words=WordsSeen((lambda millions: save(output / f"chck_{millions}M")) if settings.save_words else None),
        controller=ControllerCallback(model, settings.seed) if stage.controller else None,
        critic=critic,
    )
    trainer.train_or_resume()
    if is_main():
        save(output)
    wait()


def vision_preprocessing(stage: Fit, workspace: Workspace) -> dict[str, Any]:
    """The pictures' preprocessing, for the checkpoint."""
    from bitmar.data.photos import read_card

    pixels = workspace.pixels
    if stage.pictures == "photos":
        mean, std = list(pixels.mean), list(pixels.std)
        return {"size": pixels.size, "resize": "squash", "mean": mean, "std": std, "tower": "bitvit"}
    vision: dict[str, Any] = {"resize": "squash", "mean": [0.0] * 3, "std": [1.0] * 3, "tower": "features"}
    vision["size"] = pixels.size
    if stage.pictures == "features":
        store = workspace.captioned_features(stage)
        size = read_card(store.folder, "features")["size"]
        vision |= {"size": size, "feature_hash": store.fingerprint, "teacher": store.tower}
    return vision
