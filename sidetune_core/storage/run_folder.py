"""The run folder: everything that a run writes, and the methods that read it."""

from __future__ import annotations

import datetime
import hashlib
import json
import os
import re
import shlex
import stat
import time
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import attrs

from sidetune_core.config import data_record
from sidetune_core.errors import PluginError, RunError, shorten
from sidetune_core.io import strict_json
from sidetune_core.io.files import read_lines, read_text
from sidetune_core.io.printable import counted, one_line
from sidetune_core.storage.atomic import (
    append_line,
    clear_unfinished,
    make_folder,
    sync,
    sync_folder,
    truncate,
    write_bytes,
    write_text,
    writing,
)
from sidetune_core.storage.run_search import is_run, runs_below

RUNS = Path("runs")

CERTIFICATE_LOG = "certificate.jsonl"
"""The file of what each stage adds to the certificate (see `certificate.log`)."""

WITHIN = "within.jsonl"
"""The file of what was measured and decided within the training of tasks (see `storage.within`)."""

STORED = "stored.jsonl"
"""The file of the bytes that the learner stores after tasks (see `assembly.stored`)."""

LINES = ("metrics.jsonl", "eval.jsonl", WITHIN, "moved.jsonl", "parameters.jsonl", STORED, CERTIFICATE_LOG)
"""The files to which a run appends lines."""

LOG = "log.txt"

DATA = data_record.FILE
"""The file of what the data consisted of (see `storage.data_file`)."""

SECONDS = "seconds.jsonl"
"""The file of `Clock`."""

APPENDED = (*LINES, SECONDS, LOG)
"""All files that are changed in place; others are replaced."""

IMAGES = "pictures"
"""Sub-folder of the visualisations of tasks."""

PROBES = "probes"
"""Sub-folder of the inputs that the certificate is checked with."""

DOCUMENTS = "documents"
"""Sub-folder of the documents of tasks, such as predictions (see `HasDocuments`)."""

CARDS = "tasks"
"""Sub-folder of the task cards (see `TaskCard`)."""

TENSORBOARD = "tb"
"""Sub-folder with TensorBoard files."""

FILES = ("run.json", DATA, "status", "certificate.json", "report.md", "lock", "lock.json", *APPENDED)
FOLDERS = ("checkpoints", CARDS, PROBES, DOCUMENTS, IMAGES, TENSORBOARD)
"""Everything that a run writes in its folder."""

BY_PRODUCTS = (
    *(DATA, "certificate.json", CERTIFICATE_LOG, "report.md", SECONDS, LOG),
    *(CARDS, PROBES, DOCUMENTS, IMAGES, TENSORBOARD),
)
"""What a run continues without, also where a folder is in place of a file or the other way round."""

DONE, DIVERGED = "done", "diverged"
"""The statuses of a run that has ended by itself; the second one is followed by a reason."""

UNKNOWN = "unknown"
"""The status of a run whose file ``status`` is missing or damaged."""

LAST_BYTES = 2**16
"""Of the last lines of a file."""

Marks = Mapping[str, Sequence[Any]]
"""For each of `LINES`, its size in bytes and SHA-256 at a checkpoint."""


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

    def marks(self, *further: str, read: Mapping[str, Running] | None = None) -> Marks:
        """Size and digest of each of `LINES`, and of further files, which are synced to disk.

        Args:
            further: names of files.
            read: what was read of `LINES` before, which is brought up to date; None to read them whole.
        """
        read = read if read is not None else {name: Running() for name in LINES}
        there = [name for name in LINES if (self.path / name).is_file()]
        new = any(read[name].is_new for name in there)
        marks = {name: read[name].mark(self.path / name) for name in there}
        marks |= {name: Running().mark(self.path / name) for name in further if (self.path / name).is_file()}
        if new:
            sync_folder(self.path)
        return marks

    def check_own(self) -> None:
        """Check that what a run writes, cuts and deletes here are files and folders of its own. Writes
        nothing.

        Raises:
            RunError: one is a symbolic link, or no regular file or folder; of by-products, either will do.
        """
        for path, expected in self._own():
            mode = path.lstat().st_mode
            is_own = stat.S_ISREG(mode) or stat.S_ISDIR(mode)
            if not expected(mode) and not (is_own and path.name in BY_PRODUCTS):
                what = "a symbolic link" if stat.S_ISLNK(mode) else f"no {_NAMES[expected]}"
                raise RunError(
                    f"{path} is {what}: a run follows none, since what it writes and deletes would be "
                    f"elsewhere. Resume a copy: cp -rL {shlex.quote(str(self.path))} COPY"
                )

    def separate_hard_links(self) -> None:
        """Copy each file that is changed in place and has another name elsewhere, such as in a backup.

        Raises:
            WriteError: the folder is not writable.
        """
        for name in APPENDED:
            path = self.path / name
            with writing(path):
                if path.is_file() and path.stat().st_nlink > 1:
                    write_bytes(path, path.read_bytes())

    def _own(self) -> Iterator[tuple[Path, Callable[[int], bool]]]:
        """What exists of `FILES` and `FOLDERS`, and what is in these, each with the check of its mode."""
        for names, expected in ((FILES, stat.S_ISREG), (FOLDERS, stat.S_ISDIR)):
            for path in (self.path / name for name in names):
                if os.path.lexists(path):
                    yield path, expected
        for name in FOLDERS:
            for folder, folders, files in os.walk(self.path / name):
                yield from ((Path(folder, one), stat.S_ISDIR) for one in folders)
                yield from ((Path(folder, one), stat.S_ISREG) for one in files)

    def rewind(self, marks: Marks) -> list[str]:
        """Truncate each of `LINES` to its size at a checkpoint, and delete the temporary files of a killed
        process.

        Returns:
            Names of the files that have changed or lost lines since then; their remaining lines stay.

        Raises:
            WriteError: the folder is not writable.
        """
        changed: list[str] = []
        for name in LINES:
            path, (size, digest) = self.path / name, marks.get(name, (0, ""))
            with writing(path):
                content = path.read_bytes() if path.is_file() else b""
                if size and hashlib.sha256(content[:size]).hexdigest() != digest:
                    changed.append(name)
                    size = content.rfind(b"\n", 0, size) + 1
                if len(content) > size:
                    truncate(path, size)
        for folder in self.folders():
            clear_unfinished(folder)
        return changed

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


class Running:
    """The SHA-256 of a file that grows, of which only what is new is read."""

    def __init__(self) -> None:
        self._size, self._sha256 = 0, hashlib.sha256()
        self.is_new = True
        """Whether it was never read: then its name may not be synced to disk either."""

    def mark(self, path: Path) -> tuple[int, str]:
        """The file's size and digest; it is synced to disk."""
        with path.open("rb") as file:
            sync(file.fileno())
            if os.fstat(file.fileno()).st_size < self._size:  # it was cut
                self._size, self._sha256 = 0, hashlib.sha256()
            file.seek(self._size)
            content = file.read()
        self._size += len(content)
        self._sha256.update(content)
        self.is_new = False
        return self._size, self._sha256.hexdigest()


def _json_object(text: str) -> dict[str, Any]:
    values = strict_json.loads(text)
    if not isinstance(values, dict):
        raise ValueError("it is no JSON object")
    return values


_NAMES = {stat.S_ISREG: "regular file", stat.S_ISDIR: "folder"}


def _unknown() -> float | None:
    return None


class Clock:
    """Writes the time and memory of a run to ``seconds.jsonl``, an interval at a time; a killed process loses
    its last one.

    An interval has wall-clock seconds, processor seconds of this process and its workers, and the peak memory
    of this process so far in bytes; and the energy of the machine's processors in joules, if it is known.

    Args:
        folder: of the run.
        peak_memory: returns it.
        energy: returns joules since its last call (see `system.energy`); None where they are unknown.
    """

    def __init__(
        self, folder: RunFolder, peak_memory: Callable[[], int], energy: Callable[[], float | None] = _unknown
    ) -> None:
        self._folder, self._peak_memory, self._energy, self._joules = folder, peak_memory, energy, 0.0
        self._began = self._last = time.monotonic()
        self._worked = time.process_time()

    @property
    def elapsed(self) -> float:
        """Seconds since the clock was started."""
        return time.monotonic() - self._began

    def add(self, seconds: float) -> None:
        """Add processor seconds of a worker process to the interval."""
        self._worked -= seconds

    def note(self) -> None:
        """Write the interval since the last note.

        Raises:
            WriteError: the file cannot be written; the next note has its interval too.
        """
        now, worked = time.monotonic(), time.process_time()
        record = {
            "seconds": round(now - self._last, 3),
            "processor": round(worked - self._worked, 3),
            "memory": self._peak_memory(),
        }
        joules = self._energy()
        if joules is not None:
            self._joules += joules
            record["energy"] = round(self._joules, 3)
        self._folder.append(SECONDS, record)
        self._last, self._worked, self._joules = now, worked, 0.0


def has_diverged(status: str) -> bool:
    """Whether a status is that of a run with a loss, an output or a metric that is not finite."""
    return status == DIVERGED or status.startswith(f"{DIVERGED}:")


def has_ended(status: str) -> bool:
    """Whether a status is that of a run that nothing has interrupted: it is done, or has diverged."""
    return status == DONE or has_diverged(status)


LONGEST_NAME = 100
"""Bytes of a name that is part of a file's name, which can have 255 with the other parts."""

RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)
"""Names of devices on Windows, where the run folder may be read."""


def check_file_name(name: object, what: str) -> None:
    """Check a name that a plugin gives to a file of the run.

    Raises:
        PluginError: it is no text, empty, too long, reserved, begins with '-' or '.', or has a slash or a
            control character; `what` says whose name it is.
    """
    if not isinstance(name, str):
        raise PluginError(f"{what} the name {shown_name(name)}, which is no text")
    has_others = bool(re.search(r"[/\\]", name)) or one_line(name) != name or name != name.strip()
    if not name or has_others or name.startswith(("-", ".")) or RESERVED.fullmatch(name):
        problem = "is no file name"
    elif len(name.encode()) > LONGEST_NAME:
        problem = f"is longer than {LONGEST_NAME} bytes"
    else:
        return
    raise PluginError(
        f"{what} the name {shown_name(name)}, which {problem}: use letters, digits, '-', '_', '.'"
    )


def check_file_names(names: Sequence[object], what: str, ignores_case: bool) -> None:
    """`check_file_name` for names of files in one folder, which must be distinct there.

    Args:
        names: of files.
        what: whose names they are, for the message.
        ignores_case: whether the disk takes ``A`` and ``a`` for one name.

    Raises:
        PluginError: one is no file name, or two of them are one file.
    """
    files: dict[str, object] = {}
    for name in names:
        check_file_name(name, what)
        file = unicodedata.normalize("NFC", str(name))
        file = file.casefold() if ignores_case else file
        if file in files:
            same = "the same" if files[file] == name else "one file on this disk"
            raise PluginError(
                f"{what} the names {shown_name(files[file])} and {shown_name(name)}, which are {same}; "
                "each needs its own"
            )
        files[file] = name


def shown_name(name: object) -> str:
    """A name for a message: as Python writes it, and shortened."""
    text = one_line(repr(name))
    return text if len(text) <= 80 else f"{text[:60]}… ({len(text) - 2} characters)"


def ignores_case(path: Path) -> bool:
    """Whether a disk takes names that differ by case for one; `path` need not exist."""
    for folder in (path.absolute(), *path.absolute().parents):
        other = folder.with_name(folder.name.swapcase()) if folder.name else folder
        if folder.exists() and other != folder:
            return other.exists() and other.samefile(folder)
    return False


def resume_command(path: Path, needs_trust: bool = False) -> str:
    """The command that resumes a run; `needs_trust` says that the run names code to import."""
    trust = " --trust-local-code" if needs_trust else ""
    return f"sidetune-run --resume {shlex.quote(str(path))}{trust}"


def check_free(path: Path | None) -> None:
    """Check that a run folder can be created, before any work is done. Writes nothing.

    Raises:
        RunError: the folder is not empty, or not writable.
    """
    path = path if path is not None else RUNS
    if path is not RUNS and path.is_dir() and not is_unbegun(path):
        raise RunError(_not_empty(path))
    existing = next(parent for parent in (path, *path.absolute().parents) if parent.exists())
    if not existing.is_dir():
        raise RunError(f"cannot create the run folder {path}: {existing} is a file")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise RunError(f"cannot create the run folder {path}: no permission to write in {existing}")


def _not_empty(path: Path) -> str:
    if is_run(path):
        return f"{path} is not empty: choose another --out, or resume the run in it: {resume_command(path)}"
    runs = runs_below(path)
    parent, name = (path, "run") if runs else (path.parent, path.name)
    free = next(folder for n in range(2, 10**6) if not (folder := parent / f"{name}-{n}").exists())
    holds = f" and holds {counted(len(runs), 'run')}" if runs else ""
    return f"{path} is not empty{holds}: choose another --out, such as --out {shlex.quote(str(free))}"


def is_unbegun(path: Path) -> bool:
    """Whether a folder has nothing but what a process leaves that was killed before it wrote ``run.json``."""
    return all(
        re.fullmatch(r"lock|lock\.json|\.run\.json\.[0-9a-f]{8}", child.name)
        or (child.name == "checkpoints" and child.is_dir() and not any(child.iterdir()))
        for child in path.iterdir()
    )


def _clear_unbegun(path: Path) -> None:
    from sidetune_core.storage.lock import is_held  # slow to import

    if not is_held(path):
        clear_unfinished(path)
        with suppress(OSError):  # absent, or another run's
            (path / "checkpoints").rmdir()


def create(path: Path | None, name: str) -> RunFolder:
    """A new, empty run folder.

    Args:
        path: the folder; None for ``runs/<name>-<time>``.
        name: the first part of a folder's name in ``runs/``.

    Raises:
        RunError: the folder is not empty, or not writable.
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
            make_folder(candidate)
            _clear_unbegun(candidate)
            (candidate / "checkpoints").mkdir()  # fails if another run has just taken the name
        except FileExistsError:
            continue
        except OSError as error:
            raise RunError(f"cannot create the run folder {candidate}: {error.strerror or error}") from error
        return RunFolder(candidate)
    raise RunError(f"another run has just taken {names[-1]}; choose another --out")


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
