"""Anybody's labelled images: an archive, or a folder of class folders."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from pathlib import Path

import attrs
import numpy as np
import torch
from torch import Tensor

from sidetune_core.api import DataError, OptionError, at_least, at_most, more_than, option

from .archive import read_archive
from .labelled import LabelledImages, labelled, resized, set_apart
from .stream import ImageStream, Options

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")
SPLIT_SEED = 0
"""Not the run's: every run is tested on the same images."""


class Images(ImageStream):
    """Labelled images of your own, ``image`` (3, size, size) in [0, 1]: all classes in one task, or cut by ``--env.classes-per-task``.

    They come from an ``.npz`` archive (``--env.archive``) or from a folder with ``train/CLASS/*`` and ``test/CLASS/*``
    (``--env.folder``); the names of the class folders, sorted, are the names of the classes. Where the folder has no ``test``, a fifth
    of each class in ``train`` is held out for it (``--env.test-fraction``), the same images whatever the run's seed. Files with other
    suffixes than png, jpg, jpeg, bmp and webp are passed over, as are hidden ones.
    """

    @attrs.frozen
    class Config(Options):
        """Options of the env; exactly one of `archive` and `folder` is given."""

        archive: Path | None = option(
            None,
            "read this .npz file: x_train, x_test uint8 (N, H, W, 3) or (N, H, W), y_train, y_test (N,), and names if there are any",
        )
        folder: Path | None = option(
            None,
            "read the images of this folder: train/CLASS/*.png (or jpg, jpeg, bmp, webp) and test/CLASS/*.png",
        )
        size: int = option(
            32,
            "height and width in pixels that images are brought to, after the middle square is cut out",
            at_least(8),
        )
        test_fraction: float = option(
            0.2,
            "fraction of each class that is the test split where the folder has no 'test'; the same in every run",
            more_than(0),
            at_most(0.9),
        )

    def __init__(self, config: Config, seed: int) -> None:
        if config.archive is None and config.folder is None:
            raise OptionError("env 'images' needs images: give --env.archive FILE.npz or --env.folder DIR")
        if config.archive is not None and config.folder is not None:
            raise OptionError(
                "env 'images' takes one of --env.archive and --env.folder, and both are given; leave one out"
            )
        super().__init__(config, seed, (3, config.size, config.size))
        self._config = config

    def read(self) -> LabelledImages:
        """See `read_archive` and `read_folder`."""
        config = self._config
        if config.folder is not None:
            return read_folder(config.folder.expanduser(), config.size, config.test_fraction)
        assert config.archive is not None  # by __init__
        data = read_archive(config.archive.expanduser())
        return attrs.evolve(
            data, images={split: resized(pixels, config.size) for split, pixels in data.images.items()}
        )


def read_folder(folder: Path, size: int, test_fraction: float) -> LabelledImages:
    """A labelled set from ``folder/train/CLASS/*`` and ``folder/test/CLASS/*``.

    Args:
        folder: what holds ``train`` and, unless the test split is to be taken out of ``train``, ``test``.
        size: height and width that images are brought to.
        test_fraction: of each class, where there is no ``test``.

    Raises:
        DataError: a folder is missing or has no images, the classes of the splits differ, or a file is no image.
    """
    if not folder.is_dir():
        raise DataError(f"no folder {folder} (--env.folder)")
    train = _list_classes(folder / "train")
    names = tuple(train)
    if (folder / "test").is_dir():
        test = _list_classes(folder / "test")
        if lonely := sorted(
            [f"train/{name}" for name in train if name not in test]
            + [f"test/{name}" for name in test if name not in train]
        ):
            raise DataError(
                f"expected the same classes in {folder}/train and {folder}/test; only in one of them: {', '.join(lonely[:5])}"
            )
        images, labels = {}, {}
        for split, classes in (("train", train), ("test", test)):
            images[split], labels[split] = _read_classes(classes, size)
        return labelled(images, labels, names, str(folder))
    for name, files in train.items():
        if len(files) < 2:
            raise DataError(
                f"{folder / 'train' / name} has one image only, and {folder} has no 'test': expected two, one to be tested on"
            )
    pixels, numbers = _read_classes(train, size)
    held = set_apart(numbers, test_fraction, SPLIT_SEED, names)
    return labelled(
        {"train": pixels[~held], "test": pixels[held]},
        {"train": numbers[~held], "test": numbers[held]},
        names,
        str(folder),
    )


def _list_classes(folder: Path) -> dict[str, list[Path]]:
    """Image files by class, both sorted by name."""
    wanted = f"expected {folder}/CLASS/*.png (or jpg, jpeg, bmp, webp), one folder for each class"
    if not folder.is_dir():
        raise DataError(f"no folder {folder}; {wanted}")
    try:
        classes = {
            one.name: sorted(filter(_is_image, one.iterdir()))
            for one in sorted(folder.iterdir())
            if _is_class(one)
        }
    except OSError as error:
        raise DataError(f"cannot list {folder}: {error}") from error
    if not classes:
        raise DataError(f"{folder} has no class folders; {wanted}")
    for name, files in classes.items():
        if not files:
            raise DataError(f"class folder {folder / name} has no images; {wanted}")
    return classes


def _is_class(path: Path) -> bool:
    return path.is_dir() and not path.name.startswith(".")


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file()


def _read_classes(classes: Mapping[str, Sequence[Path]], size: int) -> tuple[Tensor, Tensor]:
    """Pixels (N, 3, size, size) uint8 and labels (N,) of all classes, one after another."""
    paths = [path for files in classes.values() for path in files]
    pixels = torch.empty(len(paths), 3, size, size, dtype=torch.uint8)
    for target, path in zip(pixels, paths, strict=True):
        target.copy_(_decode(path, size))
    counts = torch.tensor([len(files) for files in classes.values()])
    return pixels, torch.arange(len(counts)).repeat_interleave(counts)


def _decode(path: Path, size: int) -> Tensor:
    """The middle square of an image, upright, as (3, size, size) uint8."""
    from PIL import Image, ImageOps  # not needed by those who have an archive

    try:
        with Image.open(path) as image:
            if image.mode.startswith(("I", "F")):  # converting these to 8 bits clips them without a word
                raise DataError(
                    f"{path} has more than 8 bits a channel (mode {image.mode}); expected an 8-bit image"
                )
            upright = ImageOps.exif_transpose(image).convert("RGB")
        square = ImageOps.fit(upright, (size, size), Image.Resampling.BILINEAR)
    # what Pillow raises for damaged files, besides its own errors
    except (OSError, ValueError, SyntaxError, EOFError, struct.error, Image.DecompressionBombError) as error:
        raise DataError(f"{path} cannot be read as an image: {error}") from error
    return torch.from_numpy(np.array(square)).permute(2, 0, 1)
