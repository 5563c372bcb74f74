"""Layers and statistics that bases and sides share."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from sidetune_core.interfaces.layers import (
    flat_size,
    flatten_inputs,
    init_orthogonal,
    register_image_stats,
)


def test_inputs_are_concatenated_in_alphabetical_order_without_the_excluded_one() -> None:
    inputs = {"b": torch.tensor([[3.0]]), "image": torch.zeros(1, 3, 2, 2), "a": torch.tensor([[[1.0, 2.0]]])}
    assert flatten_inputs(inputs, exclude="image").tolist() == [[1.0, 2.0, 3.0]]
    shapes = {name: tuple(value.shape[1:]) for name, value in inputs.items()}
    assert flat_size(shapes) == flatten_inputs(inputs).shape[1] == 15
    assert flat_size(shapes, exclude="image") == 3


@pytest.mark.parametrize("bias", [True, False])
def test_orthogonal_rows_have_the_norm_of_the_gain(bias: bool) -> None:
    layer = init_orthogonal(nn.Linear(5, 3, bias=bias))
    torch.testing.assert_close(layer.weight @ layer.weight.T, 2 * torch.eye(3))
    assert layer.bias is None or not layer.bias.any()


def test_image_statistics_are_buffers_outside_the_state_dict() -> None:
    module = nn.Module()
    register_image_stats(module, (0.5,), (0.25,))
    assert {name: value.tolist() for name, value in module.named_buffers()} == {
        "mean": [[[0.5]]],
        "std": [[[0.25]]],
    }
    assert not module.state_dict()
