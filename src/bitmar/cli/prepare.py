"""`bitmar features` and `bitmar tokenizer`: what training reads."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from bitmar.cli.app import MAKE, SKIPPED, command, make_group
from bitmar.cli.common import Assignments, Cluster, Json, RecipeFile, needs
from bitmar.console import Skipped, print_table, progress, resumable, say, write_json
from bitmar.core.errors import ConfigError

tokenizers = make_group(
    "tokenizer",
    "Train a tokenizer, apply it to a recipe's text, or look into one.",
    "bitmar tokenizer train out --text books.txt",
    "bitmar tokenizer info gpt2",
    panel=MAKE,
)


@command(
    "bitmar features 'flickr8k-train-*.tar' out/train --tower dinov2:base --views 8",
    "bitmar features val.tar out/val --tower litert:mobilenet.tflite",
    panel=MAKE,
    shards=True,
)
def features(
    shards: Annotated[
        list[str],
        typer.Argument(metavar="SHARDS", help="WebDataset shards: paths, globs, braces, URLs.", show_default=False),
    ],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The folder to write.", show_default=False)],
    tower: Annotated[
        str,
        typer.Option(
            "--tower",
            metavar="SPEC",
            help="dinov2:small|base|large|FOLDER, litert:FILE, litert-torch:FILE, bitvit:FOLDER or bitmar:FILE.",
            show_default=False,
        ),
    ],
    views: Annotated[
        int, typer.Option("--views", help="Stored views per photo: the photo as it is, then random crops.")
    ] = 1,
    seed: Annotated[int, typer.Option("--seed", help="Seed of the random crops.")] = 0,
    cluster: Cluster = None,
    as_json: Json = False,
) -> None:
    """Run a vision tower over photos once, and keep its patch features in memory-mapped .npy files.

    Broken photos are skipped and named, and the exit status is 1 then. The same command goes on where a stopped one
    was.
    """
    from bitmar.data.features import Extractor, extract_features
    from bitmar.data.sources import iter_webdataset
    from bitmar.data.towers import load_tower

    with needs("train,vision"):
        loaded = load_tower(tower)
        index = out / "index.jsonl"
        begun = resumable(lambda: out if index.exists() and index.stat().st_size else None)
        with begun, progress() as bar:
            task, skipped = bar.add_task("photos", total=None), Skipped(bar)
            options: dict[str, Any] = {
                "on_bad": skipped,
                "on_progress": lambda count: bar.update(task, completed=count),
            }
            if cluster is None:
                samples = iter_webdataset(shards, skipped)
                store = extract_features(samples, out, loaded, views=views, seed=seed, **options)
            else:
                from bitmar.data.feature_work import features_on

                extractor = Extractor(loaded, views=views, seed=seed)
                store = features_on(cluster, shards, out, tower, extractor, **options)
            for key, reason in store.skipped:  # those of an earlier, stopped run too
                skipped(key, reason)
    if as_json:
        about: dict[str, Any] = {"folder": str(out), "photos": len(store), "views": store.views}
        about |= {"grid": store.grid, "dim": store.dim, "tower": store.tower, "fingerprint": store.fingerprint}
        write_json({**about, "skipped": skipped.as_list()})
    shape = f"{store.views} x {store.grid}x{store.grid} patches of {store.dim}"
    say(f"{len(store)} photos in {out}, each {shape}; {skipped}")
    if skipped.reasons:
        raise typer.Exit(SKIPPED)


@command(
    "bitmar tokenizer train out --text books.txt --text wiki=wiki/*.txt.xz --size 8192",
    "bitmar tokenizer train out --text books.txt --captions 'train-{000..099}.tar'",
    group=tokenizers,
    name="train",
    shards=True,
)
def tokenizer_train(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="A folder, or a .json file to write.", show_default=False)],
    text: Annotated[
        list[str] | None,
        typer.Option(
            "--text", metavar="[NAME=]PATH", help="A text file, folder or glob (.txt, .xz, .gz, .zst). Can be repeated."
        ),
    ] = None,
    captions: Annotated[
        list[str] | None,
        typer.Option("--captions", metavar="SHARDS", help="WebDataset shards with captions. Can be repeated."),
    ] = None,
    size: Annotated[int, typer.Option("--size", help="Size of the vocabulary.")] = 8192,
    every: Annotated[int, typer.Option("--every", help="Train on every n-th document only, which is faster.")] = 1,
    as_json: Json = False,
) -> None:
    """Train a byte-level BPE tokenizer with <pad>, <bos>, <eos> and <image>, and write its tokenizer.json."""
    from bitmar.data.tokenizer import train_from_sources

    if not text and not captions:
        raise ConfigError("name something to train on: --text PATH, --captions SHARDS, or both")
    skipped = Skipped(progress())
    with needs("train"):
        report = train_from_sources(
            out, _domains(text or []), captions or [], vocab_size=size, every=every, on_bad=skipped
        )
    if as_json:
        write_json({**report, "skipped": skipped.as_list()})
    else:
        typer.echo(f"{report['path']}: {report['vocab_size']} entries")
        for name, value in report["bytes_per_token"].items():
            typer.echo(f"  {name}: {value} bytes per token")
    if skipped.reasons:
        say(str(skipped))
        raise typer.Exit(SKIPPED)


def _domains(texts: list[str]) -> dict[str, str]:
    domains: dict[str, str] = {}
    for text in texts:
        name, sign, path = text.partition("=")
        if not sign:
            name, path = Path(text).name.partition(".")[0], text
        if name in domains:
            raise ConfigError(f"two texts are called {name!r}; tell them apart with --text NAME=PATH")
        domains[name] = path
    return domains


@command(
    "bitmar tokenizer apply recipes/text.yaml --cluster auto",
    "bitmar tokenizer apply my.yaml --cluster head:6379 --set cache=/shared/cache",
    group=tokenizers,
    name="apply",
)
def tokenizer_apply(
    recipe: RecipeFile, assignments: Assignments = None, cluster: Cluster = None, as_json: Json = False
) -> None:
    """Tokenise the text of RECIPE into its cache, ahead of training, which then finds it there.

    On a cluster every node takes a file at a time; what is written has the same bytes as from one process. A domain
    that is there is not made again, and a stopped run goes on with the domain it was in.
    """
    with needs("train"):
        from bitmar.train.recipe import load_recipe
        from bitmar.train.workspace import Workspace

        skipped = Skipped()
        workspace = Workspace(load_recipe(recipe, assignments or ()), on_bad=skipped)
        made: dict[str, dict[str, float]] = {}
        for text in workspace.texts():
            workspace.check((), text)
            if corpus := workspace.corpus(text, cluster):
                made |= corpus.summary()
    if not made:
        raise ConfigError(f"no stage of {recipe} trains on text")
    if as_json:
        write_json({"folder": str(workspace.cache / "corpus"), "domains": made})
    else:
        columns = ("documents", "train_tokens", "heldout_tokens")
        rows = [(name, *(f"{about[column]:,.0f}" for column in columns)) for name, about in made.items()]
        print_table(("domain", "documents", "tokens", "held out"), rows)
    if skipped.reasons:  # of the shards that the recipe's tokenizer was trained on
        say(str(skipped))
        raise typer.Exit(SKIPPED)


@command(
    "bitmar tokenizer info gpt2",
    "bitmar tokenizer info out --text books.txt",
    "bitmar tokenizer info model.bitmar",
    group=tokenizers,
    name="info",
)
def tokenizer_info(
    spec: Annotated[
        str,
        typer.Argument(
            metavar="TOKENIZER", help="A tokenizer.json, a folder, a Hub name or a .bitmar file.", show_default=False
        ),
    ],
    text: Annotated[
        str | None, typer.Option("--text", metavar="PATH", help="Measure bytes per token on this text.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Print a tokenizer's size, its special tokens and, for a text, how many bytes a token covers."""
    from itertools import islice

    from bitmar.data.text import Domain
    from bitmar.data.tokenizer import bytes_per_token, load_tokenizer, special_ids

    if spec.endswith(".bitmar"):
        from bitmar.core.container import open_container

        loaded = open_container(spec).load_tokenizer()
    else:
        loaded = load_tokenizer(spec)
    special = special_ids(loaded)
    ids = {role: getattr(special, role) for role in ("pad", "bos", "eos", "image")}
    about: dict[str, Any] = {"tokenizer": spec, "vocab_size": loaded.get_vocab_size(), "special": ids}
    if text:
        documents = list(islice(Domain.of(text).documents(), 1000))
        about["bytes_per_token"] = round(bytes_per_token(loaded, documents), 3)
    if as_json:
        write_json(about)
        return
    typer.echo(f"{spec}: {about['vocab_size']} entries")
    for role, number in ids.items():
        typer.echo(f"  {role}: {'none' if number is None else f'{number} {loaded.id_to_token(number)}'}")
    if text:
        typer.echo(f"  {about['bytes_per_token']} bytes per token in {text}")
