"""Specs: the composition of a run as data."""

from __future__ import annotations

from pathlib import Path

import attrs
import pytest

from sidetune_core.config import argv
from sidetune_core.config.choice import Choice
from sidetune_core.config.options import FormerSpelling
from sidetune_core.config.resolve import recipe_tables, resolve
from sidetune_core.config.spec import RunSpec
from sidetune_core.config.spec_file import from_values, read_spec
from sidetune_core.errors import OptionError


def test_a_name_a_table_and_a_choice_say_the_same() -> None:
    wanted = Choice("ewc", {"coef": 10.0})
    assert RunSpec(learner={"name": "ewc", "coef": 10.0}).learner == wanted
    assert RunSpec(learner={"name": "ewc", "options": {"coef": 10.0}}).learner == wanted
    assert RunSpec(learner="ewc").learner == Choice("ewc")


def test_json_and_back_is_the_same_spec() -> None:
    spec = RunSpec(
        learner={"name": "ewc", "coef": 10.0}, env={"name": "icifar", "tasks": 3}, train={"lr": 0.1}, seed=4
    )
    assert from_values(spec.to_json(), "here") == spec


def test_a_toml_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_text('learner = "features"\nseed = 3\n[env]\nname = "icifar"\ntasks = 2\n[train]\nlr = 0.1\n')
    assert read_spec(path) == RunSpec(
        learner="features", env={"name": "icifar", "tasks": 2}, train={"lr": 0.1}, seed=3
    )


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "cannot read the spec"),
        ("[1]", "not list"),
        ('{"lerner": "ewc"}', "has an unknown key: 'lerner'"),
        ('{"learner": 3}', "learner is a name or a table"),
        ('{"learner": {"coef": 1}}', "a component needs a name"),
        ('{"seed": "three"}', "seed: expected int, got 'three'"),
        ('{"train": 3}', "train"),
    ],
)
def test_a_file_that_is_no_spec_is_refused_with_the_reason(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "spec.json"
    path.write_text(text)
    with pytest.raises(OptionError, match=words):
        read_spec(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="absent.json"):
        read_spec(tmp_path / "absent.json")


def test_slots_that_the_learner_needs_take_their_defaults() -> None:
    names = {slot: part.plugin.name for slot, part in resolve(RunSpec()).components.items()}
    assert names == {
        "base": "resnet44",
        "side": "fcn4",
        "merger": "alpha",
        "learner": "sidetune",
        "env": "digits",
    }


def test_slots_that_the_learner_does_not_use_stay_empty() -> None:
    assert set(resolve(RunSpec(learner="features")).components) == {"base", "learner", "env"}


def test_a_slot_that_the_learner_does_not_use_may_not_be_set() -> None:
    with pytest.raises(OptionError, match="learner 'features' uses no side; leave out --side"):
        resolve(RunSpec(learner="features", side="fcn4"))


def test_an_optional_side_brings_a_merger_with_it() -> None:
    assert set(resolve(RunSpec(learner="finetune", side="fcn4")).components) == {
        "base",
        "side",
        "merger",
        "learner",
        "env",
    }


def test_the_recipe_of_the_env_holds_where_nothing_is_asked_for() -> None:
    assert resolve(RunSpec(env="icifar")).train.steps == 157


def test_the_user_wins_over_the_recipe() -> None:
    train = resolve(RunSpec(env="cifar10", train={"steps": 7})).train
    assert (train.steps, train.epochs) == (7, None)


def test_a_training_option_that_does_not_exist_is_answered() -> None:
    with pytest.raises(OptionError, match="--train has no option 'learning-rate'"):
        resolve(RunSpec(train={"learning_rate": 1.0}))


def test_the_resolved_spec_writes_every_option_out_and_composes_to_the_same() -> None:
    composition = resolve(RunSpec(env={"name": "icifar", "tasks": 2}, seed=5))
    resolved = composition.to_spec()
    assert resolved.train["steps"] == 157
    assert resolved.env is not None
    assert resolved.env.options["partition"] == "consecutive"
    assert resolve(from_values(resolved.to_json(), "here")) == composition


@pytest.fixture
def another_alpha(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An installed package with a merger and a base of names that sidetune has too."""
    information = tmp_path / "acme-1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: acme\nVersion: 1.0\n")
    (information / "WHEEL").write_text("Wheel-Version: 1.0\n")
    (information / "entry_points.txt").write_text(
        "[sidetune.mergers]\nalpha = acme_x:A\n[sidetune.bases]\nresnet44 = acme_x:B\nmlp = acme_x:B\n"
        "[sidetune.envs]\ndigits = acme_x:E\n"
    )
    monkeypatch.syspath_prepend(tmp_path)


@pytest.mark.usefixtures("another_alpha")
def test_a_package_with_components_of_the_same_names_leaves_the_defaults_as_they_are() -> None:
    resolved = resolve(RunSpec())
    assert resolved.components["merger"].choice == "sidetune/alpha"
    assert str(resolved).startswith("digits · resnet44 + fcn4 · alpha · sidetune")
    assert argv.parse([]).resolved == resolved


@pytest.mark.usefixtures("another_alpha")
def test_the_components_that_an_env_suggests_are_those_of_its_package() -> None:
    resolved = resolve(RunSpec(learner="features", env="gym"))
    assert resolved.components["base"].plugin.distribution == "sidetune"


def test_options_that_moved_to_other_tables_are_accepted_with_a_warning() -> None:
    with pytest.warns(
        FormerSpelling,
        match="train.device is now device.name; the old spelling stops working in 0.3",
    ) as issued:
        spec = RunSpec(train={"device": "cpu", "store-limit": 3.0, "batch": 8})
    assert {warning.filename for warning in issued} == {__file__}
    assert (spec.device, spec.cache, spec.train) == ({"name": "cpu"}, {"limit": 3.0}, {"batch_size": 8})
    with pytest.raises(OptionError, match="the same option"):
        RunSpec(train={"device": "cpu"}, device={"name": "cuda"})


def test_a_recipe_sets_the_device_by_dotted_names_and_may_have_former_ones() -> None:
    assert recipe_tables({"steps": 3, "device.precision": "fp32"}, "env 'x'") == {
        "train": {"steps": 3},
        "cache": {},
        "device": {"precision": "fp32"},
    }
    with pytest.warns(FormerSpelling, match="env 'x': recipe: train: batch is now batch-size"):
        assert recipe_tables({"batch": 32}, "env 'x'")["train"] == {"batch_size": 32}


@pytest.mark.filterwarnings("ignore::sidetune_core.config.options.FormerSpelling")
def test_a_former_and_a_present_name_with_the_same_value_agree() -> None:
    with pytest.warns(FormerSpelling):
        spec = RunSpec(train={"precision": "fp32"})
    with pytest.warns(FormerSpelling):
        changed = attrs.evolve(spec, train={"precision": "fp32", "steps": 3})
    assert changed.device == {"precision": "fp32"}
