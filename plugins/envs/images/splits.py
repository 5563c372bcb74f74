"""The splits of the classes: what is held out for testing, and which classes cannot be used."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import attrs
import torch
from torch import Tensor

from sidetune_core.api import DataError, derive_seed, shorten

from ..classification.labelled import stratified_mask
from .account import Account, counted
from .image_set import SPLITS, Files, ImageSet

SPLIT_SEED = 0
"""Independent of the run's seed: all runs share one test split."""

SKIP = "leave them out with --env.on-error skip"


@attrs.frozen(eq=False)
class Splitter:
    """Divides sets into splits, after a check of their classes."""

    test_fraction: float
    """Held out of ``train`` where a set has no ``test``; the same in every run."""
    val_fraction: float
    """Held out of ``train`` as ``val``."""
    seed: int
    """Of the run; it draws ``val``."""
    skip: bool
    """Leave classes out that cannot be used; an error otherwise."""
    account: Account

    def split(self, sets: Sequence[ImageSet]) -> list[ImageSet]:
        """The sets with ``test``, and with ``val`` if it is asked for.

        Raises:
            DataError: a class has test images only, or a single one to divide; all of them are counted.
        """
        if self.val_fraction and any("val" in images.splits for images in sets):
            raise DataError("the images have a split 'val' of their own; leave out --env.val-fraction")
        sets = self._drop_unusable(list(sets), _untrained, "images of other splits only", "no training image")
        whole = [images for images in sets if "test" not in images.splits]
        divided = [images for images in sets if "test" in images.splits]
        if whole:
            of = f" of {counted(len(whole), 'task')}" if divided else ""
            what = "each class" if sets[0].kind == "class" else "the images"
            self.account.notes.append(f"{100 * self.test_fraction:.3g} % of {what} held out for testing{of}")
        sets = self._drop_unusable(
            sets,
            lambda images: () if "test" in images.splits else _single(images),
            "a single image",
            "a single image, and needs two: one is held out for testing",
        )
        self._note_untested(sets)
        sets = [self._hold_out(images, "test", self.test_fraction, SPLIT_SEED) for images in sets]
        if self.val_fraction:
            sets = self._drop_unusable(
                sets,
                _single,
                "a single training image",
                "a single training image, and needs two: one is 'val'",
            )
            sets = [self._hold_out(images, "val", self.val_fraction, self.seed) for images in sets]
        return sets

    def _drop_unusable(
        self,
        sets: list[ImageSet],
        find: Callable[[ImageSet], Sequence[int]],
        short: str,
        reason: str,
    ) -> list[ImageSet]:
        """Raise an error about classes that cannot be used, or leave them out."""
        unusable = [find(images) for images in sets]
        names = [
            images.of(images.names[label])
            for images, labels in zip(sets, unusable, strict=True)
            for label in labels
        ]
        if not names:
            return sets
        kind = _kinds(sets[0])
        count = sum(len(images.names) for images in sets)
        if not self.skip:
            raise DataError(f"{len(names):,} of {count:,} {kind} have {reason}: {shorten(names, 5)}; {SKIP}")
        self.account.left_out.others.append(
            f"{len(names):,} {kind if len(names) > 1 else _kind(sets[0])} with {short} ({shorten(names)})"
        )
        kept = []
        for images, labels in zip(sets, unusable, strict=True):
            rest = [label for label in range(len(images.names)) if label not in set(labels)]
            if rest:
                kept.append(images.choose(rest))
        if not kept:
            raise DataError(f"no {kind} are left: all {count:,} have {reason}")
        return kept

    def _note_untested(self, sets: Sequence[ImageSet]) -> None:
        """Say which classes have no test image although their set has a test split."""
        names = [
            images.of(images.names[label])
            for images in sets
            if "test" in images.splits and images.kind != "values"
            for label, count in enumerate(images.counts("test"))
            if not count
        ]
        if names:
            self.account.notes.append(f"no test image of {shorten(names)}: trained on, not tested")

    def _hold_out(self, images: ImageSet, split: str, fraction: float, seed: int) -> ImageSet:
        if split in images.splits:
            return images
        train = images.splits["train"]
        if images.kind == "class":
            mask = stratified_mask(train.targets, fraction, seed, images.names)
        else:
            mask = _random_mask(len(train), fraction, seed, images)
        splits = {**images.splits, "train": train.rows(~mask), split: train.rows(mask)}
        return attrs.evolve(images, splits=_ordered(splits))


def _ordered(splits: Mapping[str, Files]) -> dict[str, Files]:
    return {split: splits[split] for split in SPLITS if split in splits}


def _untrained(images: ImageSet) -> Sequence[int]:
    """Classes without training images."""
    if images.kind == "values":
        return ()
    total = [images.counts(split) for split in images.splits]
    train = images.counts("train")
    return [
        label for label, count in enumerate(map(sum, zip(*total, strict=True))) if count and not train[label]
    ]


def _single(images: ImageSet) -> Sequence[int]:
    """Classes with a single training image."""
    if images.kind != "class":
        return ()
    return [label for label, count in enumerate(images.counts("train")) if count == 1]


def _random_mask(count: int, fraction: float, seed: int, images: ImageSet) -> Tensor:
    """A fraction of examples that have no class: (N,) bool, at least one and never all."""
    if count < 2:
        of = f"task '{images.name}'" if images.name else images.base
        raise DataError(f"{of} has {counted(count, 'training image')}, and needs two to hold one out")
    size = min(max(1, round(fraction * count)), count - 1)
    generator = torch.Generator().manual_seed(derive_seed(seed, "holdout"))
    mask = torch.zeros(count, dtype=torch.bool)
    mask[torch.rand(count, generator=generator).argsort(stable=True)[:size]] = True
    return mask


def _kinds(images: ImageSet) -> str:
    return "classes" if images.kind == "class" else "labels"


def _kind(images: ImageSet) -> str:
    return "class" if images.kind == "class" else "label"
