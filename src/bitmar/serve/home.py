"""The model that is served now and what it remembers, and how another takes its place without a pause."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from bitmar import BitMar, load
from bitmar.core.errors import BitMarError
from bitmar.runtime.locate import find_model
from bitmar.serve.errors import ApiError
from bitmar.serve.settings import Settings
from bitmar.session.session import Session

log = logging.getLogger("bitmar.serve")

Stamp = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Served:
    """A model in use. A request keeps the one it began with. session: None for a model without a memory."""

    model: BitMar
    session: Session | None
    id: str
    created: int
    context: int  # tokens

    @property
    def fingerprint(self) -> str:
        """Changes with the weights."""
        return f"fp_{self.model.container.checksum[:12]}"


class Home:
    """Loads the model at once, and again when its file has changed or `reload` is called.

    Raises BitMarError where the model or the memory cannot be opened. Later such errors keep the old model and stand in
    `trouble` until a reload succeeds.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings, self.started, self.reloads = settings, time.time(), 0
        self.trouble: str | None = None
        self._asked = False
        self._stamp = self._seen = self._look()
        self.now = self._load()

    def _load(self) -> Served:
        path = find_model(self.settings.model)
        # A private copy: the engine maps the file, and one that is overwritten in place would change beneath it.
        with TemporaryDirectory(prefix="bitmar-", ignore_cleanup_errors=True) as folder:
            model = load(shutil.copyfile(path, Path(folder) / path.name), engine=self.settings.engine)
        session = None
        if model.config.memory_integration != "off":
            session = model.memory(self.settings.memory)
        elif self.settings.memory is not None:
            model.memory(self.settings.memory)  # says that it has none
        context = model.config.attention_sinks + model.config.attention_window
        name = model.card.get("name") or path.stem
        return Served(model, session, str(name), int(time.time()), context)

    def _look(self) -> Stamp:
        """A stamp that changes with the model's file; zeros while there is no file."""
        try:
            about = find_model(self.settings.model).stat()
        except (OSError, BitMarError):
            return (0, 0, 0)
        return (about.st_mtime_ns, about.st_size, about.st_ino)

    def changed(self) -> bool:
        """Whether to reload: asked to, or the file is another than the one loaded and was still since the last call."""
        if self._asked:
            self._asked = False
            return True
        before, self._seen = self._seen, self._look()
        return self._seen == before != self._stamp and any(self._seen)

    def ask_to_reload(self) -> None:
        """At the next look; safe in a signal's handler."""
        self._asked = True

    def reload(self) -> None:
        """Load the model anew; after an error the old one stays. Episodes in RAM move to the new model as text."""
        self._stamp = self._look()
        try:
            new = self._load()
            if self.settings.memory is None and new.session is not None and self.now.session is not None:
                new.session.merge(self.now.session)
        except (BitMarError, OSError) as error:
            self.trouble = " ".join(str(error).split())
            log.error("the model was not reloaded, the old one stays: %s", self.trouble)
            return
        self.now, old, self.trouble = new, self.now, None
        self.reloads += 1
        if old.session is not None:
            old.session.close()
        log.info("reloaded: %s, %s", new.id, new.model.container.checksum[:12])

    @contextmanager
    def memory(self, served: Served, *, write: bool = False) -> Iterator[Session]:
        """The session, which threads share. After a write another program may write again.

        Raises ApiError for a model without a memory.
        """
        if served.session is None:
            raise ApiError(400, f"the model {served.id} was built without a memory", code="no_memory")
        try:
            yield served.session
        finally:
            if write:
                served.session.close()

    def close(self) -> None:
        """Keep what was recalled."""
        if self.now.session is not None:
            self.now.session.close()

    def about(self) -> dict[str, Any]:
        """For `/health`."""
        now = self.now
        return {
            "status": "ok",
            "model": now.id,
            "fingerprint": now.fingerprint,
            "engine": now.model.engine.name,
            "memory": now.session is not None,
            "uptime": time.time() - self.started,
            "reloads": self.reloads,
            "reload_error": self.trouble,
        }
