"""Faults of a file of questions: all of them are counted, and the first few are named."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Literal, ParamSpec, TypeVar

import attrs

from sidetune_core.api import DataError, DataWarning

P = ParamSpec("P")
T = TypeVar("T")
SHOWN = 3
"""Faults that a message names."""

OnError = Literal["raise", "skip"]


class Fault(Exception):
    """An article, a paragraph or a question cannot be used; the message says which and why."""


@attrs.define
class Faults:
    """The faults of a file."""

    path: Path
    messages: list[str] = attrs.field(factory=list)

    def attempt(self, read: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T | None:
        """What `read` returns for these arguments; None where it raises a `Fault`, which is kept."""
        try:
            return read(*args, **kwargs)
        except Fault as fault:
            self.messages.append(str(fault))
            return None

    def report(self, on_error: OnError, remedy: str) -> None:
        """Say what was found, if anything.

        Args:
            on_error: raise an error, or warn that what is faulty is left out.
            remedy: last sentence of the error.

        Raises:
            DataError: there are faults, and `on_error` is 'raise'.
        """
        if not self.messages:
            return
        count, others = len(self.messages), len(self.messages) - SHOWN
        shown = "; ".join(self.messages[:SHOWN]) + (f"; and {others} more" if others > 0 else "")
        listed = shown if count == 1 else f"{count} faults: {shown}"
        if on_error == "raise":
            raise DataError(f"{self.path}: {listed}. {remedy}")
        warnings.warn(f"{self.path}: left out what is faulty ({listed})", DataWarning, stacklevel=3)
