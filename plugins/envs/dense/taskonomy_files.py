"""Where the images of Taskonomy are: its two public layouts, and its tables of splits."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import attrs

from sidetune_core.api import DataError

ALIASES: Mapping[str, tuple[str, ...]] = {
    "curvature": ("principal_curvature", "curvature"),
    "segment_semantic": ("segment_semantic", "segmentsemantic"),
    "class_object": ("class_object", "class_1000"),
}
"""Names of a domain in folders and files, where there are others than its own."""

NAME = re.compile(r"point_(\d+)_view_(\d+)(?:_domain_(\w+))?\.(?:png|npy)")


@attrs.frozen(order=True)
class View:
    """One picture that was taken: of a point in a building, from one of several places."""

    building: str
    point: int
    view: int

    def __str__(self) -> str:
        return f"{self.building}: point_{self.point}_view_{self.view}"


def find_views(root: Path, domain: str) -> dict[View, Path]:
    """The files of a domain, in order.

    They are ``root/DOMAIN/BUILDING/point_I_view_J.png`` for a data set of buildings; ``root/DOMAIN/point_I_view_J_domain_DOMAIN.png`` or
    ``root/point_I_view_J_domain_DOMAIN.png`` for one building, whose name is then that of the folder. The part ``_domain_DOMAIN`` may
    always be there or be left out, but in the last form. Vectors are ``.npy``.

    Raises:
        DataError: the folder cannot be listed.
    """
    names = ALIASES.get(domain, (domain,))
    found: dict[View, Path] = {}
    try:
        for name in names:
            for path in _files(root / name):
                building = root.name if path.parent == root / name else path.parent.name
                if (view := _parse(path, building, names)) is not None:
                    found.setdefault(view, path)
        if not found and root.is_dir():
            for path in sorted(root.iterdir()):
                view = _parse(path, root.name, names) if "_domain_" in path.name else None
                if view is not None:
                    found.setdefault(view, path)
    except OSError as error:
        raise DataError(f"cannot list {root}: {error}") from error
    return dict(sorted(found.items()))


def read_splits(path: Path) -> dict[str, list[str]]:
    """Buildings by split, from the data set's table: ``id,train,val,test`` with 0 or 1.

    Raises:
        DataError: it cannot be read, or is no such table.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"cannot read the table of splits {path}: {error}") from error
    if not rows or not {"id", "train", "val", "test"} <= rows[0].keys():
        raise DataError(
            f"{path} is no table of splits: expected the columns id, train, val, test, with 0 or 1 for each building"
        )
    return {
        split: [row["id"] for row in rows if (row[split] or "").strip() == "1"]
        for split in ("train", "val", "test")
    }


def some(things: Sequence[object]) -> str:
    """The first few of many, in words."""
    shown = ", ".join(map(str, things[:3]))
    return f"{shown} and {len(things) - 3} more" if len(things) > 3 else shown


def _files(folder: Path) -> Iterator[Path]:
    """Files in a folder and in the folders in it, sorted."""
    if not folder.is_dir():
        return
    for path in sorted(folder.iterdir()):
        if path.is_dir():
            yield from sorted(path.iterdir())
        else:
            yield path


def _parse(path: Path, building: str, names: Sequence[str]) -> View | None:
    match = NAME.fullmatch(path.name)
    if match is None or (match[3] is not None and match[3] not in names):
        return None
    return View(building, int(match[1]), int(match[2]))
