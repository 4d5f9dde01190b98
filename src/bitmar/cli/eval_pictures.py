"""`bitmar eval caption`, `retrieval`, `questions` and `nlvr`: photos."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bitmar.cli.app import SKIPPED, command
from bitmar.cli.common import Beams, Model, needs
from bitmar.cli.eval_options import (
    Engine,
    Features,
    JsonFile,
    Limit,
    Shards,
    begin,
    evaluate,
    goes_on,
    load_seeing,
    name_skipped,
    open_log,
    publish,
)
from bitmar.console import Skipped, progress, say
from bitmar.core.errors import ConfigError, DataError
from bitmar.core.files import write_atomically

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from bitmar.evaluate.protocol import OnProgress, Picture, PictureScorer
    from bitmar.evaluate.tasks.captions import CaptionEvaluation
    from bitmar.evaluate.tasks.nlvr import NlvrReport
    from bitmar.evaluate.tasks.photo_questions import PhotoQuestionReport
    from bitmar.evaluate.tasks.retrieval import Directions

_WITH = {"right": "right picture", "shuffled": "another one", "blank": "a blank one", "none": "none"}


def _to(bar: Progress, task: TaskID) -> OnProgress:
    """Moves a bar to as many as are done."""
    return lambda count: bar.update(task, completed=count)


@command(
    "bitmar eval caption --data 'flickr8k-val-*.tar' --json out/caption.json",
    "bitmar eval caption --data val.tar --model teacher.bitmar --features out/val --beams 3 --no-java",
    group=evaluate,
    name="caption",
    shards=True,
)
def eval_caption(
    data: Shards,
    model: Model = None,
    engine: Engine = "auto",
    beams: Beams = 1,
    max_tokens: Annotated[int, typer.Option("--max-tokens", help="Longest caption, in tokens.")] = 32,
    features: Features = None,
    limit: Limit = None,
    grounding: Annotated[
        int, typer.Option("--grounding", min=0, help="Photos that are also shown shuffled and blank; 0 for none.")
    ] = 1000,
    java: Annotated[
        bool, typer.Option("--java/--no-java", help="METEOR and SPICE, which take gigabytes of memory.")
    ] = True,
    captions: Annotated[
        Path | None, typer.Option("--captions", metavar="FILE", help="Write the captions here, a JSON line each.")
    ] = None,
    json_file: JsonFile = None,
) -> None:
    """Caption photos and score the captions against people's: CIDEr, BLEU, METEOR, ROUGE-L, SPICE.

    The grounding test shows the model wrong, blank and no photos; the loss is what the right photo is worth.
    With --json FILE a killed run resumes with the same command.
    """
    from bitmar.data.features import FeatureStore
    from bitmar.evaluate.figure import plain
    from bitmar.evaluate.tasks.captions import evaluate_captions

    scorer = load_seeing(model, engine, features, data)
    store = FeatureStore(features) if features else None
    options: dict[str, Any] = {"beams": beams, "max_tokens": max_tokens}
    log = open_log(json_file, scorer, {"features": store.fingerprint if store else None, **options})
    try:
        with needs("train"), goes_on(log), progress() as bar:
            skipped = Skipped(bar)
            task, tests = bar.add_task("captions", total=limit), bar.add_task("grounding, texts", total=None)
            found = evaluate_captions(
                scorer,
                data,
                features=store,
                limit=limit,
                grounding=grounding,
                java=java,
                log=log,
                on_bad=skipped,
                on_caption=_to(bar, task),
                on_grounding=_to(bar, tests),
                **options,
            )
    finally:
        if log is not None:
            log.close()
    if captions is not None:
        lines = (json.dumps(plain(line), ensure_ascii=False) + "\n" for line in found.lines)
        write_atomically(captions, "".join(lines).encode())
    document = begin("caption", scorer, data=data, **options, **plain(found), skipped=skipped.as_list())
    publish(document, _caption_rows(found), ("", "value", "95 %", "against the right picture"), json_file)
    for name, reason in found.captions.absent.items():
        say(f"{name} is absent: {reason}")
    if log is not None:
        log.path.unlink()
    name_skipped(skipped)
    if skipped.reasons:
        raise typer.Exit(SKIPPED)


def _caption_rows(found: CaptionEvaluation) -> list[list[str]]:
    from bitmar.evaluate.figure import plain

    report, rows = found.captions, []
    cider = report.cider
    rows.append(["CIDEr", f"{cider.value:.3f}", f"{cider.low:.3f} to {cider.high:.3f}", ""])
    scores = {name: value for name, value in plain(report.scores).items() if name != "cider"}
    rows += [[name, f"{value:.3f}", "", ""] for name, value in (scores | report.java).items()]
    rows += [[name, "absent", "", ""] for name in report.absent]
    if report.wrong_image is not None:
        rows.append(["CIDEr, wrong references", f"{report.wrong_image.cider:.3f}", "", ""])
    if (test := found.grounding) is None:
        return rows
    for name, spoken in test.cider.items():
        value, loss = spoken.cider, spoken.loss
        rows.append(
            [
                f"CIDEr, {_WITH[name]}",
                f"{value.value:.3f}",
                f"{value.low:.3f} to {value.high:.3f}",
                "" if loss is None else f"{-loss.value:+.3f} ({-loss.high:+.3f} to {-loss.low:+.3f})",
            ]
        )
    for name, beside in test.likelihood.items():
        value, loss = beside.perplexity, beside.loss
        rows.append(
            [
                f"perplexity of people's, {_WITH[name]}",
                f"{value.value:.1f}",
                f"{value.low:.1f} to {value.high:.1f}",
                "" if loss is None else f"{loss.value:+.3f} nats ({loss.low:+.3f} to {loss.high:+.3f})",
            ]
        )
    return rows


@command(
    "bitmar eval retrieval --data 'flickr8k-val-*.tar' --json out/retrieval.json",
    group=evaluate,
    name="retrieval",
    shards=True,
)
def eval_retrieval(
    data: Shards,
    model: Model = None,
    engine: Engine = "auto",
    features: Features = None,
    limit: Limit = None,
    pool: Annotated[
        int, typer.Option("--pool", min=0, help="Photos that are also ranked by likelihood alone; 0 for none.")
    ] = 100,
    rerank: Annotated[
        int, typer.Option("--rerank", min=0, help="Best candidates that likelihood puts in order; 0 for none.")
    ] = 20,
    queries: Annotated[int, typer.Option("--queries", min=1, help="Pictures, and captions, to rerank for.")] = 200,
    json_file: JsonFile = None,
) -> None:
    """Find the captions of a photo among all captions, and the photo of a caption among all photos: recall@1, 5, 10.

    By the cosine that the contrastive loss has trained, and by how much likelier a picture makes a caption.
    """
    from bitmar.evaluate.figure import plain
    from bitmar.evaluate.tasks.retrieval import Gallery, evaluate_retrieval, pairs_to_score

    scorer = load_seeing(model, engine, features, data)
    with needs("train"), progress() as bar:
        skipped = Skipped(bar)
        pictures, captions = _look(scorer, data, features, limit, bar, skipped)
        gallery = Gallery(pictures, captions)
        pairs = bar.add_task("pairs", total=pairs_to_score(gallery, pool, rerank, queries))
        found = evaluate_retrieval(
            scorer,
            gallery,
            pool=pool,
            rerank=rerank,
            queries=queries,
            on_progress=_to(bar, pairs),
        )
    document = begin("retrieval", scorer, data=data, **plain(found), skipped=skipped.as_list())
    rows = [
        *_ranked("cosine", found.contrastive),
        *_ranked("cosine, pool", found.pool_contrastive),
        *_ranked("pmi, pool", found.pool_pmi),
        *_ranked("cosine, some", found.unranked),
        *_ranked(f"pmi of its {found.reranked_best}", found.reranked),
    ]
    heads = ("ranked by", "finds", "R@1, %", "R@5", "R@10", "chance", "median", "of")
    publish(document, rows, heads, json_file)
    name_skipped(skipped)
    if skipped.reasons:
        raise typer.Exit(SKIPPED)


@command(
    "bitmar eval questions --data 'val-*.tar' --json out/questions.json",
    "bitmar eval questions --vqa vqa.jsonl --data 'coco-*.tar'",
    group=evaluate,
    name="questions",
    shards=True,
)
def eval_questions(
    data: Shards,
    model: Model = None,
    engine: Engine = "auto",
    features: Features = None,
    limit: Limit = None,
    vqa: Annotated[
        Path | None,
        typer.Option("--vqa", metavar="FILE.jsonl", help="Ask people's questions of this file, by `bitmar ask`."),
    ] = None,
    json_file: JsonFile = None,
) -> None:
    """Ask about photos what their captions answer: colour, number, action, presence, truth; with the photo and without.

    The questions are made by rule from people's captions, a stand-in for VQA on any captioned photos. With --vqa they
    are people's: a line {"shard", "key", "question", "answer", "answer_type"} each, and --limit counts them.
    """
    if vqa is not None:
        from bitmar.cli.eval_vqa import answer_vqa

        if features is not None or engine != "auto":
            raise ConfigError("--features and --engine do not go with --vqa: it asks the packed model, as `bitmar ask`")
        answer_vqa(vqa, data, model, limit, json_file)
        return
    from bitmar.evaluate.figure import plain
    from bitmar.evaluate.tasks.photo_questions import evaluate_photo_questions

    scorer = load_seeing(model, engine, features, data)
    with needs("train"), progress() as bar:
        skipped = Skipped(bar)
        pictures, captions = _look(scorer, data, features, limit, bar, skipped)
        task = bar.add_task("questions", total=len(pictures))
        found = evaluate_photo_questions(scorer, pictures, captions, on_progress=_to(bar, task))
    document = begin("questions", scorer, data=data, **plain(found), skipped=skipped.as_list())
    heads = ("about", "right, %", "blind", "gain", "chance", "commonest", "of")
    publish(document, _question_rows(found), heads, json_file)
    name_skipped(skipped)
    if skipped.reasons:
        raise typer.Exit(SKIPPED)


def _question_rows(found: PhotoQuestionReport) -> list[list[str]]:
    return [
        [
            kind,
            *(f"{100 * x.value:.1f} ({100 * x.low:.0f} to {100 * x.high:.0f})" for x in (each.seen, each.blind)),
            f"{100 * each.gain.value:+.1f} ({100 * each.gain.low:+.0f} to {100 * each.gain.high:+.0f})",
            f"{100 * each.chance:.1f}",
            f"{100 * each.commonest:.1f}",
            str(each.questions),
        ]
        for kind, each in found.kinds.items()
    ]


def _look(
    scorer: PictureScorer, data: list[str], features: Path | None, limit: int | None, bar: Progress, skipped: Skipped
) -> tuple[list[Picture], list[tuple[str, ...]]]:
    """Every photo of the shards as the model sees it, and its captions."""
    from bitmar.data.features import FeatureStore
    from bitmar.evaluate.tasks.captions import look_at_all

    store = FeatureStore(features) if features else None
    seen = _to(bar, bar.add_task("photos", total=limit))
    return look_at_all(scorer, data, features=store, limit=limit, on_bad=skipped, on_progress=seen)


def _ranked(title: str, found: Directions | None) -> list[list[str]]:
    rows = []
    ways = () if found is None else (("text", found.image_to_text), ("photo", found.text_to_image))
    for name, each in ways:
        recall = [f"{100 * x.value:.1f} ({100 * x.low:.0f}-{100 * x.high:.0f})" for x in each.recall.values()]
        chance = " ".join(f"{100 * x:.3g}" for x in each.chance.values())
        rows.append([title, name, *recall, chance, f"{each.median_rank:g}", str(each.candidates)])
    return rows


@command("bitmar eval nlvr --data nlvr1.zip --json out/nlvr.json", group=evaluate, name="nlvr")
def eval_nlvr(
    data: Annotated[
        Path, typer.Option("--data", metavar="ZIP|FOLDER", help="A .jsonl of questions with its pictures.")
    ],
    model: Model = None,
    engine: Engine = "auto",
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="Only the first N questions.")] = None,
    json_file: JsonFile = None,
) -> None:
    """Ask whether a sentence is true of a picture (NLVR): the likelier of "Yes." and "No.", and what the picture adds.

    With --json FILE a killed run resumes with the same command.
    """
    from itertools import islice

    from bitmar.evaluate.figure import plain
    from bitmar.evaluate.tasks.nlvr import WORDING, evaluate_nlvr, read_questions

    if not data.exists():
        raise DataError(f"there is no {data}: give nlvr1.zip, or a folder with a .jsonl and its pictures")
    scorer = load_seeing(model, engine, None)
    source = [data.name, data.stat().st_size, data.stat().st_mtime_ns]
    log = open_log(json_file, scorer, {"source": source, "wording": WORDING})
    try:
        with goes_on(log), progress() as bar:
            skipped = Skipped(bar)
            task = bar.add_task("questions", total=limit)
            found = evaluate_nlvr(
                scorer,
                islice(read_questions(data, skipped), limit),
                log=log,
                on_progress=_to(bar, task),
            )
    finally:
        if log is not None:
            log.close()
    document = begin("nlvr", scorer, data=str(data), **plain(found), skipped=skipped.as_list())
    publish(document, _nlvr_rows(found), ("", "accuracy", "95 %", "balanced", "yes", "ties"), json_file)
    if log is not None:
        log.path.unlink()
    name_skipped(skipped)
    if skipped.reasons:
        raise typer.Exit(SKIPPED)


def _nlvr_rows(found: NlvrReport) -> list[list[str]]:
    rows = []
    ways = {"likelier answer": found.raw, "what the picture adds": found.pmi, "without the picture": found.blind}
    for name, each in ways.items():
        share, fair = each.accuracy, each.balanced
        rows.append(
            [
                name,
                f"{100 * share.value:.1f} %",
                f"{100 * share.low:.1f} to {100 * share.high:.1f}",
                f"{100 * fair.value:.1f} ({100 * fair.low:.1f} to {100 * fair.high:.1f})",
                f"{100 * each.yes:.1f} %",
                f"{100 * each.tie_share:.1f} %",
            ]
        )
    return [*rows, [f"majority of {found.questions}", f"{100 * found.majority:.1f} %", "", "50.0", "", ""]]
