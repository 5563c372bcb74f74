"""Actions of Gymnasium spaces: the family of policies, and conversion to and from the environment."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from torch import Tensor

from sidetune_core.api import InputError, OptionError
from sidetune_core.rl import Categorical, Gaussian, Policy, encode_rows

from .parts import Space

HUGE = 1e6
"""Bounds from here on are those of a unit or of a dtype, not of the actions that matter."""

UNEVEN = 100.0
"""Ratio of the widest to the narrowest range of a space from which ranges are called uneven."""


def policy_of(space: Space, owner: str) -> Policy:
    """The family of distributions over the actions of a space.

    Raises:
        OptionError: the space is not supported.
    """
    if isinstance(space, spaces.Discrete):
        return Categorical([int(space.n)])
    if isinstance(space, spaces.MultiDiscrete):
        return Categorical([int(count) for count in space.nvec.flat])
    if isinstance(space, spaces.MultiBinary):
        return Categorical([2] * int(np.prod(space.shape)))
    if isinstance(space, spaces.Box):
        return Gaussian(int(np.prod(space.shape)))
    raise OptionError(
        f"{owner} has the action space {space}; supported are Discrete, MultiDiscrete, MultiBinary and Box. "
        "Turn it into one of these by --env.wrappers module:Wrapper"
    )


class ActionConverter:
    """Actions (E, width) of a policy in the format of a space.

    Actions of a Box are clipped to its bounds. With `rescaled`, a dimension that is bounded on both sides, by
    less than `HUGE`, is [-1, 1] for the policy, and integers of a Box are rounded, not truncated.
    """

    def __init__(self, space: Space, rescaled: bool) -> None:
        self._space, self._rescaled = space, rescaled
        self._scale: NDArray[np.float64] | None = None
        if rescaled and isinstance(space, spaces.Box):
            low, high = space.low.astype(np.float64).ravel(), space.high.astype(np.float64).ravel()
            is_scaled = rescaled_dimensions(space)
            self._low = np.where(is_scaled, -1.0, low)
            self._high = np.where(is_scaled, 1.0, high)
            with np.errstate(invalid="ignore"):
                self._scale = np.where(is_scaled, (high - low) / 2, 1.0)
                self._centre = np.where(is_scaled, (high + low) / 2, 0.0)
            if (self._scale == 1).all() and (self._centre == 0).all():
                self._scale = None  # clipping alone, without rounding errors

    def native(self, actions: Tensor) -> Any:
        """Actions (E, width) in the format of the space, (E, *shape)."""
        space = self._space
        if isinstance(space, spaces.Discrete):
            return actions[:, 0].long().numpy() + space.start
        if isinstance(space, spaces.MultiDiscrete):
            return actions.long().numpy().reshape(-1, *space.shape) + space.start
        if isinstance(space, spaces.MultiBinary):
            return actions.to(torch.int8).numpy().reshape(-1, *space.shape)
        assert isinstance(space, spaces.Box)
        values = actions.numpy()
        if self._scale is not None:
            values = np.clip(values, self._low, self._high) * self._scale + self._centre
        values = np.clip(values.reshape(-1, *space.shape), space.low, space.high)
        rounds = self._rescaled and space.dtype.kind in "iu"
        return (np.rint(values) if rounds else values).astype(space.dtype)

    def policy_units(self, values: Tensor) -> Tensor:
        """Values (E, width) of a Box, in its own units, as actions of the policy."""
        if self._scale is None:
            return values
        return ((values.double() - torch.from_numpy(self._centre)) / torch.from_numpy(self._scale)).float()

    def encoded(self, actions: Any, what: str) -> Tensor:
        """The inverse of `native`: T actions of the space in the format of the policy, (T, width).

        Args:
            actions: an array of T actions.
            what: for messages.

        Raises:
            InputError: they are not actions of the space.
        """
        space = self._space
        rows = encode_rows(actions, space.shape or (), what)
        if isinstance(space, spaces.Box):
            return self.policy_units(rows)
        if isinstance(space, spaces.MultiBinary):
            least, counts = np.zeros(rows.shape[1]), np.full(rows.shape[1], 2)
        else:
            assert isinstance(space, spaces.Discrete | spaces.MultiDiscrete)
            least = np.reshape(space.start, -1)
            counts = np.reshape(space.n if isinstance(space, spaces.Discrete) else space.nvec, -1)
        encoded = rows - torch.from_numpy(least).float()
        wrong = ((encoded != encoded.round()) | (encoded < 0) | (encoded >= torch.from_numpy(counts))).any(1)
        if wrong.any():
            first = np.asarray(actions)[int(wrong.nonzero()[0])]
            raise InputError(
                f"{int(wrong.sum())} of {len(rows)} actions are not in {space}; the first is {first.tolist()}"
            )
        return encoded


def rescaled_dimensions(space: spaces.Box) -> NDArray[np.bool_]:
    """Which dimensions (width,) of a Box are [-1, 1] for the policy."""
    low, high = space.low.astype(np.float64).ravel(), space.high.astype(np.float64).ravel()
    return np.asarray((np.maximum(np.abs(low), np.abs(high)) < HUGE) & (low < high))


def odd_bounds(space: Space) -> list[str]:
    """What is odd about the bounds of a Box of actions, in sentences; empty if nothing is."""
    if not isinstance(space, spaces.Box):
        return []
    low, high = space.low.astype(np.float64).ravel(), space.high.astype(np.float64).ravel()
    is_scaled, notes = rescaled_dimensions(space), []
    one_sided = np.isfinite(low) != np.isfinite(high)
    if one_sided.any():
        notes.append(f"{_dimensions(one_sided)} bounded on one side only, and is not rescaled")
    huge = np.isfinite(low) & np.isfinite(high) & ~is_scaled & (low < high)
    if huge.any():
        notes.append(f"{_dimensions(huge)} bounded by {HUGE:g} or more, and is not rescaled")
    single = low >= high
    if single.any():
        notes.append(f"{_dimensions(single)} bounded by a lower bound that is not below the upper one")
    ranges = (high - low)[is_scaled]
    if len(ranges) and ranges.max() > UNEVEN * ranges.min():
        notes.append(f"ranges are uneven, from {ranges.min():g} to {ranges.max():g}")
    return notes


def _dimensions(which: NDArray[np.bool_]) -> str:
    indices = np.flatnonzero(which)
    more = f" and {len(indices) - 3} more" if len(indices) > 3 else ""
    return f"dimension {', '.join(map(str, indices[:3]))}{more} is"
