"""Records of extensions, the ids of added tasks, and what run.json states about them."""

from __future__ import annotations

from typing import Any

import pytest

from sidetune_core.config.choice import Choice
from sidetune_core.config.extensions import extension_lines, new_ids, read_extensions, with_env
from sidetune_core.config.history import stated
from sidetune_core.config.spec import RunSpec
from sidetune_core.errors import RunError


def about(**changes: Any) -> dict[str, Any]:
    tasks = [{"id": f"t{number}", "title": "", "metric": "accuracy"} for number in range(5)]
    extensions = [
        {"first": 2, "env": {"name": "a/b"}, "train": {}, "data": "x", "tasks": {"t2": "t0", "t3": "t1"}},
        {"first": 4, "env": {"name": "a/c"}, "train": {"lr": 1.0}, "data": "y", "tasks": {"t4": "t4"}},
    ]
    return {"tasks": tasks, "resolved": {"train": {}}, "extensions": extensions, "data": "w", **changes}


@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        (["t0", "t1"], ["t3", "t4"]),
        (["t3", "t4"], ["t3", "t4"]),
        (["t0", "t3"], ["t3", "t4"]),
        (["cat", "dog"], ["cat-2", "dog"]),
        (["Cat"], ["Cat"]),
    ],
)
def test_ids_that_are_taken_are_replaced(ids: list[str], expected: list[str]) -> None:
    assert new_ids(["t0", "t1", "t2", "cat"], ids) == dict(zip(ids, expected, strict=True))


def test_where_the_disk_ignores_case_so_do_ids() -> None:
    assert new_ids(["cat", "cat-2"], ["CAT"], ignores_case=True) == {"CAT": "CAT-3"}


def test_extensions_have_the_tasks_of_the_run_in_order() -> None:
    assert [(one.first, list(one.tasks)) for one in read_extensions(about())] == [
        (2, ["t2", "t3"]),
        (4, ["t4"]),
    ]


@pytest.mark.parametrize(
    "record",
    [
        {"first": 2, "env": {"name": "a"}, "train": {}, "data": "", "tasks": {"t9": "t0"}},
        {"first": "2", "env": {"name": "a"}, "train": {}, "data": "", "tasks": {"t2": "t0"}},
        {"first": 2, "env": {}, "train": {}, "data": "", "tasks": {"t2": "t0"}},
        {"first": 2, "env": {"name": "a"}, "train": {}, "data": "", "tasks": {}},
        "damaged",
    ],
)
def test_records_that_no_run_writes_are_damage(record: Any) -> None:
    with pytest.raises(RunError, match=r"run\.json is damaged: its extensions"):
        read_extensions(about(extensions=[record]))


def test_a_line_names_tasks_env_ids_and_options() -> None:
    assert extension_lines(about()) == [
        "from task t2 on, added by --extend: t2, t3 of env 'b' (t0, t1 there)",
        "from task t4 on, added by --extend: t4 of env 'c', train.lr None → 1.0",
    ]


@pytest.mark.parametrize(
    ("done", "step", "tasks", "extensions"), [(2, 0, 2, 0), (2, 1, 4, 1), (4, 0, 4, 1), (5, 0, 5, 2)]
)
def test_a_checkpoint_knows_the_extensions_that_had_begun(
    done: int, step: int, tasks: int, extensions: int
) -> None:
    facts = stated(about(), done, step)
    assert (len(facts["tasks"]), len(facts["extensions"])) == (tasks, extensions)


def test_a_segment_with_other_data_states_it_from_there_on() -> None:
    changed = [{**about()["extensions"][0], "data": "z"}]
    run = about(segments=[{"task": "t3", "step": 0, "extensions": changed}])
    assert [one["data"] for one in stated(run, 3)["extensions"]] == ["x"]
    assert [one["data"] for one in stated(run, 5)["extensions"]] == ["z", "y"]


def test_a_segment_with_other_titles_keeps_those_of_tasks_that_were_added_later() -> None:
    titles = [{"id": "t0", "title": "cats"}, {"id": "t1", "title": "dogs"}]
    run = about(segments=[{"task": "t1", "step": 0, "tasks": titles}])
    assert [task["title"] for task in stated(run, 5)["tasks"]] == ["cats", "dogs", "", "", ""]


def test_steps_that_are_set_replace_the_epochs_of_the_run() -> None:
    spec = RunSpec(env="digits", train={"epochs": 3, "steps": 5, "lr": 1.0})
    extended = with_env(spec, Choice("icifar"), {"train": {"steps": 7}, "cache": {}, "device": {}})
    assert extended.train == {"epochs": None, "steps": 7, "lr": 1.0}
    assert extended.env == Choice("icifar")
