"""`bitmar ask`: a question about a photo."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from bitmar.cli.app import USE, command
from bitmar.cli.common import Json, Model
from bitmar.console import say, write_json


@command(
    'bitmar ask photo.jpg "What color is the car?"',
    'bitmar ask photo.jpg "Is there a dog?" "How many dogs are there?" --json',
    panel=USE,
)
def ask(
    photo: Annotated[str, typer.Argument(metavar="PHOTO", show_default=False)],
    questions: Annotated[list[str], typer.Argument(metavar="QUESTION", show_default=False)],
    model: Model = None,
    as_json: Json = False,
) -> None:
    """Answer questions about a photo: yes or no, how many, what color, what it is, where.

    The answer is "I cannot tell" where the photo makes it no likelier than the question alone.
    """
    from bitmar import load

    loaded = load(model)
    image = loaded.encode_image(photo)
    answers = [(question, loaded.ask(image, question)) for question in questions]
    if as_json:
        found = [{"question": question, **asdict(answer)} for question, answer in answers]
        write_json({"model": str(loaded.path), "photo": photo, "answers": found})
        return
    for question, answer in answers:
        typer.echo(answer.text if len(answers) == 1 else f"{question} {answer.text}")
        if answer.certain:
            say(f"{answer.confidence:.0%} sure")
