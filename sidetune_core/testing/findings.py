"""Findings, the outcomes of checks, and how checks run: one finding each, whatever a plugin raises."""

from __future__ import annotations

import re
import traceback
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Generic, Protocol, TypeVar

import attrs

from sidetune_core.errors import FitError, SidetuneError
from sidetune_core.interfaces.former_names import warn_of_former
from sidetune_core.io.printable import indented, one_line

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

KIT = Path(__file__).parent
DOES_NOT_FIT = "does not fit: "
CALLS_CUDA = "; leave the device to the core: make tensors with device=x.device, and do not call cuda()"

F = TypeVar("F", bound=Callable[..., None])
M = TypeVar("M", bound=Callable[[], object])
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


def report(findings: Sequence[Finding], unseen: Sequence[str] = ()) -> str:
    """One line for each finding, a line of counts and, if `unseen` is given, a line of what no check covers:
    that, and what does not fit.
    """
    short = {"passed": "ok", "skipped": "skip", "known": "known", "failed": "FAIL"}
    lines = []
    for finding in findings:
        message = f": {indented(finding.message)}" if finding.message else ""
        lines.append(f"{short[finding.outcome]:5} {finding.check.replace('_', ' ')}{message}")
    outcomes = [finding.outcome for finding in findings]
    counts = [f"{outcomes.count(name)} {name}" for name in short if name != "known" or name in outcomes]
    lines.append(", ".join(counts))
    if unseen:
        unfit = [
            f"{finding.check.replace('_', ' ')} ({one_line(finding.message)})"
            for finding in findings
            if finding.skipped and DOES_NOT_FIT in finding.message
        ]
        lines.append(f"not checked: {'; '.join([', '.join(unseen), *unfit])}")
    return "\n".join(lines)


def settle(findings: Sequence[Finding], known: Mapping[str, str]) -> list[Finding]:
    """The findings, in which failures that a plugin declares (check to reason) count as passed.

    A declaration is itself a failure if its check passes or does not exist.
    """
    known = {_current_name(check): reason for check, reason in known.items()}
    settled = []
    for finding in findings:
        reason = known.get(finding.check)
        if reason and not finding.passed:
            finding = Finding(finding.check, True, f"{reason} ({one_line(finding.message)})", known=True)
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


def requires(*names: str) -> Callable[[F], F]:
    """Decorate a check that says nothing where one of the checks `names`, which run before it, fails."""

    def mark(check: F) -> F:
        check.requires = names  # type: ignore[attr-defined]
        return check

    return mark


def attempt(check: Callable[[], object], name: str, setup: str = "") -> Finding:
    """Run one check; `setup` says for the message how the plugin was built."""
    where = f"{setup}: " if setup else ""
    try:
        check()
    except FitError as error:
        return Finding(name, True, f"{where}{DOES_NOT_FIT}{error}", skipped=True)
    except Skipped as error:
        return Finding(name, True, f"{where}{error}", skipped=True)
    except (Broken, SidetuneError) as error:
        return Finding(name, False, f"{where}{error}")
    except Exception as error:  # plugins may raise anything, and the other checks still run
        return Finding(name, False, f"{where}{described(error)}")
    return Finding(name, True, "")


def described(error: Exception) -> str:
    """An exception of a plugin, with its line: ``raises KeyError: 'x' (my_env.py, line 12)``."""
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if "torch" not in Path(frame.filename).parts
    ]
    own = [frame for frame in frames if KIT not in Path(frame.filename).parents] or frames
    reason = f"{type(error).__name__}: {error}".splitlines()[0].removesuffix(": ")
    remedy = CALLS_CUDA if re.search("NVIDIA|CUDA", str(error)) else ""
    return f"raises {reason} ({Path(own[-1].filename).name}, line {own[-1].lineno}){remedy}"


def examine(setups: Mapping[str, M], checks: Sequence[Callable[[M], None]]) -> list[Finding]:
    """Run each check in every setup in which the plugin can be built; its finding is the worst of them.

    One cause is one failure: a check whose requirement fails (see `requires`), or that fails with the message
    of an earlier one, is skipped.
    """
    built = {setup: attempt(make, "can_be_built", setup) for setup, make in setups.items()}
    findings = _one_cause(list(dict.fromkeys(built.values())))
    fitting = [setup for setup, finding in built.items() if finding.passed and not finding.skipped]
    roots: dict[tuple[str, str], str] = {}  # by setup and check: the failure for which it says nothing
    for check in checks:
        name, outcomes = check.__name__, []
        for setup in fitting:
            needed: tuple[str, ...] = getattr(check, "requires", ())
            failed = [roots[setup, one] for one in needed if (setup, one) in roots]
            if failed:
                message = f"not run, since '{failed[0].replace('_', ' ')}' fails"
                outcomes.append(Finding(name, True, message, skipped=True))
            else:
                outcomes.append(attempt(partial(check, setups[setup]), name, setup))
            if failed or not outcomes[-1].passed:
                roots[setup, name] = failed[0] if failed else name
        findings += sorted(outcomes, key=lambda finding: (finding.passed, not finding.skipped))[:1]
    return _one_cause(findings, [f"{setup}: " for setup in setups if setup])


def _one_cause(findings: Sequence[Finding], prefixes: Sequence[str] = ()) -> list[Finding]:
    """The findings, in which a failure with the message of an earlier one is skipped."""
    causes: dict[str, str] = {}
    reported = []
    for finding in findings:
        cause = finding.message
        for prefix in prefixes:
            cause = cause.removeprefix(prefix)
        if not finding.passed and causes.setdefault(cause, finding.check) != finding.check:
            same = causes[cause].replace("_", " ")
            finding = Finding(finding.check, True, f"not run to its end, as '{same}'", skipped=True)
        reported.append(finding)
    return reported
