"""The parts of an observation: the leaves of nested Dict and Tuple spaces, by stable names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import attrs
from gymnasium import spaces

Space = spaces.Space[Any]
Key = str | int


@attrs.frozen
class Part:
    """A leaf of an observation space."""

    path: tuple[Key, ...]
    """Keys of dictionaries and indices of tuples that lead to it; empty if it is the whole observation."""
    space: Space

    @property
    def name(self) -> str:
        """The path with dots: ``inner.goal``, ``1``; empty if it is the whole observation."""
        return ".".join(map(str, self.path))

    def of(self, observation: Any) -> Any:
        """Its value in an observation.

        Raises:
            KeyError: the observation lacks a key, an index, or a level; the argument is the part's name.
        """
        value = observation
        for key in self.path:
            container: type[Any] = tuple if isinstance(key, int) else Mapping
            lists = isinstance(key, int) and isinstance(value, list)
            if not (isinstance(value, container) or lists):
                raise KeyError(self.name)
            if key not in (range(len(value)) if isinstance(key, int) else value):
                raise KeyError(self.name)
            value = value[key]
        return value


def parts_of(space: Space) -> list[Part]:
    """The leaves of a space, in the order of dictionaries (alphabetical in Gymnasium) and tuples.

    Raises:
        ValueError: two leaves have one name.
    """
    parts = list(_leaves(space, ()))
    names = [part.name for part in parts]
    if same := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(
            f"its observation has two parts called {', '.join(same)}: rename a key, or select with a wrapper "
            "(--env.wrappers module:Wrapper)"
        )
    return parts


def top_parts_of(space: Space) -> list[Part]:
    """The members of a dictionary, or the space itself, as they are: what runs of version 0.1 read."""
    if isinstance(space, spaces.Dict):
        return [Part((key,), subspace) for key, subspace in space.spaces.items()]
    return [Part((), space)]


def _leaves(space: Space, path: tuple[Key, ...]) -> Iterator[Part]:
    if isinstance(space, spaces.Dict):
        for key, subspace in space.spaces.items():
            yield from _leaves(subspace, (*path, key))
    elif isinstance(space, spaces.Tuple):
        for index, subspace in enumerate(space.spaces):
            yield from _leaves(subspace, (*path, index))
    else:
        yield Part(path, space)


def in_words(parts: Sequence[Part]) -> str:
    """Names and kinds of parts, for messages: ``mission (Text), 1 (Sequence)``."""
    return ", ".join(f"{part.name or 'the observation'} ({kind_of(part.space)})" for part in parts)


def kind_of(space: Space) -> str:
    """The kind of a space: ``Text``; subclasses have the name of Gymnasium's class."""
    kinds = (spaces.Text, spaces.Sequence, spaces.Graph, spaces.OneOf, spaces.Box, spaces.Discrete)
    for kind in kinds:
        if isinstance(space, kind):
            return kind.__name__
    return type(space).__name__
