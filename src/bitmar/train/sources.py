"""What a stage with concepts trains on beside its captioned photos: labelled and plain ones, and captions with tags."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bitmar.data.caption_batches import CaptionBatches, CaptionedFeatures, Tagger
from bitmar.data.joined import Joined, JoinedTags
from bitmar.data.tagged import TaggedCaptions
from bitmar.train.concept_stage import ConceptData
from bitmar.train.stages import Fit, Rewarded

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from bitmar.data.dataset import BatchSource
    from bitmar.data.features import FeatureStore


def further(stage: Fit, concepts: ConceptData, captioned: FeatureStore, tokenizer: Tokenizer) -> dict[str, BatchSource]:
    """Batches by source, of those that the stage's mixture has."""
    rows, seed, width = stage.further_rows, stage.training.seed, stage.caption_length
    asked, found = stage.sources(), dict[str, Any]()
    for source, questions in (("labelled", stage.label_questions), ("plain", 0.0)):
        if asked.get(source):
            store = concepts.features(source)
            said = Joined([(store, concepts.said(source))])
            found[source] = CaptionBatches(
                said, tokenizer, rows, seed, width, asked=questions, tags=concepts.tags(store)
            )
    if asked.get("chains"):
        tags = concepts.tags(captioned, fitted_on=True)
        found["chains"] = CaptionBatches(captioned, tokenizer, rows, seed, width, tags=tags, **stage.chains())
    if asked.get("tagged"):
        texts, made_up = concepts.tagged(captioned)
        found["tagged"] = TaggedCaptions(texts, tokenizer, made_up, rows, seed, width)
    return found


def photos_with_tags(stage: Fit, concepts: ConceptData, captioned: FeatureStore) -> tuple[CaptionedFeatures, Tagger]:
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
        parts += [(store, concepts.said("labelled"))] * chosen.labelled
        taggers += [concepts.tags(store)] * chosen.labelled
    joined = Joined(parts)
    return joined, JoinedTags(joined, taggers)
