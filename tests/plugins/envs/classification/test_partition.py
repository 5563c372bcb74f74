"""Classes of tasks in an order of the user's."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

from sidetune_core.api import OptionError, SidetuneError
from sidetune_core.config import kinds, registry
from sidetune_core.config.options import FormerSpelling, structure

Images = registry.load(registry.find(kinds.ENV, "images"))
partition = importlib.import_module("sidetune_plugins.envs.classification.partition")
NAMES = ("bird", "cat", "dog", "eel")


def own(text: str) -> list[list[str]]:
    tasks: list[list[str]] = partition.own_tasks(NAMES, text)
    return tasks


def test_tasks_are_divided_by_bars_and_classes_by_commas() -> None:
    assert own("cat, dog|bird") == [["cat", "dog"], ["bird"]]


@pytest.mark.parametrize(
    ("name", "content"),
    [("t.txt", "cat, dog\n\nbird\n"), ("t.json", '[["cat", "dog"], ["bird"]]'), ("order", "cat,dog\nbird")],
)
def test_tasks_may_be_in_a_file(name: str, content: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(content)
    assert own(str(tmp_path / name)) == [["cat", "dog"], ["bird"]]


def test_numbers_stand_for_classes_without_names() -> None:
    assert partition.own_tasks(("class 3", "class 7"), "7,3") == [["class 7", "class 3"]]


@pytest.mark.parametrize(
    ("text", "match"),
    [
        (
            "cat,dgo|brid",
            "names 2 of 3 classes that the data do not have: 'dgo', 'brid'. Did you mean 'dog'?",
        ),
        ("cat,dog|cat,bird|bird", "has 2 of 3 classes more than once: cat, bird"),
        ("cat||dog", 'a task has no class; expected such as "cat,dog|bird"'),
        ("none.json", "no file none.json"),
    ],
)
def test_a_wrong_order_is_an_error(text: str, match: str) -> None:
    with pytest.raises(OptionError, match=match):
        own(text)


@pytest.mark.parametrize("content", ["[1]", "{", '{"a": []}', "[" * 100_000])
def test_a_damaged_file_is_an_error(content: str, tmp_path: Path) -> None:
    (tmp_path / "t.json").write_text(content)
    with pytest.raises(SidetuneError, match="expected a task per line"):
        own(str(tmp_path / "t.json"))


def test_a_number_is_the_former_spelling_of_the_number_of_tasks() -> None:
    with pytest.warns(FormerSpelling, match="num-tasks"):
        config = structure(Images.Config, {"tasks": 3}, "env")
    assert (config.num_tasks, config.tasks) == (3, None)
