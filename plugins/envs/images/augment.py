"""Random augmentation of training images."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Augment = Literal["none", "crop-flip", "resized-crop", "resized-crop-color"]
"""The options: none; a shift by up to 4 pixels and a flip; a random part of the image, resized, and a flip;
the same and random brightness, contrast, saturation and hue."""

CROP_PADDING = 4
"""Pixels of black border from which random crops are taken."""
