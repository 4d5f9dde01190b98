"""`bitmar eval TASK` and `bitmar ablate memory`: a command for every line of the table of tasks."""

from __future__ import annotations

import inspect
import json
import os
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from bitmar import __version__
from bitmar.cli.app import FAILED, JUDGE, SKIPPED, Group, command, make_group
from bitmar.cli.common import Model, needs, show
from bitmar.console import STDOUT, Skipped, Steps, progress, resumable, say, write_json
from bitmar.core.errors import ConfigError, DataError
from bitmar.core.paths import VARIABLE, data_folder

if TYPE_CHECKING:
    from bitmar.evaluate.scorer import RuntimeScorer
    from bitmar.evaluate.store import Store
    from bitmar.evaluate.task import Option, Task
    from bitmar.evaluate.torch_scorer import TorchScorer

Engine = Annotated[
    str, typer.Option("--engine", metavar="ENGINE", help="auto, runtime, torch, numpy, or a path of `bitmar doctor`.")
]
JsonFile = Annotated[
    Path | None, typer.Option("--json", metavar="FILE", help="Write the figures here as JSON; - for stdout.")
]


class Tasks(Group):
    """A group whose commands are the table's, which is read when they are asked for: it imports numpy."""

    _made: Any = None

    @property
    def commands(self) -> Any:
        """By name."""
        if self._made is None:
            self._made = _commands(str(self.name))
        return self._made

    @commands.setter
    def commands(self, _: Any) -> None:
        """Typer knows none."""


make_group("eval", "Measure a model with the field's own tasks.", panel=JUDGE, cls=Tasks)
make_group("ablate", "Switch a part of a model off and see what it was good for.", panel=JUDGE, cls=Tasks)


def _commands(group: str) -> Any:
    from bitmar.evaluate.table import TASKS

    made = typer.Typer(cls=Group, callback=lambda: None, rich_markup_mode="rich")
    for task in TASKS.values():
        _, its_group, name = task.line.split()
        if its_group == group:
            shards = any(option.reads == "shards" for option in _options(task).values())
            command(*task.examples, group=made, name=name, shards=shards)(_function(task))
    found: Any = typer.main.get_command(made)
    return found.commands


def _options(task: Task) -> dict[str, Option]:
    """The options that the keywords of a task's `run` declare."""
    hints = get_type_hints(task.run, include_extras=True)
    given = inspect.signature(task.run).parameters.values()
    return {each.name: hints[each.name].__metadata__[0] for each in given if each.kind is each.KEYWORD_ONLY}


def _function(task: Task) -> Any:
    """The signature of a task's command: its own options, then those of every task."""
    hints = get_type_hints(task.run, include_extras=True)
    given = inspect.signature(task.run).parameters
    parameters: dict[str, tuple[Any, Any]] = {}  # annotation, default
    for name, about in _options(task).items():
        kind, default = hints[name].__origin__, given[name].default
        flag = f"--{name.replace('_', '-')}"
        if kind is bool:
            flag += f"/--no-{name.replace('_', '-')}"
        option = typer.Option(flag, metavar=about.metavar, help=about.help, min=about.least, max=about.most)
        if default is inspect.Parameter.empty:  # read from $BITMAR_DATA
            kind, default = kind | None, None
        parameters[name] = Annotated[kind, option], default
    limit = typer.Option("--limit", min=task.least, help=f"Only {task.counts}.")
    parameters |= {
        "model": (Model, None), "engine": (Engine, "auto"), "limit": (Annotated[int | None, limit], None),
        "json_file": (JsonFile, None),
    }  # fmt: skip

    def run(model: str | None, engine: str, limit: int | None, json_file: Path | None, **options: Any) -> None:
        _evaluate(task, model, engine, limit, json_file, options)

    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    signature = [inspect.Parameter(name, kind, default=d, annotation=a) for name, (a, d) in parameters.items()]
    run.__signature__ = inspect.Signature(signature)  # type: ignore[attr-defined]
    run.__annotations__ = {name: annotation for name, (annotation, _) in parameters.items()}
    run.__doc__ = task.run.__doc__
    return run


def _evaluate(
    task: Task, model: str | None, engine: str, limit: int | None, json_file: Path | None, options: dict[str, Any]
) -> None:
    """Run a task, write its figures, print its tables; the exit status says whether anything was left out."""
    from bitmar.evaluate.scorer import load_scorer
    from bitmar.evaluate.tables import Results, Table
    from bitmar.evaluate.work import Work

    options = _filled(task, options)
    scorer = load_scorer(model, engine)
    if task.sees and not scorer.has_tower and not options.get("features"):
        more = "extract them with `bitmar features` and name their folder with --features"
        raise ConfigError(
            f"{scorer.name} has no vision tower: it needs the patch features that it was trained on"
            + (f"; {more}" if "features" in options else ", which this task does not take")
        )
    head = _head(task, scorer, limit)
    to_file = None if json_file == STDOUT else json_file
    store = _open_store(task, scorer, head, to_file, options)
    with store or nullcontext(), resumable(lambda: store.path if store and store.found else None):
        with needs("eval"), progress() as bar:
            skipped = Skipped(bar)
            found = task.run(scorer, Work(limit, store, None, skipped, Steps(bar)), **options)
        parts = {**(store.found if store else {}), **found} if task.parts else {}
        document = {**head, **_written(options), **({"tasks": parts} if task.parts else found)}
        if json_file is not None:
            write_json({**document, "skipped": skipped.as_list()}, json_file)
        if store is not None:
            store.finish()
    states = [part["status"] for part in found.values()] if task.parts else []
    if json_file != STDOUT:
        for each in task.tables(Results.of(task.name, found, Path(scorer.name).name)):
            if isinstance(each, Table):
                show(each)
    for name, part in found.items() if task.parts else ():
        if part["status"] == "failed":
            say(f"{name}: {part['message']}")
        elif "message" in part and json_file != STDOUT:
            typer.echo(f"{name}: {part['message']} ({part['status']})")
    if skipped.reasons:
        say(str(skipped))
    if states and "done" not in states:
        raise typer.Exit(FAILED)
    if skipped.reasons or "failed" in states or found.get("passed") is False:
        raise typer.Exit(SKIPPED)


def _filled(task: Task, given: dict[str, Any]) -> dict[str, Any]:
    """The options as `run` takes them: lists split, $BITMAR_DATA where they say nothing, all that they name there."""
    from bitmar.data.shards import expand_shards
    from bitmar.evaluate.folder import Absent, EvalData

    about, defaults = _options(task), inspect.signature(task.run).parameters
    options = {
        name: [part for some in value for part in some.split(",") if part]
        if isinstance(value, list) and about[name].reads != "shards" and "," in (about[name].metavar or "")
        else value
        for name, value in given.items()
    }
    required = [name for name in options if defaults[name].default is inspect.Parameter.empty and not options[name]]
    if required or (task.fills and os.environ.get(VARIABLE)):
        try:
            found = task.files(EvalData(data_folder()))
        except Absent:
            if required:
                raise
            found = {}
        options |= {name: value for name, value in found.items() if not options.get(name)}
    for name, value in options.items():
        if about[name].reads == "shards":
            expand_shards(value or ())
        elif about[name].reads == "path" and isinstance(value, Path) and not value.exists():
            raise DataError(f"{value} does not exist: there is no such file or folder")
    return options


def _head(task: Task, scorer: RuntimeScorer | TorchScorer, limit: int | None) -> dict[str, Any]:
    """The first keys of every document."""
    from bitmar.evaluate.store import checksum

    return {
        "task": task.line.rpartition(" ")[2],
        "command": task.line.removeprefix("bitmar "),
        "bitmar": __version__,
        "model": scorer.name,
        "model_checksum": checksum(scorer),
        "scorer": type(scorer).__name__,
        "limit": limit,
    }


def _written(options: Mapping[str, Any]) -> dict[str, Any]:
    return {name: str(value) if isinstance(value, Path) else value for name, value in options.items()}


def _open_store(
    task: Task, scorer: RuntimeScorer | TorchScorer, head: dict[str, Any], path: Path | None, options: dict[str, Any]
) -> Store | None:
    """The store of an unfinished run beside the file of its figures, and the finished parts in that file."""
    from bitmar.evaluate.store import Store, fingerprint

    if path is None or task.kept is None:
        return None
    own = {name: head[name] for name in ("bitmar", "limit") if task.parts}
    done = _earlier(path, head) if task.parts else {}
    store = Store(path.with_name(f"{path.name}.partial"), {"model": fingerprint(scorer), **own, **task.kept(**options)})
    if store.replaced:
        say(store.replaced)
    store.found = {**done, **store.found}
    return store


def _earlier(path: Path, head: Mapping[str, Any]) -> dict[str, Any]:
    """The parts of a finished run with the same model and limit, {} if there is none."""
    if not path.exists():
        return {}
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        parts = {name: part for name, part in document["tasks"].items() if part["status"] == "done"}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"{path} is no result of this command: name another file, or delete it") from error
    wanted = ("task", "bitmar", "model_checksum", "scorer", "limit")
    same = all(document.get(name) == head[name] for name in wanted) and head["model_checksum"] is not None
    return parts if same else {}
