"""Class weights and balanced sampling."""

from __future__ import annotations

from itertools import islice

import numpy as np
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight
from torch import Tensor

from sidetune_core.interfaces.tasks import Order
from sidetune_core.supervised.sampling import balanced, class_weights

TARGETS = torch.tensor([0] * 90 + [3] * 9 + [1])[
    torch.randperm(100, generator=torch.Generator().manual_seed(0))
]
"""Of the classes 0 to 4, of which 2 and 4 have no example."""


def draw(steps: int, seed: int = 0, first_step: int = 0) -> list[Tensor]:
    return list(islice(balanced(TARGETS, Order(seed, 8, first_step), "t0"), steps))


def test_balanced_weights_are_those_of_scikit_learn() -> None:
    weights = class_weights(TARGETS, 5)
    assert weights is not None
    expected = compute_class_weight("balanced", classes=np.array([0, 1, 3]), y=TARGETS.numpy())
    assert weights[[0, 1, 3]].tolist() == pytest.approx(expected.tolist())


def test_classes_without_examples_have_no_weight_and_the_mean_is_one() -> None:
    weights = class_weights(TARGETS, 5)
    assert weights is not None
    assert weights[[2, 4]].tolist() == [0, 0]
    assert float(weights[TARGETS].mean()) == pytest.approx(1)


def test_no_weights_are_none() -> None:
    assert class_weights(TARGETS, 5, "none") is None


@pytest.mark.parametrize("step", [1, 3, 50])
def test_rows_are_a_function_of_seed_and_step(step: int) -> None:
    whole = draw(step + 3)
    torch.rand(7)  # the global generator has no effect
    assert all(map(torch.equal, draw(3, first_step=step), whole[step:]))
    assert not all(map(torch.equal, draw(step + 3, seed=1), whole))


def test_every_class_with_examples_is_drawn_equally_often() -> None:
    drawn = torch.bincount(TARGETS[torch.cat(draw(1500))], minlength=5)  # 12,000
    expected = torch.tensor([4000, 4000, 0, 4000, 0])
    assert (drawn - expected).abs().max() < 4 * (12_000 * 2 / 9) ** 0.5  # four standard deviations


def test_every_example_of_a_class_is_drawn_equally_often() -> None:
    drawn = torch.bincount(torch.cat(draw(1500)), minlength=100)
    nine = drawn[TARGETS == 3]
    assert (nine - 12_000 / 27).abs().max() < 4 * (12_000 / 27) ** 0.5
    assert drawn[TARGETS == 0].min() > 0
