"""Observations of Gymnasium environments as images (C, H, W) and vectors (C,), in training and afterwards.

Worker processes import this module, so it does not import torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray
from PIL import Image

Array = NDArray[Any]
Space = spaces.Space[Any]

NUMERIC_SPACES = (spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)
"""Observation spaces that can be network inputs."""

TILE_PIXELS = 4
"""Side of a rendered MiniGrid tile, so that the 7 x 7 view is 28 x 28 pixels."""


class ObservationConverter:
    """Raw observations as a dictionary of images (C, H, W) uint8 and vectors (C,) float32.

    The first image is called ``image`` and an observation that is a single vector ``vector``; all others keep
    the environment's names, and text is dropped. Discrete observations are one-hot vectors.

    Args:
        subspaces: of the environment by name; an observation that is no dictionary has the name "".
        inputs: names of the inputs to keep; empty for all.
        grayscale: convert images to grayscale.
        image_size: side in pixels of square images; None for the environment's size.

    Raises:
        ValueError: there is no such input.
    """

    def __init__(
        self,
        subspaces: Mapping[str, Space],
        inputs: Sequence[str] = (),
        grayscale: bool = False,
        image_size: int | None = None,
    ) -> None:
        self._grayscale, self._image_size = grayscale, image_size
        self.is_single = "" in subspaces
        self.subspaces = {key: part for key, part in subspaces.items() if isinstance(part, NUMERIC_SPACES)}
        images = [key for key, part in self.subspaces.items() if is_image(part)]
        self._images = frozenset(images)
        self.names = {key: key or "vector" for key in self.subspaces}
        if images and "image" not in self.subspaces:
            self.names[images[0]] = "image"
        available = self.names.values()
        kept = set(inputs or available)
        if unknown := kept - set(available):
            raise ValueError(
                f"it has no input {', '.join(sorted(unknown))}; its inputs: {', '.join(available)}"
            )
        self.subspaces = {key: part for key, part in self.subspaces.items() if self.names[key] in kept}
        self.space = spaces.Dict({self.names[key]: self._box(key) for key in self.subspaces})

    def convert(self, observation: Any) -> dict[str, Array]:
        """A raw observation by input name."""
        values = {"": observation} if self.is_single else observation
        return {self.names[key]: self._array(key, values[key]) for key in self.subspaces}

    def _array(self, key: str, value: Any) -> Array:
        if key in self._images:
            return self._image(np.asarray(value))
        space = self.subspaces[key]
        flat = value if type(space) is spaces.Box else spaces.flatten(space, value)
        return np.array(flat, np.float32).reshape(-1)

    def _image(self, image: Array) -> Array:
        if self._grayscale and image.shape[2] == 3:
            image = np.asarray(Image.fromarray(image).convert("L"))[:, :, None]
        size = self._image_size
        if size is not None:
            planes = [image] if image.shape[2] == 3 else [image[:, :, k] for k in range(image.shape[2])]
            images = [Image.fromarray(plane).resize((size, size), Image.Resampling.BOX) for plane in planes]
            image = np.dstack([np.asarray(resized) for resized in images])
        return image.transpose(2, 0, 1).copy()

    def _box(self, key: str) -> spaces.Box:
        space = self.subspaces[key]
        if key not in self._images:
            flat = spaces.flatten_space(space)
            assert isinstance(flat, spaces.Box), f"{space} cannot be a vector"
            return spaces.Box(flat.low.astype(np.float32), flat.high.astype(np.float32), dtype=np.float32)
        assert space.shape is not None
        blank = self._array(key, np.zeros(space.shape, np.uint8))
        return spaces.Box(0, 255, blank.shape, np.uint8)


def subspaces_of(space: Space) -> dict[str, Space]:
    """The spaces of a dictionary by name; any other space has the name ""."""
    return dict(space.spaces) if isinstance(space, spaces.Dict) else {"": space}


def is_image(space: Space) -> bool:
    """Whether observations are (H, W, C) bytes."""
    return isinstance(space, spaces.Box) and len(space.shape) == 3 and space.dtype == np.uint8


def grid_symbols(view: Array, counts: Sequence[int]) -> Array:
    """MiniGrid's view (W, H, 3) of object types, colours and states as one-hot symbols (W, H, sum(counts)).

    Raises:
        ValueError: a number in the view is not below its count.
    """
    if (view >= np.array(counts)).any():
        raise ValueError(f"numbers of objects, colours and states are below {', '.join(map(str, counts))}")
    planes = [np.eye(count, dtype=np.uint8)[view[:, :, k]] for k, count in enumerate(counts)]
    return np.concatenate(planes, 2)


def grid_pixels(view: Array) -> Array:
    """MiniGrid's view (W, H, 3) of object types, colours and states, rendered as in the environment: (H *
    tile, W * tile, 3).

    Raises:
        ImportError: MiniGrid is not installed.
        ValueError: the view has an object that MiniGrid does not know.
    """
    from minigrid.core.grid import Grid

    try:
        grid, visible = Grid.decode(view)
    except (KeyError, AssertionError) as error:
        raise ValueError(f"MiniGrid has no such object: {error}") from error
    agent = (view.shape[0] // 2, view.shape[1] - 1)
    return grid.render(TILE_PIXELS, agent_pos=agent, agent_dir=3, highlight_mask=visible)
