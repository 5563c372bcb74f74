"""Policies of Gymnasium environments without the environment: the card of a task and its handler."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from gymnasium import spaces
from torch import Tensor

from sidetune_core.api import InputError, TaskCard
from sidetune_core.rl import PolicyHandler, check_array, check_count

from .observations import (
    TILE_PIXELS,
    ObservationConverter,
    Space,
    grid_pixels,
    grid_symbols,
    is_image,
    subspaces_of,
)
from .space_values import describe_space, make_space
from .vector_env import as_actions, encode_actions, policy_of

GRID_IMAGE = "image"
"""MiniGrid's name of its view."""

VIEWS = ("", "symbols", "pixels")


def card_values(
    observations: Space,
    actions: Space,
    *,
    grid_view: str,
    inputs: Sequence[str],
    grayscale: bool,
    image_size: int | None,
    frame_stack: int,
    mask_images: bool,
) -> dict[str, Any]:
    """What `GymHandler` needs besides the values of every policy.

    Args:
        observations: the observation space of the plain environment.
        actions: its action space.
        grid_view: MiniGrid's view, ``symbols`` or ``pixels``; empty for other environments.
        inputs: see the options of env 'gym', like the rest.
        grayscale: see there.
        image_size: see there.
        frame_stack: see there.
        mask_images: see there.
    """
    described = {key: describe_space(space) for key, space in subspaces_of(observations).items()}
    return {
        "observations": {key: values for key, values in described.items() if values is not None},
        "actions": describe_space(actions, bounds=True),
        "grid_view": grid_view,
        "grid_counts": _grid_counts() if grid_view == "symbols" else [],
        "input_names": [*inputs],
        "grayscale": grayscale,
        "image_size": image_size,
        "frame_stack": frame_stack,
        "mask_images": mask_images,
    }


class GymHandler(PolicyHandler):
    """Observations are those of the plain environment, ``gymnasium.make(id)``, and so are actions."""

    def __init__(self, card: TaskCard) -> None:
        super().__init__(card)
        values = card.values
        self._raw = {str(key): make_space(space) for key, space in values["observations"].items()}
        self._actions = make_space(values["actions"])
        if policy_of(self._actions, card.id).size != self.policy.size:
            raise ValueError(f"the actions are {values['actions']!r}, and the policy {self.values.policy!r}")
        self._view, self._counts = values["grid_view"], values["grid_counts"]
        if self._view not in VIEWS:
            raise ValueError(f"grid_view is {self._view!r}")
        for count in self._counts:
            check_count(count, "grid_counts", least=1)
        size = values["image_size"]
        self.frames = check_count(values["frame_stack"], "frame_stack", least=1)
        self.mask_images = bool(values["mask_images"])
        self._converter = ObservationConverter(
            self._raw if self._view == "" else {**self._raw, GRID_IMAGE: self._grid_space()},
            values["input_names"],
            bool(values["grayscale"]),
            None if size is None else check_count(size, "image_size", least=1),
        )
        self._check_inputs()

    def observe(self, observation: Any) -> Mapping[str, Any]:
        """See `PolicyHandler.observe`.

        Raises:
            InputError: a key is missing, or a value has another shape, type or range than in the environment.
        """
        values = {"": observation} if self._converter.is_single else observation
        if not isinstance(values, Mapping):
            names = ", ".join(self._converter.subspaces)
            raise InputError(
                f"task {self.card.id}: an observation is a dictionary of {names}, not a "
                f"{type(observation).__name__}"
            )
        checked = {key: self._checked(key, values) for key in self._converter.subspaces}
        if self._view:
            checked |= {GRID_IMAGE: self._grid(checked[GRID_IMAGE])} if GRID_IMAGE in checked else {}
        converted = self._converter.convert(checked[""] if self._converter.is_single else checked)
        if self.mask_images:
            converted |= {name: np.zeros_like(value) for name, value in converted.items() if value.ndim == 3}
        return converted

    def native(self, actions: Tensor) -> list[Any]:
        """Actions of the environment: integers where it has a `Discrete` space, else arrays."""
        rows = as_actions(self._actions, actions)
        return [int(row) for row in rows] if isinstance(self._actions, spaces.Discrete) else [*rows]

    def encode_actions(self, actions: Any) -> Tensor:
        """See `PolicyHandler.encode_actions`."""
        return encode_actions(self._actions, actions, f"task {self.card.id}: an action")

    def _checked(self, key: str, observation: Mapping[str, Any]) -> Any:
        """A part of a raw observation, which has to be in its space but for the bounds of a `Box`."""
        space = self._raw[key]
        what = f"task {self.card.id}: the observation" + (f" '{key}'" if key else "")
        if key not in observation:
            raise InputError(
                f"task {self.card.id}: the observation has no '{key}'; it has "
                f"{', '.join(map(str, observation)) or 'nothing'}"
            )
        assert space.shape is not None
        array = check_array(observation[key], space.shape, what, is_image(space))
        if isinstance(space, spaces.Box):
            return array if is_image(space) else _as_given(observation[key], space)
        whole = array.astype(space.dtype)
        native = int(whole) if isinstance(space, spaces.Discrete) else whole
        if (whole != array).any() or not space.contains(native):
            raise InputError(f"{what} is {np.asarray(observation[key]).tolist()}, expected one of {space}")
        return native

    def _grid(self, view: Any) -> Any:
        try:
            return grid_symbols(view, self._counts) if self._view == "symbols" else grid_pixels(view)
        except ValueError as error:
            raise InputError(f"task {self.card.id}: observation '{GRID_IMAGE}': {error}") from error
        except ImportError as error:
            raise InputError(
                f"task {self.card.id} renders MiniGrid's view, which needs minigrid: "
                "pip install 'sidetune[rl]'"
            ) from error

    def _grid_space(self) -> spaces.Box:
        """The space of MiniGrid's view once it is converted."""
        shape = self._raw[GRID_IMAGE].shape
        if shape is None or len(shape) != 3 or shape[2] != 3:
            raise ValueError(f"MiniGrid's view has shape {shape}")
        if self._view == "symbols":
            if len(self._counts) != 3:
                raise ValueError(f"grid_counts are {self._counts!r}")
            return spaces.Box(0, 255, (*shape[:2], sum(self._counts)), np.uint8)
        return spaces.Box(0, 255, (shape[1] * TILE_PIXELS, shape[0] * TILE_PIXELS, 3), np.uint8)

    def _check_inputs(self) -> None:
        """The converted observations have to be those that the network was trained on."""
        for name, shape in self.card.inputs.items():
            found = self._converter.space.spaces.get(name)
            one = () if found is None else found.shape or ()
            if found is None or (one[0] * self.frames, *one[1:]) != tuple(shape):
                raise ValueError(f"input {name} is {tuple(shape)}, and observations make it {one}")


def _as_given(value: Any, space: spaces.Box) -> Any:
    """A vector in the precision of its space, as the environment gives it."""
    return np.asarray(value.detach().cpu() if isinstance(value, Tensor) else value).astype(space.dtype)


def _grid_counts() -> list[int]:
    from minigrid.core.constants import COLOR_TO_IDX, OBJECT_TO_IDX, STATE_TO_IDX

    return [len(OBJECT_TO_IDX), len(COLOR_TO_IDX), len(STATE_TO_IDX)]
