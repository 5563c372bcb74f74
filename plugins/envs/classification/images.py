"""Labelled images of your own: an archive, or a folder of class folders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import attrs
import torch
from torch import Tensor

from sidetune_core.api import (
    DataError,
    InputError,
    OptionError,
    Renamed,
    at_least,
    at_most,
    more_than,
    option,
)

from .._image_files import SUFFIXES, read_image
from .._image_squares import center_crop_and_resize, square_by_pillow
from .archive import read_archive
from .labelled import LabelledImages, make_labelled_images, stratified_mask
from .stream import ImageOptions, ImageStream

SPLIT_SEED = 0
"""Independent of the run's seed: all runs share one test split."""


class Images(ImageStream):
    """Labelled images of your own, ``image`` (3, size, size) in [0, 1], in one task or by
    ``--env.classes-per-task``.

    They come from an ``.npz`` archive (``--env.archive``), or from a folder with ``train/CLASS/*`` and
    ``test/CLASS/*`` (``--env.root``). The sorted names of the class folders are the class names. If the
    folder has no ``test``, a fifth of each class in ``train`` is held out as the test split
    (``--env.test-fraction``), the same images for every seed. Hidden files and files with suffixes other than
    png, jpg, jpeg, bmp and webp are ignored.
    """

    @attrs.frozen
    class Config(ImageOptions):
        """Options of the env; exactly one of `archive` and `root` is required."""

        former_options: ClassVar[Mapping[str, Renamed]] = {
            **ImageOptions.former_options,
            "folder": Renamed("root"),
            "size": Renamed("image-size"),
        }

        archive: Path | None = option(
            None,
            "read this .npz file: x_train, x_test uint8 (N, H, W, 3) "
            "or (N, H, W), y_train, y_test (N,), and optionally names",
        )
        root: Path | None = option(
            None,
            "folder of the images: train/CLASS/*.png (or jpg, jpeg, bmp, webp) and test/CLASS/*.png",
        )
        image_size: int = option(
            32, "height and width in pixels to which the centre square of each image is resized", at_least(8)
        )
        test_fraction: float = option(
            0.2,
            "fraction of each class held out as the test split "
            "if the folder has no 'test'; the same in every run",
            more_than(0),
            at_most(0.9),
        )

    def __init__(self, config: Config, seed: int) -> None:
        if config.archive is None and config.root is None:
            raise OptionError("env 'images' needs images: pass --env.archive FILE.npz or --env.root DIR")
        if config.archive is not None and config.root is not None:
            raise OptionError(
                "env 'images': --env.archive and --env.root are "
                "mutually exclusive, and both are given; leave one out"
            )
        super().__init__(config, seed, (3, config.image_size, config.image_size))
        self.resize = "pillow" if config.archive is None else "torch"
        self._config = config

    def read(self) -> LabelledImages:
        """See `read_archive` and `read_folder`."""
        config = self._config
        if config.root is not None:
            return read_folder(config.root.expanduser(), config.image_size, config.test_fraction)
        assert config.archive is not None  # by __init__
        data = read_archive(config.archive.expanduser())
        resized = {
            split: center_crop_and_resize(pixels, config.image_size) for split, pixels in data.images.items()
        }
        return attrs.evolve(data, images=resized)


def read_folder(folder: Path, size: int, test_fraction: float) -> LabelledImages:
    """Read a labelled set from ``folder/train/CLASS/*`` and ``folder/test/CLASS/*``.

    Args:
        folder: the folder with ``train`` and optionally ``test``.
        size: height and width to which images are resized.
        test_fraction: fraction of each class in ``train`` to hold out if there is no ``test``.

    Raises:
        DataError: a folder is missing or empty, the splits have different classes, or a file is damaged.
    """
    if not folder.is_dir():
        raise DataError(f"no folder {folder} (--env.root)")
    train = _list_classes(folder / "train")
    names = tuple(train)
    if (folder / "test").is_dir():
        test = _list_classes(folder / "test")
        _check_same_classes(train, test, folder)
        images, labels = {}, {}
        for split, classes in (("train", train), ("test", test)):
            images[split], labels[split] = _read_classes(classes, size)
        return make_labelled_images(images, labels, names, str(folder))
    for name, files in train.items():
        if len(files) < 2:
            raise DataError(
                f"{folder / 'train' / name} has a single image, and {folder} has "
                "no 'test'; expected two or more, to hold one out for testing"
            )
    pixels, targets = _read_classes(train, size)
    held_out = stratified_mask(targets, test_fraction, SPLIT_SEED, names)
    return make_labelled_images(
        {"train": pixels[~held_out], "test": pixels[held_out]},
        {"train": targets[~held_out], "test": targets[held_out]},
        names,
        str(folder),
    )


def _check_same_classes(train: Mapping[str, object], test: Mapping[str, object], folder: Path) -> None:
    only_train = [f"train/{name}" for name in train if name not in test]
    only_test = [f"test/{name}" for name in test if name not in train]
    if unmatched := sorted(only_train + only_test):
        raise DataError(
            f"expected the same classes in {folder}/train and "
            f"{folder}/test; only in one of them: {', '.join(unmatched[:5])}"
        )


def _list_classes(folder: Path) -> dict[str, list[Path]]:
    """Image files by class, both sorted by name."""
    expected = f"expected {folder}/CLASS/*.png (or jpg, jpeg, bmp, webp), one folder per class"
    if not folder.is_dir():
        raise DataError(f"no folder {folder}; {expected}")
    try:
        classes = {
            path.name: sorted(filter(_is_image, path.iterdir()))
            for path in sorted(folder.iterdir())
            if _is_class(path)
        }
    except OSError as error:
        raise DataError(f"cannot list {folder}: {error}") from error
    if not classes:
        raise DataError(f"{folder} has no class folders; {expected}")
    for name, files in classes.items():
        if not files:
            raise DataError(f"class folder {folder / name} has no images; {expected}")
    return classes


def _is_class(path: Path) -> bool:
    return path.is_dir() and not path.name.startswith(".")


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file()


def _read_classes(classes: Mapping[str, Sequence[Path]], size: int) -> tuple[Tensor, Tensor]:
    """Pixels (N, 3, size, size) uint8 and labels (N,), sorted by class."""
    paths = [path for files in classes.values() for path in files]
    pixels = torch.empty(len(paths), 3, size, size, dtype=torch.uint8)
    for target, path in zip(pixels, paths, strict=True):
        target.copy_(_decode(path, size))
    counts = torch.tensor([len(files) for files in classes.values()])
    return pixels, torch.arange(len(counts)).repeat_interleave(counts)


def _decode(path: Path, size: int) -> Tensor:
    """The centre square of an image after EXIF rotation, as (3, size, size) uint8."""
    try:
        return square_by_pillow(read_image(path, str(path), rotates=True), size)
    except InputError as error:
        raise DataError(str(error)) from error
