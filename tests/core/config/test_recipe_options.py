"""Options of components in an env's recipe."""

from __future__ import annotations

from typing import Any

import attrs
import pytest

from sidetune_core.config import argv
from sidetune_core.config.choice import Choice
from sidetune_core.config.kinds import ENV
from sidetune_core.config.registry import find, load
from sidetune_core.config.resolve import advice_lines, recipe_lines, recipe_tables, resolve
from sidetune_core.config.spec import RunSpec
from sidetune_core.errors import OptionError
from sidetune_core.testing.env import recipe_is_valid

RECIPE = {"steps": 3, "learner.sidetune.begin": "base", "learner.ewc.coef": 7.0}
OWN = "learner sidetune: begin base by default in env 'digits' (its own default: --learner.begin merger)"


@pytest.fixture(autouse=True)
def recipe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load(find(ENV, "digits")), "recipe", RECIPE)


def learner(spec: RunSpec) -> Any:
    return resolve(spec).components["learner"].config


def test_they_are_the_defaults_of_the_components_that_are_used() -> None:
    assert learner(RunSpec()).begin == "base"
    assert learner(RunSpec(learner={"name": "sidetune", "dense": True})).begin == "base"
    assert learner(RunSpec(learner="ewc")).coef == 7.0
    assert not hasattr(learner(RunSpec(learner="features")), "begin")
    assert resolve(RunSpec()).train.steps == 3
    assert recipe_tables(RECIPE, "env")["train"] == {"steps": 3}


def test_the_header_names_the_training_that_goes_with_an_env_s_options_where_a_run_has_another() -> None:
    env = {"name": "gym", "preset": "original"}
    given = {"batch_size": 128, "lr": 1e-4, "schedule": "constant"}
    assert advice_lines(resolve(RunSpec(env=env, train={**given, "lr": 1e-3}))) == [
        "env 'gym' recommends --train.lr 0.0001 with its options (this run: 0.001)"
    ]
    assert advice_lines(resolve(RunSpec(env=env, train=given))) == []
    assert advice_lines(resolve(RunSpec(env="gym"))) == []


def test_the_user_wins_over_them() -> None:
    assert learner(RunSpec(learner={"name": "sidetune", "begin": "merger"})).begin == "merger"
    assert argv.parse(["--learner.begin", "merger"]).resolved.components["learner"].config.begin == "merger"
    assert (
        argv.parse(["--learner", "ewc", "--learner.coef", "2"]).resolved.components["learner"].config.coef
        == 2
    )
    assert argv.parse([]).resolved == resolve(RunSpec())


def test_a_recorded_spec_without_an_option_has_the_component_s_own_default() -> None:
    chosen = Choice("sidetune", {"dense": False}, recorded=True)
    assert learner(RunSpec(learner=chosen)).begin == "merger"
    assert learner(RunSpec(learner="sidetune", recorded=True)).begin == "merger"


def test_the_header_names_those_that_differ_from_the_component_s_own_default() -> None:
    assert recipe_lines(resolve(RunSpec()).components) == [OWN]
    merger = RunSpec(learner={"name": "sidetune", "begin": "merger"})
    assert recipe_lines(resolve(merger).components) == []
    assert recipe_lines(resolve(RunSpec(learner="features")).components) == []


@pytest.mark.parametrize(
    ("recipe", "words"),
    [
        ({"learner.sidetune.begins": "base"}, "recipe of learner 'sidetune' has no option 'begins'"),
        ({"learner.sidetune.begin": "side"}, "begin: must be one of"),
    ],
)
def test_the_conformance_kit_refuses_options_that_a_component_has_not(recipe: Any, words: str) -> None:
    @attrs.frozen
    class Stream:
        env: Any

    @attrs.frozen
    class Env:
        recipe: Any

    recipe_is_valid(lambda: Stream(Env(RECIPE)))  # type: ignore[arg-type, return-value]
    with pytest.raises(OptionError, match=words):
        recipe_is_valid(lambda: Stream(Env(recipe)))  # type: ignore[arg-type, return-value]
