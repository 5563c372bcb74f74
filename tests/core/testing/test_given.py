"""A plugin is checked with components that the user chooses."""

from __future__ import annotations

import pytest

from sidetune_core.cli.main import main
from sidetune_core.errors import OptionError
from sidetune_core.testing import Finding, check_plugin
from sidetune_core.testing.given import load

DIGITS = {"name": "digits", "num_tasks": 2}


def failures(findings: list[Finding]) -> dict[str, str]:
    """Messages of the checks that fail."""
    return {finding.check: finding.message for finding in findings if not finding.passed}


def test_a_learner_on_the_tasks_of_an_env() -> None:
    findings = check_plugin("learner", "features", components={"base": "mlp", "env": DIGITS})
    assert failures(findings) == {}
    assert not next(finding for finding in findings if finding.check == "trains_on_two_tasks").skipped


def test_a_side_next_to_a_base() -> None:
    components = {"base": {"name": "resnet20", "weights": "none"}}
    assert failures(check_plugin("side", "ladder", components=components)) == {}


def test_a_merger_of_encodings_of_a_base() -> None:
    findings = check_plugin("merger", "alpha", components={"base": "mlp", "env": DIGITS})
    assert failures(findings) == {}


def test_a_base_on_the_inputs_of_an_env() -> None:
    assert failures(check_plugin("base", "mlp", components={"env": DIGITS})) == {}


def test_components_that_do_not_apply_are_refused() -> None:
    with pytest.raises(OptionError, match="--base does not apply to the check of a component of kind env"):
        load("env", {"base": "mlp"})


def test_an_env_that_the_base_of_the_kit_does_not_fit_asks_for_another(squad_file: object) -> None:
    env = {"name": "squad", "train_file": str(squad_file)}
    with pytest.raises(OptionError, match="choose one with --base"):
        load("learner", {"env": env})


def test_the_command_takes_components_with_options(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "base", "mlp", "--env", "digits", "num-tasks=2"]) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("not checked: a real GPU")
