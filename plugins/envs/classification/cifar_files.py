"""CIFAR-10 and CIFAR-100, downloaded by torchvision or read from an archive."""

from __future__ import annotations

from http.client import HTTPException
from pathlib import Path
from typing import ClassVar

import attrs
import torch

from sidetune_core.api import DataError, cache_path, option

from .archive import read_archive
from .labelled import LabelledImages, make_labelled_images
from .stream import ImageOptions, ImageStream

SHAPE = (3, 32, 32)


@attrs.frozen
class Config(ImageOptions):
    """Options of the CIFAR envs."""

    archive: Path | None = option(
        None,
        "read this .npz file instead of downloading: x_train, "
        "x_test uint8 (N, 32, 32, 3), y_train, y_test, names",
    )
    root: Path = option(Path("~/.cache/sidetune/data"), "folder for the downloaded files")


class CifarStream(ImageStream):
    """Base class of the CIFAR envs, ``image`` (3, 32, 32) in [0, 1]."""

    set_name: ClassVar[str]
    """Name of the reader class in ``torchvision.datasets``."""

    def __init__(self, config: Config, seed: int) -> None:
        super().__init__(config, seed, SHAPE)
        self._config = config

    def read(self) -> LabelledImages:
        """The archive if the user gives one, torchvision's copy otherwise.

        Raises:
            DataError: the archive is invalid (see `read_archive`), or the download fails.
        """
        if self._config.archive is not None:
            return read_archive(self._config.archive.expanduser(), SHAPE[1:])
        return self._download()

    def _download(self) -> LabelledImages:
        from torchvision import datasets  # takes 2 s to import, and is not needed with an archive

        root = cache_path(self._config.root)
        try:
            sets = {
                split: getattr(datasets, self.set_name)(root, train=split == "train", download=True)
                for split in ("train", "test")
            }
        except (OSError, RuntimeError, HTTPException) as error:
            raise DataError(
                f"cannot download {self.set_name} into {root}: {error}. Without "
                "internet access, pass an archive: --env.archive FILE.npz"
            ) from error
        images, labels = {}, {}
        for split, dataset in sets.items():
            images[split] = torch.from_numpy(dataset.data).permute(0, 3, 1, 2).contiguous()
            labels[split] = torch.tensor(dataset.targets)
        return make_labelled_images(images, labels, tuple(sets["train"].classes), self.set_name)
