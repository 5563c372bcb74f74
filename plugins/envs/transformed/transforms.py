"""Fixed transformations of images, of which each makes a task."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cache
from typing import Any, Protocol

import attrs
import torch
from torch import Tensor, nn
from torch.nn import functional

FULL_TURN, RIGHT_ANGLE = 360, 90


class ImageTransform(Protocol):
    """A function of images (B, C, H, W) in [0, 1] that keeps their shape, each by itself."""

    def __call__(self, images: Tensor) -> Tensor: ...

    def to_json(self) -> dict[str, Any]:
        """Plain values, which `read_transform` reads; equal only for equal transformations."""


@attrs.frozen
class Permutation:
    """A permutation of the pixels, the same in all channels (Goodfellow et al., 2014, section 3.1)."""

    seed: int | None
    """None for the identity."""

    def __call__(self, images: Tensor) -> Tensor:
        """(B, C, H, W)"""
        if self.seed is None:
            return images
        order = permutation(self.seed, images.shape[2] * images.shape[3])  # an index may stay on the CPU
        return images.flatten(2)[:, :, order].view(images.shape)

    def to_json(self) -> dict[str, Any]:
        """See `ImageTransform`."""
        return {"kind": "permutation", "seed": self.seed}


@attrs.frozen
class Rotation:
    """A rotation about the centre, counter-clockwise, bilinear; what comes from outside is black."""

    degrees: float

    def __call__(self, images: Tensor) -> Tensor:
        """(B, C, H, W)"""
        turn = self.degrees % FULL_TURN
        height, width = images.shape[2:]
        if turn == 0 or (height == width and turn % RIGHT_ANGLE == 0):
            return images.rot90(int(turn // RIGHT_ANGLE), (2, 3))  # exact
        sine, cosine = math.sin(math.radians(turn)), math.cos(math.radians(turn))
        # from a pixel of the result to the place that it comes from, both in [-1, 1]
        matrix = images.new_tensor([[cosine, -sine * height / width, 0], [sine * width / height, cosine, 0]])
        grid = functional.affine_grid(matrix.expand(len(images), 2, 3), [*images.shape], align_corners=False)
        return functional.grid_sample(images, grid, align_corners=False)

    def to_json(self) -> dict[str, Any]:
        """See `ImageTransform`."""
        return {"kind": "rotation", "degrees": self.degrees}


@cache
def permutation(seed: int, pixels: int) -> Tensor:
    """(pixels,) int64"""
    return torch.randperm(pixels, generator=torch.Generator().manual_seed(seed), device="cpu")


def read_transform(values: object) -> ImageTransform:
    """The transformation that `to_json` has described.

    Raises:
        ValueError: it is none of these.
    """
    given = dict(values) if isinstance(values, Mapping) else {}
    kind = given.pop("kind", None)
    if kind == "permutation" and given.keys() == {"seed"}:
        seed = given["seed"]
        if seed is None or (isinstance(seed, int) and not isinstance(seed, bool) and 0 <= seed < 2**63):
            return Permutation(seed)
    if kind == "rotation" and given.keys() == {"degrees"}:
        degrees = given["degrees"]
        if isinstance(degrees, int | float) and math.isfinite(degrees):
            return Rotation(float(degrees))
    raise ValueError(f"its value 'transform' is {values!r}")


class TransformModule(nn.Module):
    """A transformation as a layer."""

    def __init__(self, transform: ImageTransform) -> None:
        super().__init__()
        self.transform = transform

    def forward(self, images: Tensor) -> Tensor:
        """(B, C, H, W)"""
        return self.transform(images)
