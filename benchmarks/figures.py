"""The figures that README and docs/ state: measured, kept in docs/figures.json, and written where a page marks them.

    python benchmarks/figures.py                       # write what docs/figures.json holds into the marked places
    python benchmarks/figures.py bench recall          # measure these again, then write (`all` for all)
    python benchmarks/figures.py --take bench=a.json   # take a finished measurement's JSON in place of running it
    python benchmarks/figures.py --check               # status 1 if a marked place is out of date

A marked place is <!-- figure: NAME -->the text<!-- /figure -->, where NAME is bench.decode_64, caption.cider.interval,
or about the measurement itself: bench.command, bench.measured (date, machine, commit and what there is to note).
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from _machine import SHARED, machine, run

from bitmar.core.errors import ConfigError, DataError, nearest
from bitmar.core.files import write_atomically
from bitmar.core.paths import VARIABLE, expand

ROOT = Path(__file__).resolve().parents[1]
FILE = ROOT / "docs" / "figures.json"

_MARK = re.compile(r"(<!-- figure: (\S+) -->)(.*?)(<!-- /figure -->)", re.DOTALL)
_BROKEN = re.compile(r"<!-- /?figure\b")


@dataclass(frozen=True)
class Measurement:
    """A command that writes JSON to {out}; by name a format, then the keys that lead to a figure in that JSON.

    A figure is a number, or a mapping with value (or score), low and high. {kernel}: the path that runs here. In place
    of format and keys, a function makes a text of the whole document.
    """

    command: str
    figures: Mapping[str, tuple[str, ...] | Callable[[Any], str]]


def kernel_table(document: Any) -> str:
    """`bitmar bench`, a column for each kernel path, in Markdown."""
    rows: dict[str, tuple[str, Callable[[Any], Any]]] = {
        "decode at 64, tokens/s (goal 20,000; avx2 8,000)": ("{:,.0f}", lambda f: f["tokens_per_second"]["64"]),
        "decode at 1,024, tokens/s (goal 12,000)": ("{:,.0f}", lambda f: f["tokens_per_second"]["1024"]),
        "prefill of 512, tokens/s (goal 50,000)": ("{:,.0f}", lambda f: f["prefill_tokens_per_second"]),
        "vision tower, ms (goal 12)": ("{:.1f}", lambda f: f["photo_ms"]),
        "photo to caption, warm, ms (goal 20)": ("{:.1f}", lambda f: f["caption_ms"]),
        "process to first token, s (goal 0.4)": ("{:.2f}", lambda f: f["first_token_s"]),
        "peak RSS, captioning, MB (goal 60)": ("{:.1f}", lambda f: f["peak_rss_mb"]),
        "share of a token that the memory takes (goal 10 %)": ("{:.1%}", lambda f: f.get("memory_share")),
        "share of the reading limit at 1,024 (goal 80 %)": (
            "{:.0%}", lambda f: f["limits"]["1024"]["share_of_bandwidth"] if "limits" in f else None),
        "share of the product limit at 64": (
            "{:.0%}", lambda f: f["limits"]["64"]["share_of_products"] if "limits" in f else None),
    }  # fmt: skip
    lines = [f"| | {' | '.join(document['paths'])} |", f"|---|{'---:|' * len(document['paths'])}"]
    for label, (form, value) in rows.items():
        values = [value(figures) for figures in document["paths"].values()]
        cells = ("" if x is None else form.format(x).replace("%", " %") for x in values)
        lines.append(f"| {label} | {' | '.join(cells)} |")
    return "\n" + "\n".join(lines) + "\n"


_BENCH = ("paths", "{kernel}")
_VIEWS = ("figures", "by another view")
_BLIMP = "bitmar eval babylm --tasks blimp --data $BITMAR_DATA/eval/babylm2025 --json {out}"

MEASUREMENTS = {
    "bench": Measurement(
        "bitmar bench --json {out}",
        {
            "kernel": ("{}", "doctor", "chosen"),
            "caption_ms": ("{:.1f} ms", *_BENCH, "caption_ms"),
            "words": ("{:.0f}", *_BENCH, "words"),
            "tower_ms": ("{:.1f} ms", *_BENCH, "photo_ms"),
            "decode_64": ("{:,.0f} tokens/s", *_BENCH, "tokens_per_second", "64"),
            "decode_1024": ("{:,.0f} tokens/s", *_BENCH, "tokens_per_second", "1024"),
            "prefill": ("{:,.0f} tokens/s", *_BENCH, "prefill_tokens_per_second"),
            "first_token": ("{:.2f} s", *_BENCH, "first_token_s"),
            "peak": ("{:.0f} MB", *_BENCH, "peak_rss_mb"),
            "memory_share": ("{:.1%}", *_BENCH, "memory_share"),
            "table": kernel_table,
        },
    ),
    "peers": Measurement(
        "python benchmarks/peers.py --rounds 9 --json {out} --markdown docs/benchmarks.md",
        {
            name: ("{:.1f} x", "figures", contender, "decode at 64", "bitmar_is_faster")
            for name, contender in {"onnx": "onnx-4bit", "llama": "llama-q8_0", "torch": "torch-int8"}.items()
        },
    ),
    "caption": Measurement(
        "bitmar eval caption --data '$BITMAR_DATA/captions/flickr8k-val-*.tar' --grounding 0 --no-java --json {out}",
        {
            "cider": ("{:.3f}", "captions", "cider"),
            "bleu_4": ("{:.3f}", "captions", "scores", "bleu_4"),
            "wrong_photo": ("{:.3f}", "captions", "wrong_image", "cider"),
        },
    ),
    "by_eye": Measurement(
        "python benchmarks/sheet.py --all --json {out}",
        {name: ("{:.0%}", "figures", name) for name in ("right", "right_or_partly")},
    ),
    "blimp": Measurement(_BLIMP, {"score": ("{:.1%}", "tasks", "blimp", "scores", "blimp")}),
    "blimp_text": Measurement(
        f"{_BLIMP} --model models/bitmar-text.bitmar", {"score": ("{:.1%}", "tasks", "blimp", "scores", "blimp")}
    ),
    "recall": Measurement(
        "python benchmarks/recall.py --json {out}",
        {
            "view": ("{:.1%}", *_VIEWS, "80 % of the area", "recall@1"),
            "closer_view": ("{:.1%}", *_VIEWS, "80 % of each side", "recall@1"),
            "named_among_8": ("{:.1%}", "figures", "recited", "memories of 8", "right"),
        },
    ),
    "streams": Measurement(
        "python benchmarks/streams.py --json {out}",
        {
            "against_afresh": ("{:.3f}", "figures", "stream / afresh", "4 sinks / 4 sinks"),
            "growth": ("{:.2f} MB", "figures", "4 sinks", "its growth, MB"),
        },
    ),
}


def main(
    names: Annotated[list[str] | None, typer.Argument(help=f"{', '.join(MEASUREMENTS)}, or all.")] = None,
    take: Annotated[list[str] | None, typer.Option(help="NAME=FILE: what NAME's command has written.")] = None,
    note: Annotated[str, typer.Option(help="What there is to know of these measurements.")] = "",
    check: Annotated[bool, typer.Option("--check", help="Change nothing; status 1 if a page is out of date.")] = False,
) -> None:
    """Measure what is named, and write the figures where README and docs/ mark them."""
    store = read_store()
    given = dict(text.partition("=")[::2] for text in take or ())
    for name in [*(MEASUREMENTS if names == ["all"] else names or ()), *given]:
        if name not in MEASUREMENTS:
            raise ConfigError(f"there is no measurement {name!r}{nearest(name, MEASUREMENTS)}")
        out = Path(given.get(name) or ROOT / "out" / "figures" / f"{name}.json")
        if name not in given:
            measure(MEASUREMENTS[name].command, out)
        store[name] = taken(name, out, note)
        write_atomically(FILE, (json.dumps(store, indent=1, ensure_ascii=False) + "\n").encode())
    stale = [page for page in pages() if written(page, store) != page.read_text(encoding="utf-8")]
    for page in stale:
        if not check:
            write_atomically(page, written(page, store).encode())
        print(f"{page.relative_to(ROOT)}: {'out of date' if check else 'written'}")
    if check and stale:
        raise SystemExit(1)


def read_store() -> dict[str, Any]:
    """What was measured, by name: command, date, machine, commit, note, and the figures with their texts."""
    store: dict[str, Any] = json.loads(FILE.read_text(encoding="utf-8"))
    return store


def pages() -> list[Path]:
    """Where figures may be marked."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def measure(command: str, out: Path) -> None:
    """Run a measurement's command from the repository's root, the data beside that unless BITMAR_DATA says else."""
    out.parent.mkdir(parents=True, exist_ok=True)
    out.unlink(missing_ok=True)  # some commands would go on from it
    environment = {VARIABLE: str(SHARED), **os.environ}
    words = [expand(word, {VARIABLE: str(SHARED)}).replace("{out}", str(out)) for word in shlex.split(command)]
    program = [sys.executable, "-m", "bitmar"] if words[0] == "bitmar" else [sys.executable]
    print(f"$ {command}", flush=True)
    if subprocess.run([*program, *words[1:]], cwd=ROOT, env=environment).returncode not in (0, 1):  # 1: a bad sample
        raise DataError(f"this command failed: {command}")


def taken(name: str, out: Path, note: str) -> dict[str, Any]:
    """A measurement's figures, each with its text, beside the command, the machine, the date and the commit."""
    measurement = MEASUREMENTS[name]
    document, about = json.loads(out.read_text(encoding="utf-8")), machine()
    kernel = document.get("doctor", {}).get("chosen", "")
    figures: dict[str, Any] = {}
    for label, source in measurement.figures.items():
        if callable(source):
            figures[label] = {"text": source(document)}
            continue
        value, (form, *keys) = document, source
        for key in keys:
            try:
                value = value[key.replace("{kernel}", kernel)]
            except (KeyError, TypeError):
                raise DataError(f"{out} has no {' / '.join(keys)}: the command writes other figures now") from None
        figures[label] = figure(value, form)
    return {
        "command": measurement.command.replace("{out}", f"out/{name}.json"),
        "date": about["date"][:10],
        "machine": f"{about['cpu']}, {about['cores']} cores",
        "commit": about["commit"],
        "note": note,
        "figures": figures,
    }


def figure(value: Any, form: str) -> dict[str, Any]:
    """A number, or one with its 95 % interval, ready for JSON and for a page."""

    def text(number: Any) -> str:
        return form.format(number).replace("%", " %")

    if not isinstance(value, Mapping):
        return {"value": value, "text": text(value)}
    low, high = value["low"], value["high"]
    value = value["value"] if "value" in value else value["score"]
    interval = f"{text(low).removesuffix(' %')} to {text(high)}"
    return {"value": value, "low": low, "high": high, "text": text(value), "interval": interval}


def written(page: Path, store: Mapping[str, Any]) -> str:
    """The page, its marked places filled. ConfigError: a name that the store lacks, or a broken mark."""
    text = page.read_text(encoding="utf-8")
    if len(_BROKEN.findall(text)) != 2 * len(_MARK.findall(text)):
        raise ConfigError(f"{page}: a mark is <!-- figure: NAME -->text<!-- /figure -->, and one of them is not")

    def fill(mark: re.Match[str]) -> str:
        try:
            return f"{mark[1]}{looked_up(mark[2], store)}{mark[4]}"
        except KeyError:
            raise ConfigError(f"{page} marks a figure {mark[2]!r} that {FILE.name} does not have") from None

    return _MARK.sub(fill, text)


def looked_up(name: str, store: Mapping[str, Any]) -> str:
    """The text of MEASUREMENT.FIGURE, MEASUREMENT.FIGURE.interval, MEASUREMENT.command or MEASUREMENT.measured."""
    measurement, what, *part = name.split(".")
    entry = store[measurement]
    if what == "measured":
        commit = entry["commit"] and f"commit {entry['commit']}"
        return "; ".join(text for text in (entry["date"], entry["machine"], commit, entry["note"]) if text)
    if what == "command":
        return f"`{entry['command']}`"
    return str(entry["figures"][what][part[0] if part else "text"])


if __name__ == "__main__":
    run(main)
