"""How often a run writes down where it is."""

from __future__ import annotations

import re

import attrs

from sidetune_core.errors import OptionError


@attrs.frozen
class Interval:
    """A number of steps or of seconds; both None for never."""

    steps: int | None = None
    seconds: float | None = None

    @property
    def never(self) -> bool:
        return self.steps is None and self.seconds is None

    def over(self, steps: int, seconds: float) -> bool:
        """Whether it has passed after so many steps and seconds."""
        return (self.steps is not None and steps >= self.steps) or (
            self.seconds is not None and seconds >= self.seconds
        )


def interval(text: str) -> Interval:
    """``200`` is steps, ``30s`` seconds, ``none`` or ``0`` never.

    Raises:
        OptionError: it is something else.
    """
    if text.lower() == "none" or re.fullmatch(r"0+s?", text):
        return Interval()
    found = re.fullmatch(r"(\d+)|(\d+(?:\.\d+)?|\.\d+)s", text)
    if found is None or not float(found[1] or found[2]):
        raise OptionError(f"--save-every {text}: give a number of steps (200) or of seconds (30s), or none")
    return Interval(steps=int(found[1])) if found[1] else Interval(seconds=float(found[2]))
