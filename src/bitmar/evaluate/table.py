"""The table of tasks: what each is called, what it reads, what runs it, what chance scores, what the paper reports.

`bitmar eval TASK` and `bitmar report` are loops over it. To add a task, write its file in `tasks/` and a line here.
"""

from __future__ import annotations

from typing import Any

from bitmar.evaluate.folder import EvalData
from bitmar.evaluate.paper import BABYLM, TABLE_1, TABLE_4
from bitmar.evaluate.tables import BASELINE, OURS, PEER, TEXT
from bitmar.evaluate.task import Task
from bitmar.evaluate.tasks import captions, memory, naming, nlvr, photo_questions, probes, retrieval
from bitmar.evaluate.tasks.babylm import run as babylm
from bitmar.evaluate.tasks.babylm.tables import tables as babylm_tables
from bitmar.evaluate.tasks.memory_tables import tables as memory_tables
from bitmar.evaluate.tasks.zero_shot import run as zero_shot
from bitmar.evaluate.tasks.zero_shot.tables import tables as zero_shot_tables

_ALL = (OURS, TEXT, BASELINE)
_PHOTOS: dict[str, Any] = {
    "chapter": "Pictures", "sees": True, "roles": _ALL, "least": 2, "counts": "the first N photos",
}  # fmt: skip


def _captioned(data: EvalData) -> dict[str, Any]:
    return {"data": data.shards()}


_TASKS = (
    Task(
        "probes", "Honesty probes", probes.run, probes.files, probes.tables,
        chance="leak: ln V nats a token",
        fills=False, least=2, counts="N photos and pairs",
        chapter="Honesty probes", seconds=15, fixed=5, items=probes.PAIRS,
        examples=(
            "bitmar eval probes",
            "bitmar eval probes --data 'flickr8k-val-*.tar' --blimp blimp_filtered.zip --json out/probes.json",
        ),
    ),
    Task(
        "captions", "Captions and grounding", captions.run, _captioned, captions.tables,
        chance="the same captions beside another photo's references",
        command="bitmar eval caption", kept=captions.kept, seconds=75, fixed=10, items=1000,
        examples=(
            "bitmar eval caption --data 'flickr8k-val-*.tar' --json out/caption.json",
            "bitmar eval caption --data val.tar --model teacher.bitmar --features out/val --beams 3 --no-java",
        ),
        **_PHOTOS,
    ),
    Task(
        "retrieval", "Retrieval", retrieval.run, _captioned, retrieval.tables,
        chance="a random order",
        seconds=40, fixed=2, items=1000,
        examples=("bitmar eval retrieval --data 'flickr8k-val-*.tar' --json out/retrieval.json",),
        **_PHOTOS,
    ),
    Task(
        "naming", "Naming the thing", naming.run, lambda data: {"data": data.labelled()}, naming.tables,
        chance="none: a caption may say anything",
        seconds=25, fixed=2, items=900,
        examples=(
            "bitmar eval naming --data 'caltech101-*.tar'",
            "bitmar eval naming --data 'photos/*.tar' --json out/naming.json",
        ),
        **_PHOTOS,
    ),
    Task(
        "questions", "Questions about photos", photo_questions.run, _captioned, photo_questions.tables,
        chance="one of a kind's answers; the commonest of them; the same model without the photo",
        seconds=30, fixed=2, items=1000,
        examples=(
            "bitmar eval questions --data 'val-*.tar' --json out/questions.json",
            "bitmar eval questions --vqa vqa.jsonl --data 'coco-*.tar'",
        ),
        **_PHOTOS,
    ),
    Task(
        "nlvr", "Yes/no questions on pictures", nlvr.run, lambda data: {"data": data.nlvr()}, nlvr.tables,
        chance="the commoner truth; balanced, 50 %",
        kept=nlvr.kept, seconds=25, items=2964,
        examples=("bitmar eval nlvr --data nlvr1.zip --json out/nlvr.json",),
        **{**_PHOTOS, "least": 1, "counts": "the first N questions"},
    ),
    Task(
        "tasks", "Zero-shot tasks of lm-evaluation-harness", zero_shot.run, lambda data: {"data": data.tasks()},
        zero_shot_tables,
        chance="drawing among the choices; the commonest place", paper=TABLE_1,
        fills=False, parts=True, kept=lambda **_: {}, counts="the first N questions of each task or MMLU subject",
        chapter="Language", roles=(*_ALL, PEER), seconds=200, fixed=10, items=250,
        examples=(
            "bitmar eval tasks --json out/tasks.json",
            "bitmar eval tasks --tasks arc_easy,boolq,winogrande --data archives --limit 100",
        ),
    ),
    Task(
        "babylm", "BabyLM 2025", babylm.run, babylm.files, babylm_tables,
        chance="drawing among the options; a correlation of 0", paper=BABYLM,
        parts=True, kept=lambda **_: {}, counts="N items of a task, evenly spread over its files",
        chapter="Language", roles=_ALL, seconds=100, fixed=2, items=60000,
        examples=(
            "bitmar eval babylm --data evaluation_data/full_eval --json out/babylm.json",
            "bitmar eval babylm --data evaluation_data --tasks blimp,ewok --engine torch --model runs/default",
        ),
    ),
    Task(
        "ablation", "Memory on, off, literal", memory.run, memory.files, memory_tables,
        chance="of the differences one in twenty", paper=TABLE_4,
        command="bitmar ablate memory", least=2,
        counts="N photos (default 200), an eighth as many long documents, ten times as many pairs",
        chapter="Memory", sizes=memory.sizes, seconds=160, fixed=20, items=memory.PHOTOS,
        examples=(
            "bitmar ablate memory --json out/ablate.json",
            "bitmar ablate memory --model m.bitmar --data 'val-*.tar' --text novels.txt --heldout 1 --markdown t.md",
        ),
    ),
)  # fmt: skip

TASKS = {task.name: task for task in _TASKS}
