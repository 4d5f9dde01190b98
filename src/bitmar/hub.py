"""A packed model as a repository of the Hugging Face Hub: the folder, checked, and its upload."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, HfApi, ModelCard, ModelCardData, get_token
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

from bitmar.api import BitMar
from bitmar.core.container import open_container
from bitmar.core.errors import BitMarError, ConfigError, DataError
from bitmar.core.image import load_photo
from bitmar.core.strict_json import parse_json
from bitmar.unpack import unpack

PACKED, CARD, PHOTOS = "model.bitmar", "README.md", "photos"
_PAPER = "arxiv:2510.10560"
_SPDX = ("apache-2.0", "mit", "bsd-3-clause", "cc0-1.0", "cc-by-4.0", "cc-by-sa-4.0", "cc-by-nc-4.0", "cc-by-nc-sa-4.0")
_TAGS = ("bitmar", "transformers", "image-captioning", "ternary", "bitnet", "episodic-memory", "custom_code", _PAPER)
_SIDE = 512  # pixels of a widget's photo, the longer side
# Figures of docs/figures.json that the Hub's leaderboards have a place for: task, dataset, metric.
_RESULTS = {
    "caption.cider": ("image-to-text", "flickr8k", "Flickr8k, validation", "cider"),
    "caption.bleu_4": ("image-to-text", "flickr8k", "Flickr8k, validation", "bleu"),
    "blimp.score": ("text-generation", "blimp", "BLiMP, as BabyLM 2025 filters it", "accuracy"),
}


@dataclass(frozen=True)
class Repository:
    """A folder that is ready to be uploaded. files: names and sizes in bytes. url: where it went, None for nowhere."""

    repo: str
    folder: Path
    files: dict[str, int]
    metadata: dict[str, Any]
    url: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for `json.dumps`."""
        return {**vars(self), "folder": str(self.folder)}


def logged_in() -> bool:
    """Whether there is a token, from `hf auth login` or HF_TOKEN."""
    return get_token() is not None


def prepare(
    model: BitMar,
    repo: str,
    folder: str | Path,
    *,
    licence: str | None = None,
    figures: str | Path | None = None,
    photos: Sequence[str | Path] = (),
) -> Repository:
    """Write the repository: the packed file, the same as a checkpoint for transformers, README.md with its metadata.

    repo: OWNER/NAME. folder: new or empty. licence: in place of the card's. figures: a file such as docs/figures.json,
    whose results go into the metadata's model-index. photos: shown beside what the model says of them.
    Raises ConfigError for a name that the Hub refuses, for a model without a licence and for a folder in use, DataError
    for figures that are none, ImageError, DependencyError without torch and transformers.
    """
    folder = Path(folder)
    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        raise ConfigError(f"{repo!r} is no name of a repository: {error}") from None
    if repo.count("/") != 1:
        raise ConfigError(f"{repo!r} names no owner: give OWNER/NAME")
    licence = licence or model.card.get("licence")
    if not licence:
        raise ConfigError(f"the card of {model.path} states no licence: give one with --licence")
    if folder.is_dir() and any(folder.iterdir()):
        raise ConfigError(f"{folder} is not empty: name another folder, or delete this one")
    results = [] if figures is None else read_results(figures)
    shown = [_shown(model, Path(photo)) for photo in photos]
    if len({name for name, _, _ in shown}) < len(shown):
        raise ConfigError("two of the photos have the same name: the repository shows them by their names")
    unpack(model.path, folder)
    shutil.copyfile(model.path, folder / PACKED)
    for name, _, picture in shown:
        (folder / PHOTOS).mkdir(exist_ok=True)
        picture.save(folder / PHOTOS / name, quality=90)
    metadata = card_data(repo, str(licence), results, [(f"{PHOTOS}/{name}", text) for name, text, _ in shown])
    (folder / CARD).write_text(_readme(repo, model, str(licence), metadata), encoding="utf-8")
    open_container(folder / PACKED)
    return Repository(repo, folder, _files(folder), check_card(folder / CARD))


def upload(ready: Repository, *, private: bool = False) -> Repository:
    """Make the repository if it is not there, and upload the folder. Raises BitMarError where the Hub refuses."""
    api = HfApi()
    try:
        api.create_repo(ready.repo, private=private, exist_ok=True)
        api.upload_folder(repo_id=ready.repo, folder_path=str(ready.folder), commit_message="Upload with bitmar push")
    except Exception as error:  # the client lets errors of several network libraries through
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise BitMarError(f"the Hub does not take {ready.repo} ({reason}); {ready.folder} is complete") from error
    return Repository(**{**vars(ready), "url": f"{api.endpoint}/{ready.repo}"})


def card_data(
    repo: str, licence: str, results: list[EvalResult], widget: Sequence[tuple[str, str]] = ()
) -> ModelCardData:
    """The metadata on top of README.md. widget: photos of the repository with their captions."""
    known = licence.lower() in _SPDX
    more: dict[str, Any] = (
        {} if known else {"license_name": "see-below", "license_link": f"https://huggingface.co/{repo}#licence"}
    )
    if widget:
        more["widget"] = [{"src": src, "output": {"text": text}} for src, text in widget]
    return ModelCardData(
        language="en",
        license=licence.lower() if known else "other",
        library_name="bitmar",
        pipeline_tag="image-to-text",
        model_name=repo.partition("/")[2],
        eval_results=results,
        tags=list(_TAGS),
        **more,
    )


def check_card(path: Path) -> dict[str, Any]:
    """The metadata of a README.md as the Hub's own client reads it. Raises DataError where it would refuse it."""
    try:
        card = ModelCard.load(path)
        found = card.data.to_dict()
    except (ValueError, TypeError, KeyError) as error:
        raise DataError(f"{path}: its metadata are no model card's: {error}") from error
    missing = [name for name in ("license", "library_name", "pipeline_tag", "tags") if not found.get(name)]
    if missing:
        raise DataError(f"{path}: its metadata lack {', '.join(missing)}")
    return dict(found)


def read_results(path: str | Path) -> list[EvalResult]:
    """The results in a file of figures, each with the command that measured it."""
    try:
        document = parse_json(Path(path).read_bytes())
        found = []
        for name, (task, dataset, title, metric) in _RESULTS.items():
            group, _, figure = name.partition(".")
            if group in document and figure in document[group]["figures"]:
                measured = document[group]
                found.append(
                    EvalResult(
                        task_type=task,
                        dataset_type=dataset,
                        dataset_name=title,
                        metric_type=metric,
                        metric_name=figure,
                        metric_value=round(float(measured["figures"][figure]["value"]), 4),
                        metric_config=f"{measured['command']} ({measured['date']})",
                    )
                )
        return found
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path} is no file of figures as `make figures` keeps them: {error!r:.200}") from error


def _shown(model: BitMar, photo: Path) -> tuple[str, str, Any]:
    picture = load_photo(photo)
    caption = str(model.caption(picture))
    picture.thumbnail((_SIDE, _SIDE))
    return f"{photo.stem}.jpg", caption, picture


def _readme(repo: str, model: BitMar, licence: str, data: ModelCardData) -> str:
    config, card = model.config, dict(model.card)
    size = model.path.stat().st_size / 1e6
    lines = [
        "---",
        data.to_yaml(),
        "---",
        "",
        f"# {repo.partition('/')[2]}",
        "",
        "A BitMar ([arXiv 2510.10560](https://arxiv.org/abs/2510.10560)): describes photos offline, without PyTorch, "
        f"from one file of {size:.1f} MB. Ternary language model, d = {config.hidden_size}, {config.encoder_layers} + "
        f"{config.decoder_layers} layers, a vocabulary of {config.vocab_size:,}, a memory of {config.memory_slots} "
        "slots.",
        "",
        "```python",
        "import bitmar  # pip install bitmar",
        "",
        f'model = bitmar.load("hf://{repo}")',
        'print(model.caption("photo.jpg"))',
        "```",
        "",
        "The same weights as a checkpoint for transformers, to fine-tune or to measure (it reads patch features; the "
        f"tower for photos is in `{PACKED}`):",
        "",
        "```python",
        "from transformers import AutoModelForCausalLM, AutoTokenizer",
        "",
        f'model = AutoModelForCausalLM.from_pretrained("{repo}", trust_remote_code=True)',
        f'tokenizer = AutoTokenizer.from_pretrained("{repo}", trust_remote_code=True)',
        "```",
        "",
        "## Licence",
        "",
        licence,
        "",
    ]  # fmt: skip
    sources = card.pop("training_data", [])
    if sources:
        lines += ["## Training data", "", *(f"- {source}" for source in sources), ""]
    for key in ("limits", "figures", "command", "adapted"):
        if key in card:
            lines += [f"## {key.capitalize()}", "", _text(card[key]), ""]
    tower = card.get("vision_tower")
    if isinstance(tower, Mapping):
        lines += [
            "## Vision tower",
            "",
            *(f"- {key}: {tower[key]}" for key in ("source", "licence") if key in tower),
            "",
        ]
    return "\n".join(lines)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else f"```json\n{json.dumps(value, indent=1)}\n```"


def _files(folder: Path) -> dict[str, int]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.stat().st_size for path in files}
