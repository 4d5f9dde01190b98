"""One section of one model: what is known of it, and what measuring it gives, faults included."""

from __future__ import annotations

import time
import traceback
from typing import Any

from bitmar.core.errors import BitMarError
from bitmar.evaluate.scorer import RuntimeScorer
from bitmar.report.commands import command
from bitmar.report.data import Absent
from bitmar.report.job import OURS, PEER, Job
from bitmar.report.ledger import Ledger, key
from bitmar.report.machine import busy
from bitmar.report.peer import Unreachable
from bitmar.report.sections import Section

DONE, ABSENT, FAILED, LATER = "done", "absent", "failed", "not run"
_TORCH = 6.0  # how much slower than the native engine the estimate takes PyTorch to be


def known(section: Section, job: Job, ledger: Ledger) -> dict[str, Any] | None:
    """The finished result, or the reason why there can be none; None: to be measured. Sets the job's key."""
    try:
        job.task = key(section, job, section.files(job))
    except Absent as error:
        return {"status": ABSENT, "message": str(error)}
    except (BitMarError, OSError) as error:
        return {"status": FAILED, "message": " ".join(str(error).split())}
    return ledger.find(job)


def measure(section: Section, job: Job, ledger: Ledger) -> dict[str, Any]:
    """The result, kept in the ledger, or why there is none."""
    resumed, load, begun = ledger.begun(job), busy(), time.perf_counter()
    try:
        measured = section.run(job)
    except (Absent, Unreachable) as error:
        return {"status": ABSENT, "message": str(error), "skipped": job.skipped}
    except (BitMarError, OSError) as error:
        return {"status": FAILED, "message": " ".join(str(error).split()), "skipped": job.skipped}
    except Exception as error:  # a fault of ours must not cost the sections that are still to come
        place = job.half_done(".traceback.txt")
        place.write_text(traceback.format_exc(), encoding="utf-8")
        message = f"a fault of this program, {type(error).__name__}: {error} (see {place})"
        return {"status": FAILED, "message": message, "skipped": job.skipped}
    result = {
        "status": DONE,
        "measured": measured,
        "seconds": round(time.perf_counter() - begun, 1),
        "resumed": resumed,
        "load": load,
        "files": job.task["files"],
        "model": job.task["model"],
        "skipped": job.skipped,
    }
    ledger.put(job, result)
    return result


def described(result: dict[str, Any], section: Section, job: Job) -> dict[str, Any]:
    """A result with its title and its command, as report.json has it."""
    return {**result, "title": title(section, job), "command": command(section, job)}


def title(section: Section, job: Job) -> str:
    """The section's, with the model's where that is not the one which the report is about."""
    return section.title if job.contestant.role == OURS else f"{section.title} ({job.contestant.title})"


def seconds(section: Section, job: Job) -> float:
    """Estimated seconds of the section on two idle cores."""
    native = job.contestant.role != PEER and isinstance(job.scorer, RuntimeScorer)
    return section.estimate(job.limit) * (1.0 if native else _TORCH)
