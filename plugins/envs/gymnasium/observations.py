"""Observations of Gymnasium environments as images (C, H, W) and vectors (C,), in training and afterwards.

Worker processes import this module, so it does not import torch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import attrs
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from .images import ImageConverter, ImageOptions, image_layout
from .missions import MissionConverter, MissionOptions, is_text
from .parts import Part, Space, in_words

Array = NDArray[Any]

MISSION = "mission"
"""The input that is a text."""

NUMERIC_SPACES = (spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)
"""Leaves of observation spaces that are vectors or images."""


@attrs.frozen
class ConversionOptions:
    """Of observations, see the options of env 'gym'."""

    inputs: tuple[str, ...] = ()
    """Names of the inputs to keep; empty for all."""
    images: ImageOptions = ImageOptions()
    missions: MissionOptions | None = None
    """How texts are read; None if they are left out."""
    is_flat: bool = False
    """Whether images are (H, W, C) bytes alone, as in runs of version 0.1."""


class PartConverter(Protocol):
    """Converts the values of one part of an observation."""

    @property
    def space(self) -> spaces.Box:
        """Of the converted values: bytes or float32."""

    @property
    def unit(self) -> float:
        """Divisor of the converted values as network inputs."""

    def convert(self, value: Any) -> Array:
        """A value in the raw space of the part."""


class VectorConverter:
    """Numbers as a vector (C,) of float32; those of discrete spaces are one-hot."""

    unit = 1.0

    def __init__(self, space: Space) -> None:
        self._raw = space
        flat = spaces.flatten_space(space)
        assert isinstance(flat, spaces.Box), f"{space} cannot be a vector"
        self.space = spaces.Box(flat.low.astype(np.float32), flat.high.astype(np.float32), dtype=np.float32)

    def convert(self, value: Any) -> Array:
        """A raw value as (C,)."""
        flat = value if type(self._raw) is spaces.Box else spaces.flatten(self._raw, value)
        vector = np.array(flat, np.float32).reshape(-1)
        if vector.shape != self.space.shape:
            raise ValueError(f"an observation has shape {np.shape(value)}, and its space is {self._raw}")
        return vector


def _image(space: Space, options: ConversionOptions) -> PartConverter | None:
    layout = image_layout(space, options.is_flat)
    if layout is None or not isinstance(space, spaces.Box):
        return None
    return ImageConverter(space, layout, options.images)


def _vector(space: Space, options: ConversionOptions) -> PartConverter | None:
    return VectorConverter(space) if isinstance(space, NUMERIC_SPACES) else None


def _mission(space: Space, options: ConversionOptions) -> PartConverter | None:
    return MissionConverter(options.missions) if options.missions is not None and is_text(space) else None


CONVERTERS: Sequence[Callable[[Space, ConversionOptions], PartConverter | None]] = (_image, _vector, _mission)
"""They are tried in turn on the space of each part; the first that is not None converts it."""


class ObservationConverter:
    """Raw observations as a dictionary of images (C, H, W) and vectors (C,).

    The first image is called ``image`` if no part is, and an observation that is a single vector ``vector``;
    a text is called ``mission``, and all others have the names of the parts.

    Args:
        parts: of the raw observations.
        options: see there.

    Attributes:
        parts: those that are inputs.
        names: of the inputs, by names of the parts.
        left_out: parts that no converter reads.
        converters: by input name.

    Raises:
        ValueError: there is no such input, or none at all.
    """

    def __init__(self, parts: Sequence[Part], options: ConversionOptions) -> None:
        found = [(part, _converter(part.space, options)) for part in parts]
        converters = {part.name: converter for part, converter in found if converter is not None}
        self.left_out = [part for part, converter in found if converter is None]
        images = [name for name, converter in converters.items() if len(converter.space.shape) == 3]
        self.names = {name: name or "vector" for name in converters}
        if images and "image" not in converters:
            self.names[images[0]] = "image"
        texts = [name for name, converter in converters.items() if isinstance(converter, MissionConverter)]
        if len(texts) == 1:
            self.names[texts[0]] = MISSION
        elif options.missions is not None:
            raise ValueError(
                f"it has {len(texts)} texts ({', '.join(texts)}), and --env.missions reads one"
                if texts
                else "it has no text; leave out --env.missions"
            )
        available = self.names.values()
        kept = set(options.inputs or available)
        if unread := [part for part in self.left_out if part.name in kept]:
            raise ValueError(f"{in_words(unread)} cannot be an input; {SUPPORTED}. {_offered(available)}")
        if unknown := kept - set(available):
            raise ValueError(f"it has no input {', '.join(sorted(unknown))}; {_offered(available)}")
        if not converters:
            raise ValueError(f"its observation has {in_words(self.left_out) or 'no part'}; {SUPPORTED}")
        self.parts = [part for part, _ in found if part.name in converters and self.names[part.name] in kept]
        self.converters = {self.names[part.name]: converters[part.name] for part in self.parts}
        self._inputs = [(self.names[part.name], part, converters[part.name].convert) for part in self.parts]
        self.space = spaces.Dict({name: converter.space for name, converter in self.converters.items()})

    @property
    def units(self) -> dict[str, float]:
        """Divisors of the inputs, by name."""
        return {name: converter.unit for name, converter in self.converters.items()}

    def convert(self, observation: Any) -> dict[str, Array]:
        """A raw observation by input name."""
        return {name: convert(part.of(observation)) for name, part, convert in self._inputs}

    def convert_parts(self, values: dict[str, Any]) -> dict[str, Array]:
        """The raw values of `parts`, by their names, as inputs."""
        names = self.names
        return {names[key]: self.converters[names[key]].convert(value) for key, value in values.items()}


SUPPORTED = (
    "inputs are Box, Discrete, MultiDiscrete and MultiBinary spaces, also within Dict and Tuple; turn others "
    "into these by --env.wrappers module:Wrapper"
)


def _converter(space: Space, options: ConversionOptions) -> PartConverter | None:
    found = (convert(space, options) for convert in CONVERTERS)
    return next((converter for converter in found if converter is not None), None)


def _offered(available: Any) -> str:
    return f"its inputs: {', '.join(available)}"
