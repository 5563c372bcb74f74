"""Iterable datasets: in their own order, under seeds, and from any step."""

from __future__ import annotations

from itertools import islice
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import TensorDataset

from sidetune_core import Task
from sidetune_core.errors import DataError, OptionError
from sidetune_core.interfaces.tasks import Batch, Order

from .datasets_for_tests import SizedStream, Stream

FIXED = TensorDataset(torch.arange(36.0).reshape(12, 3), torch.arange(12) % 3)


def make(train: Any = None, test: Any = FIXED, **options: Any) -> Any:
    options = {"classes": [0, 1, 2], "input": "x", **options}
    return Task.from_dataset(train if train is not None else Stream(), test, **options)


def batches(task: Any, count: int, first: int = 0) -> list[Batch]:
    return list(islice(task.train(None, Order(3, 5, first)), count))


def numbers(batch: Batch) -> list[int]:
    values: Tensor = batch.inputs["x"][:, 0].floor()
    return [int(value) for value in values.tolist()]


def test_the_order_is_that_of_the_dataset_and_passes_follow_each_other() -> None:
    assert [numbers(batch) for batch in batches(make(), 3)] == [
        [0, 1, 2, 3, 4],
        [5, 6, 7, 8, 9],
        [10, 11, 0, 1, 2],
    ]


def test_a_resumed_stream_has_the_same_examples() -> None:
    whole, rest = batches(make(), 6), batches(make(), 3, 3)
    assert all(torch.equal(a.inputs["x"], b.inputs["x"]) for a, b in zip(whole[3:], rest, strict=True))


def test_another_pass_is_augmented_otherwise_and_nothing_is_cached() -> None:
    taken = batches(make(), 4)
    first, again = taken[0].inputs["x"][0], taken[2].inputs["x"][2]
    assert int(first[0]) == int(again[0]) == 0
    assert not torch.equal(first, again)
    assert taken[0].inputs.ids is None


def test_reading_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(1)
    expected = torch.rand(1)
    torch.manual_seed(1)
    batches(make(), 3)
    assert torch.equal(torch.rand(1), expected)


def test_a_test_stream_is_evaluated_once_and_always_alike() -> None:
    task = make(FIXED, Stream())
    first, second = list(task.batches("test")), list(task.batches("test"))
    assert [number for batch in first for number in numbers(batch)] == list(range(12))
    assert torch.equal(first[0].inputs["x"], second[0].inputs["x"])


def test_epochs_need_a_length() -> None:
    with pytest.raises(OptionError, match="has no length, so its epochs cannot be counted"):
        make().steps_per_epoch(4)
    assert make(SizedStream()).steps_per_epoch(4) == 3


def test_classes_are_listed_beforehand() -> None:
    with pytest.raises(OptionError, match=r"pass classes=\[...\]"):
        make(classes=None)


def test_workers_are_refused() -> None:
    with pytest.raises(OptionError, match="leave out workers="):
        make(workers=1)


def test_an_unknown_label_in_the_stream_is_named() -> None:
    with pytest.raises(DataError, match="its label 2 is none of the 2 classes"):
        batches(make(classes=[0, 1], test=TensorDataset(torch.zeros(4, 3), torch.arange(4) % 2)), 1)


def test_an_empty_stream_is_an_error() -> None:
    with pytest.raises(DataError, match="is empty"):
        make(Stream(0))


class Once(Stream):
    """Can be read once only."""

    def __init__(self) -> None:
        super().__init__()
        self.reads = 0

    def __iter__(self) -> Any:
        self.reads += 1
        return super().__iter__() if self.reads <= 2 else iter(())


def test_a_stream_that_does_not_begin_again_is_an_error() -> None:
    with pytest.raises(DataError, match="__iter__ has to begin again"):
        batches(make(Once()), 4)
