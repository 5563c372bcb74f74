"""The layout of a folder: which folders are tasks, splits and classes."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from typing import Literal

import attrs

from sidetune_core.api import DataError, shorten

from .account import LeftOut, counted
from .folders import Folder
from .image_set import SPLITS, ImageSet, class_files

Layout = Literal["auto", "classes", "splits", "tasks"]

SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}
"""Splits by the names of their folders, in lower case, and in a table."""

STRAY = 0.1
"""Fraction of images next to the class folders of tasks up to which they are taken for strays."""

PATTERNS: dict[str, str] = {
    "classes": "CLASS/*",
    "splits": "train[,val],test/CLASS/*",
    "tasks": "TASK/CLASS/*",
}
EXPECTED = "; ".join(f"{pattern} ({name})" for name, pattern in PATTERNS.items())


@attrs.frozen(eq=False)
class Reading:
    """A root that is made into sets."""

    root: str
    left_out: LeftOut

    def sets(self, top: Folder, layout: Layout) -> tuple[str, list[ImageSet]]:
        """The layout of the root in words, and its sets.

        Raises:
            DataError: the root has no images, or is not of this layout.
        """
        if not top.count():
            left_out = f"; left out: {words}" if (words := self.left_out.words()) else ""
            raise DataError(f"no images in {self.root} (--env.root); expected {EXPECTED}{left_out}")
        chosen = detect(top) if layout == "auto" else layout
        if chosen == "tasks":
            self._outside(top)
            tasks = [folder for folder in top.folders if folder.count() > len(folder.images)]
            flat = [folder for folder in top.folders if folder.images and folder not in tasks]
            self.left_out.others += [
                f"folder '{folder.name}' without class folders ({counted(len(folder.images), 'image')})"
                for folder in flat
            ]
            if not tasks:
                raise DataError(
                    f"{self.root} has images, and no task folder; expected {PATTERNS['tasks']}. If its "
                    "folders are classes, pass --env.layout classes"
                )
            self._empty(top, [*tasks, *flat])
            sets = [self._set(folder, os.path.join(self.root, folder.name), folder.name) for folder in tasks]
            has_splits = any(_splits(folder) for folder in tasks)
            return ("TASK/train|test/CLASS" if has_splits else "TASK/CLASS"), sets
        if chosen == "splits" and not _named_splits(top):
            have = shorten((folder.name for folder in top.folders), 5) or "none"
            raise DataError(
                f"no folder {os.path.join(self.root, 'train')}; expected {PATTERNS['splits']}. Its folders: "
                f"{have}"
            )
        made = self._set(top, self.root, "", chosen == "splits")
        return "/".join([*(["|".join(made.splits)] if chosen == "splits" else []), "CLASS"]), [made]

    def _set(self, folder: Folder, path: str, name: str, has_splits: bool | None = None) -> ImageSet:
        """The set of a folder with classes, or with splits that have classes."""
        self._outside(folder)
        splits = _splits(folder) if has_splits is None else _named_splits(folder) if has_splits else {}
        if not splits:
            classes = {"train": self._classes(folder, path)}
            if not classes["train"]:
                raise DataError(
                    f"{path} has images, and no class folders; expected {EXPECTED}, or a table of files and "
                    "labels (--env.table FILE.csv)"
                )
        else:
            if "train" not in splits:
                found = next(iter(splits.values())).name
                raise DataError(
                    f"{path} has a folder '{found}' and no folder 'train'; expected {PATTERNS['splits']}. "
                    f"If '{found}' is a class or a task, pass --env.layout classes or --env.layout tasks"
                )
            others = [other for other in folder.folders if other not in splits.values() and other.count()]
            for other in others:
                self.left_out.others.append(
                    f"folder '{other.name}' next to the splits ({counted(other.count(), 'image')})"
                )
            classes = {}
            for split in SPLITS:
                if split in splits:
                    self._outside(splits[split])
                    classes[split] = self._classes(splits[split], os.path.join(path, splits[split].name))
            if not classes["train"]:
                raise DataError(
                    f"{os.path.join(path, splits['train'].name)} has no class folders with images"
                )
            # a split without any image is as good as none
            classes = {split: found for split, found in classes.items() if found}
        names = tuple(sorted({name for found in classes.values() for name in found}))
        return ImageSet(
            name,
            names,
            {split: class_files(found, names) for split, found in classes.items()},
            base=self.root,
        )

    def _classes(self, folder: Folder, path: str) -> dict[str, list[str]]:
        """Files by class."""
        full = [child for child in folder.folders if child.count()]
        self._empty(folder, full)
        return {child.name: child.files(os.path.join(path, child.name)) for child in full}

    def _outside(self, folder: Folder) -> None:
        self.left_out.outside += len(folder.images)

    def _empty(self, folder: Folder, full: Sequence[Folder]) -> None:
        self.left_out.empty += len(folder.folders) - len(full)


def detect(top: Folder) -> Layout:
    """The layout of a folder with images.

    A folder named as a split (`SPLIT_NAMES`), with folders in it, makes it ``splits``. Otherwise the folders
    at the top are classes if one of them holds images directly; further folders in it belong to the class.
    They are tasks if none does, or if all have folders with images and only `STRAY` of the images lie outside
    of these.
    """
    if _splits(top):
        return "splits"
    folders = [folder for folder in top.folders if folder.count()]
    direct, total = sum(len(folder.images) for folder in folders), sum(folder.count() for folder in folders)
    is_class = any(_is_plain(folder) for folder in folders) or direct >= STRAY * max(1, total)
    return "classes" if is_class or not folders else "tasks"


def _is_plain(folder: Folder) -> bool:
    return bool(folder.images) and not any(child.count() for child in folder.folders)


def _splits(folder: Folder) -> dict[str, Folder]:
    """The folders that are splits; none if all that are named so hold images only and are next to others, as
    a class of trains is."""
    splits = _named_splits(folder)
    named = [split for split in splits.values() if split.count()]
    others = [child for child in folder.folders if child.count() and child not in named]
    return {} if others and all(map(_is_plain, named)) else splits


def _named_splits(folder: Folder) -> dict[str, Folder]:
    """The folders that are named as splits.

    Raises:
        DataError: two of them are the same split.
    """
    splits: dict[str, Folder] = {}
    for child in folder.folders:
        split = SPLIT_NAMES.get(child.name.lower())
        if split is None:
            continue
        if split in splits:
            raise DataError(
                f"two folders are the split '{split}': '{splits[split].name}' and '{child.name}'; rename "
                "one, or pass --env.layout classes if they are classes"
            )
        splits[split] = child
    return splits


def distinct(names: Iterable[str], full: Callable[[int], str]) -> list[str]:
    """Names, each of which is replaced by a longer one where another is equal."""
    names = list(names)
    return [name if names.count(name) == 1 else full(index) for index, name in enumerate(names)]
