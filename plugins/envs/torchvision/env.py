"""The data sets of torchvision, by name."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from http.client import HTTPException
from pathlib import Path
from typing import Any

import attrs
import torch
from torch import Tensor

from sidetune_core.api import DataError, OptionError, cache_path, option, shorten

from ..images.options import RowOptions
from ..images.row_stream import LabelledRows, RowSet, RowStream
from .catalogue import CATALOGUE, Arguments, Published

MISSING = (OSError, RuntimeError)
"""What torchvision raises for files that are not there, or are damaged."""


@attrs.frozen(eq=False)
class DatasetImages:
    """The images of a data set of torchvision, read by its own class."""

    dataset: Any

    def image(self, row: int) -> Any:
        """A Pillow image."""
        image, *_ = self.dataset[row]
        return image


class TorchvisionSets(RowStream):
    """Data sets of torchvision by name, such as MNIST, SVHN or Flowers102, ``image`` (3, size, size) in
    [0, 1].

    One data set is one task, or several of some classes each (``--env.classes-per-task``); several in a row
    are a task each, such as ``--env.dataset MNIST SVHN``. They are downloaded if they are not in
    ``--env.root``. Images of any size are made square as the base was trained; grey ones become RGB. Splits
    are the published ones; where there is no test split, a fifth of each class is held out, the same images
    for every seed. EMNIST is its split 'balanced'.
    """

    @attrs.frozen
    class Config(RowOptions):
        """Options of the env; `dataset` is required."""

        dataset: tuple[str, ...] = option((), f"one or several of {', '.join(CATALOGUE)}")
        root: Path = option(Path("~/.cache/sidetune/data"), "folder of the files, and for downloads")

    recipe = {"epochs": 4.0, "batch_size": 128, "lr": 1e-3}

    def __init__(self, config: Config, seed: int) -> None:
        _check_names(config.dataset)
        super().__init__(config, seed)
        self._names, self._root = config.dataset, cache_path(config.root)

    def sets(self) -> Sequence[RowSet]:
        """See `RowStream.sets`; all that are missing are downloaded."""
        return [self._set(name, CATALOGUE[name]) for name in self._names]

    def _set(self, name: str, published: Published) -> RowSet:
        splits, first = {}, None
        for split, arguments in published.splits.items():
            dataset = self._open(name, published, arguments)
            splits[split] = LabelledRows(DatasetImages(dataset), labels_of(dataset, published.labels))
            first = dataset if first is None else first
        return RowSet(name, _class_names(first, published, splits), splits)

    def _open(self, name: str, published: Published, arguments: Arguments) -> Any:
        """The library's data set, downloaded if it is missing.

        Raises:
            DataError: it is neither in the root nor can it be downloaded.
        """
        from torchvision import datasets  # takes 2 s to import

        make = getattr(datasets, published.cls)
        try:
            return make(self._root, download=False, **arguments)
        except MISSING:
            self.info(f"downloading {name} into {self._root}")
        try:
            self._root.mkdir(parents=True, exist_ok=True)
            return make(self._root, download=True, **arguments)
        except (*MISSING, HTTPException, ValueError, EOFError) as error:
            reason = next(iter(str(error).splitlines()), type(error).__name__)
            raise DataError(
                f"{name} is not complete in {self._root} (--env.root), and cannot be downloaded: {reason}. "
                f'On a computer with internet access, run python -c "from torchvision import datasets; '
                f'datasets.{published.cls}({_typed(self._root, arguments)})", and copy the folder here; it '
                f"has {published.files}"
            ) from error


def labels_of(dataset: Any, attribute: str) -> Tensor:
    """The labels (N,) int64 of a data set of torchvision, without reading its images where that is possible.

    Raises:
        DataError: there is another number of them than of images.
    """
    values = getattr(dataset, attribute, None)
    if values is None:  # another version of the library
        values = [dataset[row][1] for row in range(len(dataset))]
    elif isinstance(values, list) and values and isinstance(values[0], tuple):
        values = [label for _, label in values]
    labels = torch.as_tensor(values).long()
    if labels.shape != (len(dataset),):
        raise DataError(
            f"{type(dataset).__name__} has {len(dataset):,} images and labels of shape {tuple(labels.shape)}"
        )
    return labels


def _class_names(dataset: Any, published: Published, splits: dict[str, LabelledRows]) -> tuple[str, ...]:
    if isinstance(published.classes, str):
        names = [_one_name(name) for name in getattr(dataset, published.classes)]
    else:
        names = list(published.classes)
    if not names:
        count = 1 + max(int(rows.labels.max()) for rows in splits.values() if len(rows.labels))
        names = [f"class {label}" for label in range(count)]
    return tuple(names)


def _one_name(name: object) -> str:
    """A class by the first of its names: Imagenette has several for each."""
    return str(name[0] if isinstance(name, tuple | list) else name)


def _typed(root: Path, arguments: Arguments) -> str:
    """Arguments as they are written in Python."""
    given = {**arguments, "download": True}
    return ", ".join([repr(str(root)), *(f"{name}={value!r}" for name, value in given.items())]).replace(
        '"', "'"
    )


def _check_names(names: Sequence[str]) -> None:
    """
    Raises:
        OptionError: no data set is named, one is unknown, or one is named twice.
    """
    if not names:
        raise OptionError("env 'torchvision' needs a data set: pass --env.dataset MNIST")
    if unknown := [name for name in names if name not in CATALOGUE]:
        lower = {name.lower(): name for name in CATALOGUE}
        close = get_close_matches(unknown[0].lower(), lower, n=1, cutoff=0.6)
        hint = f" Did you mean '{lower[close[0]]}'?" if close else ""
        raise OptionError(
            f"--env.dataset: torchvision has no data set {shorten(map(repr, unknown))} of images with a "
            f"class each.{hint} Known: {', '.join(CATALOGUE)}"
        )
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise OptionError(f"--env.dataset has {shorten(twice)} more than once; name each data set once")
