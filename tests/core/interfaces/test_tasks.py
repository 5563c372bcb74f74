"""The order of a task's training examples."""

from __future__ import annotations

from itertools import islice

import pytest
import torch

from sidetune_core.interfaces.inputs import Inputs
from sidetune_core.interfaces.tasks import Batch, Order, shuffled


def draw(count: int, order: Order, batches: int, *names: object) -> list[list[int]]:
    return [indices.tolist() for indices in islice(shuffled(count, order, *names), batches)]


def test_the_order_is_deterministic() -> None:
    first = draw(10, Order(3, 4), 7, "t0")
    torch.rand(5)  # the global generator has no effect
    assert draw(10, Order(3, 4), 7, "t0") == first


def test_another_seed_gives_another_order() -> None:
    assert draw(50, Order(0, 50), 1, "t0") != draw(50, Order(1, 50), 1, "t0")


def test_another_name_gives_another_order() -> None:
    assert draw(50, Order(0, 50), 1, "t0") != draw(50, Order(0, 50), 1, "t1")


@pytest.mark.parametrize("first_step", [1, 2, 3, 5, 11])
@pytest.mark.parametrize("batch_size", [1, 4, 5, 10, 23])
def test_beginning_at_a_step_equals_skipping_the_ones_before(batch_size: int, first_step: int) -> None:
    whole = draw(10, Order(0, batch_size), first_step + 6, "t0")
    assert draw(10, Order(0, batch_size, first_step), 6, "t0") == whole[first_step:]


@pytest.mark.parametrize("batch_size", [1, 3, 10, 25])
def test_every_epoch_has_every_example_once(batch_size: int) -> None:
    drawn = sum(draw(10, Order(0, batch_size), 60 // batch_size, "t0"), [])
    epochs = [drawn[first : first + 10] for first in range(0, len(drawn) - 9, 10)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)


def test_two_epochs_differ() -> None:
    first, second = draw(50, Order(0, 50), 2, "t0")
    assert first != second


def test_no_batch_is_incomplete() -> None:
    assert {len(batch) for batch in draw(10, Order(0, 7), 20, "t0")} == {7}


def test_a_batch_may_be_larger_than_the_set() -> None:
    (batch,) = draw(3, Order(0, 8), 1, "t0")
    assert sorted(batch[:3]) == sorted(batch[3:6]) == [0, 1, 2]


@pytest.mark.parametrize(
    "index", [slice(1, 3), torch.tensor([1, 2]), torch.tensor([False, True, True, False])]
)
def test_some_rows_of_a_batch_keep_everything_of_their_examples(index: slice | torch.Tensor) -> None:
    ids = torch.arange(4)
    batch = Batch(ids, Inputs({"x": ids[:, None] * 2.0}, ids + 10, ids + 20, window=5), ids * 3)
    rows = batch.rows(index)
    assert (rows.ids.tolist(), rows.targets.tolist()) == ([1, 2], [3, 6])
    assert rows.inputs["x"].tolist() == [[2.0], [4.0]]
    assert rows.inputs.ids is not None
    assert rows.inputs.ids.tolist() == [11, 12]
    assert rows.inputs.lengths is not None
    assert rows.inputs.lengths.tolist() == [21, 22]
    assert rows.inputs.window == 5


def test_rows_of_inputs_without_ids_have_none() -> None:
    rows = Inputs({"x": torch.zeros(4, 2)}).rows(slice(2))
    assert (rows.ids, rows.lengths, len(rows["x"])) == (None, None, 2)
