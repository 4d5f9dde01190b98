"""lm-evaluation-harness on both halves: the same answers, nothing computed twice, and its tasks on made-up archives."""

from __future__ import annotations

import csv
import io
import json
import re
import subprocess
import sys
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

lm_eval = pytest.importorskip("lm_eval", reason="the harness needs lm-eval")

from lm_eval.api.instance import Instance  # noqa: E402

from bitmar.api import load  # noqa: E402
from bitmar.core.errors import ConfigError, DataError  # noqa: E402
from bitmar.evaluate.continuation import Continuation, cut  # noqa: E402
from bitmar.evaluate.harness import BitMarLM  # noqa: E402
from bitmar.evaluate.scorer import RuntimeScorer, load_scorer  # noqa: E402
from bitmar.evaluate.store import Store  # noqa: E402
from bitmar.evaluate.tasks.zero_shot.data import contexts, hellaswag, last_words, mmlu, questions  # noqa: E402
from bitmar.evaluate.tasks.zero_shot.run import chance, evaluate_tasks, find_tasks  # noqa: E402
from bitmar.evaluate.work import Work  # noqa: E402
from bitmar.runtime.options import GenerationOptions  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
PAIRS = [
    ("the dog runs over", " the green grass"),
    ("the dog runs over", " the man"),
    ("the dog runs over", " t"),
    ("", "the man runs"),
    ("the dog runs over ", "the man"),  # the space belongs to what follows
    ("the dog runs over", " the green grass"),  # once more
    ("the man runs over the green grass and " * 3, "the man runs over the green grass and the dog runs"),
]


@pytest.fixture(scope="module")
def halves(folder: Path) -> tuple[Any, Any]:
    """PyTorch's, and numpy's engine, which rounds no more than it does."""
    return load_scorer(folder), RuntimeScorer(load(folder / "packed", engine="numpy"))


def ask(kind: str, *arguments: tuple[Any, ...]) -> list[Instance]:
    return [Instance(kind, {}, each, i) for i, each in enumerate(arguments)]


class Counting:
    """A scorer to whom a longer answer is less likely; it keeps what it was asked."""

    name = "counting"

    def __init__(self, of: Callable[[Sequence[int]], float] = lambda option: -float(len(option))) -> None:
        self.asked: list[tuple[Any, Any]] = []
        self._of = of

    def encode(self, text: str) -> list[int]:
        return list(text.encode())

    def compare(self, contexts: Any, options: Any, *, on_progress: Any = None) -> list[list[Continuation]]:
        self.asked += zip(contexts, options, strict=True)
        if on_progress is not None:
            on_progress(len(contexts))
        return [[Continuation(self._of(option), False) for option in choices] for choices in options]


# Requests.


def test_halves_agree_on_log_likelihoods(halves: tuple[Any, Any]) -> None:
    a, b = (BitMarLM(scorer=scorer).loglikelihood(ask("loglikelihood", *PAIRS), disable_tqdm=True) for scorer in halves)
    assert np.allclose([x for x, _ in a], [x for x, _ in b], atol=0.1)
    assert [flag for _, flag in a] == [flag for _, flag in b]
    assert a[0] == a[5] and a[1] == a[4]


def test_a_continuation_scores_as_the_end_of_the_whole_text(
    halves: tuple[Any, Any], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bitmar.evaluate.continuation._PIECE", 3)
    native = RuntimeScorer(load(folder / "packed"))
    rng = np.random.default_rng(0)
    begun = [rng.integers(4, 270, n).tolist() for n in (5, 0, 1, 40)]  # the last is longer than the window
    ends = [[rng.integers(4, 270, n).tolist() for n in (1, 7, 0, 3, 12)], [[9], [9, 9]], [], [[5] * 20, [5]]]
    for scorer in (*halves, native):
        found = scorer.compare(begun, ends)
        for context, options, answers in zip(begun, ends, found, strict=True):
            whole = scorer.loglikelihood([context + option for option in options])
            wanted = [float(score[len(context) :].sum()) for score in whole]
            assert np.allclose([answer.log_probability for answer in answers], wanted, atol=0.2)


def test_greedy_is_the_likeliest_token(halves: tuple[Any, Any]) -> None:
    for scorer in halves:
        context = scorer.encode("the dog runs")
        single = scorer.compare([context], [[[token] for token in range(scorer.vocab_size)]])[0]
        best = max(range(len(single)), key=lambda token: single[token].log_probability)
        assert [token for token, answer in enumerate(single) if answer.greedy] == [best]
        pairs = scorer.compare([context], [[[best, token] for token in range(scorer.vocab_size)]])[0]
        assert sum(answer.greedy for answer in pairs) == 1
        other = (best + 1) % scorer.vocab_size
        assert not any(answer.greedy for answer in scorer.compare([context], [[[other, 5], [other]]])[0])


def test_a_shared_context_is_asked_once() -> None:
    scorer = Counting()
    seen: list[tuple[int, int]] = []
    lm = BitMarLM(scorer=scorer, on_progress=lambda done, total: seen.append((done, total)))  # type: ignore[arg-type]
    answers = lm.loglikelihood(ask("loglikelihood", ("Q", " a"), ("R", " a"), ("Q", " bc"), ("Q", " a")))
    assert answers == [(-2.0, False), (-2.0, False), (-3.0, False), (-2.0, False)]
    assert scorer.asked == [((81,), [[32, 97], [32, 98, 99]]), ((82,), [[32, 97]])]
    assert seen[-1] == (2, 2)


def test_halves_agree_on_rolling(halves: tuple[Any, Any]) -> None:
    texts = ["the dog", "the man runs over the green grass " * 4, "the dog"]
    for scorer in halves:
        found = BitMarLM(scorer=scorer).loglikelihood_rolling(ask("loglikelihood_rolling", *zip(texts)), True)
        wanted = [float(score.sum()) for score in scorer.loglikelihood(texts)]
        assert found == pytest.approx(wanted) and found[0] == found[2]


def test_halves_write_the_same(halves: tuple[Any, Any]) -> None:
    asked = [(text, {"until": ["\n"], "max_gen_toks": 9}) for text in ("the dog", "a", "the man runs over", "the cat")]
    asked.append(("the dog", {"until": "\n", "max_gen_toks": 4, "do_sample": False, "temperature": 0.7}))
    a, b = (BitMarLM(scorer=scorer).generate_until(ask("generate_until", *asked), True) for scorer in halves)
    assert a == b and any(a) and a[0].startswith(a[4])


def test_writing_ends_before_a_stop_text(halves: tuple[Any, Any]) -> None:
    for scorer in halves:
        whole = scorer.write(["the dog"], GenerationOptions(max_tokens=12))[0]
        stop = whole[5:7]
        written = scorer.write(["the dog", "the man"], GenerationOptions(max_tokens=12), [stop, "no such text"])
        assert written[0] == whole[: whole.index(stop)] and stop not in written[1]
    assert cut("a.b\nc", ["\n", "."]) == "a" and cut("a", []) == "a"


def test_samples_can_be_repeated_and_differ_for_the_same_question(halves: tuple[Any, Any]) -> None:
    settings = {"until": [], "max_gen_toks": 12, "do_sample": True, "temperature": 1.5}
    asked = ask("generate_until", *[("the dog", settings)] * 3)
    for scorer in halves:
        first, again = (BitMarLM(scorer=scorer).generate_until(asked, True) for _ in range(2))
        assert first == again and len(set(first)) > 1
        both = scorer.write(["a", "the dog"], GenerationOptions(max_tokens=8, temperature=1.5, seed=3))
        assert both[1:] == scorer.write(["the dog"], GenerationOptions(max_tokens=8, temperature=1.5, seed=3))


def test_what_is_not_known_is_named(folder: Path, halves: tuple[Any, Any]) -> None:
    with pytest.raises(ConfigError, match=r"'pth'.*did you mean 'path'"):
        BitMarLM(pth="model")
    with pytest.raises(ConfigError, match="did you mean 'torch'"):
        BitMarLM(path=str(folder), engine="trch")
    lm = BitMarLM(path=str(folder / "packed"), engine="numpy", batch_size=1, device="cpu")
    with pytest.raises(ConfigError, match="did you mean 'temperature'"):
        lm.generate_until(ask("generate_until", ("a", {"temprature": 1})), True)
    for scorer in halves:
        with pytest.raises(ConfigError, match="beams"):
            scorer.write(["a"], GenerationOptions(beams=2))


# The name.


def test_the_harness_knows_the_name() -> None:
    code = (
        "import sys\n"
        "from bitmar.evaluate.harness_plugin import register\n"
        "register(); assert 'lm_eval' not in sys.modules\n"  # any process that imports PyTorch
        "import lm_eval; register(); register()\n"
        "from lm_eval.api.registry import get_model\n"
        "print(get_model('bitmar').__module__, get_model('dummy').__name__)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=120)
    assert result.stdout.split() == ["bitmar.evaluate.harness", "DummyLM"], result.stderr


def test_the_entry_points_lead_somewhere() -> None:
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    for group, name in (("lm_eval.models", "bitmar"), ("torch.backends", "bitmar_lm_eval")):
        found = re.search(rf'\[project\.entry-points\."{group}"\][^\n]*\n{name} = "(.+):(.+)"', project)
        assert found
        assert callable(getattr(__import__(found[1], fromlist=[found[2]]), found[2]))


def test_the_tasks_are_found_from_the_repository() -> None:
    from lm_eval.tasks import TaskManager

    if not (ROOT / "evals").exists():
        pytest.skip("no evals/ here: a source distribution has the tasks in the package alone")
    index = TaskManager(include_path=str(ROOT / "evals" / "tasks"), include_defaults=False)
    assert {*find_tasks(None), "bitmar_zero_shot"} <= set(index.all_tasks)


# Archives.


def pack(folder: Path, archive: str, member: str, contents: str) -> Path:
    with zipfile.ZipFile(folder / archive, "w") as file:
        file.writestr(member, contents)
    return folder / archive


def lines(*values: Any) -> str:
    return "".join((value if isinstance(value, str) else json.dumps(value)) + "\n" for value in values)


@pytest.fixture
def archives(tmp_path: Path) -> Path:
    """Three tasks of two to four questions, one line of them broken."""
    easy = [{"query": f"Question: {i}?", "choices": ["aa", "b", "cccc"], "gold": i % 2} for i in range(3)]
    pack(tmp_path, "arc_easy.jsonl.zip", "arc_easy.jsonl", lines(easy[0], "{", *easy[1:], {**easy[0], "gold": 3}))
    who = [{"context_options": ["A b", "A c"], "continuation": "runs.", "gold": 1}] * 2
    pack(tmp_path, "winogrande.jsonl.zip", "winogrande.jsonl", lines(*who))
    words = [{"context": "the dog runs over the", "continuation": word} for word in ("grass", "man")]
    pack(tmp_path, "lambada_openai.jsonl.zip", "lambada_openai.jsonl", lines(*words))
    return tmp_path


def test_tasks_are_scored_on_both_halves(archives: Path, halves: tuple[Any, Any]) -> None:
    names = ["arc_easy", "bitmar_winogrande", "lambada"]
    results = [evaluate_tasks(scorer, names, Work(), data=archives) for scorer in halves]
    for name in results[0]:
        a, b = (result[name] for result in results)
        assert a["status"] == "done" and a["acc"] == b["acc"] and a["n"] == b["n"]
        assert a["acc"]["low"] <= a["acc"]["value"] <= a["acc"]["high"]
    assert results[0]["bitmar_lambada"]["perplexity"] == pytest.approx(results[1]["bitmar_lambada"]["perplexity"], 0.1)
    assert results[0]["bitmar_winogrande"]["n"] == 2 and "acc_norm" not in results[0]["bitmar_winogrande"]


def test_accuracy_ties_and_chance_are_counted(archives: Path) -> None:
    skipped: dict[str, str] = {}
    (result,) = evaluate_tasks(Counting(), ["arc_easy"], Work(on_bad=skipped.__setitem__), data=archives).values()  # type: ignore[arg-type]
    assert result["acc"]["value"] == pytest.approx(1 / 3)  # the shortest, "b", is likeliest; right for one of three
    assert result["n"] == 3 and result["ties"] == 0
    assert result["chance"] == {"uniform": pytest.approx(1 / 3), "majority": pytest.approx(2 / 3), "questions": 3}
    broken = [f"{archives}/arc_easy.jsonl.zip/arc_easy.jsonl:{number}" for number in (2, 5)]
    assert list(skipped) == list(result["skipped"]) == broken
    level = chance("arc_easy", archives)
    assert (level.uniform, level.majority, level.questions) == pytest.approx((1 / 3, 2 / 3, 3))
    assert chance("lambada", archives).majority == 0
    (same,) = evaluate_tasks(Counting(lambda option: -1.0), ["arc_easy"], Work(), data=archives).values()  # type: ignore[arg-type]
    assert same["ties"] == 3


def test_a_limit_takes_the_first_questions(archives: Path) -> None:
    scorer = Counting()
    (result,) = evaluate_tasks(scorer, ["arc_easy"], Work(2), data=archives).values()  # type: ignore[arg-type]
    assert result["n"] == 2 and len(scorer.asked) == 2
    with pytest.raises(ConfigError, match="at least 1"):
        evaluate_tasks(scorer, ["arc_easy"], Work(0), data=archives)  # type: ignore[arg-type]


def test_a_killed_run_goes_on(archives: Path, tmp_path: Path) -> None:
    def run() -> tuple[dict[str, Any], int]:
        scorer = Counting()
        with Store(tmp_path / "log", {"model": "counting"}) as log:
            results = evaluate_tasks(scorer, ["arc_easy", "winogrande"], Work(store=log), data=archives)  # type: ignore[arg-type]
        return results, len(scorer.asked)

    first, asked = run()
    assert asked and run() == (first, 0)
    pack(archives, "winogrande.jsonl.zip", "winogrande.jsonl", lines({**QUESTION, "gold": 0}))
    assert run()[1] == 2  # other data is other questions: two contexts of one


QUESTION = {"context_options": ["A b", "A c"], "continuation": "runs."}


def test_bad_archives_fail_alone_and_say_why(archives: Path) -> None:
    whole = (archives / "winogrande.jsonl.zip").read_bytes()
    (archives / "boolq.jsonl.zip").write_bytes(whole[: len(whole) // 2])
    secret = pack(archives, "piqa.jsonl.zip", "piqa.jsonl", "x")
    data = bytearray(secret.read_bytes())
    data[data.index(b"PK\x01\x02") + 8] |= 1  # the directory's flag: encrypted
    secret.write_bytes(data)
    pack(archives, "copa.jsonl.zip", "copa.jsonl", "nothing\n")
    names = ["boolq", "piqa", "copa", "openbook_qa", "winogrande"]
    results = evaluate_tasks(Counting(), names, Work(), data=archives)  # type: ignore[arg-type]
    said = [result.get("message", "") for result in results.values()]
    for message, part in zip(
        said, ("cannot be read", "encrypted", "no line that can be read", "is not there", ""), strict=True
    ):
        assert part in message
    assert [result["status"] for result in results.values()] == ["failed"] * 4 + ["done"]
    assert "BITMAR_EVAL_DATA" in said[3]


def test_unknown_tasks_are_named_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"'arc_esy'.*did you mean 'bitmar_arc_easy'"):
        find_tasks(["arc_esy"])
    assert find_tasks(["bitmar_zero_shot", "arc_easy"]) == find_tasks(None)


def test_the_other_layouts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bad: list[str] = []
    table = io.StringIO()
    csv.writer(table).writerows(
        [
            ["question", *(f"choice{i}" for i in range(4)), "answer"],
            ["Two,\nlines", "a", "b", "c", "d", "2"],
            ["no", "a", "b", "c", "2"],
            ["no", "a", "b", "c", "d", "4"],
        ]
    )
    pack(tmp_path, "m.zip", "mmlu/test/college_physics_test.csv", table.getvalue())
    monkeypatch.setenv("BITMAR_EVAL_DATA", str(tmp_path))
    rows = mmlu("m.zip", "college_physics", on_bad=lambda name, _: bad.append(name))["test"]
    assert rows[0] == {
        "subject": "college physics", "question": "Two,\nlines", "choices": ["a", "b", "c", "d"], "gold": 2
    }  # fmt: skip
    assert len(rows) == 1 and [name.rpartition(":")[2] for name in bad] == ["4", "5"]
    with pytest.raises(DataError, match="no question"):
        mmlu("m.zip", "physics")

    bad.clear()
    item = {"question": "[header] How [title] Do", "choices": {"A": "it.", "B": "[step] not."}, "answer": "B"}
    pack(tmp_path, "h.zip", "h.json", json.dumps({"dev": [item, {**item, "answer": "C"}], "test": [item]}))
    rows = hellaswag("h.zip", on_bad=lambda name, _: bad.append(name))["test"]
    assert len(rows) == 2 and rows[0] == {
        "query": " How.  Do".replace("  ", " "),
        "choices": ["it.", " not."],
        "gold": 1,
    }
    assert bad[0].endswith("h.json:dev[1]")
    pack(tmp_path, "h.zip", "h.json", "[]")
    with pytest.raises(DataError, match="dev"):
        hellaswag("h.zip")


@pytest.mark.parametrize(
    ("read", "archive", "count"),
    [
        (questions, "arc_easy.jsonl.zip", 2376),
        (questions, "boolq.jsonl.zip", 3270),
        (contexts, "winogrande.jsonl.zip", 1267),
        (last_words, "lambada_openai.jsonl.zip", 5153),
        (hellaswag, "hellaswag_subset_abstainqa.json.zip", 2000),
    ],
)
def test_the_real_archives(shared_data: Path, read: Any, archive: str, count: int) -> None:
    bad: list[str] = []
    rows = read(archive, data=str(shared_data / "eval/lm_eval"), on_bad=lambda name, _: bad.append(name))["test"]
    assert len(rows) + len(bad) == count and len(bad) <= 1
