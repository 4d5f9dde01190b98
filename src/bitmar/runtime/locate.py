"""From what a user calls a model to the `.bitmar` file on this disk."""

from __future__ import annotations

import os
import re
from pathlib import Path

from bitmar.core.errors import BitMarError, FormatError

BUNDLED = Path(__file__).parent.parent / "assets"
HUB = "hf://"
_HUB_ID = re.compile(r"([\w][\w.-]*/[\w][\w.-]*)(?:@([\w][\w./-]*))?")


def find_model(name: str | Path | None = None) -> Path:
    """The `.bitmar` file of a model.

    name: None for the one that comes with the package; a file; a folder that holds one (a training run holds
    model.bitmar once it is exported); or a Hub id such as "someone/model", which is downloaded once. "hf://someone/model"
    is never taken for a folder of that name, and may end in "@revision".
    Raises FormatError or BitMarError with what to do next.
    """
    if name is None:
        if not BUNDLED.is_dir() or not any(BUNDLED.glob("*.bitmar")):
            raise FormatError("this installation of bitmar holds no model: name a .bitmar file or train one")
        return _in_folder(BUNDLED)
    if isinstance(name, str) and name.startswith(HUB):
        if (named := _HUB_ID.fullmatch(name.removeprefix(HUB))) is None:
            raise FormatError(f"{name}: a model on the Hub is {HUB}OWNER/NAME or {HUB}OWNER/NAME@REVISION")
        return _in_folder(_download(named[1], named[2]))
    path = Path(name)
    if os.path.isfile(path):  # which meets a name that is too long, too
        return path
    if os.path.isdir(path):
        return _in_folder(path)
    if isinstance(name, str) and path.suffix != ".bitmar" and (named := _HUB_ID.fullmatch(name)):
        return _in_folder(_download(named[1], named[2]))
    raise FormatError(f"{name!s:.200}: no such file or folder, and no Hub id (those look like someone/model)")


def _in_folder(folder: Path) -> Path:
    found = sorted(folder.glob("*.bitmar"))
    if len(found) == 1:
        return found[0]
    if (preferred := folder / "model.bitmar") in found:
        return preferred
    if found:
        raise FormatError(
            f"{folder} holds {len(found)} models ({found[0].name}, {found[1].name}, ...): name one of them"
        )
    if (folder / "model.safetensors").is_file():
        raise FormatError(
            f"{folder} is a training checkpoint that was not exported yet: "
            f"run `bitmar export {folder} {folder / 'model.bitmar'}`"
        )
    raise FormatError(f"{folder} holds no .bitmar file")


def _download(repository: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(repository, revision=revision, allow_patterns="*.bitmar"))
    except Exception as error:  # the client lets errors of several network libraries through
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise BitMarError(
            f"{repository!r} is no file or folder here, and the Hub does not give it ({reason}); "
            "check the name and the connection, or pass the path of a .bitmar file"
        ) from error
