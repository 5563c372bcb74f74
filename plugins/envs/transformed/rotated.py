"""Rotated images: a stream of tasks with the same classes."""

from __future__ import annotations

from collections.abc import Sequence

import attrs

from sidetune_core.api import OptionError, at_least, option

from .stream import TransformedStream, TransformOptions
from .transforms import FULL_TURN, ImageTransform, Rotation

HALF_TURN = 180.0


class Rotated(TransformedStream):
    """The images of another env, rotated by another angle in each task (Lopez-Paz & Ranzato, 2017; Rotated
    MNIST is ``--env.of torchvision --env.options dataset=MNIST``).

    By default the angles are equal steps from 0 towards 180 degrees, the same in every run.
    """

    @attrs.frozen
    class Config(TransformOptions):
        """Options of the env."""

        count: int | None = option(
            None, "number of tasks, at equal steps of 180 / count degrees; 10 by default", at_least(1)
        )
        degrees: tuple[float, ...] = option((), "angle of each task in degrees, counter-clockwise")

    recipe = {"epochs": 4.0, "batch_size": 128, "lr": 1e-3}

    def __init__(self, config: Config, seed: int) -> None:
        if config.degrees and config.count is not None:
            raise OptionError("--env.degrees has an angle for each task; leave out --env.count")
        if repeated := len(config.degrees) - len({angle % FULL_TURN for angle in config.degrees}):
            raise OptionError(
                f"--env.degrees: {repeated} of {len(config.degrees)} angles are equal to others"
            )
        super().__init__(config, seed)
        count = config.count or 10
        self._degrees = config.degrees or tuple(index * HALF_TURN / count for index in range(count))

    def transforms(self) -> Sequence[tuple[str, ImageTransform]]:
        """See `TransformedStream.transforms`."""
        return [(f"rotated by {angle:g} degrees", Rotation(angle)) for angle in self._degrees]

    def recipe_of_transforms(self) -> str:
        return f"rotations by {self._degrees}"
