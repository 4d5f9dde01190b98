"""`bitmar plot`: pictures of the memory, of attention, of quantisation, and of confidence."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bitmar.cli.app import JUDGE, command, make_group
from bitmar.cli.common import MemoryFile, needs
from bitmar.console import Skipped, progress, say
from bitmar.core.errors import ConfigError
from bitmar.core.paths import data_files

if TYPE_CHECKING:
    from bitmar.api import BitMar
    from bitmar.plots.slots import Passage, Reading
    from bitmar.session.session import Session

plots = make_group("plot", "Draw what goes on inside, as PNG or SVG.", panel=JUDGE)

# What is read below $BITMAR_DATA where the options say nothing, if it is there.
SHARDS = "captions/flickr8k-val-*.tar"
TEXTS = ("switchboard", "gutenberg_novels", "wikipedia_leads")

Source = Annotated[
    str,
    typer.Argument(
        metavar="RUN|MODEL",
        help="The folder of a training run, a .bitmar file, or a Hub id; `bundled`: the bundled model.",
        show_default=False,
    ),
]
Out = Annotated[Path, typer.Argument(metavar="OUT.png|OUT.svg", help="The picture.", show_default=False)]
OnlyStage = Annotated[
    str | None, typer.Option("--stage", metavar="NAME", help="One stage of a run. Default: all that are finished.")
]


@command(
    "bitmar plot memory runs/default out/memory.png",
    "bitmar plot memory bundled memory.svg --data 'val-*.tar' --memory home.mem",
    group=plots,
    name="memory",
    shards=True,
)
def plot_memory(
    source: Source,
    out: Out,
    stage: OnlyStage = None,
    home: MemoryFile = None,
    data: Annotated[
        list[str] | None,
        typer.Option("--data", metavar="SHARDS", help="Captions to read, with their photos. Can be repeated."),
    ] = None,
    text: Annotated[
        list[str] | None, typer.Option("--text", metavar="FILE", help="Texts to read. Can be repeated.")
    ] = None,
    heldout: Annotated[
        float,
        typer.Option(
            "--heldout", min=0.0, max=1.0, help="Share of the texts to read, as `heldout` of a recipe; 1 is all."
        ),
    ] = 0.01,
) -> None:
    """Draw which slots held-out texts read, early and late in a run; how the slots are used; what they hold.

    Without --data and --text it reads captions and texts below $BITMAR_DATA, or else sentences that come with bitmar.
    """
    from bitmar.plots.canvas import check_out, save
    from bitmar.plots.memory import LOGGED_SERIES, draw_memory
    from bitmar.plots.slots import held, passages, read, usage_along
    from bitmar.plots.snapshots import Course, course, snapshots, untrained

    check_out(out)
    run = _run(source)
    if run and home:
        raise ConfigError("--memory is read by one model, not by a run: name the model that wrote it")
    if data is None and text is None:
        data, text = data_files(SHARDS), [path for name in TEXTS for path in data_files(f"text/{name}.txt.xz")]
    with needs("train"), progress() as bar:
        models: dict[str, BitMar] = {}
        if run:
            kept = snapshots(run, stage)
            first = untrained(kept[0])
            models |= {} if first is None else {"before training": first}
            models |= {str(snapshot): snapshot.open() for snapshot in dict.fromkeys((kept[0], kept[-1]))}
        else:
            models |= _model(source)
        last = list(models.values())[-1]
        sighted = all(model.engine.tower is not None for model in models.values())
        skipped = Skipped(bar)
        found = passages(data or (), text or (), heldout, photos=sighted, on_bad=skipped)
        tick = _ticks(bar, "passages", (len(models) + (run is None)) * len(found))
        session = _session(last, home)
        state = session.state_for(last) if session else None
        readings: list[Reading] = [read(name, model, found, state, tick) for name, model in models.items()]
        use: Any = course(run, tuple(LOGGED_SERIES), stage) if run else None
        if not use:
            use = usage_along(last, found, state, tick)
    kept_by = "photos and captions" if sighted and any(passage.photo for passage in found) else "texts alone"
    title = f"Episodic memory of {source}" + (f" with {home.name}" if home else "")
    save(draw_memory(title, readings, found, held(readings[-1], found, session), use), out)
    if skipped.reasons:
        say(str(skipped))
    what = "its log" if isinstance(use, Course) else "a stream of writes"
    say(f"{out}: {', '.join(models)}; read {_kinds(found)} ({kept_by}); usage along {what}")


@command(
    "bitmar plot attention bundled attention.png --image photo.jpg",
    "bitmar plot attention runs/default a.svg --image photo.jpg --text 'A dog runs.' --memory home.mem",
    group=plots,
    name="attention",
)
def plot_attention(
    source: Source,
    out: Out,
    image: Annotated[str, typer.Option("--image", "-i", metavar="PHOTO", help="The photo.", show_default=False)],
    text: Annotated[
        str | None, typer.Option("--text", metavar="TEXT", help="Trace this text in place of the model's caption.")
    ] = None,
    home: MemoryFile = None,
    stage: OnlyStage = None,
) -> None:
    """Draw where on a photo, on which words and in which slots the model looks for every word that it writes."""
    from bitmar.plots.attention import draw_attention
    from bitmar.plots.canvas import check_out, save
    from bitmar.plots.words import trace_caption

    check_out(out)
    loaded = _last(source, stage)
    trace = trace_caption(loaded, image, text=text, session=_session(loaded, home))
    save(draw_attention(f"What {Path(source).name} looked at in {Path(image).name}, word by word", trace), out)
    say(f"{out}: {trace.caption}")


@command(
    "bitmar plot quantization runs/default out/zeros.png",
    "bitmar plot quantization bundled zeros.svg",
    group=plots,
    name="quantization",
)
def plot_quantization(source: Source, out: Out, stage: OnlyStage = None) -> None:
    """Draw the share of zero weights: over training for a run, and in every matrix."""
    from bitmar.plots.canvas import check_out, save
    from bitmar.plots.quantization import LOGGED, draw_quantization
    from bitmar.plots.snapshots import course
    from bitmar.plots.zeros import zeros_of_model, zeros_of_run

    check_out(out)
    run = _run(source)
    matrices = zeros_of_run(run, stage) if run else []
    matrices = matrices or zeros_of_model(_last(source, stage).container)
    save(draw_quantization(f"Quantisation of {source}", matrices, course(run, (LOGGED,), stage) if run else None), out)
    say(f"{out}: {len(matrices)} matrices, {sum(m.zeros for m in matrices) / len(matrices):.1%} zeros on average")


@command("bitmar plot confidence out/naming.json out/confidence.png", group=plots, name="confidence")
def plot_confidence(
    naming: Annotated[
        Path,
        typer.Argument(metavar="NAMING.json", help="What `bitmar eval naming --json` wrote.", show_default=False),
    ],
    out: Out,
) -> None:
    """Draw how far the confidence of captions can be trusted: reliability diagram, and risk against coverage."""
    from bitmar.plots.canvas import check_out, save
    from bitmar.plots.confidence import draw_confidence, read_naming

    check_out(out)
    found = read_naming(naming)
    save(draw_confidence(f"Confidence of {Path(found['model']).name}", found), out)
    say(f"{out}: calibration error {found['calibration_error']:.3f} over {found['photos']} photos")


def _run(source: str) -> Path | None:
    from bitmar.train.runs import is_run

    return Path(source) if is_run(Path(source)) else None


def _model(source: str) -> dict[str, BitMar]:
    """One model by its name, a checkpoint folder included."""
    from bitmar.api import load
    from bitmar.plots.snapshots import Snapshot

    folder = Path(source)
    if (folder / "model.safetensors").is_file() and not any(folder.glob("*.bitmar")):
        return {folder.name: Snapshot(folder.name, 0, folder).open()}
    loaded = load(None if source == "bundled" else source)
    return {loaded.path.name: loaded}


def _last(source: str, stage: str | None) -> BitMar:
    """The model of a file, or the last one of a run."""
    from bitmar.plots.snapshots import snapshots

    run = _run(source)
    return snapshots(run, stage)[-1].open() if run else next(iter(_model(source).values()))


def _session(model: BitMar, path: Path | None) -> Session | None:
    if path is None:
        return None
    from bitmar.cli.memory import open_memory

    return open_memory(model, path)


def _ticks(bar: Any, name: str, total: int) -> Callable[[], None]:
    task = bar.add_task(name, total=total)
    return lambda: bar.advance(task)


def _kinds(found: list[Passage]) -> str:
    counts: dict[str, int] = {}
    for passage in found:
        counts[passage.kind] = counts.get(passage.kind, 0) + 1
    return ", ".join(f"{count} {kind}" for kind, count in counts.items())
