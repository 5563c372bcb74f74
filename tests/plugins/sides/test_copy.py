"""The copy of the base as a side."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from sidetune_core.api import Base, Features, Inputs, Side
from sidetune_core.config.kinds import SIDE
from sidetune_core.config.registry import find, load
from sidetune_core.feature_cache.cache import FeatureCache


class Small(Base):
    """Linear and batch norm, (5,) to (4,)."""

    shape = (4,)

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(5, 4)
        self.norm = nn.BatchNorm1d(4)

    def forward(self, inputs: Mapping[str, Tensor]) -> Features:
        return Features(self.norm(self.linear(inputs["x"])))


def make(base: Base) -> Side:
    cls = load(find(SIDE, "copy"))
    side: Side = cls(cls.Config(), {"x": (5,)}, base)
    return side


def test_initially_it_computes_what_the_base_computes() -> None:
    base = Small().eval()
    side = make(base).eval()
    inputs = {"x": torch.randn(3, 5)}
    assert torch.equal(side(inputs, base(inputs)), base(inputs).encoding)


def test_training_it_leaves_the_base_unchanged() -> None:
    base = Small().eval().requires_grad_(False)
    before = copy.deepcopy(base.state_dict())
    side = make(base).requires_grad_(True).train()
    start = copy.deepcopy(side.state_dict())
    optimizer = torch.optim.SGD(side.parameters(), lr=0.1)
    side({"x": torch.randn(8, 5)}, Features(torch.zeros(0))).square().sum().backward()
    optimizer.step()
    assert all(torch.equal(value, before[key]) for key, value in base.state_dict().items())
    assert not any(
        torch.equal(value, start[key])
        for key, value in side.state_dict().items()
        if "linear" in key or "running" in key
    )


def test_it_shares_no_memory_with_the_base() -> None:
    base = Small()
    pointers = {tensor.data_ptr() for tensor in make(base).state_dict().values()}
    assert pointers.isdisjoint(tensor.data_ptr() for tensor in base.state_dict().values())


def test_it_does_not_keep_the_base() -> None:
    base = Small()
    assert all(module is not base for module in make(base).modules())


def test_it_has_no_cache_even_if_the_base_has_one() -> None:
    base = Small().eval().requires_grad_(False)
    cache = FeatureCache(2**20, taps=(), info=print)
    cache.attach(base, "fp32")
    inputs = Inputs({"x": torch.randn(3, 5)}, torch.arange(3))
    base(inputs)
    side: Any = make(base)
    assert side.network.cache is None
    assert base.cache is not None
    side.network.linear.weight.data.zero_()
    assert not torch.equal(side(inputs, base(inputs)), base(inputs).encoding)


def test_the_cached_outputs_are_not_copied() -> None:
    base = Small().eval().requires_grad_(False)
    messages: list[str] = []

    class NoCopies(FeatureCache):
        def __deepcopy__(self, _: dict[int, object]) -> FeatureCache:
            raise AssertionError("the cache was copied")

    NoCopies(2**20, taps=(), info=messages.append).attach(base, "fp32")
    make(base)
