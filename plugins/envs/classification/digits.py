"""Packaged handwritten digits: a stream that needs no download."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .labelled import LabelledImages, make_labelled_images, stratified_mask
from .stream import ImageOptions, ImageStream

DATA = Path(__file__).parent / "data" / "digits.npz"
SHAPE = (3, 32, 32)
TEST_FRACTION = 0.25
SPLIT_SEED = 0
"""Independent of the run's seed: all runs share one test split."""


class Digits(ImageStream):
    """The 1,797 handwritten digits of scikit-learn (8 x 8, grey) in five tasks of two classes, ``image`` (3,
    32, 32).

    Pixels are in [0, 1]. A quarter of each class is the test split, the same in every run. Images are
    enlarged to 32 x 32 (bilinear) and repeated over three channels, to fit networks made for CIFAR. With a
    base pretrained on CIFAR-10, a run takes seconds on a laptop's CPU.
    """

    Config = ImageOptions
    resize = "torch"
    classes_per_task = 2
    recipe = {"steps": 60, "batch_size": 32, "lr": 1e-3}

    def __init__(self, config: ImageOptions, seed: int) -> None:
        super().__init__(config, seed, SHAPE)

    def read(self) -> LabelledImages:
        """All images, in splits 'train' and 'test'."""
        values, targets = _load()
        pixels, labels = _enlarge(torch.from_numpy(values)), torch.from_numpy(targets)
        names = tuple(str(digit) for digit in range(10))
        test = stratified_mask(labels, TEST_FRACTION, SPLIT_SEED, names)
        return make_labelled_images(
            {"train": pixels[~test], "test": pixels[test]},
            {"train": labels[~test], "test": labels[test]},
            names,
            "the digits of scikit-learn",
        )


def _load() -> tuple[np.ndarray, np.ndarray]:
    """Grey values (N, 8, 8) in [0, 16] and labels (N,), in the order of scikit-learn's ``load_digits``."""
    with np.load(DATA) as arrays:
        return arrays["images"], arrays["labels"].astype(np.int64)


def _enlarge(values: Tensor) -> Tensor:
    """Grey values (N, 8, 8) in [0, 16] to pixels (N, 3, 32, 32) uint8.

    All is exact in float32 before the rounding.
    """
    scaled = values.float()[:, None] * (255 / 16)
    large = torch.nn.functional.interpolate(
        scaled, SHAPE[1:], mode="bilinear", align_corners=False, antialias=False
    )
    return large.round().to(torch.uint8).repeat(1, SHAPE[0], 1, 1)
