"""The scenarios of continual learning (van de Ven, Tuytelaars & Tolias, Nature Machine Intelligence 2022).

| scenario | classes of the tasks | task id at test time | output |
|---|---|---|---|
| task | any | known | among the classes of the task |
| domain | the same in all tasks | unknown | among these classes |
| class | new ones in each task | unknown | among the classes of all tasks so far |
"""

from __future__ import annotations

from typing import Literal, get_args

from sidetune_core.errors import OptionError, suggest

Scenario = Literal["task", "domain", "class"]

SCENARIOS: tuple[Scenario, ...] = get_args(Scenario)

DEFAULT: Scenario = "task"
DOMAIN: Scenario = "domain"
CLASS: Scenario = "class"

TASK_AWARE = "_task_aware"
"""At the end of the name of a metric of predictions with the task id."""


def as_scenario(value: object) -> Scenario:
    """A scenario by name.

    Raises:
        OptionError: there is none of this name.
    """
    for scenario in SCENARIOS:
        if value == scenario:
            return scenario
    near = suggest(str(value), SCENARIOS)
    raise OptionError(f"no scenario {value!r}: --scenario is one of {', '.join(SCENARIOS)}.{near}")


def title(scenario: str) -> str:
    """``class-incremental``"""
    return f"{scenario}-incremental"


def task_aware(metric: str) -> str:
    """The name of a metric of predictions with the task id, where `metric` is that of predictions without."""
    return metric + TASK_AWARE
