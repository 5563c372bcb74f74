"""Base conv: its packaged weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from sidetune_core.api import WeightsError
from sidetune_core.config import registry
from sidetune_core.config.kinds import BASE

Conv: Any = registry.load(registry.find(BASE, "conv"))


def test_the_packaged_weights_have_the_documented_size_and_tell_views_apart() -> None:
    base = Conv(Conv.Config(weights="packaged"), {"image": (3, 28, 28)})
    assert sum(parameter.numel() for parameter in base.parameters()) == 89_184
    encoding = base({"image": torch.rand(4, 3, 28, 28, generator=torch.Generator().manual_seed(0))}).encoding
    assert encoding.shape == (4, 64)
    assert len(encoding.unique(dim=0)) == 4


def test_the_packaged_weights_are_refused_for_other_inputs() -> None:
    with pytest.raises(
        WeightsError, match=r"conv-babyai.safetensors: .*linear.weight \(64, 1024\) in the file, \(64, 1028\)"
    ):
        Conv(Conv.Config(weights="packaged"), {"image": (3, 28, 28), "direction": (4,)})
