"""What modules keep in plain attributes is found by name."""

from __future__ import annotations

import torch
from torch import nn

from sidetune_core.testing import attributes


class Holder(nn.Module):
    """Keeps a layer in a list, one under two names, an optimiser, and some tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = [nn.Linear(2, 2)]
        self.net = self.alias = nn.Linear(2, 2)
        self.steps = {"adam": torch.optim.Adam(self.net.parameters())}
        self.log = [torch.zeros(1), torch.zeros(1)]

    def forward(self, x: torch.Tensor) -> bool:
        return self.training


def test_modules_in_a_list_are_not_registered() -> None:
    (found,) = attributes.unregistered(Holder())
    assert found == "layers[0] holds a Linear in a plain list: use nn.ModuleList or nn.ModuleDict"


def test_a_module_under_two_names() -> None:
    assert attributes.registered_twice(Holder()) == ["net and alias"]


def test_optimisers_in_containers() -> None:
    assert attributes.optimizers(Holder()) == ["steps['adam']"]


def test_tensors_are_counted_by_attribute() -> None:
    assert attributes.counts(Holder())["log"] == 2


def test_reads_of_the_training_flag_are_noted_while_it_is_not_set() -> None:
    module = Holder().eval()
    with attributes.watched_training(module) as reads:
        module(torch.zeros(1))
        module.train()
        module(torch.zeros(1))
    assert len(reads) == 1
    assert reads[0].startswith("test_attributes.py, line ")
    assert type(module) is Holder
