"""A fit stage's batches: its text, its captioned photos and, with concepts, what else it trains on."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from bitmar.core.errors import ConfigError
from bitmar.data.caption_batches import CaptionBatches, CaptionedFeatures, Tagger
from bitmar.data.concepts.label_captions import truest
from bitmar.data.dataset import BatchSource, Mixture, TextBatches
from bitmar.data.joined import Joined, JoinedTags
from bitmar.data.tagged import TaggedCaptions
from bitmar.train.concept_stage import ConceptData
from bitmar.train.ranks import world_size
from bitmar.train.stages import Fit, Rewarded
from bitmar.train.workspace import Workspace

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from bitmar.data.features import FeatureStore

Sources = dict[str, BatchSource]


def batches(stage: Fit, workspace: Workspace) -> tuple[Mixture, Sources]:
    """The stage's mixture of sources, and the held-out sources by name."""
    settings, asked = stage.training, stage.sources()
    sources, checks = _texts(stage, workspace) if asked.get("text") else ({}, {})
    if stage.pictures != "none":
        of_photos = _from_features if stage.pictures == "features" else _from_photos
        for found, more in zip((sources, checks), of_photos(stage, workspace), strict=True):
            found |= more
    even = False
    if stage.mix is not None:  # shares of steps, which a mixture takes as shares of tokens
        weights = {name: asked[name] * sources[name].tokens_per_batch for name in sources if asked.get(name)}
    else:
        shares = {"text": stage.text_share if "photos" in sources else 1.0, "photos": 1 - stage.text_share}
        weights = {name: shares[name] for name in sources if shares[name] > 0}
        even = stage.weigh == "tokens" and len(weights) > 1
    steps = settings.steps * settings.accumulation * world_size()
    # All ranks have the same kind of batch in a step: they meet in the gathering of the contrastive loss.
    return Mixture(sources, weights, steps, settings.seed, block=world_size(), even=even), checks


def concepts_of(stage: Fit, workspace: Workspace) -> ConceptData | None:
    """The results of the stage of concepts that this stage names, if any."""
    return None if stage.concepts is None else ConceptData(workspace.recipe.bank_stage(stage.concepts), workspace)


def _texts(stage: Fit, workspace: Workspace) -> tuple[Sources, Sources]:
    recipe, seed = workspace.recipe, stage.training.seed
    corpus = workspace.corpus(stage.text or recipe.data.text)
    if corpus is None:
        return {}, {}
    length = recipe.model_config(stage).sequence_length
    checks: Sources = {}
    if any(len(domain.heldout.tokens) for domain in corpus.domains.values()):
        checks["text"] = TextBatches(corpus, stage.text_rows, length, seed, split="heldout")
    return {"text": TextBatches(corpus, stage.text_rows, length, seed)}, checks


def _from_features(stage: Fit, workspace: Workspace) -> tuple[Sources, Sources]:
    """Captioned photos as a teacher's features; with concepts the other sources too, and tags."""
    data, tokenizer = workspace.recipe.data, workspace.tokenizer()
    store = workspace.captioned_features(stage)
    _check_features(store, stage, workspace)
    sources: Sources = {}
    shown: CaptionedFeatures = store
    tags: Tagger | None = None
    if (concepts := concepts_of(stage, workspace)) is not None:
        sources = _further(stage, concepts, store, tokenizer)
        shown, tags = _with_tags(stage, concepts, store)
    captions = _captions(stage, workspace)
    photos = captions(shown, tags=tags, **_chained(stage, "photos"))
    checks: Sources = {}
    if data.validation:
        checks["captions"] = captions(workspace.validation_features(stage), training=False)
    elif photos.without:
        checks["captions"] = captions(store, training=False)
    return {**sources, "photos": photos}, checks


def _from_photos(stage: Fit, workspace: Workspace) -> tuple[Sources, Sources]:
    """Captioned photos as pixels, for the model's own tower."""
    data = workspace.recipe.data
    store = workspace.photos("train", stage.captions or data.captions)
    captions = partial(_captions(stage, workspace), None, pixels=workspace.pixels)
    photos = captions(photos=store, **_chained(stage, "photos"))
    held = workspace.photos("validation", data.validation) if data.validation else store
    checks: Sources = {}
    if data.validation or photos.without:
        checks["captions"] = captions(photos=held, training=False)
    return {"photos": photos}, checks


def _captions(stage: Fit, workspace: Workspace) -> partial[CaptionBatches]:
    """Batches of the stage's size; without validation photos a share of the others is held out, as of the text."""
    data = workspace.recipe.data
    return partial(
        CaptionBatches,
        tokenizer=workspace.tokenizer(),
        rows=stage.caption_rows,
        seed=stage.training.seed,
        max_length=stage.caption_length,
        heldout=0.0 if data.validation else data.heldout,
    )


def _chained(stage: Fit, source: str) -> dict[str, Any]:
    """The chains and questions of a source of captioned photos: those of a stage are in one source alone."""
    if stage.chained() != source:
        return {}
    return {"chains": stage.chains(), "photo_questions": stage.photo_questions}


def _further(stage: Fit, concepts: ConceptData, captioned: FeatureStore, tokenizer: Tokenizer) -> Sources:
    """Batches by source, of those that the stage's mixture has: labelled and plain photos, captions with tags."""
    rows, seed, width = stage.further_rows, stage.training.seed, stage.caption_length
    asked = stage.sources()
    found: Sources = {}
    for source, share in (("labelled", stage.label_questions), ("plain", 0.0)):
        if asked.get(source):
            store = concepts.features(source)
            said = Joined([(store, concepts.said(source))])
            tags = concepts.tags(store)
            found[source] = CaptionBatches(said, tokenizer, rows, seed, width, photo_questions=share, tags=tags)
    if asked.get("chains"):
        tags = concepts.tags(captioned, fitted_on=True)
        chained = _chained(stage, "chains")
        found["chains"] = CaptionBatches(captioned, tokenizer, rows, seed, width, tags=tags, **chained)
    if asked.get("tagged"):
        texts, made_up = concepts.tagged(captioned)
        found["tagged"] = TaggedCaptions(texts, tokenizer, made_up, rows, seed, width)
    return found


def _with_tags(stage: Fit, concepts: ConceptData, captioned: FeatureStore) -> tuple[CaptionedFeatures, Tagger]:
    """The captioned photos with the tags that training shows; in a stage of rewards as often as its `rewarded` says,
    with labelled ones among them."""
    tags = concepts.tags(captioned, fitted_on=True)
    chosen = stage.rewarded or Rewarded()
    if chosen == Rewarded():
        return captioned, tags
    parts: list[Any] = [(captioned, None)] * chosen.photos
    taggers: list[Tagger] = [tags] * chosen.photos
    if chosen.labelled:
        store = concepts.features("labelled")
        parts += [
            (store, truest(concepts.said("labelled"), concepts.shown(store), concepts.vocabulary))
        ] * chosen.labelled
        taggers += [concepts.tags(store)] * chosen.labelled
    joined = Joined(parts)
    return joined, JoinedTags(joined, taggers)


def _check_features(store: FeatureStore, stage: Fit, workspace: Workspace) -> None:
    asked = workspace.recipe.model_config(stage)
    if (store.grid, store.dim) != (asked.vision_grid, asked.vision_dim):
        raise ConfigError(
            f"{store.tower} gives {store.grid} x {store.grid} patches of {store.dim}; the recipe's model asks for "
            f"vision_grid: {asked.vision_grid} and vision_dim: {asked.vision_dim}"
        )
