"""Dense tasks without their data: maps and classes of images that users give."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import attrs
from torch import Tensor, nn

from sidetune_core.api import (
    MapPrediction,
    Prediction,
    Preprocessed,
    Shape,
    TaskCard,
    class_predictions,
)

from .._image_inputs import ImageHandler
from .heads import DenseHead, VectorHead

MAX_WIDTH = 2**12
"""Channels of the widest layer of a head that is built from a card."""

MAX_METRES = 1e6
"""Depth in a card."""


@attrs.frozen
class DenseCard:
    """The values of a dense task's card."""

    resize: str
    """How its images were made square (see `_image_inputs.RESIZES`)."""
    per_image: bool
    width: int
    """Channels of the widest decoder layers."""
    metres: float | None = None
    """The depth in metres that the output 1 stands for, as -1 does for 0; None for other values."""

    @classmethod
    def read(cls, values: Mapping[str, Any]) -> DenseCard:
        """Check values that a file has.

        Raises:
            ValueError: one is missing or of another type.
        """
        resize, per_image = values.get("resize"), values.get("per_image")
        width, metres = values.get("width"), values.get("metres")
        if not isinstance(resize, str) or not isinstance(per_image, bool):
            raise ValueError(f"its values 'resize' and 'per_image' are {resize!r} and {per_image!r}")
        if not isinstance(width, int) or isinstance(width, bool) or not 0 < width <= MAX_WIDTH:
            raise ValueError(f"its value 'width' is {width!r}")
        if metres is not None and not (isinstance(metres, float | int) and 0 < metres < MAX_METRES):
            raise ValueError(f"its value 'metres' is {metres!r}")
        return cls(resize, per_image, width, metres)


class DenseHandler(ImageHandler):
    """Predicts a map for each image, or a class where there is one label per image.

    Raises:
        ValueError: the card has other values than those of a dense task.
    """

    def __init__(self, card: TaskCard) -> None:
        super().__init__(card)
        self._values = DenseCard.read(card.values)
        if card.outputs.size is None:
            raise ValueError("its outputs have no size")
        self._channels = card.outputs.size

    def make_head(self, shape: Shape) -> nn.Module:
        size = (self._size, self._size)
        return make_dense_head(
            shape, self._channels, size, self._values, bounded=self.card.outputs.is_regression
        )

    def postprocess(self, output: Tensor, examples: Preprocessed) -> Sequence[Prediction]:
        """From an output (B, C, S, S): depth in metres, other values in [-1, 1], or the probabilities of the
        classes of each pixel; from one (B, C): a class.
        """
        names = self.card.outputs.names
        if self._values.per_image:
            return class_predictions(output, names)
        unit = ""
        if not self.card.outputs.is_regression:
            output, unit = output.softmax(1), "probability"
        elif self._values.metres is not None:
            output, unit = (output + 1) * (self._values.metres / 2), "m"
        return [MapPrediction(values, unit, names) for values in output.cpu().numpy()]


def make_dense_head(
    shape: Shape, channels: int, size: tuple[int, int], values: DenseCard, bounded: bool
) -> nn.Module:
    """The head of a dense task on encodings (B, *shape).

    Raises:
        FitError: the encodings are not feature maps.
    """
    if values.per_image:
        return VectorHead(shape, channels, 2 * values.width)
    return DenseHead(shape, channels, size, bounded, values.width)
