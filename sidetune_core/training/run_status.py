"""The status of a run while it is under way and when it ends, however that is, and its report."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from sidetune_core.errors import Diverged, Interrupted, RolloutError, RunError, WriteError
from sidetune_core.results.report import run_report
from sidetune_core.results.summary import outcome, summarise
from sidetune_core.storage import checkpoint
from sidetune_core.storage.atomic import write_text, writing
from sidetune_core.storage.clock import Clock
from sidetune_core.storage.run_files import LOG, SECONDS
from sidetune_core.storage.run_folder import RunFolder, resume_command
from sidetune_core.storage.status import DIVERGED, DONE
from sidetune_core.system.signals import StopRequested
from sidetune_core.system.threads import Threads
from sidetune_core.training.by_products import ByProducts
from sidetune_core.training.job import Job


def _write_report(folder: RunFolder, by_products: ByProducts) -> None:
    path = folder.path / "report.md"
    with by_products.optional(path), writing(path):
        try:
            write_text(path, run_report(summarise(folder)))
        except RunError as error:
            by_products.leave_out(path, error)


@contextmanager
def keep_status(
    job: Job, folder: RunFolder, clock: Clock, by_products: ByProducts, threads: Threads
) -> Iterator[None]:
    """Keep ``status`` and ``log.txt`` of the folder while the run is under way, and write ``report.md`` at
    its end.

    Raises:
        Interrupted: in place of `KeyboardInterrupt`.
        WriteError: with the command that resumes the run.
    """

    log = folder.path / LOG

    def end(status: str) -> None:
        if job.group.is_main:
            with by_products.optional(folder.path / SECONDS):
                clock.note()
            folder.set_status(status)
            with by_products.optional(log):
                folder.log(f"{status} after {clock.elapsed:.1f} s")

    if job.group.is_main:
        folder.set_status("running")
        with by_products.optional(log):
            folder.log(f"started: {job.resolved} on {job.where}, {threads}")
    try:
        yield
        end(outcome(folder) if job.group.is_main else DONE)
        if job.group.is_main:
            _write_report(folder, by_products)
    except KeyboardInterrupt as interrupt:
        end("interrupted")
        number = interrupt.number if isinstance(interrupt, StopRequested) else signal.SIGINT
        needs_trust = job.resolved.needs_trust
        raise Interrupted(folder.path, number, job.group.is_main, needs_trust) from interrupt
    except Diverged as error:
        end(f"{DIVERGED}: {error.reason.splitlines()[0]}")
        raise
    except WriteError as error:
        with suppress(WriteError):
            end(f"failed: {error}")
        try:
            latest = checkpoint.find(folder.checkpoints, job.progress.warning)
            kept = f"Its state {latest} is saved" if latest else "Nothing of it was saved yet"
        except RunError as unreadable:
            kept = f"What was saved before stays ({unreadable})"
        command = resume_command(folder.path, job.resolved.needs_trust)
        raise WriteError(
            f"{error}. {kept}; when the folder is writable again, resume with: {command}"
        ) from error
    except RolloutError as error:
        end(f"failed: {error}")
        raise _with_advice(error, job, folder) from error
    except BaseException as error:
        end(f"failed: {str(error).splitlines()[0] if str(error) else type(error).__name__}")
        raise


def _with_advice(error: RolloutError, job: Job, folder: RunFolder) -> RolloutError:
    """The error with the command that resumes the run, if anything of it was saved."""
    try:
        latest = checkpoint.find(folder.checkpoints, job.progress.warning)
    except RunError:
        return error
    if latest is None or (not latest.done and latest.mid_task is not None and latest.mid_task.step == 0):
        return error
    command = resume_command(folder.path, job.resolved.needs_trust)
    return RolloutError(f"{error}. Fix the environment, and resume {latest} with: {command}")
