"""Batches and predictions name their task, so that any ids may be used in every task."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from sidetune_core.api import Batch, ClassTask, Inputs, Order, Predict
from sidetune_core.feature_cache.cache import FeatureCache
from sidetune_core.testing import sample
from sidetune_core.testing.state import changed, snapshot

from .conftest import Plain, Training


def renumber(task: ClassTask, first: int) -> ClassTask:
    """Give the examples of a task the ids ``first + 10**10 * k``, the same in both tasks of the kit."""
    train = task.train

    def ids_of(batch: Batch) -> Batch:
        rows = torch.tensor([first + 10**10 * int(id // 4 * 2 + id % 2) for id in batch.ids])
        return Batch(rows, Inputs(batch.inputs.tensors, rows), batch.targets)

    def batches(predict: Predict, order: Order) -> Iterator[Batch]:
        return map(ids_of, train(predict, order))

    task.train = batches  # type: ignore[method-assign]
    return task


@pytest.mark.parametrize("first", [0, -(2**40), 2**34], ids=["small", "negative", "large"])
def test_tasks_with_the_same_ids_do_not_get_each_others_features(first: int, training: Training) -> None:
    def train(name: str, cache: FeatureCache | None) -> Plain:
        learner = training.make(Plain)
        tasks = [renumber(task, first) for task in sample.tasks()]
        training.learn(learner, name, tasks, cache=cache)
        return learner

    cache = FeatureCache(2**26, taps=(), info=print)
    assert not changed(snapshot(train("cached", cache)), snapshot(train("plain", None)))
    assert cache.used
