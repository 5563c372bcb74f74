"""The run folder: everything that a run writes, and the methods that read it."""

from __future__ import annotations

import datetime
import json
import shlex
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import attrs

from sidetune_core.errors import RunError, shorten
from sidetune_core.io import strict_json
from sidetune_core.io.files import read_lines, read_text
from sidetune_core.io.printable import one_line
from sidetune_core.storage.atomic import append_line, write_text, writing
from sidetune_core.storage.file_names import check_file_name
from sidetune_core.storage.run_files import CARDS, DOCUMENTS, IMAGES, LOG, PROBES
from sidetune_core.storage.run_search import is_run, runs_below
from sidetune_core.storage.status import UNKNOWN, has_ended

LAST_BYTES = 2**16
"""Of the last lines of a file."""


@attrs.frozen
class RunFolder:
    """A run on disk. `sidetune report` computes everything it prints from these files:

    ``run.json``            the spec as requested and as resolved, plugins, versions, device, seed
    ``data.json``           what the data consisted of when they were read (see `config.data_record`)
    ``status``              ``running``, ``done``, ``diverged: …``, ``interrupted`` or ``failed: …``
    ``metrics.jsonl``       training curves
    ``eval.jsonl``          a line for each evaluation: the cells of R (see `storage.evaluations`)
    ``within.jsonl``        evaluations within tasks, selected weights, passes over the data
    ``moved.jsonl``         the tensors that each task changed
    ``parameters.jsonl``    numbers of parameters, ``stored.jsonl`` bytes of weights, exemplars, statistics
    ``seconds.jsonl``       time, memory and energy
    ``checkpoints/``        the base, what each task adds, and the state within the current task
    ``certificate.json``    whether what earlier tasks depend on is unchanged, with ``probes/``
    ``certificate.jsonl``   what each stage adds to it
    ``tasks/``              the card of each task: what is needed to use it without its data
    ``documents/``          documents of the latest evaluation of each task and split, such as predictions
    ``pictures/``           visualisations of tasks, of the latest state
    ``tb/``                 TensorBoard files; ``log.txt``, ``report.md``
    """

    path: Path

    def write_json(self, name: str, values: Mapping[str, Any], unsynced: set[Path] | None = None) -> None:
        """Write a JSON file by `atomic.write_text`; a number that is not finite is ``null``."""
        self._write(name, strict_json.dumps(values, indent=2, default=str) + "\n", unsynced)

    def write_document(self, owner: str, name: str, text: str, unsynced: set[Path] | None = None) -> Path:
        """Write ``documents/OWNER/NAME``, in place of that of an earlier evaluation; returns its path. A file
        that has this content is left alone: those of tasks that nothing is forgotten of are the same after
        every task.

        Raises:
            PluginError: a name would be a file elsewhere.
        """
        check_file_name(name, f"documents() of {owner} returned")
        path = self.path / DOCUMENTS / owner / name
        with writing(path):
            if path.is_symlink() or not path.is_file() or path.read_bytes() != text.encode():
                write_text(path, text, unsynced)
        return path

    def delete_documents(self, owner: str) -> list[Path]:
        """Delete the documents of an earlier evaluation; returns their paths."""
        folder = self.path / DOCUMENTS / owner
        with writing(folder):
            paths = [] if folder.is_symlink() else list(folder.glob("*"))
            for path in paths:
                path.unlink()
        return paths

    def append(self, name: str, values: Mapping[str, Any]) -> None:
        """Append a line to a ``.jsonl`` file; a number that is not finite is ``null``."""
        self._add(name, strict_json.dumps(values))

    def log(self, text: str) -> None:
        """Append a line to ``log.txt``, with the time."""
        self._add(LOG, f"{datetime.datetime.now().isoformat(timespec='seconds')} {one_line(text)}")

    def set_status(self, status: str) -> None:
        """``running``, ``done``, ``diverged: …``, ``interrupted``, or ``failed: …``."""
        self._write("status", status + "\n")

    @property
    def status(self) -> str:
        """The status that was set last; ``killed`` if that is ``running`` and no process holds the folder's
        lock, `UNKNOWN` if it cannot be read.
        """
        path = self.path / "status"
        try:
            status = read_text(path).strip() if path.is_file() else UNKNOWN
        except (OSError, ValueError):
            return UNKNOWN
        if status == "running":
            from sidetune_core.storage.lock import is_held  # slow to import

            return status if is_held(self.path) else "killed"
        return status

    @property
    def finished(self) -> bool:
        """Whether the run is done or has diverged, and every task has its row of R: no training is left.

        Raises:
            RunError: ``run.json`` is missing or damaged.
        """
        if not has_ended(self.status):
            return False
        tasks = self.read_json("run.json").get("tasks")
        if not isinstance(tasks, list):
            raise RunError(f"{self.path / 'run.json'} is damaged: it has no list of tasks")
        last = len(tasks) - 1
        return any(
            line.get("after") == last for read in (self.last_lines, self.lines) for line in read("eval.jsonl")
        )

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def boundaries(self) -> set[int]:
        """The numbers of trained tasks at which there is a checkpoint, whose content is not checked."""
        names = (path.stem.removeprefix("after-") for path in self.checkpoints.glob("after-*.json"))
        return {int(name) for name in names if name.isdecimal()}

    def read_json(self, name: str) -> dict[str, Any]:
        """A JSON file of the run.

        Raises:
            RunError: the file is missing or damaged.
        """
        try:
            values = json.loads(read_text(self.path / name))
        except (OSError, ValueError, RecursionError) as error:
            raise RunError(f"cannot read the run {self.path}: {error}") from error
        if not isinstance(values, dict):
            raise RunError(f"{self.path / name} is damaged: it is no JSON object")
        return values

    def lines(self, name: str, strict: bool = False) -> list[dict[str, Any]]:
        """The lines of a ``.jsonl`` file, without a last line that was cut off.

        A number that is not finite is None, also where an earlier version wrote ``NaN``.

        Args:
            name: of the file.
            strict: refuse a damaged line; otherwise the lines before it are returned.

        Raises:
            ValueError: a line is damaged, and `strict`.
        """
        path = self.path / name
        if not path.is_file():
            return []
        records: list[dict[str, Any]] = []
        line = "\n"
        try:
            for line in read_lines(path):
                records.append(_json_object(line))
        except (ValueError, RecursionError) as error:
            if strict and line.endswith("\n"):  # otherwise it was cut off
                raise ValueError(f"line {len(records) + 1} of {name}") from error
        return records

    def last_lines(self, name: str) -> list[dict[str, Any]]:
        """The last lines of a ``.jsonl`` file, in about `LAST_BYTES` of it, without those that are cut off or
        damaged."""
        path = self.path / name
        if not path.is_file():
            return []
        with path.open("rb") as file:
            start = max(path.stat().st_size - LAST_BYTES, 0)
            file.seek(start)
            lines = file.read(LAST_BYTES).decode(errors="replace").splitlines()[bool(start) :]
        records = []
        for line in lines:
            with suppress(ValueError, RecursionError):
                records.append(_json_object(line))
        return records

    def folders(self) -> list[Path]:
        """The folders in which files are written atomically."""
        documents = self.path / DOCUMENTS
        owners = [path for path in documents.iterdir() if path.is_dir()] if documents.is_dir() else []
        parts = (CARDS, PROBES, IMAGES)
        return [self.path, self.checkpoints, *(self.path / name for name in parts), *owners]

    def _write(self, name: str, text: str, unsynced: set[Path] | None = None) -> None:
        with writing(self.path / name):
            write_text(self.path / name, text, unsynced)

    def _add(self, name: str, line: str) -> None:
        with writing(self.path / name):
            append_line(self.path / name, line)


def _json_object(text: str) -> dict[str, Any]:
    values = strict_json.loads(text)
    if not isinstance(values, dict):
        raise ValueError("it is no JSON object")
    return values


def resume_command(path: Path, needs_trust: bool = False) -> str:
    """The command that resumes a run; `needs_trust` says that the run names code to import."""
    trust = " --trust-local-code" if needs_trust else ""
    return f"sidetune-run --resume {shlex.quote(str(path))}{trust}"


def open_run(path: Path) -> RunFolder:
    """An existing run.

    Raises:
        RunError: the folder has no ``run.json``, or may not be read.
    """
    try:
        if not (path / "run.json").is_file():
            raise RunError(f"{path} holds no run ({_why_no_run(path)})")
    except OSError as error:
        raise RunError(f"cannot read the run {path}: {error.strerror or error}") from error
    return RunFolder(path)


def _why_no_run(path: Path) -> str:
    if not path.exists():
        return "there is no such folder"
    below = "" if is_run(path.absolute().parent) else shorten(map(str, runs_below(path)))
    return f"it has no run.json; runs below it: {below}" if below else "it has no run.json"
