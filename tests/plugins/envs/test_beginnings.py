"""How a side begins by default where policies are trained."""

from __future__ import annotations

from typing import Any

import pytest

from sidetune_core.config.resolve import resolve
from sidetune_core.config.spec import RunSpec


@pytest.mark.parametrize(
    ("env", "begin"),
    [
        ({"name": "gym", "ids": ["CartPole-v1"]}, "base-linear"),
        ({"name": "imitation", "levels": ["BabyAI-UnlockLocal-v0"]}, "base"),
        ({"name": "digits"}, "merger"),
    ],
)
def test_a_side_begins_at_the_base_where_that_was_measured_better(env: dict[str, Any], begin: str) -> None:
    learner: Any = resolve(RunSpec(env=env, learner="sidetune")).components["learner"]
    assert learner.config.begin == begin
