"""Which kind of source a name means."""

from __future__ import annotations

import re
import stat
from pathlib import Path
from urllib.parse import urlsplit

from bitmar.core.errors import SourceError
from bitmar.core.formats import SUFFIXES
from bitmar.watch.source import Source, masked

SCHEMES = ("rtsp", "rtsps", "rtmp", "http", "https", "tcp", "udp", "srt")  # of cameras in the network


def open_source(name: str, *, existing: bool = False) -> Source:
    """A folder, a video file, or a camera: a device such as /dev/video0, or a stream's address.

    existing: of a folder also the photos that are there already. Raises SourceError for what is none of these or cannot
    be opened, DependencyError without bitmar[watch].
    """
    scheme = name.partition("://")[0].lower() if "://" in name else ""
    if scheme and scheme not in SCHEMES:
        raise SourceError(f"{masked(name)}: a camera's address begins with one of {', '.join(SCHEMES)}")
    kind = None if scheme else _mode(name)
    if kind is not None and stat.S_ISDIR(kind):
        from bitmar.watch.folder import Folder

        return Folder(name, existing=existing)
    if existing:
        raise SourceError(f"{masked(name)} is no folder: --existing belongs to one")
    if scheme or (kind is not None and stat.S_ISCHR(kind)):
        from bitmar.watch.camera import Camera

        return Camera(name)
    if Path(name).suffix.lower() in SUFFIXES:
        raise SourceError(f"{name} is one photo: `bitmar caption` describes it; name a folder, a video or a camera")
    from bitmar.watch.video import Video

    return Video(name)


def slug(name: str) -> str:
    """A short name of letters, digits and - for a source: the last folder of a path, or an address's host."""
    base = (urlsplit(name).hostname or "camera") if "://" in name else Path(name).resolve().name
    return re.sub(r"[^a-z0-9]+", "-", base.lower()).strip("-") or "bitmar"


def _mode(name: str) -> int:
    """Raises SourceError for what is not there."""
    try:
        return Path(name).stat().st_mode
    except FileNotFoundError:
        raise SourceError(f"{name}: there is no such folder, video or camera{_cameras(name)}") from None
    except (OSError, ValueError) as error:
        raise SourceError(f"{name}: cannot be read: {getattr(error, 'strerror', None) or error}") from error


def _cameras(name: str) -> str:
    if not name.startswith("/dev/"):
        return ""
    found = ", ".join(sorted(str(path) for path in Path("/dev").glob("video*")))
    return f": there are {found}" if found else ": this machine has none at /dev/video*"
