"""From lists of parts and options to the compositions that are run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sidetune_core.errors import OptionError, PluginError
from sidetune_core.sweeps import grid


def plan(words: str) -> grid.Plan:
    return grid.plan(grid.read(words.split()))


def names(words: str) -> list[str]:
    return [run.name for run in plan(words).runs]


def test_the_last_list_varies_fastest_and_names_say_what_varies() -> None:
    assert names("--learner ewc,finetune --env digits --seed 0..1") == [
        "learner-ewc_seed-0",
        "learner-ewc_seed-1",
        "learner-finetune_seed-0",
        "learner-finetune_seed-1",
    ]


def test_a_point_is_what_sidetune_run_makes_of_the_same_words() -> None:
    (run,) = plan(
        "--learner ewc --learner.coef 3 --train.lr=1e-2 --seed 7 --env.num-tasks 2 --learner.no-norm"
    ).runs
    assert run.name == "run"
    assert (run.spec["learner"]["options"]["coef"], run.spec["learner"]["options"]["norm"]) == (3.0, False)
    assert (run.spec["train"]["lr"], run.spec["env"]["options"]["num_tasks"], run.spec["seed"]) == (
        0.01,
        2,
        7,
    )


def test_a_part_that_a_learner_has_no_use_for_is_left_out_and_run_once() -> None:
    made = plan("--learner sidetune,features --merger alpha,sum")
    assert [run.name for run in made.runs] == [
        "learner-sidetune_merger-alpha",
        "learner-sidetune_merger-sum",
        "learner-features",
    ]
    assert made.runs[2].spec["merger"] is None
    assert made.notes == (
        "--merger is left out of runs that do not use it: learner 'features'",
        "4 grid points resolve to 3 distinct runs",
    )


def test_an_option_that_a_learner_has_not_is_left_out() -> None:
    made = plan("--learner ewc,features --learner.coef 1,2")
    assert [run.name for run in made.runs] == [
        "learner-ewc_learner.coef-1",
        "learner-ewc_learner.coef-2",
        "learner-features",
    ]
    assert made.notes[0] == "--learner.coef is left out of runs that do not use it: learner 'features'"


def test_scenarios_are_varied_as_seeds_are(tmp_path: Path) -> None:
    words = "--env digits --learner finetune --scenario task,class"
    file = tmp_path / "grid.toml"
    file.write_text("env = 'digits'\nlearner = 'finetune'\n[grid]\nscenario = ['task', 'class']")
    for made in (plan(words), grid.plan(grid.read([str(file)]))):
        assert {run.name: run.spec.get("scenario") for run in made.runs} == {
            "scenario-task": None,
            "scenario-class": "class",
        }


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("", "nothing is given to sweep"),
        ("--scenario task,clas", "'clas'"),
        ("--learner features --merger alpha,sum", "learner 'features' uses no merger"),
        ("--learner ewc,features --learner.cof 1", "learner 'ewc' has no option 'cof'. Did you mean 'coef'?"),
        ("--learner features --train.rl 1,2", "--train has no option 'rl'"),
        ("--learner features --train.batch-size 8,0", "batch-size must be at least 1, not 0"),
        ("--learner features --seed 0,x", "a seed is a whole number; got 'x'"),
        ("--lerner ewc", "sidetune sweep does not know '--lerner'. Did you mean '--learner'?"),
        ("--seed 0 --seed 1", "--seed is given twice"),
        ("--seed 0,,1", "--seed 0,,1: a value of the list is empty"),
        ("--seed 4..0", "--seed 4..0: a value of the list is empty"),
    ],
)
def test_a_mistake_is_told(words: str, message: str) -> None:
    with pytest.raises(OptionError) as told:
        plan(words)
    assert message in str(told.value)


def test_a_part_that_is_not_there_is_told() -> None:
    with pytest.raises(PluginError, match="no merger named 'alpah'"):
        plan("--learner sidetune,features --merger alpha,alpah")


def test_a_value_with_a_comma_stands_in_quotes() -> None:
    read = grid.read(["--env.folder", '"a,b",c', "--env", "images"])
    assert read.axes == {"env.folder": [("a,b",), ("c",)], "env": [("images",)]}


def test_values_that_cannot_be_part_of_a_name_are_told_apart() -> None:
    first, second = (grid.run_name({"env.folder": (value,)}) for value in ("my/photos", "my photos"))
    assert first.startswith("env.folder-my-photos-")
    assert second.startswith("env.folder-my-photos-")
    assert first != second
    assert len(grid.run_name({"env.folder": ("x" * 300,)})) <= 200


def test_two_spellings_of_one_composition_are_one_run() -> None:
    assert names("--learner features,sidetune/features --train.lr 1e-3,0.001") == [
        "learner-features_train.lr-1e-3"
    ]


def test_a_grid_goes_over_a_spec(tmp_path: Path) -> None:
    (tmp_path / "base.json").write_text(
        json.dumps({"learner": {"name": "ewc", "coef": 5.0}, "train": {"epochs": 2}, "seed": 4})
    )
    first, second = plan(f"--spec {tmp_path / 'base.json'} --learner ewc,lwf --train.steps 3").runs
    assert first.spec["learner"]["options"]["coef"] == 5.0
    assert second.spec["learner"]["name"] == "sidetune/lwf"
    assert {
        (run.spec["seed"], run.spec["train"]["steps"], run.spec["train"]["epochs"]) for run in (first, second)
    } == {(4, 3, None)}


FILE = """
env = {name = "digits", num_tasks = 2}
train = {epochs = 2}

[grid]
learner = ["features", {name = "ewc", coef = 10.0}, "ewc"]
"learner.norm" = [true, false]
train.steps = [3]
seed = [0, 1]
"""


def test_a_file_may_give_a_part_options_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "grid.toml"
    path.write_text(FILE)
    runs = plan(str(path)).runs
    assert len(runs) == 12
    assert [run.name for run in runs[:5]] == [
        "learner-features_learner.norm-true_seed-0",
        "learner-features_learner.norm-true_seed-1",
        "learner-features_learner.norm-false_seed-0",
        "learner-features_learner.norm-false_seed-1",
        "learner-ewc_learner.coef-10.0_learner.norm-true_seed-0",
    ]
    options = runs[4].spec["learner"]["options"]
    assert (options["coef"], options["norm"], runs[4].spec["env"]["options"]["num_tasks"]) == (10.0, True, 2)
    assert (runs[4].spec["train"]["steps"], runs[4].spec["train"]["epochs"]) == (3, None)
    assert runs[8].name == "learner-ewc_learner.norm-true_seed-0"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seed = 1", "has no table [grid]"),
        ("[grid]\nseed = 3", "'seed' of [grid] is a list of values, not 3"),
        ('[grid]\nlerner = ["ewc"]', "[grid] knows no 'lerner'. Did you mean 'learner'?"),
        ("[grid]\nseed = [1.5]", "a seed is a whole number; got 1.5"),
        ('[grid]\nlearner = ["features"]\nmerger = ["sum"]', "learner 'features' uses no merger"),
        ('[grid]\ntrain.lr = ["1e-3"]', "lr: expected float, got '1e-3'"),
        ("[grid]\nlearner = [3]", "a learner is chosen by its name; got 3"),
    ],
)
def test_a_mistake_in_a_file_is_told(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "grid.toml").write_text(text)
    with pytest.raises(OptionError) as told:
        plan(str(tmp_path / "grid.toml"))
    assert message in str(told.value)


def test_a_file_and_options_do_not_mix(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="from a file or from options, not from both"):
        grid.read([str(tmp_path / "grid.toml"), "--seed", "1"])


@pytest.mark.parametrize("text", ["0..100000", f"0..{10**60}", f"-{10**15}..0"])
def test_a_range_of_too_many_values_is_refused(text: str) -> None:
    with pytest.raises(OptionError, match="a range of more than 100,000 values"):
        grid.read(["--learner", "ewc", "--seed", text])
