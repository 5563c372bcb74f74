"""Labelled images of your own: folders, tables, or an archive."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import attrs

from sidetune_core.api import (
    ImageInput,
    OptionError,
    Renamed,
    SupervisedTask,
    option,
)

from .._image_squares import center_crop_and_resize
from ..classification.archive import read_archive
from ..classification.labelled import LabelledImages
from ..classification.stream import ImageStream
from .account import Account
from .file_reader import FileReader
from .image_set import Targets
from .layout import Layout
from .lazy_stream import LazyImageStream, fit_images
from .options import LazyOptions
from .preprocess import Preprocess
from .reader import GIB
from .task import FileTask

ONE_PLACE = Renamed("root", separator="")
"""A folder may be written without a list; a comma is part of its name."""


class Images(LazyImageStream, ImageStream):
    """Labelled images of your own, ``image`` (3, size, size) in [0, 1].

    They come from folders (``--env.root``), a table of files and labels (``--env.table``), or an ``.npz``
    archive (``--env.archive``). A folder has the layout ``CLASS/*``, ``train|val|test/CLASS/*``, or
    ``TASK/CLASS/*`` with a task for each folder at its top; several folders are a task each. Where there is
    no ``test``, a fifth of each class is held out (``--env.test-fraction``), the same images for every seed.
    Files are decoded when they are needed, in threads, and kept as far as ``--env.memory`` allows.
    """

    @attrs.frozen
    class Config(LazyOptions):
        """Options of the env; one of `root`, `table` and `archive` is required."""

        former_options: ClassVar[Mapping[str, Renamed]] = {
            **LazyOptions.former_options,
            "root": ONE_PLACE,
            "folder": ONE_PLACE,
            "size": Renamed("image-size"),
            "label-column": Renamed("label-column", separator=""),
        }

        root: tuple[Path, ...] = option(
            (),
            "folder of the images; several folders are a task each. With --env.table, the folder that its "
            "paths are relative to",
        )
        layout: Layout = option(
            "auto",
            "folders below root: classes (CLASS/*), splits (train|val|test/CLASS/*), tasks (TASK/CLASS/*), "
            "or auto, which tells them apart by the names of splits and by where the images lie",
        )
        table: Path | None = option(
            None,
            "read files and labels from this table: .csv, .tsv or .parquet (pip install 'sidetune[tables]')",
        )
        path_column: str = option("path", "column of the table with paths of images")
        label_column: tuple[str, ...] = option(
            ("label",), "column of the table with labels; several for values, or for labels of 0 and 1"
        )
        targets: Targets = option(
            "class",
            "what the table's labels are: class, one name or integer; labels, any number of names such as "
            "'cat;dog'; values, numbers to predict",
        )
        archive: Path | None = option(
            None,
            "read this .npz file: x_train, x_test uint8 (N, H, W, 3) "
            "or (N, H, W), y_train, y_test (N,), and optionally names",
        )

    def __init__(self, config: Config, seed: int) -> None:
        _check_places(config)
        self._config = config = self.fit_images(config, None)
        assert config.image_size is not None  # by fit_images
        super().__init__(config, seed, (3, config.image_size, config.image_size))
        self.resize = "torch" if config.archive is not None else "pillow"

    @classmethod
    def fit_images(cls, config: Config, images: ImageInput | None) -> Config:
        """The options with size, interpolation and crop filled in: those of the base, or 32 pixels, bilinear
        and the whole centre square."""
        if config.archive is not None and images is not None:  # its images are resized by PyTorch
            images = ImageInput(images.size)
        return fit_images(config, images)

    def tasks(self) -> Sequence[SupervisedTask]:
        """All tasks, with a line on what was read."""
        if self._config.archive is None:
            return self._file_tasks()
        tasks = super().tasks()
        names = dict.fromkeys(split for task in tasks for split in ("train", *task.splits))
        splits = {split: sum(task.size(split) for task in tasks) for split in names}
        self.info(Account().line("class", sum(task.outputs.size or 0 for task in tasks), len(tasks), splits))
        return tasks

    def read(self) -> LabelledImages:
        """See `read_archive`."""
        config = self._config
        assert config.archive is not None
        assert config.image_size is not None
        data = read_archive(config.archive.expanduser())
        count = sum(map(len, data.images.values()))
        native = sum(pixels.numel() for pixels in data.images.values())
        if native < count * 3 * config.image_size**2 > config.memory * GIB:
            self.enlarged_size = config.image_size
            return data
        resized = {
            split: center_crop_and_resize(pixels, config.image_size) for split, pixels in data.images.items()
        }
        return attrs.evolve(data, images=resized)

    def _file_tasks(self) -> list[FileTask]:
        preprocess = Preprocess.of(self._config)
        return self.read_tasks(
            FileReader(self._config, self._seed, preprocess, self.info), preprocess, self._config
        )


def _check_places(config: Images.Config) -> None:
    """Check that the images come from one place, and that options fit it.

    Raises:
        OptionError: with what to type next.
    """
    given = [
        f"--env.{name}" for name in ("root", "archive", "table") if getattr(config, name) not in (None, ())
    ]
    if not given:
        raise OptionError(
            "env 'images' needs images: pass --env.root DIR, --env.table FILE.csv or --env.archive FILE.npz"
        )
    if "--env.archive" in given and len(given) > 1:
        raise OptionError(
            f"env 'images': {given[0]} and {given[1]} are mutually exclusive, and both are given; leave one "
            "out"
        )
    if config.table is None and config.targets != "class":
        raise OptionError(
            f"--env.targets {config.targets} needs a table of files and labels: pass --env.table FILE.csv"
        )
    if config.table is not None and len(config.root) > 1:
        raise OptionError(
            "--env.table has one folder that its paths are relative to (--env.root), and "
            f"{len(config.root)} are given"
        )
    if config.targets == "class" and len(config.label_column) != 1:
        raise OptionError(
            f"--env.targets class has one column of labels, and {len(config.label_column)} are given: pass "
            "--env.label-column NAME, or --env.targets values or labels"
        )
    if config.targets == "values" and not config.label_column:
        raise OptionError("--env.targets values needs columns: pass --env.label-column NAME")
    for name in ("class_weights", "sampling"):
        if config.targets != "class" and getattr(config, name) == "balanced":
            raise OptionError(
                f"--env.{name.replace('_', '-')} balanced is for classes, and --env.targets is "
                f"{config.targets}"
            )
    if config.archive is not None and (
        config.interpolation == "bicubic" or config.crop_fraction not in (None, 1.0)
    ):
        raise OptionError(
            "the images of an archive are resized by bilinear interpolation of the whole centre square; "
            "leave out --env.interpolation and --env.crop-fraction"
        )
