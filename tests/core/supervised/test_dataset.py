"""Map-style datasets as sources: seeds, workers, and examples that cannot be read."""

from __future__ import annotations

import random
from itertools import islice
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import TensorDataset

from sidetune_core import Task
from sidetune_core.errors import DataError
from sidetune_core.interfaces.tasks import Batch, Order

from .datasets_for_tests import Fixed, Killed, Noisy, OwnGenerator, Raises

FIXED = TensorDataset(torch.arange(36.0).reshape(12, 3), torch.arange(12) % 3)


def batches(task: Any, count: int, first: int = 0) -> list[Batch]:
    return list(islice(task.train(None, Order(3, 5, first)), count))


def same(first: list[Batch], second: list[Batch]) -> bool:
    return len(first) == len(second) and all(
        torch.equal(a.inputs["x"], b.inputs["x"]) and torch.equal(a.targets, b.targets)
        for a, b in zip(first, second, strict=True)
    )


@pytest.mark.parametrize("workers", [1, 4])
def test_random_examples_are_the_same_with_and_without_workers(workers: int) -> None:
    alone = batches(Task.from_dataset(Noisy(), Noisy(), input="x"), 6)
    assert same(batches(Task.from_dataset(Noisy(), Noisy(), input="x", workers=workers), 6), alone)


@pytest.mark.parametrize("workers", [0, 2])
def test_random_examples_continue_at_any_step(workers: int) -> None:
    task = Task.from_dataset(Noisy(), Noisy(), input="x", workers=workers)
    assert same(batches(task, 4, 3), batches(task, 7)[3:])


def test_an_example_is_augmented_otherwise_in_another_epoch() -> None:
    task = Task.from_dataset(Noisy(), Noisy(), input="x")
    first = {float(x[0].floor()): x for batch in batches(task, 2) for x in batch.inputs["x"]}
    later = {float(x[0].floor()): x for batch in batches(task, 2, 10) for x in batch.inputs["x"]}
    common = first.keys() & later.keys()
    assert common
    assert not any(torch.equal(first[row], later[row]) for row in common)


def test_random_examples_are_not_cached_and_fixed_ones_are() -> None:
    assert batches(Task.from_dataset(Noisy(), Noisy(), input="x"), 1)[0].inputs.ids is None
    assert batches(Task.from_dataset(FIXED, FIXED, input="x"), 1)[0].inputs.ids is not None


def test_an_evaluation_reads_random_examples_under_fixed_seeds() -> None:
    task = Task.from_dataset(Noisy(), Noisy(), input="x")
    assert same(list(task.batches("test")), list(task.batches("test")))


@pytest.mark.parametrize("workers", [0, 2])
def test_reading_leaves_the_global_generators_alone(workers: int) -> None:
    torch.manual_seed(1), np.random.seed(1), random.seed(1)
    expected = float(torch.rand(1)), np.random.rand(), random.random()
    torch.manual_seed(1), np.random.seed(1), random.seed(1)
    batches(Task.from_dataset(Noisy(), Noisy(), input="x", workers=workers), 2)
    assert (float(torch.rand(1)), np.random.rand(), random.random()) == expected


def test_a_generator_of_its_own_is_warned_of() -> None:
    with pytest.warns(UserWarning, match="will not have the same bytes"):
        task = Task.from_dataset(OwnGenerator(), FIXED, input="x")
    assert batches(task, 1)[0].inputs.ids is None


def test_ids_are_unique_in_a_task() -> None:
    task = Task.from_dataset(FIXED, FIXED, FIXED, input="x")
    ids = [int(id) for split in ("test", "val") for batch in task.batches(split) for id in batch.ids]
    ids += [int(id) for id in task.sources["train"].ids(torch.arange(12))]
    assert sorted(ids) == list(range(36))


@pytest.mark.parametrize("workers", [0, 2])
def test_an_example_that_raises_is_named_before_training(workers: int) -> None:
    with pytest.raises(DataError, match=r"1 of 12 .*example 6: OSError: the disk is broken") as caught:
        Task.from_dataset(Raises(), FIXED, input="x", workers=workers)
    assert "in __getitem__" in str(caught.value.__cause__)


@pytest.mark.parametrize("workers", [0, 2])
def test_an_example_that_raises_in_training_is_named(workers: int) -> None:
    dataset = Raises()
    dataset.targets = [row % 3 for row in range(12)]  # type: ignore[attr-defined]
    task = Task.from_dataset(dataset, FIXED, input="x", workers=workers)
    with pytest.raises(DataError, match="example 6: OSError"):
        batches(task, 3)


def test_a_killed_worker_is_said_to_have_ended() -> None:
    task = Task.from_dataset(Killed(), FIXED, input="x", workers=1)
    with pytest.raises(DataError, match="a worker process ended .* workers=0"):
        batches(task, 3)


class Uneven(Fixed):
    """Examples 3 and 7 have four values, example 9 is NaN."""

    def __getitem__(self, row: int) -> tuple[Any, Any]:
        if row == 9:
            return torch.full((3,), torch.nan), 0
        return torch.zeros(4 if row in (3, 7) else 3), 0


def test_all_examples_of_another_shape_or_with_nan_are_counted() -> None:
    with pytest.raises(DataError, match=r"3 of 12 examples .*examples 3, 7: .*\(4,\).*; example 9: .*NaN"):
        Task.from_dataset(Uneven(), FIXED, input="x")


def test_the_shapes_of_the_splits_are_equal() -> None:
    other = TensorDataset(torch.zeros(4, 5), torch.arange(4) % 3)
    with pytest.raises(
        DataError, match=r"test dataset .*x \(5,\), and those of the training examples x \(3,\)"
    ):
        Task.from_dataset(FIXED, other, input="x")
