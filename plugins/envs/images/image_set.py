"""The files of one task, or of classes that are divided into tasks, with their targets."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import attrs
import torch
from torch import Tensor

Targets = Literal["class", "labels", "values"]
SPLITS = ("train", "val", "test")


@attrs.frozen(eq=False)
class Files:
    """The files of a split."""

    paths: Sequence[str]
    targets: Tensor
    """(N,) int64 in [0, len(names)) for classes, (N, K) float32 for labels (0 or 1) and values."""
    ids: Tensor | None = None
    """(N,) int64, of the examples; None before they are numbered."""

    def __len__(self) -> int:
        return len(self.paths)

    def rows(self, rows: Tensor) -> Files:
        """Those of some rows, given by number or as a mask (N,)."""
        if rows.dtype == torch.bool:
            rows = rows.nonzero()[:, 0]
        ids = None if self.ids is None else self.ids[rows]
        return Files([self.paths[row] for row in rows.tolist()], self.targets[rows], ids)


@attrs.frozen(eq=False)
class ImageSet:
    """Files by split."""

    name: str
    """Of the task; empty where the classes are to be divided into tasks."""
    names: tuple[str, ...]
    """Of the classes, labels or values."""
    splits: Mapping[str, Files]
    """Of `SPLITS`, in this order; without ``test`` where it is to be held out."""
    base: str
    """The folder that paths in messages and digests are relative to."""
    kind: Targets = "class"

    def __len__(self) -> int:
        return sum(map(len, self.splits.values()))

    def counts(self, split: str) -> list[int]:
        """Images of each class or label in a split."""
        if split not in self.splits:
            return [0] * len(self.names)
        return self.counts_of(self.splits[split])

    def counts_of(self, files: Files) -> list[int]:
        """Images of each class or label among some files."""
        if self.kind == "class":
            return torch.bincount(files.targets, minlength=len(self.names)).tolist()
        return (files.targets != 0).sum(0).tolist()

    def of(self, name: str) -> str:
        """A class in a message: ``acme/cat``."""
        return f"{self.name}/{name}" if self.name else name

    def without(self, removed: Callable[[str], bool]) -> ImageSet:
        """Without some files; classes that have no image left are left out."""
        splits = {}
        for split, files in self.splits.items():
            keep = torch.tensor([not removed(path) for path in files.paths], dtype=torch.bool)
            splits[split] = files.rows(keep)
        kept = attrs.evolve(self, splits=splits)
        if self.kind != "class":
            return kept
        counts = [sum(count) for count in zip(*map(kept.counts, splits), strict=True)]
        return kept.choose([label for label, count in enumerate(counts) if count])

    def choose(self, labels: Sequence[int]) -> ImageSet:
        """Some of the classes or labels, in the order given; the files stay in theirs."""
        if list(labels) == list(range(len(self.names))):
            return self
        names = tuple(self.names[label] for label in labels)
        if self.kind != "class":
            columns = {
                split: attrs.evolve(files, targets=files.targets[:, list(labels)])
                for split, files in self.splits.items()
            }
            return attrs.evolve(self, names=names, splits=columns)
        new_label = torch.full((len(self.names),), -1)
        new_label[list(labels)] = torch.arange(len(labels))
        splits = {}
        for split, files in self.splits.items():
            renumbered = attrs.evolve(files, targets=new_label[files.targets])
            splits[split] = renumbered.rows(renumbered.targets >= 0)
        return attrs.evolve(self, names=names, splits=splits)


def class_files(classes: Mapping[str, Sequence[str]], names: Sequence[str]) -> Files:
    """The files of a split by class, in the order of `names`; a class may be absent."""
    counts = torch.tensor([len(classes.get(name, ())) for name in names], dtype=torch.int64)
    paths = [path for name in names for path in classes.get(name, ())]
    return Files(paths, torch.arange(len(names)).repeat_interleave(counts))
