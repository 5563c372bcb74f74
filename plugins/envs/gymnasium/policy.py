"""Policies of Gymnasium environments without the environment: the card of a task and its handler."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs
import numpy as np
from gymnasium import spaces
from torch import Tensor

from sidetune_core.api import InputError, TaskCard
from sidetune_core.rl import PolicyHandler, check_array, check_count

from .actions import ActionConverter, policy_of
from .grid_view import TILE_PIXELS, grid_pixels, grid_symbols
from .images import ImageOptions, image_layout
from .masks import KEY as MASK_KEY
from .masks import as_mask
from .missions import MAX_VOCABULARY, MissionOptions, is_text
from .observations import ConversionOptions, ObservationConverter
from .parts import Part, Space, parts_of, top_parts_of
from .space_values import TEXT, describe_space, make_space

GRID_IMAGE = "image"
"""MiniGrid's name of its view."""

VIEWS = ("", "symbols", "pixels")


def card_values(
    observations: Space, actions: Space, options: ConversionOptions, *, grid_view: str, rescaled: bool
) -> dict[str, Any]:
    """What `GymHandler` needs besides the values of every policy.

    Args:
        observations: the observation space of the plain environment.
        actions: its action space.
        options: of the conversion of observations.
        grid_view: MiniGrid's view, ``symbols`` or ``pixels``; empty for other environments.
        rescaled: whether bounded actions are [-1, 1] for the policy.
    """
    parts = (top_parts_of if options.is_flat else parts_of)(observations)
    described = [(part, _described(part.space, options)) for part in parts]
    known = [(part, values) for part, values in described if values is not None]
    return {
        "observations": {part.name: values for part, values in known},
        "paths": {part.name: [*part.path] for part, _ in known},
        "spaces": "flat" if options.is_flat else "all",
        "actions": describe_space(actions, bounds=True),
        "rescale_actions": rescaled,
        "grid_view": grid_view,
        "grid_counts": _grid_counts() if grid_view == "symbols" else [],
        "input_names": [*options.inputs],
        "grayscale": options.images.grayscale,
        "image_size": options.images.size,
        "missions": None if options.missions is None else attrs.asdict(options.missions),
    }


def _described(space: Space, options: ConversionOptions) -> dict[str, Any] | None:
    if options.missions is not None and is_text(space):
        return {"type": TEXT}
    return describe_space(space, bounds=_has_shape(space))


def _has_shape(space: Space) -> bool:
    """Whether bounds may decide on an image."""
    return isinstance(space, spaces.Box) and len(space.shape) > 1


class GymHandler(PolicyHandler):
    """Observations are those of the plain environment, ``gymnasium.make(id)`` in the wrappers of
    ``--env.wrappers``, and so are actions."""

    def __init__(self, card: TaskCard) -> None:
        super().__init__(card)
        values = card.values
        raw = {str(key): make_space(space) for key, space in values["observations"].items()}
        self._raw = [Part(_path(values, name), space) for name, space in raw.items()]
        self._space = make_space(values["actions"])
        self._actions = ActionConverter(self._space, bool(values.get("rescale_actions", False)))
        if policy_of(self._space, card.id).size != self.policy.size:
            raise ValueError(f"the actions are {values['actions']!r}, and the policy {self.values.policy!r}")
        self._view, self._counts = values["grid_view"], values["grid_counts"]
        if self._view not in VIEWS:
            raise ValueError(f"grid_view is {self._view!r}")
        for count in self._counts:
            check_count(count, "grid_counts", least=1)
        size = values["image_size"]
        self.frames = check_count(values["frame_stack"], "frame_stack", least=1)
        self.mask_images = bool(values["mask_images"])
        self._mask_source = str(values.get("mask_source", ""))
        self.masks_actions = bool(self._mask_source)
        size = None if size is None else check_count(size, "image_size", least=1)
        self._options = ConversionOptions(
            tuple(values["input_names"]),
            ImageOptions(bool(values["grayscale"]), size),
            _missions(values.get("missions")),
            is_flat=values.get("spaces", "flat") == "flat",
        )
        converted = [
            attrs.evolve(part, space=self._grid_space(part.space))
            if self._view and part.name == GRID_IMAGE
            else part
            for part in self._raw
        ]
        self._converter = ObservationConverter(converted, self._options)
        kept = {part.name for part in self._converter.parts}
        self._kept = [part for part in self._raw if part.name in kept]
        self._check_inputs()

    def observe(self, observation: Any) -> Mapping[str, Any]:
        """See `PolicyHandler.observe`.

        Raises:
            InputError: a key is missing, or a value has another shape, type or range than in the environment.
        """
        values = {part.name: self._checked(part, observation) for part in self._kept}
        if GRID_IMAGE in values and self._view:
            values |= {GRID_IMAGE: self._grid(values[GRID_IMAGE])}
        converted = self._converter.convert_parts(values)
        if self.mask_images:
            converted |= {name: np.zeros_like(value) for name, value in converted.items() if value.ndim == 3}
        return converted

    def mask(self, observation: Any) -> Any:
        """See `PolicyHandler.mask`; masks in ``info`` or of a method are not in the observation."""
        if self._mask_source != "observation" or not isinstance(observation, Mapping):
            return None
        try:
            return as_mask(observation.get(MASK_KEY, ()), self.policy.size)
        except ValueError as error:
            raise InputError(f"task {self.card.id}: the observation '{MASK_KEY}': {error}") from error

    def native(self, actions: Tensor) -> list[Any]:
        """Actions of the environment: integers where it has a `Discrete` space, else arrays."""
        rows = self._actions.native(actions)
        return [int(row) for row in rows] if isinstance(self._space, spaces.Discrete) else [*rows]

    def encode_actions(self, actions: Any) -> Tensor:
        """See `PolicyHandler.encode_actions`."""
        return self._actions.encoded(actions, f"task {self.card.id}: an action")

    def _checked(self, part: Part, observation: Any) -> Any:
        """A part of a raw observation, which has to be in its space but for the bounds of a `Box`."""
        space, name = part.space, part.name
        what = f"task {self.card.id}: the observation" + (f" '{name}'" if name else "")
        try:
            value = part.of(observation)
        except KeyError as error:
            raise InputError(self._lacking(part, observation)) from error
        if is_text(space):
            if not isinstance(value, str):
                raise InputError(f"{what} is a {type(value).__name__}, expected a text")
            return value
        assert space.shape is not None
        is_bytes = space.dtype == np.uint8 and image_layout(space, self._options.is_flat) is not None
        array = check_array(value, space.shape, what, is_bytes)
        if isinstance(space, spaces.Box):
            return array if is_bytes else _as_given(value, space)
        whole = array.astype(space.dtype)
        native = int(whole) if isinstance(space, spaces.Discrete) else whole
        if (whole != array).any() or not space.contains(native):
            raise InputError(f"{what} is {np.asarray(value).tolist()}, expected one of {space}")
        return native

    def _lacking(self, part: Part, observation: Any) -> str:
        """What to say of an observation without a part."""
        if isinstance(part.path[0], int):
            return f"task {self.card.id}: an observation is a tuple; this one has no '{part.name}'"
        if not isinstance(observation, Mapping):
            names = ", ".join(kept.name for kept in self._kept)
            return (
                f"task {self.card.id}: an observation is a dictionary of {names}, not a "
                f"{type(observation).__name__}"
            )
        return (
            f"task {self.card.id}: the observation has no '{part.name}'; it has "
            f"{', '.join(map(str, observation)) or 'nothing'}"
        )

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

    def _grid_space(self, space: Space) -> spaces.Box:
        """The space of MiniGrid's view once it is converted."""
        shape = space.shape
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


def _missions(values: Any) -> MissionOptions | None:
    if values is None:
        return None
    words = tuple(str(word) for word in values["words"])
    if len(words) > MAX_VOCABULARY:
        raise ValueError(f"missions have {len(words)} words")
    return MissionOptions(words, check_count(values["length"], "the length of missions", least=1))


def _path(values: Mapping[str, Any], name: str) -> tuple[str | int, ...]:
    """The path of a part; cards of version 0.1 have none, and their parts are members of a dictionary."""
    path = values.get("paths", {}).get(name, [name] if name else [])
    if not isinstance(path, list | tuple) or not all(isinstance(key, str | int) for key in path):
        raise ValueError(f"the path of '{name}' is {path!r}")
    if ".".join(map(str, path)) != name:
        raise ValueError(f"the path of '{name}' is {path!r}")
    return tuple(path)


def _as_given(value: Any, space: spaces.Box) -> Any:
    """A vector in the precision of its space, as the environment gives it."""
    return np.asarray(value.detach().cpu() if isinstance(value, Tensor) else value).astype(space.dtype)


def _grid_counts() -> list[int]:
    from minigrid.core.constants import COLOR_TO_IDX, OBJECT_TO_IDX, STATE_TO_IDX

    return [len(OBJECT_TO_IDX), len(COLOR_TO_IDX), len(STATE_TO_IDX)]
