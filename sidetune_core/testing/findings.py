"""What a check finds, and how checks are run: one finding for each, whatever a plugin raises."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Generic, Protocol, TypeVar

import attrs

from sidetune_core.errors import FitError, SidetuneError

SEED = 0

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class Make(Protocol, Generic[T_co]):
    """Builds what is checked, anew at each call, from a seed."""

    def __call__(self, seed: int = SEED) -> T_co: ...
    def __hash__(self) -> int: ...


class Broken(Exception):
    """A contract that is not kept; the message says what to do."""


class Skipped(Exception):
    """A check that cannot be tried here; the message says why."""


@attrs.frozen
class Finding:
    """The outcome of one check."""

    check: str
    """The fact that was checked, such as ``moves_only_what_start_returned``."""
    passed: bool
    message: str
    """What to do where it failed, why where it was skipped or is known to fail, else empty."""
    skipped: bool = False
    """Whether it could not be tried, since the plugin fits nothing that the kit has. Such a check counts as passed."""
    known: bool = False
    """Whether it failed, and the plugin says so itself, with a reason. Such a check counts as passed."""

    @property
    def outcome(self) -> str:
        """``passed``, ``skipped``, ``known`` or ``failed``."""
        return "skipped" if self.skipped else "known" if self.known else "passed" if self.passed else "failed"


def report(findings: Sequence[Finding]) -> str:
    """One line for each finding, and a last one that counts them."""
    short = {"passed": "ok", "skipped": "skip", "known": "known", "failed": "FAIL"}
    words = [short[finding.outcome] for finding in findings]
    lines = []
    for word, finding in zip(words, findings, strict=True):
        message = f": {finding.message}" if finding.message else ""
        lines.append(f"{word:5} {finding.check.replace('_', ' ')}{message}")
    counts = [
        f"{words.count(word)} {name}" for name, word in short.items() if name != "known" or word in words
    ]
    return "\n".join([*lines, ", ".join(counts)])


def settle(findings: Sequence[Finding], known: Mapping[str, str]) -> list[Finding]:
    """The findings, with those that a plugin declares as known failures (check to reason) no longer counted as failed.

    A declaration is itself a failure where its check passes, or does not exist.
    """
    settled = []
    for finding in findings:
        reason = known.get(finding.check)
        if reason and not finding.passed:
            finding = Finding(finding.check, True, f"{reason} ({finding.message})", known=True)
        elif reason and not finding.skipped:
            finding = Finding(
                finding.check, False, "is declared in known_failures, and passes; take the declaration out"
            )
        settled.append(finding)
    for check in known.keys() - {finding.check for finding in findings}:
        settled.append(
            Finding(
                "known_failures_are_checks", False, f"known_failures names '{check}', which is no check here"
            )
        )
    return settled


def attempt(check: Callable[[], object], name: str, place: str = "") -> Finding:
    """Run one check. `place` tells where, for the message."""
    where = f"{place}: " if place else ""
    try:
        check()
    except FitError as error:
        return Finding(name, True, f"{where}does not fit here: {error}", skipped=True)
    except Skipped as error:
        return Finding(name, True, f"{where}{error}", skipped=True)
    except (Broken, SidetuneError) as error:
        return Finding(name, False, f"{where}{error}")
    except Exception as error:  # a plugin may raise anything, and the other checks are still of interest
        frames = [
            frame
            for frame in traceback.extract_tb(error.__traceback__)
            if "torch" not in Path(frame.filename).parts
        ]
        reason = f"{type(error).__name__}: {error}".splitlines()[0].removesuffix(": ")
        return Finding(
            name,
            False,
            f"{where}raises {reason} ({Path(frames[-1].filename).name}, line {frames[-1].lineno})",
        )
    return Finding(name, True, "")


def examine(places: Mapping[str, Make[T]], checks: Sequence[Callable[[Make[T]], None]]) -> list[Finding]:
    """Run each check at every place where the plugin can be built; its finding is the worst of them."""
    built = {place: attempt(make, "can_be_built", place) for place, make in places.items()}
    findings = list(dict.fromkeys(built.values()))
    fitting = [place for place, finding in built.items() if finding.passed and not finding.skipped]
    for check in checks:
        found = [attempt(partial(check, places[place]), check.__name__, place) for place in fitting]
        findings += sorted(found, key=lambda finding: (finding.passed, not finding.skipped))[:1]
    return findings
