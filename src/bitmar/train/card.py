"""The model card of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bitmar.train.recipe import Recipe
from bitmar.train.stages import Fit, domains


def card_of(recipe: Recipe) -> dict[str, Any]:
    """The sources and the command, and what the recipe's `card` adds."""
    data = recipe.data
    texts = [data.text, *(stage.text for stage in recipe.stages if isinstance(stage, Fit))]
    paths = dict.fromkeys(str(domain.path) for text in texts for domain in domains(text).values())
    sources = [*paths, *data.captions, *data.photos, *data.labelled, *data.plain, *data.tagged]
    return {
        "training_data": ["/".join(Path(s).parts[-2:]) for s in sources],
        "command": f"bitmar train {recipe.path}",
        **recipe.card,
    }
