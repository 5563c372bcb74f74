"""A task on image files: classes, labels or values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from torch import Tensor

from sidetune_core.api import (
    Classification,
    MultiLabel,
    Objective,
    Outputs,
    Regression,
    SupervisedTask,
    class_weights,
)

from .augment import Augment
from .image_set import ImageSet
from .pixel_cache import PixelCache
from .preprocess import Preprocess
from .source import ImageFiles
from .store import FILES, ImageStore


class FileTask(SupervisedTask):
    """Learn the targets of image files, which are decoded when they are needed.

    Args:
        id: see `Task`.
        title: see `Task`.
        images: the files by split, with their ids.
        preprocess: how a file becomes an input.
        cache: of decoded images; tasks share one.
        augment: of training images.
        threads: that decode at once.
        stamps: of the files by example id (see `Scanned`); None not to check whether one has changed.
        weights: of the classes in the training loss.
        sampling: see `SupervisedTask`.
        store: has the images that are named by `images`.
    """

    def __init__(
        self,
        id: str,
        title: str,
        images: ImageSet,
        preprocess: Preprocess,
        *,
        cache: PixelCache | None = None,
        augment: Augment = "none",
        threads: int = 2,
        stamps: Tensor | None = None,
        weights: Literal["none", "balanced"] = "none",
        sampling: Literal["uniform", "balanced"] = "uniform",
        store: ImageStore = FILES,
    ) -> None:
        sources = {}
        for split, files in images.splits.items():
            assert files.ids is not None  # they are numbered when the task is made
            sources[split] = ImageFiles(
                files.paths,
                files.targets,
                files.ids,
                preprocess,
                augment=augment if split == "train" else "none",
                cache=cache,
                threads=threads,
                stamps=None if stamps is None else stamps[files.ids],
                store=store,
            )
        super().__init__(id, title, sources, objective(images, weights), sampling=sampling)
        self._preprocess = preprocess

    def card(self) -> Mapping[str, Any]:
        return self._preprocess.card()

    def labels(self, split: str) -> Any:
        """Targets (N, ...) of a split, in the order of `evaluate`."""
        return self.sources[split].targets()


def objective(images: ImageSet, weights: Literal["none", "balanced"]) -> Objective:
    """What is asked of the outputs: one of several classes, labels, or values."""
    if images.kind == "labels":
        return MultiLabel(images.names)
    if images.kind == "values":
        return Regression(images.names)
    count = len(images.names)
    weighted = class_weights(images.splits["train"].targets, count, weights)
    return Classification(Outputs("logits", count, images.names), weighted)
