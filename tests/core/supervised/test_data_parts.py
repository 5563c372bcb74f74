"""What supervised tasks consist of, as a run records it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import attrs
import torch
from torch import Tensor

from sidetune_core.interfaces.outputs import Outputs
from sidetune_core.supervised.classification import ClassTask, Examples
from sidetune_core.supervised.data_parts import source_parts
from sidetune_core.supervised.sources import LoadedExamples, Request, Source


def examples_of() -> Examples:
    inputs = {"train": torch.arange(12.0).reshape(6, 2), "test": torch.arange(6.0).reshape(3, 2)}
    return Examples(inputs, {"train": torch.tensor([0, 1, 2, 0, 1, 2]), "test": torch.tensor([0, 1, 2])})


def task_of(examples: Examples, names: tuple[str, ...] = ("cat", "dog")) -> ClassTask:
    return ClassTask("t0", "some", examples, (0, 2), transform=Tensor.float, class_names=names)


@attrs.define(eq=False)
class Stored(Source):
    """Inputs in memory, with any targets."""

    inputs: Tensor
    values: Tensor
    known: bool = True

    def __len__(self) -> int:
        return len(self.inputs)

    def ids(self, rows: Tensor) -> Tensor:
        return rows

    def targets(self) -> Tensor:
        return self.values

    def read(self, requests: Iterable[Request]) -> Iterator[LoadedExamples]:
        raise AssertionError("nothing is read to identify data")

    def digest(self, rows: Tensor) -> str:
        return str(self.inputs[rows].tolist()) if self.known else ""


def test_a_task_of_classes_has_a_part_for_each_split_and_class() -> None:
    parts = task_of(examples_of()).data_parts()
    assert {name: part.count for name, part in parts.items()} == {
        "train/cat": 2,
        "train/dog": 2,
        "test/cat": 1,
        "test/dog": 1,
    }


def test_only_the_part_of_an_example_that_changed_is_another() -> None:
    before, examples = task_of(examples_of()).data_parts(), examples_of()
    examples.inputs["train"][5, 1] = 0.5  # of class 2
    after = task_of(examples).data_parts()
    assert [name for name in before if before[name] != after[name]] == ["train/dog"]


def test_examples_of_classes_that_a_task_does_not_have_do_not_matter() -> None:
    examples = examples_of()
    examples.inputs["train"][1, 1] = 0.5  # of class 1
    assert task_of(examples).data_parts() == task_of(examples_of()).data_parts()


def test_classes_without_names_are_numbered_and_repeated_names_are_distinct() -> None:
    assert {*task_of(examples_of(), ()).data_parts()} == {"train/0", "train/1", "test/0", "test/1"}
    names = ("cat", "cat")
    assert "train/cat (1)" in task_of(examples_of(), names).data_parts()


def test_a_split_of_values_is_one_part_with_its_targets() -> None:
    inputs, outputs = torch.arange(4.0), Outputs("regression", 2)
    (first,) = source_parts(Stored(inputs, torch.zeros(4, 2)), outputs).values()
    (second,) = source_parts(Stored(inputs, torch.ones(4, 2)), outputs).values()
    assert (first.count, second.count) == (4, 4)
    assert first.digest != second.digest


def test_a_source_without_digests_has_no_parts() -> None:
    assert (
        source_parts(Stored(torch.arange(4.0), torch.zeros(4), known=False), Outputs("regression", 1)) == {}
    )
