"""Trajectories as other tools store them: observations and actions of the plain environment, episode by
episode."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import numpy as np
from numpy.typing import NDArray

from sidetune_core.errors import DataError

Array = NDArray[Any]
Columns = Mapping[str, Array]
"""Arrays by key; ``observations/position`` is the array ``position`` in the group ``observations``."""

KEYS = {
    "observations": ("observations", "observation", "obs", "states", "state"),
    "actions": ("actions", "action", "acts"),
    "rewards": ("rewards", "reward", "rews"),
    "terminations": ("terminations", "terminals", "terminated", "terminal"),
    "truncations": ("truncations", "timeouts", "truncated", "timeout"),
    "dones": ("dones", "done"),
    "starts": ("episode_starts", "starts"),
    "lengths": ("lengths", "episode_lengths"),
}
"""The names that a column may have, in order of preference: those of Gymnasium and Minari, of D4RL, of
stable-baselines3's and imitation's expert files, and of robomimic."""

SHOWN_KEYS = 12


@attrs.frozen(eq=False)
class RawEpisode:
    """T steps of an episode."""

    name: str
    """For messages, such as ``episode 3``."""
    observations: Any
    """An array (T, ...) or (T + 1, ...), or a dictionary of them, nested as the environment's space."""
    actions: Array
    """(T, ...)"""
    rewards: Array | None
    """(T,); None where the file has none."""
    terminated: bool
    truncated: bool

    @property
    def length(self) -> int:
        """In steps."""
        return len(self.actions)

    def observation(self, index: int) -> Any:
        """One observation."""
        return _row(self.observations, index)

    @property
    def has_final(self) -> bool:
        """Whether the observation after the last step is there."""
        return _count(self.observations) > self.length


def episodes_of(columns: Columns, path: Path) -> Iterator[RawEpisode]:
    """The episodes of a file: one for each group that has actions, or those of concatenated columns.

    Raises:
        DataError: a column is missing or has another length than the actions, or nothing says where episodes
            end.
    """
    prefixes = _prefixes(columns)
    if not prefixes:
        raise DataError(
            f"{path} has no actions: expected a key {_either('actions')}. Its keys: {_shown(columns)}"
        )
    if len(prefixes) == 1:
        yield from _concatenated(_within(columns, prefixes[0]), path)
        return
    for prefix in prefixes:
        own = _within(columns, prefix)
        name = prefix.rstrip("/")
        yield _episode(own, slice(None), f"'{name}'", path)


def _prefixes(columns: Columns) -> list[str]:
    """The groups that have actions, in the order of the numbers in their names."""
    prefixes = {key.rpartition("/")[0] for key in columns if key.rpartition("/")[2] in KEYS["actions"]}

    def rank(prefix: str) -> tuple[int, str]:
        digits = "".join(character for character in prefix.rpartition("/")[2] if character.isdigit())
        return (int(digits) if digits else -1, prefix)

    return [f"{prefix}/" if prefix else "" for prefix in sorted(prefixes, key=rank)]


def _within(columns: Columns, prefix: str) -> dict[str, Array]:
    return {key.removeprefix(prefix): value for key, value in columns.items() if key.startswith(prefix)}


def _concatenated(columns: Columns, path: Path) -> Iterator[RawEpisode]:
    actions = columns[_key(columns, "actions") or ""]
    ends = _ends(columns, len(actions), path)
    first = 0
    for number, end in enumerate(ends):
        yield _episode(columns, slice(first, end), f"episode {number}", path)
        first = end


def _ends(columns: Columns, count: int, path: Path) -> list[int]:
    """The step after the last one of each episode.

    Raises:
        DataError: nothing says so.
    """
    if key := _key(columns, "lengths"):
        lengths = columns[key].astype(int).reshape(-1)
        if lengths.sum() != count or (lengths < 1).any():
            raise DataError(f"{path}: '{key}' has a sum of {lengths.sum()}, and there are {count} actions")
        return [int(end) for end in lengths.cumsum()]
    if key := _key(columns, "starts"):
        _check_lengths(columns, [key], count, path)
        starts = np.flatnonzero(columns[key].reshape(-1))
        return [*(int(start) for start in starts if start > 0), count]
    named = [key for role in ("terminations", "truncations", "dones") if (key := _key(columns, role))]
    if not named:
        raise DataError(
            f"{path} does not say where episodes end: expected a key {_either('terminations')}, "
            f"{_either('truncations')}, {_either('dones')}, {_either('starts')} with a value for each step, "
            f"or {_either('lengths')}. Its keys: {_shown(columns)}"
        )
    _check_lengths(columns, named, count, path)
    over = np.zeros(count, bool)
    for key in named:
        over |= columns[key].reshape(-1).astype(bool)
    ends = [int(end) + 1 for end in np.flatnonzero(over)]
    return ends if ends and ends[-1] == count else [*ends, count]


def _episode(columns: Columns, steps: slice, name: str, path: Path) -> RawEpisode:
    actions_key, rewards_key = _key(columns, "actions") or "", _key(columns, "rewards")
    observations, keys = _observations(columns, path)
    count = len(columns[actions_key])
    whole = steps == slice(None)
    _check_lengths(columns, keys, count, path, spare=1 if whole else 0)
    if rewards_key:
        _check_lengths(columns, [rewards_key], count, path)
    return RawEpisode(
        name=name,
        observations=_rows(observations, steps),
        actions=columns[actions_key][steps],
        rewards=columns[rewards_key][steps].reshape(-1) if rewards_key else None,
        terminated=_last(columns, ("terminations",), steps)
        or (not _key(columns, "terminations") and _last(columns, ("dones",), steps)),
        truncated=_last(columns, ("truncations",), steps),
    )


def _observations(columns: Columns, path: Path) -> tuple[Any, list[str]]:
    """An array or nested dictionaries of them, and their keys.

    Raises:
        DataError: there are none.
    """
    for name in KEYS["observations"]:
        if name in columns:
            return columns[name], [name]
        parts = {key: key[len(name) + 1 :] for key in columns if key.startswith((f"{name}/", f"{name}."))}
        if parts:
            nested: dict[str, Any] = {}
            for key, rest in parts.items():
                *groups, last = rest.split("/")
                table = nested
                for group in groups:
                    table = table.setdefault(group, {})
                table[last] = columns[key]
            return nested, [*parts]
    raise DataError(
        f"{path} has no observations: expected a key {_either('observations')}. Its keys: {_shown(columns)}"
    )


def _check_lengths(columns: Columns, keys: Sequence[str], count: int, path: Path, spare: int = 0) -> None:
    """Check that columns have a row for each action, or `spare` more.

    Raises:
        DataError: some have not.
    """
    wrong = [key for key in keys if not columns[key].ndim or not count <= len(columns[key]) <= count + spare]
    if wrong:
        shapes = ", ".join(f"'{key}' has shape {columns[key].shape}" for key in wrong[:SHOWN_KEYS])
        raise DataError(f"{path}: {shapes}, and there are {count} actions: expected a row for each of them")


def _last(columns: Columns, roles: Sequence[str], steps: slice) -> bool:
    keys = [key for role in roles if (key := _key(columns, role))]
    return any(bool(np.reshape(columns[key][steps], -1)[-1]) for key in keys)


def _key(columns: Columns, role: str) -> str | None:
    return next((name for name in KEYS[role] if name in columns), None)


def _either(role: str) -> str:
    return " or ".join(f"'{name}'" for name in KEYS[role])


def _shown(columns: Columns) -> str:
    keys = [f"{key} {value.shape}" for key, value in columns.items()]
    rest = f" and {len(keys) - SHOWN_KEYS} more" if len(keys) > SHOWN_KEYS else ""
    return (", ".join(keys[:SHOWN_KEYS]) or "none") + rest


def _row(values: Any, index: int) -> Any:
    if isinstance(values, Mapping):
        return {name: _row(value, index) for name, value in values.items()}
    if isinstance(values, tuple):
        return tuple(_row(value, index) for value in values)
    return values[index]


def _rows(values: Any, steps: slice) -> Any:
    if isinstance(values, Mapping):
        return {name: _rows(value, steps) for name, value in values.items()}
    return values[steps]


def _count(values: Any) -> int:
    if isinstance(values, Mapping | tuple):
        parts = [*values.values()] if isinstance(values, Mapping) else [*values]
        return _count(parts[0]) if parts else 0
    return len(values)
