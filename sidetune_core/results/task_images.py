"""The images of dense tasks that a run keeps: input, target, prediction."""

from __future__ import annotations

from pathlib import Path

from sidetune_core.errors import SidetuneError
from sidetune_core.results.run_summary import RunSummary
from sidetune_core.storage.run_files import IMAGES

MAX_PIXELS = 2**24
"""Of a saved image; a larger one is not drawn."""


def tasks_with_images(run: RunSummary) -> list[str]:
    """The tasks of which the run folder has images."""
    owners = {path.name.rsplit(".", 2)[0] for path in (Path(run.folder) / IMAGES).glob("*.*.png")}
    return [task for task in run.results.tasks if task in owners]


def task_images(run: RunSummary, task: str) -> dict[str, bytes]:
    """The PNG files of a task in a run folder, by name.

    Raises:
        SidetuneError: there are none.
    """
    files = {}
    tasks = set()
    for path in sorted((Path(run.folder) / IMAGES).glob("*.*.png")):
        owner, name, _ = path.name.rsplit(".", 2)
        tasks.add(owner)
        if owner == task and path.is_file():
            files[name] = path.read_bytes()
            if (size := _pixels(files[name])) > MAX_PIXELS:
                raise SidetuneError(
                    f"{path} has {size:,} pixels, more than the {MAX_PIXELS:,} that are drawn"
                )
    if not files:
        existing = f"it has images of {', '.join(sorted(tasks))}" if tasks else "it has no images at all"
        raise SidetuneError(f"{run.folder} has no images of task '{task}'; {existing}")
    return files


def _pixels(png: bytes) -> int:
    """The number of pixels that a PNG file says it has."""
    width, height = png[16:20], png[20:24]
    return int.from_bytes(width, "big") * int.from_bytes(height, "big")
