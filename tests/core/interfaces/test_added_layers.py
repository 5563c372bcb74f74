"""Layers that are added to frozen ones, and which layers a network calls."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from sidetune_core.api import called_layers, largest_rank, low_rank_update, parallel_adapter


class Sum(nn.Module):
    """A layer and what is added to it."""

    def __init__(self, layer: nn.Module, added: nn.Module) -> None:
        super().__init__()
        self.layer, self.added = layer, added

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.layer(x) + self.added(x)
        return output


def trained(layer: nn.Module, added: nn.Module | None) -> Sum:
    """The layer with what is added to it, and random weights in that."""
    assert added is not None
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in added.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return Sum(layer, added)


CONVS = [
    {"kernel_size": 3, "padding": 1, "stride": 2},
    {"kernel_size": 3, "padding": 0, "stride": 2},
    {"kernel_size": (5, 3), "padding": (1, 3), "dilation": (1, 2), "bias": False},
    {"kernel_size": 3, "padding": "same", "groups": 2},
    {"kernel_size": 5, "padding": "valid"},
]


@pytest.mark.parametrize("options", CONVS, ids=str)
def test_an_adapter_of_a_convolution_adds_to_the_centre_of_its_kernel(options: dict[str, Any]) -> None:
    conv = nn.Conv2d(4, 6, **options)
    both = trained(conv, parallel_adapter(conv, 8))
    merged = copy.deepcopy(conv)
    (own,) = both.added.parameters()
    height, width = conv.kernel_size
    with torch.no_grad():
        merged.weight[:, :, height // 2, width // 2] += own[:, :, 0, 0]
        x = torch.randn(2, 4, 9, 11)
        torch.testing.assert_close(both(x), merged(x))


def test_a_convolution_of_one_pixel_has_no_adapter() -> None:
    assert parallel_adapter(nn.Conv2d(4, 6, 1), 8) is None


def test_an_adapter_of_a_linear_layer_is_a_bottleneck_with_relu() -> None:
    linear = nn.Linear(4, 6)
    both = trained(linear, parallel_adapter(linear, 3))
    down, up = both.added[0], both.added[2]  # type: ignore[index]
    x = torch.randn(5, 7, 4)
    inner = (x @ down.weight.T + down.bias).clamp(min=0)
    expected = x @ linear.weight.T + linear.bias + inner @ up.weight.T + up.bias
    torch.testing.assert_close(both(x), expected)
    assert inner.shape[-1] == 3


@pytest.mark.parametrize("options", [one for one in CONVS if "groups" not in one], ids=str)
def test_a_low_rank_update_of_a_convolution_is_one_of_its_kernel(options: dict[str, Any]) -> None:
    conv = nn.Conv2d(4, 6, **options)
    both = trained(conv, low_rank_update(conv, 2))
    a, b = both.added.parameters()
    merged = copy.deepcopy(conv)
    with torch.no_grad():
        merged.weight += torch.einsum("or,rihw->oihw", b[:, :, 0, 0], a)
        x = torch.randn(2, 4, 9, 11)
        torch.testing.assert_close(both(x), merged(x), rtol=1e-4, atol=1e-5)


def test_a_low_rank_update_of_a_linear_layer_is_ba() -> None:
    linear = nn.Linear(4, 6)
    both = trained(linear, low_rank_update(linear, 2))
    a, b = both.added.parameters()
    x = torch.randn(5, 4)
    torch.testing.assert_close(both(x), functional.linear(x, linear.weight + b @ a, linear.bias))


def test_a_convolution_in_groups_has_no_low_rank_update() -> None:
    assert low_rank_update(nn.Conv2d(4, 6, 3, groups=2), 2) is None


@pytest.mark.parametrize("make", [parallel_adapter, low_rank_update])
@pytest.mark.parametrize("layer", [nn.Linear(4, 6), nn.Conv2d(4, 6, 3)], ids=str)
def test_at_first_what_is_added_is_zero_and_has_a_gradient(make: Any, layer: nn.Module) -> None:
    added = make(layer, 2)
    x = torch.randn(2, 4, 5, 4 if isinstance(layer, nn.Linear) else 5)
    output = added(x)
    assert not output.any()
    output.sum().backward()
    assert any(parameter.grad.any() for parameter in added.parameters())


class Attention(nn.Module):
    """A linear layer, attention, which reads the weights of a layer of its own, and a layer without use."""

    def __init__(self) -> None:
        super().__init__()
        self.unused, self.first = nn.Linear(4, 4), nn.Linear(4, 4)
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        queries = self.first(x)
        output: Tensor = self.attention(queries, queries, queries)[0]
        return output


def test_layers_whose_weights_alone_are_read_are_not_called() -> None:
    network = Attention()
    assert called_layers(network, lambda: network(torch.zeros(1, 3, 4))) == ["first"]
    assert not any(module._forward_hooks for module in network.modules())


def test_the_largest_rank_is_that_of_the_widest_layer() -> None:
    layers = [nn.Linear(4, 6), nn.Conv2d(1, 9, 3), nn.ReLU()]
    assert largest_rank(layers) == 9
    assert largest_rank([nn.ReLU()]) == 0
