"""`bitmar complete` and `bitmar score`: text, with a photo or without."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Annotated, Any

import typer

from bitmar.cli.app import USE, command
from bitmar.cli.common import Beams, Image, Json, MemoryFile, Model, Recite
from bitmar.console import write_json

Text = Annotated[str, typer.Argument(metavar="TEXT", show_default=False)]


@command(
    "bitmar complete 'The dog runs'",
    "bitmar complete 'Once upon a time' --temperature 0.8 --top-p 0.9 --seed 1",
    "bitmar complete 'In the middle of the picture' --image photo.jpg",
    "bitmar complete 'The dog is called' --memory home.mem",
    panel=USE,
)
def complete(
    text: Text,
    model: Model = None,
    image: Image = None,
    max_tokens: Annotated[int, typer.Option("--max-tokens", help="Stop after N tokens.")] = 64,
    temperature: Annotated[
        float, typer.Option("--temperature", help="0 takes the likeliest token, 1 samples as is.")
    ] = 0.0,
    top_k: Annotated[int, typer.Option("--top-k", help="Sample from the k likeliest tokens; 0 is all.")] = 0,
    top_p: Annotated[
        float, typer.Option("--top-p", help="Sample from the likeliest tokens whose probabilities add up to this.")
    ] = 1.0,
    repetition_penalty: Annotated[
        float, typer.Option("--repetition-penalty", help="Above 1: divides the logits of tokens already present.")
    ] = 1.0,
    seed: Annotated[int | None, typer.Option("--seed", help="Seed of sampling; makes it repeatable.")] = None,
    beams: Beams = None,
    memory: MemoryFile = None,
    recite: Recite = True,
    as_json: Json = False,
) -> None:
    """Print TEXT and its continuation, token by token."""
    from bitmar import load
    from bitmar.runtime.options import searches

    loaded = load(model)
    options: dict[str, Any] = {
        "max_tokens": max_tokens,
        "temperature": temperature,
        "top_k": top_k,
        "top_p": top_p,
        "repetition_penalty": repetition_penalty,
        "seed": seed,
    }
    if memory is not None:
        from bitmar.cli.memory import open_memory

        options |= {"memory": open_memory(loaded, memory), "recite": recite}
    if as_json:
        written = loaded.generate(text, image, beams=beams, **options)
        write_json(
            {
                "model": str(loaded.path),
                "text": text,
                "completion": written.text,
                "tokens": len(written.tokens),
                "finish_reason": written.finish_reason,
                "seconds": {part: round(seconds, 4) for part, seconds in asdict(written.timings).items()},
            }
        )
    elif searches(beams):
        typer.echo(text + loaded.complete(text, image, beams=beams, **options))
    else:
        pieces = loaded.stream(text, image, **options)
        typer.echo(text, nl=False)
        for piece in pieces:
            typer.echo(piece, nl=False)
        typer.echo()


@command(
    "bitmar score 'The dogs are barking.'",
    "bitmar score 'A dog on a beach.' --image photo.jpg --json",
    panel=USE,
)
def score(text: Text, model: Model = None, image: Image = None, as_json: Json = False) -> None:
    """Print how likely TEXT is: the natural log-probability of every token, their sum, and the perplexity."""
    from bitmar import load
    from bitmar.runtime.text import encode

    loaded = load(model)
    values = [round(float(value), 5) for value in loaded.score(text, loaded.encode_image(image) if image else None)]
    pieces = [loaded.tokenizer.decode([token]) for token in encode(loaded.tokenizer, text)]
    total = sum(values)
    perplexity = math.exp(-total / len(values)) if values else None
    if as_json:
        tokens = [{"token": piece, "log_probability": value} for piece, value in zip(pieces, values, strict=True)]
        document = {
            "model": str(loaded.path),
            "text": text,
            "log_probability": round(total, 5),
            "perplexity": perplexity,
        }
        write_json({**document, "tokens": tokens})
        return
    for piece, value in zip(pieces, values, strict=True):
        typer.echo(f"{value:10.4f}  {piece!r}")
    rest = f", perplexity {perplexity:.2f}" if perplexity is not None else ""
    typer.echo(f"{total:10.4f}  in all, {len(values)} tokens{rest}")
