"""Grouping of runs into methods, and names of methods."""

from __future__ import annotations

from typing import Any

import attrs
import pytest

from sidetune_core.config.resolve import with_present_names
from sidetune_core.config.spec import RunSpec
from sidetune_core.results.grouping import group_runs, same_method, same_stream, shared_line
from sidetune_core.results.metrics import Results
from sidetune_core.results.run_summary import RunSummary

RESULTS = Results(("t0", "t1"), ((0.5, None), (0.5, 0.75)), (0.25, 0.25), "accuracy", higher_is_better=True)
SIDETUNE = RunSpec(
    base={"name": "sidetune/resnet44", "weights": "seed"},
    side={"name": "sidetune/fcn4", "weights": "seed"},
    merger={"name": "sidetune/mlp2"},
    learner={"name": "sidetune/sidetune", "norm": True},
    env={"name": "sidetune/icifar", "tasks": 2},
    train={"lr": 0.001},
    device={"name": "auto"},
    cache={"mode": "memory", "limit": 2.0},
)
EWC = attrs.evolve(
    SIDETUNE, side=None, merger=None, learner={"name": "sidetune/ewc", "coef": 10.0, "fisher": "exact"}
)


def run_of(spec: RunSpec, name: str = "run", **changes: Any) -> RunSummary:
    summary = RunSummary(
        name, spec, f"seed {spec.seed}", RESULTS, (), {}, seconds=1.0, status="done", folder=f"runs/{name}"
    )
    return attrs.evolve(summary, **changes)


def names(*specs: RunSpec) -> list[str]:
    return [method.name for method in group_runs(map(run_of, specs))]


def learner(name: str, **options: Any) -> RunSpec:
    return attrs.evolve(EWC, learner={"name": f"sidetune/{name}", **options})


def train(**options: Any) -> RunSpec:
    return attrs.evolve(SIDETUNE, train={**SIDETUNE.train, **options})


def test_runs_that_differ_in_the_seed_are_one_method_in_the_order_of_seeds() -> None:
    (method,) = group_runs(run_of(attrs.evolve(SIDETUNE, seed=seed)) for seed in (2, 0, 1))
    assert [run.spec.seed for run in method.runs] == [0, 1, 2]


def test_where_a_run_computes_does_not_make_another_method() -> None:
    elsewhere = attrs.evolve(SIDETUNE, device={"name": "cuda"}, cache={"mode": "disk", "limit": 8.0})
    assert names(SIDETUNE, elsewhere) == ["sidetune"]


def test_a_seed_that_was_run_again_counts_once() -> None:
    (method,) = group_runs(
        [
            run_of(SIDETUNE, "first"),
            run_of(SIDETUNE, "again"),
            run_of(attrs.evolve(SIDETUNE, seed=1), "second"),
        ]
    )
    assert [run.name for run in method.runs] == ["first", "second"]
    assert [run.name for run in method.repeats] == ["again"]


def test_methods_with_different_learners_are_named_by_them() -> None:
    assert names(SIDETUNE, EWC) == ["sidetune", "ewc"]


def test_a_merger_is_named_where_there_are_several() -> None:
    alpha = attrs.evolve(SIDETUNE, merger="sidetune/alpha")
    assert names(SIDETUNE, alpha, EWC) == ["sidetune · mlp2", "sidetune · alpha", "ewc"]


def test_one_learner_with_and_without_a_side_names_it() -> None:
    assert names(EWC, attrs.evolve(EWC, side="sidetune/fcn4")) == ["ewc", "ewc · fcn4"]


def test_an_option_is_named_where_methods_that_have_it_differ() -> None:
    legacy = learner("ewc", coef=10.0, fisher="legacy")
    assert names(EWC, legacy, SIDETUNE) == ["ewc · fisher exact", "ewc · fisher legacy", "sidetune"]


def test_an_option_of_training_is_named_for_all() -> None:
    assert names(train(lr=1e-4), EWC) == ["sidetune · lr 0.0001", "ewc · lr 0.001"]


def test_an_option_that_two_components_share_is_named_with_its_component() -> None:
    other = attrs.evolve(
        SIDETUNE,
        base={"name": "sidetune/resnet44", "weights": "none"},
        side={"name": "sidetune/fcn4", "weights": "none"},
    )
    assert names(SIDETUNE, other)[1] == "sidetune · side.weights none · base.weights none"


def test_the_package_is_named_where_two_ship_one_name() -> None:
    assert names(EWC, attrs.evolve(EWC, learner="acme/ewc")) == ["sidetune/ewc", "acme/ewc"]


def test_an_option_that_came_later_is_named_only_where_nothing_else_differs() -> None:
    later = learner("ewc", coef=10.0, fisher="exact", online=False)
    assert names(EWC, later) == ["ewc", "ewc · online false"]
    assert names(EWC, attrs.evolve(later, train={"lr": 0.1})) == ["ewc · lr 0.001", "ewc · lr 0.1"]


def test_a_value_keeps_its_own_underscores() -> None:
    assert names(EWC, learner("ewc", coef=10.0, fisher="my_fisher"))[1] == "ewc · fisher my_fisher"


def test_the_shared_line_has_what_all_methods_have_in_common() -> None:
    assert (
        shared_line(group_runs([run_of(SIDETUNE), run_of(EWC)]))
        == "icifar · task-incremental · resnet44 · 2 tasks"
    )
    shared = "icifar · task-incremental · resnet44 + fcn4 · mlp2 · 2 tasks"
    assert shared_line(group_runs([run_of(SIDETUNE)])) == shared


def test_runs_of_other_options_of_the_env_are_not_on_the_same_stream() -> None:
    assert same_stream([run_of(SIDETUNE), run_of(EWC)])
    assert not same_stream(
        [run_of(SIDETUNE), run_of(attrs.evolve(SIDETUNE, env={"name": "sidetune/icifar", "tasks": 3}))]
    )


def test_runs_on_other_tasks_are_not_on_the_same_stream() -> None:
    assert not same_stream(
        [run_of(SIDETUNE), run_of(SIDETUNE, results=attrs.evolve(RESULTS, tasks=("t0", "t2")))]
    )


@pytest.mark.parametrize(("sampling", "same"), [("uniform", True), ("balanced", False)])
def test_an_option_that_an_earlier_version_lacks_has_its_default(sampling: str, same: bool) -> None:
    options = [{"num_tasks": 2}, {"num_tasks": 2, "sampling": sampling}]
    specs = [
        RunSpec(learner="sidetune/features", env={"name": "sidetune/digits", **each}) for each in options
    ]
    assert same_method(*with_present_names(specs)) == same
