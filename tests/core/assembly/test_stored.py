"""What a learner stores by kind, counted by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from sidetune_core.api import BufferDict, PluginError
from sidetune_core.assembly.stored import StoredBytes, stored_bytes
from sidetune_core.testing import sample


class Module(nn.Module):
    """Any modules and buffers by name."""

    def __init__(self, stores: str = "", **members: Any) -> None:
        super().__init__()
        if stores:
            self.stores = stores
        for name, member in members.items():
            if isinstance(member, nn.Module):
                self.add_module(name, member)
            else:
                self.register_buffer(name, member)


def rows(**tensors: torch.Tensor) -> BufferDict:
    buffers = BufferDict()
    buffers.replace(tensors)
    return buffers


IMAGES = torch.zeros(5, *sample.INPUTS["image"], dtype=torch.uint8)


def test_parameters_and_the_buffers_of_networks_are_weights() -> None:
    base = sample.TinyBase((8,))
    norm = nn.BatchNorm1d(4)
    state = [*base.state_dict().values(), *norm.state_dict().values()]
    expected = sum(tensor.numel() * tensor.element_size() for tensor in state)
    assert stored_bytes(Module(base=base, norm=norm), sample.INPUTS) == StoredBytes(weights=expected)


def test_rows_of_inputs_are_exemplars_with_their_labels_and_other_buffers_are_statistics() -> None:
    memory = rows(image=IMAGES, label=torch.zeros(5, dtype=torch.int64))
    learner = Module(memory=memory, means=rows(t0=torch.zeros(4, 8)), fisher=torch.zeros(10))
    assert stored_bytes(learner, sample.INPUTS) == StoredBytes(
        exemplars=5 * 3 * 32 * 32 + 5 * 8, statistics=4 * 32 + 40
    )


def test_a_module_that_declares_its_kind_decides_for_all_in_it() -> None:
    learner = Module(features=Module("exemplars", rows=rows(encoding=torch.zeros(5, 8))))
    assert stored_bytes(learner, sample.INPUTS) == StoredBytes(exemplars=5 * 8 * 4)
    with pytest.raises(PluginError, match=r"Module.stores is 'pictures'; it is one of weights, exemplars"):
        stored_bytes(Module("pictures"), sample.INPUTS)


def test_a_shared_tensor_counts_once_and_what_is_not_saved_does_not_count() -> None:
    layer = nn.Linear(2, 3)
    layer.register_buffer("scratch", torch.zeros(100), persistent=False)
    assert stored_bytes(Module(first=layer, second=layer), sample.INPUTS) == StoredBytes(weights=36)
