"""Blobs: synthetic images of a coloured spot on noise, for quick trials without files."""

from __future__ import annotations

from collections.abc import Sequence

import attrs
import torch
from torch import Tensor

from sidetune_core.api import ClassTask, Examples, TaskStream, at_least, at_most, derive_seed, option

SIZE = 32
TASKS = 3


@attrs.frozen
class BlobsConfig:
    """Options of `Blobs`."""

    noise: float = option(0.3, "maximum of the grey noise under a spot, in [0, 1]", at_least(0), at_most(1))
    examples: int = option(
        200, "training examples of each class; the test split has a quarter as many", at_least(4)
    )


class Blobs(TaskStream):
    """Three tasks of two classes. A class is a colour drawn from the run's seed.

    The place of the spot is drawn for each image. Input ``image`` (3, 32, 32) in [0, 1].
    """

    Config = BlobsConfig
    recipe = {"steps": 60, "batch_size": 32}

    def __init__(self, config: BlobsConfig, seed: int) -> None:
        self._config, self._seed = config, seed
        self.inputs = {"image": (3, SIZE, SIZE)}
        self._fingerprint = ""

    def tasks(self) -> Sequence[ClassTask]:
        generator = torch.Generator().manual_seed(derive_seed(self._seed, "blobs"))
        colours = torch.rand(2 * TASKS, 3, 1, 1, generator=generator)
        counts = {"train": self._config.examples, "test": self._config.examples // 4}
        labels = {split: torch.arange(2 * TASKS).repeat_interleave(count) for split, count in counts.items()}
        images = {split: self._draw(colours[label], generator) for split, label in labels.items()}
        examples = Examples(images, labels)
        self._fingerprint = examples.fingerprint("as it is")
        return [
            ClassTask(f"t{k}", f"blobs {k}", examples, (2 * k, 2 * k + 1), transform=torch.clone)
            for k in range(TASKS)
        ]

    def fingerprint(self) -> str:
        return self._fingerprint

    def _draw(self, colours: Tensor, generator: torch.Generator) -> Tensor:
        """Images (N, 3, 32, 32) with a spot of each of `colours` (N, 3, 1, 1)."""
        count, axis = len(colours), torch.linspace(-1, 1, SIZE)
        x, y = torch.rand(2, count, 1, 1, 1, generator=generator) - 0.5
        spot = torch.exp(-8 * ((axis - x) ** 2 + (axis[:, None] - y) ** 2))  # (N, 1, 32, 32)
        noise = self._config.noise * torch.rand(count, 1, SIZE, SIZE, generator=generator)
        return spot * colours + (1 - spot) * noise
