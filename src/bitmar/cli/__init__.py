"""The `bitmar` command. Commands import what they need when they run: help is instant, `caption` never sees torch."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from bitmar import __version__
from bitmar.cli.caption import caption
from bitmar.cli.common import FAILED, STOPPED, examples, say
from bitmar.cli.engine import bench, doctor
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
from bitmar.cli.prepare import features, tokenizer_info, tokenizer_train
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
        "bitmar stream novel.txt", "xzcat novels.txt.xz | bitmar stream --every 100000 --json out/stream.json"
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
