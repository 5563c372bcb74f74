"""What can go wrong, said to the person at the keyboard.

Every error here is one paragraph: what was asked, what there is, and what to type next. The command line prints it without a
traceback and exits with status 2; anything else that is raised is a defect of ours or of a plugin, and keeps its traceback.
"""

from __future__ import annotations

import signal
from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path


class SidetuneError(Exception):
    """Something that the user can mend; the message says how."""


class PluginError(SidetuneError):
    """A plugin is unknown, ambiguous, broken, or lacks a library."""


class OptionError(SidetuneError):
    """An option is unknown or its value is out of range."""


class FitError(SidetuneError):
    """Parts that cannot work together, found before any data is read."""


class DataError(SidetuneError):
    """Data that is missing, unreadable, or not what its env declares."""


class WeightsError(SidetuneError):
    """Weights that are missing, unsafe to read, or of another architecture."""


class RunError(SidetuneError):
    """A run folder that cannot be used, or a run that cannot go on."""


class LedgerError(SidetuneError):
    """A claim or a record that cannot be read, or must not be written."""


class Diverged(RunError):
    """The loss is no longer a finite number."""


class WriteError(RunError):
    """A file that cannot be written."""


class EndedElsewhere(RunError):
    """Another process of the run has failed, and has said why; the message repeats it for the run folder."""


class Interrupted(KeyboardInterrupt):
    """A signal stopped a run; `folder` is where it can be gone on with, `number` the signal. It is to be `told` by one process only."""

    def __init__(self, folder: Path, number: int = signal.SIGINT, told: bool = True) -> None:
        super().__init__()
        self.folder, self.number, self.told = folder, number, told


def suggest(word: str, known: Iterable[str]) -> str:
    """``" Did you mean 'ewc'?"``, or an empty string where nothing known is close to `word`."""
    close = get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f" Did you mean '{close[0]}'?" if close else ""


def shorten(names: Iterable[object], limit: int = 3) -> str:
    """``"a, b, c and 3 more"``: the first `limit` names and the number of others; empty where there are none."""
    listed = [str(name) for name in names]
    others = len(listed) - limit
    return ", ".join(listed[:limit]) + (f" and {others} more" if others > 0 else "")
