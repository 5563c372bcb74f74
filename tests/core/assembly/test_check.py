"""Whether components fit, with a blank example."""

from __future__ import annotations

from collections.abc import Mapping

import attrs
import pytest
import torch
from torch import Tensor, nn

from sidetune_core import api
from sidetune_core.assembly import check
from sidetune_core.config import registry
from sidetune_core.config.kinds import BASE, SIDE
from sidetune_core.config.resolve import ResolvedComponent


class Copied(api.Side):
    """A side that needs the values of weights, as copies of a traced base do."""

    @attrs.frozen
    class Config:
        """No options."""

    def __init__(self, config: Config, inputs: api.InputShapes, base: api.Base) -> None:
        super().__init__()
        self.layer = nn.Linear(3 * 32 * 32, base.shape[0])
        self.scale = self.layer.weight.abs().max().item()

    def forward(self, inputs: Mapping[str, Tensor], features: api.Features) -> Tensor:
        """(B, C)."""
        encoding: Tensor = self.layer(inputs["image"].flatten(1)) / self.scale
        return encoding


def test_a_large_side_that_needs_values_does_not_fit_where_it_may_take_no_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cls = registry.load(plugin := registry.find(BASE, "resnet20"))
    base = ResolvedComponent(plugin, cls, cls.Config(weights="none"))
    blank = check.make_blank_base(base, {"image": (3, 32, 32)})
    side = ResolvedComponent(registry.find(SIDE, "conv"), Copied, Copied.Config())
    monkeypatch.setattr(check, "MAX_ALLOCATED", 1000)
    with pytest.raises(api.FitError, match="side 'conv' .*cannot be checked without memory for its weights"):
        check.check_side(side, blank, allocate=False)
    assert check.check_side(side, blank)(blank.blank, blank.features).device == torch.device("cpu")
