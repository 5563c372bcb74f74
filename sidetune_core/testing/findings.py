"""Findings, the outcomes of checks, and how checks run: one finding each, whatever a plugin raises."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Generic, Protocol, TypeVar

import attrs

from sidetune_core.errors import FitError, SidetuneError
from sidetune_core.interfaces.former_names import warn_of_former

SEED = 0

FORMER_CHECKS: Mapping[str, str] = {
    "moves_only_what_start_returned": "trains_only_what_start_returned",
    "gradients_go_only_where_start_says": "gradients_reach_only_what_start_returned",
    "penalty_is_zero_before_anything_is_learnt": "penalty_is_zero_on_the_first_batch",
    "learns_two_tasks": "trains_on_two_tasks",
    "learns_something_in_every_task": "every_task_trains_something",
    "checkpoint_is_the_whole_state": "checkpoint_holds_all_state",
    "state_dict_is_the_whole_state": "state_dict_holds_all_state",
    "goes_on_as_if_never_stopped": "resumes_exactly_between_tasks",
    "goes_on_in_the_middle_of_a_task": "resumes_exactly_within_a_task",
    "start_returns_parts_of_its_own": "start_returns_its_own_modules",
    "pictures_can_be_shown": "visualisations_are_images",
    "batches_are_whole": "batches_are_complete",
    "tasks_have_ids_of_their_own": "task_ids_are_unique",
    "recipe_holds": "recipe_is_valid",
    "global_random_state_is_left_alone": "global_random_state_is_unchanged",
    "examples_do_not_mix": "examples_are_independent",
    "padding_does_not_matter": "padding_has_no_effect",
    "class_says_what_it_is": "class_has_a_docstring",
    "name_leads_to_a_class_of_its_kind": "name_resolves_to_a_class_of_its_kind",
}
"""Names of checks in version 0.1, which `known_failures` may use until version 0.3."""

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class Make(Protocol, Generic[T_co]):
    """Builds a new object to check from a seed, at each call."""

    def __call__(self, seed: int = SEED) -> T_co: ...
    def __hash__(self) -> int: ...


class Broken(Exception):
    """A contract is not kept; the message says how to correct the plugin."""


class Skipped(Exception):
    """A check does not apply; the message says why."""


@attrs.frozen
class Finding:
    """The outcome of one check."""

    check: str
    """The checked contract, such as ``trains_only_what_start_returned``."""
    passed: bool
    message: str
    """How to correct a failure, or why the check was skipped or is known to fail; empty if it passed."""
    skipped: bool = False
    """Whether it does not apply, for example because no base of the kit fits; counts as passed."""
    known: bool = False
    """Whether it failed and the plugin declares so, with a reason; counts as passed."""

    @property
    def outcome(self) -> str:
        """``passed``, ``skipped``, ``known`` or ``failed``."""
        return "skipped" if self.skipped else "known" if self.known else "passed" if self.passed else "failed"


def report(findings: Sequence[Finding]) -> str:
    """One line for each finding, then a line of counts."""
    short = {"passed": "ok", "skipped": "skip", "known": "known", "failed": "FAIL"}
    lines = []
    for finding in findings:
        message = f": {finding.message}" if finding.message else ""
        lines.append(f"{short[finding.outcome]:5} {finding.check.replace('_', ' ')}{message}")
    outcomes = [finding.outcome for finding in findings]
    counts = [f"{outcomes.count(name)} {name}" for name in short if name != "known" or name in outcomes]
    return "\n".join([*lines, ", ".join(counts)])


def settle(findings: Sequence[Finding], known: Mapping[str, str]) -> list[Finding]:
    """The findings, in which failures that a plugin declares (check to reason) count as passed.

    A declaration is itself a failure if its check passes or does not exist.
    """
    known = {_current_name(check): reason for check, reason in known.items()}
    settled = []
    for finding in findings:
        reason = known.get(finding.check)
        if reason and not finding.passed:
            finding = Finding(finding.check, True, f"{reason} ({finding.message})", known=True)
        elif reason and not finding.skipped:
            message = "is declared in known_failures but passes; remove the declaration"
            finding = Finding(finding.check, False, message)
        settled.append(finding)
    for check in known.keys() - {finding.check for finding in findings}:
        message = f"known_failures names '{check}', which is not a check of this plugin"
        settled.append(Finding("known_failures_are_checks", False, message))
    return settled


def _current_name(check: str) -> str:
    if check in FORMER_CHECKS:
        warn_of_former(f"check '{check}'", f"'{FORMER_CHECKS[check]}'")
    return FORMER_CHECKS.get(check, check)


def attempt(check: Callable[[], object], name: str, setup: str = "") -> Finding:
    """Run one check; `setup` says for the message how the plugin was built."""
    where = f"{setup}: " if setup else ""
    try:
        check()
    except FitError as error:
        return Finding(name, True, f"{where}does not fit: {error}", skipped=True)
    except Skipped as error:
        return Finding(name, True, f"{where}{error}", skipped=True)
    except (Broken, SidetuneError) as error:
        return Finding(name, False, f"{where}{error}")
    except Exception as error:  # plugins may raise anything, and the other checks still run
        frames = [
            frame
            for frame in traceback.extract_tb(error.__traceback__)
            if "torch" not in Path(frame.filename).parts
        ]
        reason = f"{type(error).__name__}: {error}".splitlines()[0].removesuffix(": ")
        line = f"{Path(frames[-1].filename).name}, line {frames[-1].lineno}"
        return Finding(name, False, f"{where}raises {reason} ({line})")
    return Finding(name, True, "")


def examine(setups: Mapping[str, Make[T]], checks: Sequence[Callable[[Make[T]], None]]) -> list[Finding]:
    """Run each check in every setup in which the plugin can be built; its finding is the worst of them."""
    built = {setup: attempt(make, "can_be_built", setup) for setup, make in setups.items()}
    findings = list(dict.fromkeys(built.values()))
    fitting = [setup for setup, finding in built.items() if finding.passed and not finding.skipped]
    for check in checks:
        outcomes = [attempt(partial(check, setups[setup]), check.__name__, setup) for setup in fitting]
        findings += sorted(outcomes, key=lambda finding: (finding.passed, not finding.skipped))[:1]
    return findings
