"""Predictions for files and folders, in batches; a file that cannot be used does not stop the others."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import attrs

from sidetune_core.errors import InputError
from sidetune_core.interfaces.handlers import Prediction, TaskHandler
from sidetune_core.io.printable import counted
from sidetune_core.serving.model import Model


@attrs.frozen
class Predicted:
    """The predictions for an example."""

    name: str
    """Its path, or its name within a file of several."""
    predictions: dict[str, Prediction]
    """By task."""


@attrs.frozen
class Failed:
    """A file or an example that cannot be used."""

    name: str
    reason: str

    def __str__(self) -> str:
        return self.reason if self.name in self.reason else f"{self.name}: {self.reason}"


def predict_files(
    model: Model,
    tasks: Sequence[str],
    paths: Sequence[Path],
    batch_size: int,
    notice: Callable[[str], None],
) -> Iterator[Predicted | Failed]:
    """Predictions for all examples of files, in their order; failures come as soon as they are found.

    Args:
        model: has the tasks.
        tasks: each predicts all examples; the first one's handler reads the files.
        paths: files, and folders that are searched for files with the handler's suffixes.
        batch_size: most examples at once, which bounds the memory.
        notice: is called with what was skipped.
    """
    handler = model.handler(tasks[0])
    batch: list[tuple[str, Any]] = []
    for path in find_files(paths, handler.suffixes, notice):
        if isinstance(path, Failed):
            yield path
            continue
        for example in _read(handler, path):
            if isinstance(example, Failed):
                yield example
                continue
            batch.append(example)
            if len(batch) == batch_size:
                yield from _predict(model, tasks, batch)
                batch = []
    yield from _predict(model, tasks, batch)


def find_files(
    paths: Sequence[Path], suffixes: Sequence[str], notice: Callable[[str], None]
) -> Iterator[Path | Failed]:
    """The files, and those in folders and their subfolders in the order of their names.

    Hidden files and those with other suffixes than `suffixes` are skipped in folders, which `notice` says.
    """
    for path in paths:
        if path.is_dir():
            yield from _search(path, suffixes, notice)
        else:
            yield path


def _search(folder: Path, suffixes: Sequence[str], notice: Callable[[str], None]) -> Iterator[Path | Failed]:
    hidden = others = found = 0
    failures: list[Failed] = []

    def fail(error: OSError) -> None:
        failures.append(Failed(str(error.filename), f"cannot be searched: {error.strerror}"))

    for parent, folders, files in os.walk(folder, onerror=fail):
        hidden += sum(name.startswith(".") for name in folders)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            if name.startswith("."):
                hidden += 1
            elif suffixes and not name.lower().endswith(tuple(suffixes)):
                others += 1
            else:
                found += 1
                yield Path(parent, name)
    yield from failures
    skipped = [counted(hidden, "hidden file")] if hidden else []
    skipped += [f"{others} with other suffixes than {', '.join(suffixes)}"] if others else []
    if skipped:
        notice(f"{folder}: skipped {' and '.join(skipped)}")
    if not found and not failures:
        wanted = f" with suffix {', '.join(suffixes)}" if suffixes else ""
        yield Failed(str(folder), f"has no files{wanted}")


def _read(handler: TaskHandler, path: Path) -> Iterator[tuple[str, Any] | Failed]:
    try:
        yield from handler.read_file(path)
    except InputError as error:
        yield Failed(str(path), str(error))


def _predict(
    model: Model, tasks: Sequence[str], batch: Sequence[tuple[str, Any]]
) -> Iterator[Predicted | Failed]:
    """Predictions of a batch; if one of its examples cannot be used, of each alone."""
    if not batch:
        return
    try:
        predictions = model.predict([value for _, value in batch], tasks=tasks, batch_size=len(batch))
    except InputError as error:
        if len(batch) == 1:
            yield Failed(batch[0][0], str(error))
        else:
            for example in batch:
                yield from _predict(model, tasks, [example])
        return
    for index, (name, _) in enumerate(batch):
        yield Predicted(name, {task: predictions[task][index] for task in tasks})
