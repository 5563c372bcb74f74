"""The check that a learner is defined in the scenario of a run."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sidetune_core.config import registry
from sidetune_core.config.kinds import LEARNER
from sidetune_core.errors import OptionError, SidetuneError
from sidetune_core.scenarios import DEFAULT, Scenario, title


def check_scenario(name: str, learner: type[Any], scenario: Scenario) -> None:
    """Check that a learner is defined in a scenario.

    Args:
        name: of the learner.
        learner: its class.
        scenario: of the run.

    Raises:
        OptionError: it is not; the message names the installed learners that are.
    """
    if scenario in learner.scenarios:
        return
    able = ", ".join(learners_in(scenario)) or "none of those installed"
    raise OptionError(
        f"learner '{name}' is not defined in the {title(scenario)} scenario; choose --learner from {able}, "
        f"or leave out --scenario {scenario}"
    )


def learners_in(scenario: Scenario) -> Iterator[str]:
    """The installed learners that are defined in a scenario, by name; those that cannot be imported are left
    out."""
    for plugin in registry.installed(LEARNER):
        try:
            learner = registry.load(plugin)
        except SidetuneError:
            continue
        if scenario in getattr(learner, "scenarios", {DEFAULT}):
            yield plugin.name
