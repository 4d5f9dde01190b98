"""The figures of the paper (arXiv 2510.10560), as printed there. None of them was measured by this project.

Accuracies in %; keys are the names of our own tasks.
"""

from __future__ import annotations

from dataclasses import dataclass

from bitmar.evaluate.tables import Cell, number

BITMAR = "paper: BitMar-14M"
"""Head of a column of the paper's figures."""

TABLE_1 = {
    "bitmar_arc_easy": ("ARC-Easy", 28.32),
    "bitmar_boolq": ("BoolQ", 42.83),
    "bitmar_hellaswag_sample": ("HellaSwag", 30.04),
    "bitmar_winogrande": ("WinoGrande", 54.57),
    "bitmar_commonsense_qa": ("CommonsenseQA", 24.57),
    "bitmar_mmlu": ("MMLU", 27.90),
}
"""Zero-shot: the name in the paper, BitMar's accuracy."""

SAMPLED = {"bitmar_hellaswag_sample": "our data is a sample of 2,000 questions"}

BESIDE_TABLE_1 = {
    "bitmar_arc_challenge": "ARC-Challenge",
    "bitmar_piqa": "PIQA",
    "bitmar_openbook_qa": "OpenBookQA",
    "bitmar_copa": "COPA",
    "bitmar_lambada": "LAMBADA",
}
"""Tasks of the same harness that the paper does not report."""


@dataclass(frozen=True, slots=True)
class Peer:
    """One of Table 1's other models. accuracies: in the order of TABLE_1. hub: where its authors publish it; the paper
    does not say which of their files it used."""

    name: str
    hub: str
    accuracies: tuple[float, ...]


PEERS = (
    Peer("Bonsai 0.5B", "deepgrove/Bonsai", (58.25, 58.44, 48.01, 54.46, 18.43, 25.74)),
    Peer("OLMo-BitNet 1B", "NousResearch/OLMo-Bitnet-1B", (25.38, 52.48, 25.88, 51.54, 19.49, 25.47)),
    Peer("Falcon3-1.58bit 7B", "tiiuae/Falcon3-7B-Instruct-1.58bit", (65.03, 72.14, 59.46, 60.14, 67.08, 42.79)),
    Peer("LLaMA3-8B-1.58", "HF1BitLLM/Llama3-8B-1.58-100B-tokens", (70.71, 68.38, 68.56, 60.93, 28.50, 35.04)),
    Peer("BitNet b1.58 2B", "microsoft/bitnet-b1.58-2B-4T", (74.79, 80.18, 68.44, 71.90, 71.58, 53.17)),
)

FINETUNED: dict[str, tuple[str, float | None]] = {
    "boolq": ("BoolQ", 66.5),
    "mnli": ("MNLI", 42.3),
    "mrpc": ("MRPC", 69.1),
    "multirc": ("MultiRC", 57.6),
    "qqp": ("QQP", 70.2),
    "rte": ("RTE", 54.0),
    "wsc": ("WSC", 63.5),
    "cola": ("CoLA", None),
    "sst2": ("SST-2", None),
}
"""Table 2, upper half: accuracy after fine-tuning; beside it two tasks of GLUE that it leaves out."""

BABYLM = {
    "blimp": ("BLiMP", 48.7),
    "blimp_supplement": ("BLiMP supplement", None),
    "ewok": ("EWoK", 24.9),
    "comps": ("COMPS", 51.5),
    "entity_tracking": ("Entity tracking", 31.2),
    "wug_adj": ("WUG, adjectives", -0.16),
    "wug_past": ("WUG, past tense", -0.22),
    "reading_eye_tracking": ("Reading, eye tracking", 0.44),
    "reading_self_paced": ("Reading, self-paced", 0.11),
    "vqa": ("VQA", 21.4),
    "winoground": ("Winoground", 23.8),
    "devbench_vocabulary": ("DevBench, visual vocabulary", 21.2),
}
"""Table 2, lower half, by the names of our scores; self-paced reading is in the text beside Table 4. Shares of variance
stand as the pipeline prints them, times 100; the correlations of WUG do not."""

TASK_OF = {"reading_eye_tracking": "reading", "reading_self_paced": "reading", "devbench_vocabulary": "devbench"}
"""The task that gives a score, where its name is another."""

UNSCALED = ("wug_adj", "wug_past")
"""Correlations that the paper prints as such, between -1 and 1."""

ORGANISERS = {
    "10 M words, GPT-2 small": {
        "blimp": 67.3,
        "blimp_supplement": 59.1,
        "ewok": 49.8,
        "entity_tracking": 18.9,
        "wug_adj": 39.0,
        "reading_eye_tracking": 0.13,
        "reading_self_paced": 0.04,
    },
    "10 M words, GPT-BERT (causal)": {
        "blimp": 71.7,
        "blimp_supplement": 63.2,
        "ewok": 49.5,
        "entity_tracking": 34.0,
        "wug_adj": 43.0,
        "reading_eye_tracking": 9.89,
        "reading_self_paced": 3.45,
    },
    "100 M words, GPT-2 small": {"blimp": 75.1},
    "100 M words, GPT-BERT": {"blimp": 79.3},
    "multimodal, Flamingo": {"winoground": 51.6, "vqa": 52.3, "devbench": 59.5},
    "multimodal, GIT": {"winoground": 55.5, "vqa": 54.1, "devbench": 51.1},
}
"""Baselines of the BabyLM 2025 organisers, from their evaluation repository; all times 100. For scale."""

TABLE_3 = {
    "tokens a second": (57.3, 7.7),
    "ms a token": (17.3, 129.8),
    "J a token": (1.90, 9.17),
    "RAM, MB": (956.0, 1076.0),
}
"""Memory on, and off; on a machine of the authors'."""

TABLE_4 = {
    "blimp": ("BLiMP", "+0.6"),
    "entity_tracking": ("Entity tracking", "+2.9 and +4.1"),
    "comps": ("COMPS", "+3.4"),
    "ewok": ("EWoK", "-1.6 and +1.0"),
    "vqa": ("VQA", "+3.4"),
    "winoground": ("Winoground", "-1.6"),
}
"""Memory on less off, in points."""


def reported(value: float | None) -> Cell:
    """A figure of the paper."""
    return Cell("not reported") if value is None else number(value, 2)
