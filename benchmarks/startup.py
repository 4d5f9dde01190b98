"""What a user waits for and stores: `import bitmar`, one photo's caption in a fresh process, size of the installation.

python benchmarks/startup.py --json out/startup.json
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import tempfile
from importlib import metadata
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Annotated

import typer
from _machine import publish, run

from bitmar.core.errors import BitMarError


def main(
    photo: Annotated[Path | None, typer.Option(help="Default: scikit-image's cup of coffee, or a grey square.")] = None,
    model: Annotated[
        str | None, typer.Option(help="A .bitmar file, folder or Hub id. Default: the bundled one.")
    ] = None,
    repeats: Annotated[int, typer.Option(help="Fresh processes for each figure; the median counts.")] = 5,
    json: Annotated[Path | None, typer.Option(help="Also write the figures here.")] = None,
) -> None:
    """Measure imports, a cold caption, and the size on disk."""
    with tempfile.TemporaryDirectory() as folder:
        photo = photo or sample_photo(Path(folder))
        caption = [sys.executable, "-m", "bitmar", "caption", str(photo), *(["--model", model] if model else [])]
        figures = {
            "python_seconds": seconds([sys.executable, "-c", "pass"], repeats),
            "import_seconds": seconds([sys.executable, "-c", "import bitmar"], repeats),
            "import_engine_seconds": seconds([sys.executable, "-c", "import bitmar; bitmar.load"], repeats),
            "help_seconds": seconds([sys.executable, "-m", "bitmar", "--help"], repeats),
            "cold_caption_seconds": seconds(caption, repeats),
            "installed_mb": installed_megabytes() or "unknown: bitmar is not installed here (pip install .)",
        }
        publish("startup", figures, data=f"{photo.name}; median of {repeats} processes, files in the cache", out=json)


def seconds(command: list[str], repeats: int) -> float:
    """Median wall time of a fresh process. Raises BitMarError with its last words if it fails."""
    taken = []
    for _ in range(repeats):
        start = perf_counter()
        done = subprocess.run(command, capture_output=True, text=True)
        taken.append(perf_counter() - start)
        if done.returncode:
            raise BitMarError(f"{' '.join(command)} failed: {done.stderr.strip()[-500:]}")
    return median(taken)


def sample_photo(folder: Path) -> Path:
    """A photograph that a well-known package brings, or a plain square: it takes as long to read."""
    found = importlib.util.find_spec("skimage")
    if found is not None and found.submodule_search_locations:
        coffee = Path(found.submodule_search_locations[0]) / "data" / "coffee.png"
        if coffee.is_file():
            return coffee
    from PIL import Image

    Image.new("RGB", (600, 400), "grey").save(folder / "grey.png")
    return folder / "grey.png"


def installed_megabytes() -> float | None:
    """MB (1,000,000 bytes) of bitmar and all that it depends on without extras; None if it is not installed."""
    from packaging.requirements import Requirement

    wanted, seen, size = ["bitmar"], set[str](), 0
    while wanted:
        name = wanted.pop().lower().replace("_", "-")
        if name in seen:
            continue
        seen.add(name)
        try:
            found = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            if name == "bitmar":
                return None
            continue  # asked for on another system only
        files = (Path(str(file.locate())) for file in found.files or ())
        size += sum(file.stat().st_size for file in files if file.is_file())
        for line in found.requires or ():
            requirement = Requirement(line)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                wanted.append(requirement.name)
    source = importlib.util.find_spec("bitmar")
    if source is not None and source.origin is not None and "site-packages" not in source.origin:  # editable install
        size += sum(path.stat().st_size for path in Path(source.origin).parent.rglob("*") if path.is_file())
    return size / 1e6


if __name__ == "__main__":
    run(main)
