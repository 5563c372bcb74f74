"""Which learners of one class are checked, with which components, and which checks there are."""

from __future__ import annotations

from typing import Any

from sidetune_core.testing import (
    learner_evaluation,
    learner_scenarios,
    learner_settings,
    learner_state,
    learner_training,
    sample,
)
from sidetune_core.testing.findings import Finding, examine
from sidetune_core.testing.given import Given
from sidetune_core.testing.subject import Subject, own_components

SHAPE = (64,)


def check_learner(cls: type[Any], config: Any, given: Given | None = None) -> list[Finding]:
    """Findings about a learner with its required components, and with its optional ones too if it has any;
    with the components and tasks that are `given`.
    """
    kinds = dict.fromkeys((cls.needs, cls.needs | cls.optional_components))
    if given is not None:
        setups = {
            f"with {', '.join(sorted(chosen))}": Subject(
                cls, config, given.components(chosen), given.tasks, is_own=False
            )
            for chosen in kinds
        }
        return examine(setups, CHECKS)
    setups = {
        f"with {', '.join(sorted(chosen))}": Subject(
            cls, config, own_components(SHAPE, "side" in chosen, "merger" in chosen), sample.tasks
        )
        for chosen in kinds
    }
    return examine(setups, CHECKS)


CHECKS = (
    *learner_state.FIRST,
    *learner_training.CHECKS,
    *learner_evaluation.CHECKS,
    *learner_scenarios.CHECKS,
    *learner_state.CHECKS,
    *learner_settings.CHECKS,
)
