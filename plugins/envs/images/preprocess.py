"""From an image to the pixels that a network takes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import torch
from torch import Tensor

from .._image_files import read_rgb
from .._image_squares import Interpolation, crop_to_square, to_planes
from .augment import FROM_FILES, Augment, crop_flip, random_resized_crop

if TYPE_CHECKING:
    from .options import LazyOptions


@attrs.frozen
class Preprocess:
    """How an image file becomes the input of a network (see `crop_to_square`)."""

    size: int
    """Height and width of the result."""
    interpolation: Interpolation = "bilinear"
    crop_fraction: float = 1.0
    """The centre that is cut out, as a fraction of the shorter side."""

    @classmethod
    def of(cls, options: LazyOptions) -> Preprocess:
        """From options in which everything is filled in (see `fit_images`)."""
        assert options.image_size is not None
        assert options.crop_fraction is not None
        assert options.interpolation != "auto"
        return cls(options.image_size, options.interpolation, options.crop_fraction)

    def decode(
        self,
        path: str,
        generator: torch.Generator | None = None,
        augment: Augment = "none",
        content: bytes | None = None,
    ) -> Tensor:
        """A file as (3, size, size) uint8.

        Args:
            path: the file.
            generator: of the augmentation; None for none.
            augment: which.
            content: of the file, if it has been read.

        Raises:
            InputError: it is missing, damaged, or no 8-bit image.
        """
        image = read_rgb(Path(path), path, rotates=True, content=content)
        return self.fit(image, generator, augment)

    def fit(self, image: Any, generator: torch.Generator | None = None, augment: Augment = "none") -> Tensor:
        """A Pillow image (mode RGB) as (3, size, size) uint8; see `decode`."""
        if generator is not None and augment in FROM_FILES:
            return to_planes(random_resized_crop(image, self.size, self.interpolation, augment, generator))
        square = crop_to_square(image, self.size, self.interpolation, self.crop_fraction)
        if generator is not None and augment == "crop-flip":
            return crop_flip(square[None], generator)[0]
        return square

    def card(self) -> dict[str, Any]:
        """Values of the task card, which the handler of images reads."""
        return {
            "resize": "pillow",
            "interpolation": self.interpolation,
            "crop_fraction": self.crop_fraction,
        }
