"""Comparisons of runs notice that runs of one env had different data."""

from __future__ import annotations

from typing import Any

import attrs

from sidetune_core.config.data_record import DataRecord
from sidetune_core.config.spec import RunSpec
from sidetune_core.results.compare_methods import compare_methods
from sidetune_core.results.compare_runs import compare_runs
from sidetune_core.results.grouping import data_lines, group_runs, same_stream
from sidetune_core.results.metrics import Results
from sidetune_core.results.run_data import EnvData, read_run_data
from sidetune_core.results.run_summary import RunSummary

RESULTS = Results(("t0", "t1"), ((0.5, None), (0.5, 0.75)), (0.25, 0.25), "accuracy", higher_is_better=True)
SPEC = RunSpec(learner={"name": "sidetune/features"}, env={"name": "sidetune/images", "root": "photos"})
EWC = attrs.evolve(SPEC, learner={"name": "sidetune/ewc"})


def run_of(name: str, seed: int, *data: EnvData, spec: RunSpec = SPEC, **changes: Any) -> RunSummary:
    spec = attrs.evolve(spec, seed=seed)
    line = f"images · {spec.learner.name.rpartition('/')[2]}" if spec.learner else ""
    summary = RunSummary(
        name, spec, line, RESULTS, (), {}, seconds=1.0, status="done", folder=name, data=tuple(data)
    )
    return attrs.evolve(summary, **changes)


def test_runs_on_the_same_data_are_one_method() -> None:
    runs = [run_of(f"r{seed}", seed, EnvData("one", "content")) for seed in range(3)]
    (method,) = group_runs(runs)
    assert len(method.runs) == 3
    assert data_lines(runs) == []


def test_runs_on_other_data_are_another_method_and_named() -> None:
    runs = [run_of("a", 0, EnvData("old")), run_of("b", 1, EnvData("old")), run_of("c", 1, EnvData("new"))]
    methods = group_runs(runs)
    assert [(method.name, len(method.runs)) for method in methods] == [
        ("features · data 1", 2),
        ("features · data 2", 1),
    ]
    assert "data differs: a, b / c" in compare_methods(methods).splitlines()


def test_seeds_that_hold_out_other_examples_of_the_same_content_are_one_method() -> None:
    runs = [run_of(f"r{seed}", seed, EnvData(f"split {seed}", "content")) for seed in range(3)]
    (method,) = group_runs(runs)
    assert len(method.runs) == 3
    assert data_lines(runs) == []


def test_another_content_is_noticed_whatever_the_seeds() -> None:
    runs = [run_of(f"r{seed}", seed, EnvData(f"split {seed}", f"content {seed}")) for seed in range(2)]
    assert [method.name for method in group_runs(runs)] == ["features · data 1", "features · data 2"]
    assert data_lines(runs) == ["data differs: r0 / r1"]


def test_fingerprints_of_other_seeds_without_content_leave_it_open_and_say_so() -> None:
    runs = [run_of(f"r{seed}", seed, EnvData(f"split {seed}")) for seed in range(2)]
    (method,) = group_runs(runs)
    assert len(method.runs) == 2
    (line,) = data_lines(runs)
    assert line.startswith("Whether r1 had the data of the other runs is unknown")


def test_runs_of_envs_without_fingerprints_are_one_method() -> None:
    runs = [run_of("old", 0), run_of("rollouts", 1, EnvData()), run_of("new", 2, EnvData("some"))]
    (method,) = group_runs(runs)
    assert len(method.runs) == 3
    assert data_lines(runs) == []


def test_a_run_of_an_earlier_version_is_compared_by_its_fingerprint() -> None:
    runs = [run_of("earlier", 0, EnvData("one")), run_of("now", 0, EnvData("one", "content"))]
    assert len(group_runs(runs)) == 1
    runs[0] = attrs.evolve(runs[0], data=(EnvData("other"),))
    assert data_lines(runs) == ["data differs: earlier / now"]


def test_learners_on_different_data_are_not_ranked() -> None:
    same = [run_of("a", 0, EnvData("one")), run_of("b", 0, EnvData("one"), spec=EWC)]
    other = [same[0], attrs.evolve(same[1], data=(EnvData("two"),))]
    assert (same_stream(same), same_stream(other)) == (True, False)
    assert "Ranks are averages over 2 tasks" in compare_methods(group_runs(same))
    text = compare_methods(group_runs(other))
    assert "No ranks: they need two methods with the same env, data, tasks and metric" in text
    assert [method.name for method in group_runs(other)] == ["features · data 1", "ewc · data 2"]


def test_other_options_of_the_env_are_no_change_of_its_data() -> None:
    small = attrs.evolve(SPEC, env={"name": "sidetune/images", "root": "small"})
    runs = [run_of("a", 0, EnvData("one")), run_of("b", 0, EnvData("two"), spec=small)]
    assert data_lines(runs) == []


def test_a_comparison_of_runs_marks_the_rows() -> None:
    runs = [run_of("a", 0, EnvData("one")), run_of("b", 0, EnvData("two"))]
    lines = compare_runs(runs).splitlines()
    assert [line for line in lines if "features · data 1" in line]
    assert [line for line in lines if "features · data 2" in line]
    assert lines[-1] == "data differs: a / b"
    assert compare_runs(runs, "csv").splitlines()[2].startswith("b,images · features · data 2,")


def test_the_data_of_a_run_are_those_of_its_envs_and_of_what_was_accepted() -> None:
    about = {
        "data": "first",
        "tasks": [],
        "segments": [{"task": "t1", "data": "second", "plugins": {}}],
        "extensions": [{"data": "added"}],
    }
    records = [
        DataRecord(0, "env 'images'", "first", "one"),
        DataRecord(0, "env 'images'", "second", "two"),
        DataRecord(1, "env 'digits'", "added"),
    ]
    assert read_run_data(about, records) == (EnvData("first+second", "one+two"), EnvData("added"))
    assert read_run_data(about, records[:1])[0] == EnvData("first+second")
