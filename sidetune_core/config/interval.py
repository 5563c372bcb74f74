"""How often a run saves a checkpoint within a task."""

from __future__ import annotations

import re

import attrs

from sidetune_core.errors import OptionError


@attrs.frozen
class Interval:
    """A number of steps or of seconds; never where both are None."""

    steps: int | None = None
    seconds: float | None = None

    @property
    def never(self) -> bool:
        return self.steps is None and self.seconds is None

    def over(self, steps: int, seconds: float) -> bool:
        """Whether it has passed after this number of steps and seconds."""
        return (self.steps is not None and steps >= self.steps) or (
            self.seconds is not None and seconds >= self.seconds
        )


def interval(text: str) -> Interval:
    """``200`` is steps, ``30s`` seconds, ``none`` or ``0`` never.

    Raises:
        OptionError: the text is none of these.
    """
    if text.lower() == "none" or re.fullmatch(r"0+s?", text):
        return Interval()
    match = re.fullmatch(r"(\d+)|(\d+(?:\.\d+)?|\.\d+)s", text)
    if match is None or not float(match[1] or match[2]):
        raise OptionError(f"--save-every {text}: expected steps (200), seconds (30s) or none")
    return Interval(steps=int(match[1])) if match[1] else Interval(seconds=float(match[2]))
