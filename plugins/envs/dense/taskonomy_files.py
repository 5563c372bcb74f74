"""Files of Taskonomy: its public folder layouts and its split tables."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path

import attrs

from sidetune_core.api import DataError

ALIASES: Mapping[str, tuple[str, ...]] = {
    "curvature": ("principal_curvature", "curvature"),
    "segment_semantic": ("segment_semantic", "segmentsemantic"),
    "class_object": ("class_object", "class_1000"),
}
"""Names of a domain in folders and files, where they differ from its own name."""

FILE_NAME = re.compile(r"point_(\d+)_view_(\d+)(?:_domain_(\w+))?\.(?:png|jpe?g|npy)", re.IGNORECASE)

COMPONENT = "taskonomy"
"""Folder of this data set within each domain of Omnidata."""
ORIGINAL = "original"
"""Stands for `WITHOUT_DATA` and, in training, `MIDLEVEL_TEST`."""
WITHOUT_DATA = ("mosquito", "tansboro")
"""Buildings of the split tables that the original side-tuning code leaves out of every split."""
MIDLEVEL_TEST = (
    "aloha",
    "ancor",
    "corder",
    "duarte",
    "eagan",
    "globe",
    "hanson",
    "hatfield",
    "kemblesville",
    "martinville",
    "sweatman",
    "vails",
    "wiconisco",
)
"""Test buildings of the mid-level vision experiments (Sax et al., 2019), which it leaves out of training."""


@attrs.frozen(order=True)
class View:
    """One image: of a point in a building, from one of several camera poses."""

    building: str
    point: int
    view: int

    def __str__(self) -> str:
        return f"{self.building}: point_{self.point}_view_{self.view}"


def find_views(root: Path, domain: str) -> dict[View, Path]:
    """The files of a domain, sorted by view.

    They are ``root/DOMAIN/BUILDING/point_I_view_J.png`` for a data set of buildings, and for a single
    building ``root/DOMAIN/point_I_view_J_domain_DOMAIN.png`` or ``root/point_I_view_J_domain_DOMAIN.png``;
    the building then has the name of the root folder. Downloads of components are
    ``root/DOMAIN/taskonomy/BUILDING`` (Omnidata), ``root/BUILDING/DOMAIN``, or
    ``root/BUILDING_DOMAIN/DOMAIN`` (an archive each). The suffix ``_domain_DOMAIN`` is optional in all forms
    but that of a single folder. Vectors are ``.npy``, and 8-bit images may be ``.jpg``.

    Raises:
        DataError: the folder cannot be listed.
    """
    names = ALIASES.get(domain, (domain,))
    files: dict[View, Path] = {}
    try:
        for name in names:
            for building, path in _candidates(root, name):
                if (view := _parse(path, building, names)) is not None:
                    files.setdefault(view, path)
        if not files and root.is_dir():
            for path in sorted(filter(Path.is_file, root.iterdir())):
                view = _parse(path, root.name, names) if "_domain_" in path.name else None
                if view is not None:
                    files.setdefault(view, path)
    except OSError as error:
        raise DataError(f"cannot list {root}: {error}") from error
    return dict(sorted(files.items()))


def excluded(buildings: Sequence[str], split: str, names: Sequence[str]) -> list[str]:
    """The buildings of a split without those to leave out.

    Args:
        buildings: of the split.
        split: ``train``, ``val`` or ``test``.
        names: buildings to leave out, and `ORIGINAL`.
    """
    left_out = {*names, *(WITHOUT_DATA if ORIGINAL in names else ())}
    if ORIGINAL in names and split == "train":
        left_out.update(MIDLEVEL_TEST)
    return [building for building in buildings if building not in left_out]


MAX_TABLE_BYTES = 2**26
"""Of a split table."""


def read_splits(path: Path) -> dict[str, list[str]]:
    """Buildings by split, from a split table of the data set: ``id,train,val,test`` with 0 or 1.

    Raises:
        DataError: it cannot be read or lacks a column.
    """
    try:
        if path.exists() and not (path.is_file() and path.stat().st_size <= MAX_TABLE_BYTES):
            raise OSError(f"it is no file of at most {MAX_TABLE_BYTES:,} bytes")
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"cannot read the split table {path}: {error}") from error
    if not rows or not {"id", "train", "val", "test"} <= rows[0].keys():
        raise DataError(
            f"{path} is not a split table: expected the columns "
            "id, train, val, test, with 0 or 1 for each building"
        )
    return {
        split: [row["id"] for row in rows if (row[split] or "").strip() == "1"]
        for split in ("train", "val", "test")
    }


def _candidates(root: Path, name: str) -> Iterator[tuple[str, Path]]:
    """Files in the folders of a domain, each with the building that its folder says."""
    for path in _files(root / name):
        yield root.name if path.parent == root / name else path.parent.name, path
    for path in _files(root / name / COMPONENT):
        if path.parent.name != COMPONENT:
            yield path.parent.name, path
    for folder in sorted(root.glob(f"*/{name}")):
        if folder.is_dir():
            building = folder.parent.name.removesuffix(f"_{name}")
            yield from ((building, path) for path in sorted(filter(Path.is_file, folder.iterdir())))


def image_names(root: Path, limit: int = 200) -> list[str]:
    """Some files of the data set relative to its folder, for messages."""
    paths = (path for path in root.rglob("point_*_view_*") if path.is_file())
    return sorted(str(path.relative_to(root)) for path in islice(paths, limit))


def _files(folder: Path) -> Iterator[Path]:
    """Files of a folder and of its subfolders, sorted."""
    if not folder.is_dir():
        return
    for path in sorted(folder.iterdir()):
        if path.is_dir():
            yield from sorted(filter(Path.is_file, path.iterdir()))
        elif path.is_file():
            yield path


def _parse(path: Path, building: str, names: Sequence[str]) -> View | None:
    match = FILE_NAME.fullmatch(path.name)
    if match is None or (match[3] is not None and match[3] not in names):
        return None
    return View(building, int(match[1]), int(match[2]))
