"""The tasks of a run by env: under their ids in the run, and streams of several envs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from sidetune_core.assembly.parts import ChainedStream, Part, read_tasks, with_id
from sidetune_core.config.resolve import resolve
from sidetune_core.config.spec import RunSpec
from sidetune_core.errors import FitError, RunError
from sidetune_core.interfaces.capabilities import vocabulary_size
from sidetune_core.interfaces.tasks import Task, TaskStream
from sidetune_core.testing import sample


class Stream(TaskStream):
    inputs = sample.INPUTS
    vocabulary_size = 7

    def tasks(self) -> Sequence[Task]:
        return sample.tasks()


def part(tasks: dict[str, str]) -> Part:
    return Part(resolve(RunSpec(learner="features", env="digits")), tasks, "")


def test_tasks_get_their_ids_in_the_run() -> None:
    ids = [task.id for task in sample.tasks()]
    tasks = read_tasks(part({"mine": ids[1]}), Stream())
    assert [(task.id, task.title) for task in tasks] == [("mine", sample.tasks()[1].title)]


def test_a_task_that_is_gone_is_named_with_those_there_are() -> None:
    with pytest.raises(RunError, match="env 'digits' no longer has gone; it has "):
        read_tasks(part({"t0": "gone"}), Stream())


def test_an_id_that_cannot_be_changed_is_refused() -> None:
    class Fixed(type(sample.tasks()[0])):  # type: ignore[misc]
        @property
        def id(self) -> str:
            return "t0"

        @id.setter
        def id(self, value: Any) -> None:
            if value != "t0":
                raise AttributeError

    task = Fixed.__new__(Fixed)
    with pytest.raises(FitError, match="'t0' would be 't1' in this run, and Fixed does not let"):
        with_id(task, "t1")


def test_a_chain_has_the_vocabulary_of_the_env_and_the_inputs_of_the_run() -> None:
    chain = ChainedStream(Stream(), sample.tasks(), {"tokens": (3,)})
    assert vocabulary_size(chain) == 7
    assert chain.inputs == {"tokens": (3,)}
    assert [task.id for task in chain.tasks()] == [task.id for task in sample.tasks()]


def test_a_part_knows_whether_ids_were_changed() -> None:
    assert part({"t3": "t0"}).renames
    assert not part({"t3": "t3"}).renames
