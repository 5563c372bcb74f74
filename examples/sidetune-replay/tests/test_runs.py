"""Whole runs: micro-batches, processes, and resuming."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

Train = Callable[..., list[dict[str, Tensor]]]

pytestmark = [
    pytest.mark.skipif(os.name != "posix", reason="forks processes"),
    pytest.mark.parametrize("learner", ["er", "derpp"]),
]


def test_micro_batches_give_the_weights_of_one_batch(learner: str, train: Train) -> None:
    whole, parts = train(learner), train(learner, batch_size=4, accumulate=2)
    torch.testing.assert_close(parts, whole, rtol=1e-4, atol=1e-6)


def test_two_processes_give_the_weights_of_one(learner: str, train: Train) -> None:
    """With batch norm, dropout and batches of odd size."""
    one, two = (
        train(learner, base="dropping:DropBase", processes=processes, batch_size=3, accumulate=2)
        for processes in (1, 2)
    )
    torch.testing.assert_close(two, one, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("batches", [4, 15])
def test_a_killed_run_resumes_to_the_same_bits(learner: str, batches: int, train: Train) -> None:
    """Killed in each of the tasks."""
    options = {"base": "dropping:DropBase", "batch_size": 4, "accumulate": 2}
    whole, resumed = train(learner, **options), train(learner, stop_after=batches, **options)
    torch.testing.assert_close(resumed, whole, rtol=0, atol=0)
