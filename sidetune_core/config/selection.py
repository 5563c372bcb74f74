"""Which tasks of a stream a run trains, and on which split it measures R."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import attrs

from sidetune_core.errors import OptionError, RunError, shorten
from sidetune_core.io.printable import counted

Measured = Literal["test", "val"]


@attrs.frozen
class Selection:
    """What a run measures: R on split 'val', mostly of the first tasks, to select options; it then evaluates
    no other split.

    By default, all tasks are trained, all of their splits are evaluated, and R is measured on split 'test'.

    Raises:
        OptionError: a value is not valid.
    """

    measure: Measured = "test"
    """The split of R; with 'val', no other split is evaluated."""
    first_tasks: int | None = None
    """Number of tasks to train, from the first on; None for all."""

    def __attrs_post_init__(self) -> None:
        if self.measure not in ("test", "val"):
            raise OptionError(f"--measure takes test or val, not {self.measure!r}")
        if self.first_tasks is not None and self.first_tasks < 1:
            raise OptionError(f"--first-tasks must be at least 1, not {self.first_tasks}")

    def splits(self, splits: Sequence[str]) -> tuple[str, ...]:
        """Those of a task's splits that are evaluated."""
        return tuple(splits) if self.measure == "test" else (self.measure,)

    def to_json(self) -> dict[str, Any]:
        """Its part of ``run.json``; nothing by default."""
        return {name: value for name, value in attrs.asdict(self).items() if value != _DEFAULTS[name]}

    def __str__(self) -> str:
        """``R on split val of the first 3 tasks``, for people; empty by default."""
        of = f" of the first {counted(self.first_tasks, 'task')}" if self.first_tasks is not None else ""
        return f"R on split {self.measure}{of}" if self.to_json() else ""


_DEFAULTS: Mapping[str, Any] = {field.name: field.default for field in attrs.fields(Selection)}


def read_selection(about: Mapping[str, Any], source: str = "run.json") -> Selection:
    """The selection in a ``run.json``.

    Raises:
        RunError: it is damaged.
    """
    values = {name: about.get(name, default) for name, default in _DEFAULTS.items()}
    count = values["first_tasks"]
    if count is not None and not (isinstance(count, int) and not isinstance(count, bool)):
        raise RunError(f"{source} is damaged: its first_tasks is {count!r}")
    try:
        return Selection(**values)
    except OptionError as error:
        raise RunError(f"{source} is damaged: {error}") from error


class MissingSplit(OptionError):
    """Tasks have no split 'val'."""

    can_hold_out: bool = False
    """Whether the env has ``--env.val-fraction``."""


def missing_split(owner: str, tasks: Mapping[str, Sequence[str]], options: Sequence[str]) -> MissingSplit:
    """The error that tasks have no split 'val'.

    Args:
        owner: the env.
        tasks: the splits of each task that lacks it, by id.
        options: names of the env's options.
    """
    splits = next(iter(tasks.values()))
    what = f"{owner} has no split 'val' for {len(tasks)} of its tasks ({shorten(list(tasks))}), only "
    what += ", ".join(splits)
    can_hold_out = "val-fraction" in options
    if can_hold_out:
        what += ": hold out a part of the training examples with --env.val-fraction 0.1"
    else:
        what += (
            ", and no option that holds out training examples: choose an env whose tasks have one "
            "(sidetune list envs)"
        )
    error = MissingSplit(what)
    error.can_hold_out = can_hold_out
    return error
