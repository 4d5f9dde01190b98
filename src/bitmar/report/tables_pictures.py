"""Tables on photos, none of which the paper has."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from bitmar.report.layout import MISSING, Chapter, Picture, Results, Table, number, ranged

_BESIDE = {"right": "right photo", "shuffled": "another photo", "blank": "a blank one", "none": "no photo"}


def pictures_chapter(found: Results) -> Chapter:
    """Captions, grounding, retrieval, questions, and the grid."""
    text = [
        "The paper promises captions and reports no figure for them. Grounding: a model that never looks says the "
        "same, and thinks people's captions as likely, whatever it is shown."
    ]
    tables = [_captions(found), *_grounding(found), *_retrieval(found), *_questions(found), *_nlvr(found)]
    return Chapter("Pictures", text, tables, [_grid(found)])


def _captions(found: Results) -> Table:
    columns = {each["title"]: found.get("captions", each["key"]) for each in found.contestants}
    seeing = {title: measured["captions"] for title, measured in columns.items() if measured is not None}
    rows = [
        ["CIDEr", *(ranged(report["cider"], digits=3) for report in seeing.values())],
        *(
            [label, *(number(report["scores"][name], 3) for report in seeing.values())]
            for name, label in {
                "bleu_1": "BLEU-1", "bleu_2": "BLEU-2", "bleu_3": "BLEU-3", "bleu_4": "BLEU-4", "rouge_l": "ROUGE-L",
            }.items()
        ),
        *(
            [label, *(_java(report, name) for report in seeing.values())]
            for name, label in {"meteor": "METEOR", "spice": "SPICE"}.items()
        ),
        ["CIDEr beside another photo's captions", *(_wrong(report) for report in seeing.values())],
        ["words a caption", *(number(report["words"]) for report in seeing.values())],
        ["captions that no other photo has", *(f"{number(100 * r['distinct'])} %" for r in seeing.values())],
        ["photos", *(number(report["photos"], 0) for report in seeing.values())],
    ]  # fmt: skip
    reasons = [f"{each['title']}: {found.missing('captions', each['key'])}" for each in found.contestants
               if columns[each["title"]] is None]  # fmt: skip
    note = "CIDEr from 0 to 10, the others from 0 to 1; greedy captions. " + ". ".join(reasons)
    return Table("Captions", ["measure", *seeing], rows if seeing else [], note.strip())


def _java(report: dict[str, Any], name: str) -> str:
    return number(report["java"][name], 3) if name in report["java"] else f"{MISSING}: {report['absent'][name]}"


def _wrong(report: dict[str, Any]) -> str:
    return "" if report["wrong_image"] is None else number(report["wrong_image"]["cider"], 3)


def _each(found: Results, section: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Those who have a result, with an ending for the table's title."""
    for each in found.contestants:
        measured = found.get(section, each["key"])
        if measured is not None:
            yield "" if each["role"] == "ours" else f" ({each['title']})", measured


def _grounding(found: Results) -> Iterator[Table]:
    for ending, measured in _each(found, "captions"):
        report = measured["grounding"]
        if report is None:
            continue
        rows = []
        for name, beside in report["likelihood"].items():
            spoken = report["cider"].get(name)
            wins = beside["right_wins"]
            rows.append(
                [
                    _BESIDE[name],
                    "" if spoken is None else ranged(spoken["cider"], digits=3),
                    "" if spoken is None or spoken["loss"] is None else ranged(spoken["loss"], digits=3),
                    ranged(beside["perplexity"]),
                    "" if beside["loss"] is None else ranged(beside["loss"], digits=3),
                    "" if wins is None else f"{number(100 * wins)} %",
                ]
            )
        head = [
            "shown",
            "CIDEr",
            "CIDEr lost",
            "perplexity of people's captions",
            "nats a token lost",
            "right photo wins",
        ]
        counts = f"{report['photos']:,} photos, {report['captions']:,} captions."
        note = f"{counts} Of a blank photo it says: {report['blank_caption']}"
        yield Table(f"Grounding{ending}", head, rows, note)


def _retrieval(found: Results) -> Iterator[Table]:
    if found.get("retrieval") is None:
        yield Table("Retrieval", ["ranked by"], [], found.missing("retrieval"))
    for ending, report in _each(found, "retrieval"):
        ways = {
            "cosine, all": report["contrastive"],
            "cosine, first photos": report["pool_contrastive"],
            "likelihood, first photos": report["pool_pmi"],
            "cosine, some queries": report["unranked"],
            f"likelihood, of their best {report['reranked_best']}": report["reranked"],
        }
        rows = [
            [
                name,
                finds,
                *(ranged(share, 100) for share in way[direction]["recall"].values()),
                " / ".join(number(100 * share) for share in way[direction]["chance"].values()),
                number(way[direction]["median_rank"]),
                number(way[direction]["candidates"], 0),
            ]
            for name, way in ways.items()
            if way is not None
            for direction, finds in (("image_to_text", "a caption"), ("text_to_image", "the photo"))
        ]
        head = ["ranked by", "finds", "recall@1, %", "recall@5", "recall@10", "chance @1 / 5 / 10", "median rank", "of"]
        note = (
            f"{report['photos']:,} photos, {report['captions']:,} captions. Likelihood: of the caption beside the "
            "photo, less that without one."
        )
        yield Table(f"Retrieval{ending}", head, rows, note)


def _questions(found: Results) -> Iterator[Table]:
    title = "Questions about photos, made by rule from people's captions"
    if found.get("questions") is None:
        yield Table(title, ["about"], [], found.missing("questions"))
    for ending, report in _each(found, "questions"):
        rows = [
            [
                kind,
                ranged(each["seen"], 100),
                ranged(each["blind"], 100),
                ranged(each["gain"], 100),
                number(100 * each["chance"]),
                number(100 * each["commonest"]),
                number(each["questions"], 0),
            ]
            for kind, each in report["kinds"].items()
        ]
        head = ["about", "right, %", "without the photo", "what the photo adds", "chance", "commonest", "questions"]
        note = f"{report['photos']:,} photos. Nobody has checked the questions; the next photo gives what is not there."
        yield Table(f"{title}{ending}", head, rows, note)


def _nlvr(found: Results) -> Iterator[Table]:
    title = "Yes/no questions on pictures (NLVR, in place of VQA's)"
    if found.get("nlvr") is None:
        yield Table(title, ["answer"], [], found.missing("nlvr"))
    for ending, report in _each(found, "nlvr"):
        ways = {"likelier": "raw", "what the picture makes likelier": "pmi", "likelier, without the picture": "blind"}
        rows = [
            [
                name,
                ranged(report[way]["accuracy"], 100),
                number(100 * report["majority"]),
                ranged(report[way]["balanced"], 100),
                number(100 * report[way]["yes"]),
                f"{number(100 * report[way]['tie_share'], 2)} %",
            ]
            for name, way in ways.items()
        ]
        head = ["answer", "accuracy", "commonest", "balanced, chance 50", "says yes, %", "ties"]
        yield Table(f"{title}{ending}", head, rows, f"{report['questions']:,} questions, worded: {report['wording']}")


def _grid(found: Results) -> Picture:
    grid = found.get("grid")
    if grid is None:
        return Picture("Captions to look at", "", found.missing("grid"))
    note = f"The first {grid['photos']} photos of the shards, chosen by nobody; in grey what people wrote."
    return Picture("Captions to look at", grid["picture"], note)
