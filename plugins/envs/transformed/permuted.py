"""Permuted pixels: a stream of tasks with the same classes."""

from __future__ import annotations

from collections.abc import Sequence

import attrs

from sidetune_core.api import at_least, derive_seed, option

from .stream import TransformedStream, TransformOptions
from .transforms import ImageTransform, Permutation

SEED_LIMIT = 2**63


class Permuted(TransformedStream):
    """The images of another env, with their pixels in another order in each task (Goodfellow et al., 2014;
    Permuted MNIST is ``--env.of torchvision --env.options dataset=MNIST``).

    Task 0 has the images as they are. The run's seed draws the permutations.
    """

    @attrs.frozen
    class Config(TransformOptions):
        """Options of the env."""

        count: int = option(10, "number of tasks, each with a permutation of its own", at_least(1))

    recipe = {"epochs": 4.0, "batch_size": 128, "lr": 1e-3}

    def __init__(self, config: Config, seed: int) -> None:
        super().__init__(config, seed)
        self._count = config.count

    def transforms(self) -> Sequence[tuple[str, ImageTransform]]:
        """See `TransformedStream.transforms`."""
        seeds = [
            derive_seed(self._seed, "permutation", index) % SEED_LIMIT for index in range(1, self._count)
        ]
        permutations = [(f"permutation {index}", Permutation(seed)) for index, seed in enumerate(seeds, 1)]
        return [("not permuted", Permutation(None)), *permutations]

    def recipe_of_transforms(self) -> str:
        return f"{self._count} permutations"
