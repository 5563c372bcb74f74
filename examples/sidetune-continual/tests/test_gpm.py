"""GPM: the directions, and the outputs that stay."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from sidetune_continual.gpm import GPM, layer_columns, layers, new_directions
from torch import nn

from sidetune_core.api import ClassTask, Order

Make, Fit = Callable[..., Any], Callable[..., None]


def test_the_directions_are_the_fewest_that_keep_a_fraction_of_the_squared_norm() -> None:
    columns = torch.randn(6, 40, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    energies = torch.linalg.svdvals(columns).square()
    fraction = float((energies[:3].sum() + energies[3] / 2) / energies.sum())
    new = new_directions(columns @ columns.T, columns.new_empty(6, 0), fraction)
    u = torch.linalg.svd(columns).U[:, :4]
    torch.testing.assert_close(new @ new.T, u @ u.T)
    assert new_directions(columns @ columns.T, new, fraction).shape == (6, 0)


def test_directions_that_are_known_are_completed() -> None:
    """By the singular vectors of what the known ones leave (eq. 8), until the condition of eq. 9 holds."""
    generator = torch.Generator().manual_seed(1)
    columns = torch.randn(6, 40, generator=generator, dtype=torch.float64)
    known = torch.linalg.qr(torch.randn(6, 2, generator=generator, dtype=torch.float64)).Q
    rest = columns - known @ (known.T @ columns)
    u, values, _ = torch.linalg.svd(rest, full_matrices=False)
    kept = columns.square().sum() - rest.square().sum() + values.square().cumsum(0)
    count = int((kept < 0.9 * columns.square().sum()).sum()) + 1
    new = new_directions(columns @ columns.T, known, 0.9)
    torch.testing.assert_close(new @ new.T, u[:, :count] @ u[:, :count].T)


@pytest.mark.parametrize(
    "layer",
    [nn.Linear(5, 3, bias=False), nn.Conv2d(2, 3, 3, stride=2, padding=1, dilation=2, bias=False)],
    ids=["linear", "conv"],
)
def test_a_layer_multiplies_its_columns_by_its_weight(layer: nn.Linear | nn.Conv2d) -> None:
    inputs = torch.randn(4, 7, 5) if isinstance(layer, nn.Linear) else torch.randn(4, 2, 9, 8)
    product = layer_columns(layer, inputs) @ layer.weight.flatten(1).T  # one row for each position
    expected = layer(inputs)
    if isinstance(layer, nn.Conv2d):
        expected = expected.flatten(2).movedim(1, 2)
    torch.testing.assert_close(product, expected.flatten(0, 1))


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.Adam])
def test_the_outputs_for_earlier_examples_stay(
    optimizer: Any, make: Make, fit: Fit, tasks: list[ClassTask]
) -> None:
    """The encodings of 8 examples fill 8 of 16 directions of the last layer, all those of the first."""
    learner = make(GPM, threshold=1.0, examples=8)
    fit(learner, tasks[0], optimizer=optimizer)
    examples = next(tasks[0].train(lambda inputs: inputs["x"], Order(1, 8))).inputs
    before, weight = learner(examples, "t0"), learner.base.last.weight.clone()
    fit(learner, tasks[1], optimizer=optimizer)
    assert (learner.base.last.weight - weight).abs().max() > 1e-4
    torch.testing.assert_close(learner(examples, "t0"), before, rtol=1e-4, atol=1e-5)


def test_layers_whose_inputs_are_not_known_stay_as_they_are() -> None:
    base = nn.ModuleDict(
        {
            "attention": nn.MultiheadAttention(8, 2),
            "grouped": nn.Conv2d(4, 4, 3, groups=2),
            "same": nn.Conv2d(4, 4, 3, padding="same"),
            "linear": nn.Linear(8, 8),
        }
    )
    assert list(layers(base)) == ["linear"]
