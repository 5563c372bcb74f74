"""Errors that users can correct.

Each message is one paragraph: what was requested, what exists, and what to type next. The command line prints
it without a traceback and exits with status 2. Any other exception is a defect of sidetune or of a plugin,
and keeps its traceback.
"""

from __future__ import annotations

import signal
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from pathlib import Path
from types import MappingProxyType


class SidetuneError(Exception):
    """An error that the user can correct; the message says how."""


class PluginError(SidetuneError):
    """A plugin is unknown, ambiguous, broken, or lacks a library."""


class UntrustedCode(PluginError):
    """A file names code to import, and nobody has said that it can be trusted.

    The command line ends the message with the same command plus ``--trust-local-code``.
    """

    def __init__(self, what: str) -> None:
        super().__init__(what)
        self.what = what

    def __str__(self) -> str:
        return f"{self.what}. Python: pass trust_local_code=True"


class OptionError(SidetuneError):
    """An option is unknown or its value is out of range."""


class FitError(SidetuneError):
    """Components that do not fit each other, found before any data is read."""


class DataError(SidetuneError):
    """Data that is missing, unreadable, or different from what its env declares."""


class InputError(SidetuneError):
    """An input of `predict` or `act` that is not what its task takes: another shape, range, type or name."""


class WeightsError(SidetuneError):
    """Weights that are missing, unsafe to load, or for another architecture."""


class RunError(SidetuneError):
    """A run folder that cannot be used, or a run that cannot continue."""


class RolloutError(RunError):
    """An environment failed while it was stepped; a run can be resumed once it is fixed."""


class LedgerError(SidetuneError):
    """A claim or record that cannot be read, or must not be overwritten."""


class Diverged(RunError):
    """A loss, or an output that training or a rollout needs, is NaN or infinite.

    Args:
        reason: what is not finite and where, for the status of the run.
        advice: what to do, for the message.
    """

    def __init__(self, reason: str, advice: str = "") -> None:
        super().__init__(f"{reason}. {advice}" if advice else reason)
        self.reason, self._advice = reason, advice

    def __reduce__(self) -> tuple[type[Diverged], tuple[str, str]]:
        return type(self), (self.reason, self._advice)


class CheckpointWarning(UserWarning):
    """A checkpoint is damaged, and an earlier one is used. Commands print it in one line."""


class DataWarning(UserWarning):
    """Data are implausible, or used otherwise than they are. Commands print it in one line."""


class WriteError(RunError):
    """A file that cannot be written."""


class EndedElsewhere(RunError):
    """Another rank has failed and reported why; the message repeats it for the run folder."""


class Interrupted(KeyboardInterrupt):
    """A signal stopped a run.

    `folder` is the run to resume, `number` the signal; `reports` is false on ranks that must not report it.
    `needs_trust` is true if the run names code to import.
    """

    def __init__(
        self,
        folder: Path,
        number: int = signal.SIGINT,
        reports: bool = True,
        needs_trust: bool = False,
    ) -> None:
        super().__init__()
        self.folder, self.number, self.reports, self.needs_trust = folder, number, reports, needs_trust


def suggest(word: str, known: Iterable[str], former: Mapping[str, str] = MappingProxyType({})) -> str:
    """``" Did you mean 'ewc'?"``, or an empty string if no known name is close to `word`.

    Args:
        word: what was typed.
        known: the present names.
        former: present names by former ones: ``" Did you mean 'record' (formerly 'collect')?"``.
    """
    close = get_close_matches(word, [*known, *former], n=1, cutoff=0.6)
    if not close:
        return ""
    (name,) = close
    formerly = f" (formerly '{name}')" if name in former else ""
    return f" Did you mean '{former.get(name, name)}'{formerly}?"


def shorten(names: Iterable[object], limit: int = 3) -> str:
    """``"a, b, c and 3 more"``: the first `limit` names and the number of others; empty for no names."""
    listed = [str(name) for name in names]
    others = len(listed) - limit
    return ", ".join(listed[:limit]) + (f" and {others} more" if others > 0 else "")
