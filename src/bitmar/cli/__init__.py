"""The `bitmar` command. Commands import what they need when they run: help is instant, `caption` never sees torch."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from bitmar import __version__
from bitmar.cli.ablate import ablate_memory
from bitmar.cli.calibrate import calibrate
from bitmar.cli.caption import caption
from bitmar.cli.common import FAILED, STOPPED, examples, say
from bitmar.cli.engine import bench, doctor
from bitmar.cli.eval_babylm import babylm
from bitmar.cli.eval_pictures import eval_caption, eval_nlvr, eval_questions, eval_retrieval
from bitmar.cli.eval_probes import eval_probes
from bitmar.cli.eval_tasks import eval_tasks
from bitmar.cli.finetune import finetune
from bitmar.cli.memory import (
    export_memory,
    forget,
    import_memory,
    merge,
    recall,
    remember,
    show,
    stats,
)
from bitmar.cli.models import export, info
from bitmar.cli.plot import plot_attention, plot_memory, plot_quantization
from bitmar.cli.prepare import features, tokenizer_info, tokenizer_train
from bitmar.cli.report import report
from bitmar.cli.stream import stream
from bitmar.cli.text import complete, score
from bitmar.cli.training import distill, train
from bitmar.core.errors import BitMarError


class Commands(TyperGroup):
    """Turns what a user can meet into one line and an exit status; faults of our own keep their traceback."""

    def invoke(self, ctx: Any) -> Any:
        """Run the chosen command."""
        try:
            return super().invoke(ctx)
        except BitMarError as error:
            _fail(str(error))
        except BrokenPipeError:
            raise  # typer ends in silence: whoever read our output has had enough
        except OSError as error:  # a full disk, a file without permission
            _fail(": ".join(str(part) for part in (error.filename, error.strerror or error) if part))
        except KeyboardInterrupt:
            say("stopped; run the same command again to go on")
            raise typer.Exit(STOPPED) from None


def _fail(message: str) -> None:
    say(f"error: {' '.join(message.split())}")
    raise typer.Exit(FAILED) from None


USE, MAKE = "Use a model", "Make a model"

app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=examples(
        "bitmar caption photo.jpg",
        "bitmar complete 'Once upon a time' --temperature 0.8",
        "bitmar train recipes/smoke.yaml",
        "bitmar COMMAND --help",
    ),
)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"bitmar {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Captions for photographs from a ternary model of a few megabytes, offline and without PyTorch."""


app.command(
    rich_help_panel=USE,
    epilog=examples(
        "bitmar caption photo.jpg",
        "bitmar caption *.jpg --beams 3 --json",
        "bitmar caption *.jpg --grid grid.png",
        "bitmar caption photo.jpg --memory home.mem",
        "bitmar caption --data 'val-{00000..00003}.tar' --json captions.json",
    ),
)(caption)
app.command(
    rich_help_panel=USE,
    epilog=examples(
        "bitmar complete 'The dog runs'",
        "bitmar complete 'Once upon a time' --temperature 0.8 --top-p 0.9 --seed 1",
        "bitmar complete 'In the middle of the picture' --image photo.jpg",
        "bitmar complete 'The dog is called' --memory home.mem",
    ),
)(complete)
app.command(
    rich_help_panel=USE,
    epilog=examples(
        "bitmar score 'The dogs are barking.'",
        "bitmar score 'A dog on a beach.' --image photo.jpg --json",
    ),
)(score)
app.command(
    rich_help_panel=USE,
    epilog=examples(
        "bitmar stream novel.txt",
        "xzcat novels.txt.xz | bitmar stream --every 100000 --json out/stream.json",
        "bitmar stream diary.txt --memory home.mem --remember",
    ),
)(stream)
app.command(
    rich_help_panel=USE,
    epilog=examples(
        "bitmar remember photo.jpg 'our dog Rex' --memory home.mem",
        "bitmar remember 'The key lies under the mat.' --memory home.mem",
    ),
)(remember)
app.command(
    rich_help_panel=USE,
    epilog=examples(
        "bitmar recall photo.jpg --memory home.mem",
        "bitmar recall 'where is the key' --memory home.mem -k 5 --json",
    ),
)(recall)

memory = typer.Typer(no_args_is_help=True, help="Look into a memory, forget, merge, and move it.")
app.add_typer(
    memory,
    name="memory",
    rich_help_panel=USE,
    epilog=examples("bitmar memory show home.mem", "bitmar memory stats home.mem --json"),
)
memory.command(epilog=examples("bitmar memory show home.mem", "bitmar memory show home.mem --json"))(show)
memory.command(epilog=examples("bitmar memory stats home.mem --json"))(stats)
memory.command(epilog=examples("bitmar memory forget home.mem 3 17", "bitmar memory forget home.mem --all"))(forget)
memory.command(epilog=examples("bitmar memory merge home.mem garden.mem kitchen.mem"))(merge)
memory.command(
    "export",
    epilog=examples(
        "bitmar memory export home.mem home.jsonl", "bitmar memory export damaged.mem rest.jsonl --salvage"
    ),
)(export_memory)
memory.command("import", epilog=examples("bitmar memory import new.mem home.jsonl --model better.bitmar"))(
    import_memory
)

app.command(
    rich_help_panel=USE,
    epilog=examples("bitmar info", "bitmar info model.bitmar --json", "bitmar info runs/default"),
)(info)
app.command(
    rich_help_panel=USE,
    epilog=examples("bitmar doctor", "BITMAR_KERNEL=avx2 bitmar doctor --json"),
)(doctor)
app.command(
    rich_help_panel=USE,
    epilog=examples(
        "bitmar bench",
        "bitmar bench --path avx2 --path portable",
        "bitmar bench --model m.bitmar --json out/bench.json",
    ),
)(bench)

JUDGE = "Judge a model"
evaluate = typer.Typer(no_args_is_help=True, help="Measure a model with the field's own tasks.")
app.add_typer(evaluate, name="eval", rich_help_panel=JUDGE)
evaluate.command(
    epilog=examples(
        "bitmar eval babylm --data evaluation_data/full_eval --json out/babylm.json",
        "bitmar eval babylm --data evaluation_data --tasks blimp,ewok --half torch --model runs/default/reward",
    ),
)(babylm)
evaluate.command(
    "tasks",
    epilog=examples(
        "bitmar eval tasks --json out/tasks.json",
        "bitmar eval tasks --tasks arc_easy,boolq,winogrande --data archives --limit 100",
    ),
)(eval_tasks)
evaluate.command(
    "caption",
    epilog=examples(
        "bitmar eval caption --data 'flickr8k-val-*.tar' --json out/caption.json",
        "bitmar eval caption --data val.tar --model teacher.bitmar --features out/val --beams 3 --no-java",
    ),
)(eval_caption)
evaluate.command(
    "retrieval", epilog=examples("bitmar eval retrieval --data 'flickr8k-val-*.tar' --json out/retrieval.json")
)(eval_retrieval)
evaluate.command("questions", epilog=examples("bitmar eval questions --data 'val-*.tar' --json out/questions.json"))(
    eval_questions
)
evaluate.command("nlvr", epilog=examples("bitmar eval nlvr --data nlvr1.zip --json out/nlvr.json"))(eval_nlvr)
evaluate.command(
    "probes",
    epilog=examples(
        "bitmar eval probes",
        "bitmar eval probes --data 'flickr8k-val-*.tar' --blimp blimp_filtered.zip --json out/probes.json",
    ),
)(eval_probes)

ablation = typer.Typer(no_args_is_help=True, help="Switch a part of a model off and see what it was good for.")
app.add_typer(ablation, name="ablate", rich_help_panel=JUDGE)
ablation.command(
    "memory",
    epilog=examples(
        "bitmar ablate memory --json out/ablate.json",
        "bitmar ablate memory --model m.bitmar --data 'val-*.tar' --text novels.txt --heldout 1 --markdown table.md",
    ),
)(ablate_memory)

app.command(
    rich_help_panel=JUDGE,
    epilog=examples(
        "bitmar report --out report",
        "bitmar report --limit 50 --only tasks,captions --out quick",
        "bitmar report --model runs/mine --baseline runs/unquantised --data evaluation_data --out report",
    ),
)(report)

plots = typer.Typer(no_args_is_help=True, help="Draw what goes on inside, as PNG or SVG.")
app.add_typer(plots, name="plot", rich_help_panel=JUDGE)
plots.command(
    "memory",
    epilog=examples(
        "bitmar plot memory runs/default out/memory.png",
        "bitmar plot memory bundled memory.svg --data 'val-*.tar' --memory home.mem",
    ),
)(plot_memory)
plots.command(
    "attention",
    epilog=examples(
        "bitmar plot attention bundled attention.png --image photo.jpg",
        "bitmar plot attention runs/default a.svg --image photo.jpg --text 'A dog runs.' --memory home.mem",
    ),
)(plot_attention)
plots.command(
    "quantization",
    epilog=examples(
        "bitmar plot quantization runs/default out/zeros.png", "bitmar plot quantization bundled zeros.svg"
    ),
)(plot_quantization)

app.command(
    rich_help_panel=MAKE,
    epilog=examples(
        "bitmar train recipes/smoke.yaml",
        "bitmar train recipes/default.yaml --stage language",
        "bitmar train recipes/smoke.yaml --set output=runs/wide --set model.hidden_size=256",
        "torchrun --nproc-per-node 4 -m bitmar train recipes/default.yaml",
    ),
)(train)
app.command(
    rich_help_panel=MAKE,
    epilog=examples("bitmar distill recipes/default.yaml", "bitmar distill my.yaml --set stages.tower.rows=64"),
)(distill)
app.command(
    rich_help_panel=MAKE,
    epilog=examples(
        "bitmar features 'flickr8k-train-*.tar' out/train --tower dinov2:base --views 8",
        "bitmar features val.tar out/val --tower litert:mobilenet.tflite",
    ),
)(features)
app.command(
    rich_help_panel=MAKE,
    epilog=examples("bitmar export runs/default out/model.bitmar", "bitmar export runs/default/joint out/model.bitmar"),
)(export)
app.command(
    rich_help_panel=MAKE,
    epilog=examples("bitmar calibrate model.bitmar out/sure.bitmar --data 'flickr8k-train-*.tar'"),
)(calibrate)

app.command(
    rich_help_panel=MAKE,
    epilog=examples(
        "bitmar finetune rte --data glue_filtered --model runs/default/reward --out runs/rte",
        "bitmar finetune boolq --data glue_filtered --model runs/default --out runs/boolq --seeds 3 --json boolq.json",
        "bitmar finetune --train a.jsonl --valid b.jsonl --text-field review --label-field stars -m runs/mine -o out",
    ),
)(finetune)

tokenizer = typer.Typer(no_args_is_help=True, help="Train a tokenizer, or look into one.")
app.add_typer(
    tokenizer,
    name="tokenizer",
    rich_help_panel=MAKE,
    epilog=examples("bitmar tokenizer train out --text books.txt", "bitmar tokenizer info gpt2"),
)
tokenizer.command(
    "train",
    epilog=examples(
        "bitmar tokenizer train out --text books.txt --text wiki=wiki/*.txt.xz --size 8192",
        "bitmar tokenizer train out --text books.txt --captions 'train-{000..099}.tar'",
    ),
)(tokenizer_train)
tokenizer.command(
    "info",
    epilog=examples(
        "bitmar tokenizer info gpt2", "bitmar tokenizer info out --text books.txt", "bitmar tokenizer info model.bitmar"
    ),
)(tokenizer_info)


def main() -> None:
    """Entry point of the `bitmar` command: 0 done, 1 some photos skipped, 2 an error, 130 stopped by Ctrl-C."""
    app()
