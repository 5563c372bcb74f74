"""MiniGrid's view as symbols and as pixels.

Worker processes import this module, so it does not import torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

TILE_PIXELS = 4
"""Side of a rendered MiniGrid tile, so that the 7 x 7 view is 28 x 28 pixels."""


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
