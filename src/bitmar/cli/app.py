"""The `bitmar` command itself: how a command module registers, how help is laid out, and how every command ends."""

from __future__ import annotations

import functools
import inspect
import shutil
from collections.abc import Callable
from typing import Annotated, Any, TypeVar, get_type_hints

import typer
from typer.core import TyperCommand, TyperGroup

from bitmar import __version__
from bitmar.console import say
from bitmar.core.errors import BitMarError

SKIPPED, FAILED, STOPPED = 1, 2, 130  # exit statuses; 130 is what a shell gives for Ctrl-C
USE, JUDGE, MAKE = "Use a model", "Judge a model", "Make a model"

ON_BEGIN = "on_begin"  # in the context's object

NARROW = 80  # columns below which rich's tables of options leave no room for their help

Function = TypeVar("Function", bound=Callable[..., None])


class Help:
    """Help in panels, or in plain paragraphs where the terminal is narrow: for both kinds of command."""

    rich_markup_mode: Any
    epilog: str | None

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Lay out the whole page."""
        mode = self.rich_markup_mode
        if shutil.get_terminal_size().columns < NARROW:
            self.rich_markup_mode = None
        try:
            super().format_help(ctx, formatter)  # type: ignore[misc]
        finally:
            self.rich_markup_mode = mode

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        """The examples in plain text; the panels have them in colours."""
        from rich.text import Text

        if self.epilog:
            title, *lines = Text.from_markup(self.epilog).plain.split("\n\n")
            with formatter.section(title):
                formatter.write_text("\b\n" + "\n".join(lines))


class Command(Help, TyperCommand):
    """One command."""


class Group(Help, TyperGroup):
    """A command of commands."""


class Root(Group):
    """Turns what a user can meet into one line and an exit status; faults of our own keep their traceback."""

    def invoke(self, ctx: Any) -> Any:
        """Run the chosen command."""
        try:
            if ctx.obj and ON_BEGIN in ctx.obj:
                ctx.obj[ON_BEGIN]()
            return super().invoke(ctx)
        except BitMarError as error:
            _fail(str(error))
        except BrokenPipeError:
            raise  # typer ends in silence: whoever read our output has had enough
        except OSError as error:  # a full disk, a file without permission
            _fail(": ".join(str(part) for part in (error.filename, error.strerror or error) if part))
        except KeyboardInterrupt as stop:
            say(f"stopped; {stop}" if str(stop) else "stopped")
            raise typer.Exit(STOPPED) from None


def _fail(message: str) -> None:
    say(f"error: {' '.join(message.split())}")
    raise typer.Exit(FAILED) from None


def _examples(*commands: str) -> str:
    """An epilog of commands, in rich markup."""
    lines = (command.replace("[", r"\[") for command in commands)
    return "\n\n".join(["[bold]Examples[/bold]", *(f"[cyan]$ {line}[/cyan]" for line in lines)])


app = typer.Typer(
    cls=Root,
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=_examples(
        "bitmar caption photo.jpg",
        "bitmar complete 'Once upon a time' --temperature 0.8",
        "bitmar train recipes/smoke.yaml",
        "bitmar COMMAND --help",
    ),
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"bitmar {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Captions for photographs from a ternary model of a few megabytes, offline and without PyTorch."""


def make_group(name: str, about: str, *examples: str, panel: str, cls: type[Group] = Group) -> typer.Typer:
    """A command of commands, `bitmar NAME ...`; its own commands take it as `group`."""
    group = typer.Typer(cls=cls, no_args_is_help=True, help=about, short_help=about)
    app.add_typer(group, name=name, rich_help_panel=panel, epilog=_examples(*examples) if examples else None)
    return group


def command(
    *examples: str, group: typer.Typer = app, name: str | None = None, panel: str | None = None, shards: bool = False
) -> Callable[[Function], Function]:
    """Registers a function as a command, its docstring as the help.

    examples: whole commands, shown below the help. name: if it is not the function's. panel: USE, JUDGE or MAKE.
    shards: whether it reads shards.
    """

    def register(function: Function) -> Function:
        paragraphs = inspect.cleandoc(function.__doc__ or "").split("\n\n")
        paragraphs = [" ".join(paragraph.split()) for paragraph in paragraphs]  # the source's lines are not the help's
        add = group.command(
            name,
            cls=Command,
            help="\n\n".join(paragraphs),
            short_help=paragraphs[0],
            epilog=_examples(*examples),
            rich_help_panel=panel,
        )
        add(_may_pipe(function) if shards else function)
        return function

    return register


def _may_pipe(function: Callable[..., None]) -> Callable[..., None]:
    """The command with an option --allow-pipe, which no recipe and no list of shards can give."""
    hints = get_type_hints(function, include_extras=True)
    option = Annotated[bool, typer.Option("--allow-pipe", help="Let shards called pipe:COMMAND run their command.")]
    flag = inspect.Parameter("allow_pipe", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=option)
    own = [each.replace(annotation=hints[each.name]) for each in inspect.signature(function).parameters.values()]

    @functools.wraps(function)
    def run(*arguments: Any, allow_pipe: bool = False, **options: Any) -> None:
        if not allow_pipe:
            function(*arguments, **options)
            return
        from bitmar.data.shards import allow_pipes

        allow_pipes()
        try:
            function(*arguments, **options)
        finally:
            allow_pipes(False)

    run.__signature__ = inspect.Signature([*own, flag])  # type: ignore[attr-defined]
    run.__annotations__ = {**hints, "allow_pipe": option}
    return run
