"""Each check of the conformance kit is a pytest test of its own."""

from __future__ import annotations

import pytest

from sidetune_core.errors import PluginError
from sidetune_core.testing import parametrize_checks

pytest_plugins = ["pytester"]

SUITE = """
from sidetune_core.testing import parametrize_checks

@parametrize_checks("learner", "strict_learner:Strict")
def test_conforms(check):
    check()
"""
STRICT = """
import attrs, torch
from sidetune_core.api import Heads, Learner

@attrs.frozen
class Config:
    "No options."

class Strict(Learner):
    known_failures = {"penalty_is_zero_on_the_first_batch": "the penalty is the method"}
    Config = Config

    def __init__(self, config, components):
        super().__init__()
        self.base = components.base()
        self.heads = Heads(self.base.shape)

    def start(self, task):
        return [self.heads.add_task(task)]

    def forward(self, inputs, task_id):
        return self.heads.predict(self.base(inputs).encoding, task_id)

    def penalty(self, batch):
        return {"one": torch.ones(())}
"""


def test_each_check_is_a_test_id_with_its_outcome(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(strict_learner=STRICT, test_strict=SUITE)
    result = pytester.runpytest_subprocess("-v", "-rsx", "-p", "no:xdist")
    result.stdout.fnmatch_lines_random(
        [
            "*test_conforms[[]class_has_a_docstring[]] FAILED*",
            "*test_conforms[[]penalty_is_zero_on_the_first_batch[]] XFAIL*",
            "*test_conforms[[]distribution_requires_sidetune[]] SKIPPED*",
            "*test_conforms[[]checkpoint_holds_all_state[]] PASSED*",
            "*Strict has no docstring*",
        ]
    )
    assert result.parseoutcomes()["failed"] == 1


def test_an_unknown_kind_is_an_error_when_the_tests_are_collected() -> None:
    with pytest.raises(PluginError, match="no kind of plugin"):
        parametrize_checks("lerner", "sidetune")
