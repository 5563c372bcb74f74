"""CIFAR-10 and CIFAR-100: from torchvision, or from an archive where there is no internet."""

from __future__ import annotations

from http.client import HTTPException
from pathlib import Path
from typing import ClassVar

import attrs
import torch

from sidetune_core.api import DataError, option

from .archive import read_archive
from .labelled import LabelledImages, labelled
from .stream import ImageStream, Options

SHAPE = (3, 32, 32)


@attrs.frozen
class Config(Options):
    """Options of the CIFAR envs."""

    archive: Path | None = option(
        None,
        "read this .npz file (x_train, y_train, x_test, y_test, uint8 (N, 32, 32, 3), names) instead of downloading",
    )
    root: Path = option(Path("~/.cache/sidetune/data"), "folder that downloads are kept in")


class CifarStream(ImageStream):
    """One of the CIFAR sets, ``image`` (3, 32, 32) in [0, 1]."""

    set_name: ClassVar[str]
    """The class of ``torchvision.datasets`` that reads it."""

    def __init__(self, config: Config, seed: int) -> None:
        super().__init__(config, seed, SHAPE)
        self._config = config

    def read(self) -> LabelledImages:
        """The archive if there is one, torchvision's copy otherwise.

        Raises:
            DataError: the archive is not as it should be (see `read_archive`), or there is nothing to download from.
        """
        if self._config.archive is not None:
            return read_archive(self._config.archive.expanduser(), SHAPE[1:])
        return self._download()

    def _download(self) -> LabelledImages:
        from torchvision import datasets  # 2 s of import, and of no use to those who have an archive

        root = self._config.root.expanduser()
        try:
            sets = {
                split: getattr(datasets, self.set_name)(root, train=split == "train", download=True)
                for split in ("train", "test")
            }
        except (OSError, RuntimeError, HTTPException) as error:
            raise DataError(
                f"cannot download {self.set_name} into {root}: {error}. Without internet, give an archive: --env.archive FILE.npz"
            ) from error
        images = {
            split: torch.from_numpy(one.data).permute(0, 3, 1, 2).contiguous() for split, one in sets.items()
        }
        labels = {split: torch.tensor(one.targets) for split, one in sets.items()}
        return labelled(images, labels, tuple(sets["train"].classes), self.set_name)
