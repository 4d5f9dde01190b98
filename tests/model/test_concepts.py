"""What concepts add to logits, in decoding and in the loss of what was drawn."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from bitmar.model.arguments import Rows
from bitmar.model.concepts import ConceptEvidence
from bitmar.model.configuration_bitmar import BitMarConfig
from bitmar.model.modeling_bitmar import BitMarForCausalLM

V = 9


@given(seed=st.integers(0, 10**6))
@settings(max_examples=40, deadline=None)
def test_the_whole_text_at_once_equals_one_token_at_a_time(seed: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    ids, text = torch.randint(0, V, (2, 6), generator=rng), torch.randint(0, V, (2, 7), generator=rng)
    after = torch.randint(-1, V, (2, 6), generator=rng)
    bonus = torch.rand(2, 6, generator=rng)
    evidence = ConceptEvidence(ids, bonus, after)
    found = torch.zeros(2, 7, V).scatter_add(2, ids.unsqueeze(1).expand(-1, 7, -1), evidence.over(text))
    one = [evidence(text[:, : t + 1], torch.zeros(2, V)) for t in range(7)]
    torch.testing.assert_close(found, torch.stack(one, 1))


def test_a_loss_with_evidence_is_of_what_generate_draws_from() -> None:
    torch.manual_seed(0)
    config = BitMarConfig(
        vocab_size=V, hidden_size=16, num_heads=2, intermediate_size=24, encoder_layers=1, decoder_layers=1,
        vision_dim=6, vision_grid=2, vision_pool=1, vision_hidden=8, memory_slots=4, memory_dim=8, memory_segment=20,
        bos_token_id=1, eos_token_id=2, pad_token_id=0, concepts=5, concept_tokens=2, concept_evidence=1.0,
    )  # fmt: skip
    model = BitMarForCausalLM(config).eval()
    bank = model.model.concepts
    bank.words[:, :2] = torch.randint(3, V, (5, 2)).float()
    ids, scores = torch.tensor([[1, 3], [4, 0]]), torch.tensor([[0.9, 0.4], [0.8, 0.6]])
    text = torch.tensor([[1, 3, 4, 5, 2], [1, 6, 7, 8, 2]])
    image = {"vision_features": torch.randn(2, 4, 6), "concept_ids": ids, "concept_scores": scores}
    found = model(text, labels=text, write_memory=False, rows=Rows(evidence=True), **image)
    raise_logits = ConceptEvidence(*bank.evidence(ids, scores))
    logits = [raise_logits(text[:, : t + 1], found.logits[:, t]) for t in range(4)]
    expected = F.cross_entropy(torch.stack(logits, 1).flatten(0, 1), text[:, 1:].flatten())
    torch.testing.assert_close(found.lm_loss, expected)
    assert not torch.isclose(found.lm_loss, model(text, labels=text, write_memory=False, **image).lm_loss)
