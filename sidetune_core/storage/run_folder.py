"""The folder that a run leaves behind, and what can be read from it."""

from __future__ import annotations

import datetime
import hashlib
import json
import os
import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

from sidetune_core.errors import RunError
from sidetune_core.storage.atomic import clear_unfinished, write_text, writing

RUNS = Path("runs")

LINES = ("metrics.jsonl", "eval.jsonl", "moved.jsonl", "parameters.jsonl")
"""The files that grow by lines as a run goes on."""

PICTURES = "pictures"
"""The folder, in that of a run, of the pictures of its tasks."""

PROBES = "probes"
"""The folder, in that of a run, of the inputs that its certificate rests on."""

DOCUMENTS = "documents"
"""The folder, in that of a run, of what tasks leave besides figures (see `tasks.Task.documents`)."""

Marks = Mapping[str, Sequence[Any]]
"""How far each of `LINES` went: its size in bytes, and the SHA-256 of what it was."""


@attrs.frozen
class RunFolder:
    """One run on disk.

    ``run.json`` (spec as asked and as resolved, plugins, versions, device, seed), ``status``, ``metrics.jsonl`` (curves of training),
    ``eval.jsonl`` (one line for each evaluation: the cells of R), ``moved.jsonl`` (which tensors each task changed), ``checkpoints/``,
    ``certificate.json`` (whether what earlier tasks depend on is unchanged) with ``probes/``, ``documents/`` (such as predictions, of the
    latest evaluation of each task and split), ``pictures/`` where tasks have some (of the newest state), ``tb/`` (TensorBoard),
    ``log.txt``, ``report.md``. Everything that `sidetune report` prints is computed from these.
    """

    path: Path

    def write_json(self, name: str, values: Mapping[str, Any]) -> None:
        """Write a JSON file, whole or not at all."""
        self._write(name, json.dumps(values, indent=2, default=str) + "\n")

    def write_document(self, owner: str, name: str, text: str) -> None:
        """Write ``documents/OWNER/NAME``, in place of what an earlier evaluation left there."""
        self._write(f"{DOCUMENTS}/{owner}/{name}", text)

    def append(self, name: str, values: Mapping[str, Any]) -> None:
        """Add a line to a ``.jsonl`` file."""
        self._add(name, json.dumps(values))

    def log(self, text: str) -> None:
        """Add a line to ``log.txt``, with the time."""
        self._add("log.txt", f"{datetime.datetime.now().isoformat(timespec='seconds')} {text}")

    def set_status(self, status: str) -> None:
        """``running``, ``done``, ``interrupted``, or ``failed: …``."""
        self._write("status", status + "\n")

    @property
    def status(self) -> str:
        """What was set last; ``killed`` where that is ``running`` and no process is at work in the folder any more."""
        path = self.path / "status"
        status = path.read_text(encoding="utf-8").strip() if path.is_file() else "unknown"
        if status == "running":
            from sidetune_core.storage.lock import is_held  # it takes a while to import

            return status if is_held(self.path) else "killed"
        return status

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    def read_json(self, name: str) -> dict[str, Any]:
        """A JSON file of the run.

        Raises:
            RunError: it is missing or damaged.
        """
        try:
            values = json.loads((self.path / name).read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise RunError(f"{self.path} is not a run that can be read: {error}") from error
        if not isinstance(values, dict):
            raise RunError(f"{self.path / name} holds no table")
        return values

    def lines(self, name: str) -> list[dict[str, Any]]:
        """The lines of a ``.jsonl`` file; a last line that was cut off is left out."""
        path = self.path / name
        if not path.is_file():
            return []
        found = []
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                found.append(json.loads(line))
            except (ValueError, RecursionError):
                break
        return found

    def marks(self) -> Marks:
        """How far the files of lines go now; they are on the disk when this returns."""
        return {name: _mark(self.path / name) for name in LINES if (self.path / name).is_file()}

    def rewind(self, marks: Marks) -> list[str]:
        """Cut the files of lines back to where they were, and delete what a process that was killed left half-written.

        Returns:
            Names of the files in which something is missing or has changed since; what is left of them stays.

        Raises:
            WriteError: nothing can be written in the folder.
        """
        changed: list[str] = []
        for name in LINES:
            path, (size, digest) = self.path / name, marks.get(name, (0, ""))
            with writing(path):
                there = path.read_bytes() if path.is_file() else b""
                if size and hashlib.sha256(there[:size]).hexdigest() != digest:
                    changed.append(name)
                    size = there.rfind(b"\n", 0, size) + 1
                if len(there) > size:
                    os.truncate(path, size)
        for folder in (self.path, self.checkpoints, self.path / PROBES, self.path / PICTURES):
            clear_unfinished(folder)
        return changed

    def _write(self, name: str, text: str) -> None:
        with writing(self.path / name):
            write_text(self.path / name, text)

    def _add(self, name: str, line: str) -> None:
        with writing(self.path / name), (self.path / name).open("a", encoding="utf-8") as file:
            file.write(line + "\n")


class Clock:
    """Adds up what a run takes, in ``seconds.jsonl``, piece by piece: of a process that is killed the last piece is lost.

    A piece has the seconds that passed, those that the processors worked for this process, and the most bytes in use so far.
    """

    def __init__(self, folder: RunFolder, peak_memory: Callable[[], int]) -> None:
        self._folder, self._peak_memory = folder, peak_memory
        self._began = self._last = time.monotonic()
        self._worked = time.process_time()

    def note(self) -> float:
        """Write down the time since the last note; returns the seconds since the process began with the run."""
        now, worked = time.monotonic(), time.process_time()
        piece = {
            "seconds": round(now - self._last, 3),
            "processor": round(worked - self._worked, 3),
            "memory": self._peak_memory(),
        }
        self._folder.append("seconds.jsonl", piece)
        self._last, self._worked = now, worked
        return now - self._began


def resume_command(path: Path) -> str:
    """What to type to go on with a run."""
    return f"sidetune-run --resume {shlex.quote(str(path))}"


def check_free(path: Path | None) -> None:
    """See that a run folder can be made, before any work is done; nothing is written.

    Raises:
        RunError: there is something in it already, or it cannot be written.
    """
    path = path if path is not None else RUNS
    if path is not RUNS and path.is_dir() and any(path.iterdir()):
        raise RunError(f"{path} is not empty: choose another --out, or go on with it: {resume_command(path)}")
    existing = next(parent for parent in (path, *path.absolute().parents) if parent.exists())
    if not existing.is_dir():
        raise RunError(f"cannot make the run folder {path}: {existing} is a file")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise RunError(f"cannot make the run folder {path}: no permission to write in {existing}")


def create(path: Path | None, name: str) -> RunFolder:
    """A new, empty run folder.

    Args:
        path: where the user wants it; None for ``runs/<name>-<time>``.
        name: what a folder of ours is called.

    Raises:
        RunError: there is something in it already, or it cannot be written.
    """
    check_free(path)
    stamp = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    names = (
        [path]
        if path is not None
        else [RUNS / f"{name}-{stamp}{tail}" for tail in ("", *(f"-{n}" for n in range(2, 100)))]
    )
    for candidate in names:
        try:
            (candidate / "checkpoints").mkdir(
                parents=True
            )  # fails where another run took the name a moment ago
        except FileExistsError:
            continue
        except OSError as error:
            raise RunError(f"cannot make the run folder {candidate}: {error.strerror or error}") from error
        return RunFolder(candidate)
    raise RunError(f"another run has just taken {names[-1]}; choose another --out")


def open_run(path: Path) -> RunFolder:
    """A run that is there.

    Raises:
        RunError: no run was started in this folder.
    """
    if not (path / "run.json").is_file():
        raise RunError(f"{path} holds no run (there is no run.json in it)")
    return RunFolder(path)


def _mark(path: Path) -> tuple[int, str]:
    with path.open("rb") as file:
        os.fsync(file.fileno())
        content = file.read()
    return len(content), hashlib.sha256(content).hexdigest()
