"""What of a state a task needs."""

from __future__ import annotations

from typing import Any

import attrs
import torch
from torch import Tensor, nn

from sidetune_core.api import Base, BufferDict, Features
from sidetune_core.serving.base_weights import BaseReference
from sidetune_core.serving.selection import Selection, refer_to_base, without_unread_buffers

REFERENCE = BaseReference("sidetune/mlp", "0" * 64, 6, 24, "component")


class Network(Base):
    """A base of one layer."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 2)

    def forward(self, inputs: Any) -> Features:
        return Features(self.linear(inputs["image"]))


def selection(**modules: nn.Module) -> Selection:
    learner: Any = nn.ModuleDict(modules)
    return Selection(("t0",), learner.state_dict(), learner)


def base_tensors(base: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in base.state_dict().items()}


def test_a_base_is_left_out_by_its_module() -> None:
    base = Network()
    reference, state = refer_to_base(
        selection(base=base, head=nn.Linear(2, 1)), REFERENCE, base_tensors(base)
    )
    assert reference == attrs.evolve(REFERENCE, modules=("base",))
    assert list(state) == ["head.weight", "head.bias"]


def test_a_base_with_layers_around_its_own_is_left_out_by_its_tensors() -> None:
    base = Network()
    tensors = base_tensors(base)
    adapted: Any = nn.ModuleDict({"inner": base.linear, "lora": nn.Linear(2, 1)})
    base.linear = adapted
    reference, state = refer_to_base(selection(base=base), REFERENCE, tensors)
    assert reference is not None
    assert reference.tensors == {
        "base.linear.inner.weight": "linear.weight",
        "base.linear.inner.bias": "linear.bias",
    }
    assert list(state) == ["base.linear.lora.weight", "base.linear.lora.bias"]


def test_a_base_of_which_one_value_changed_is_no_base() -> None:
    base = Network()
    tensors = base_tensors(base)
    with torch.no_grad():
        base.linear.bias[0] += 1
    reference, state = refer_to_base(selection(base=base), REFERENCE, tensors)
    assert reference is None
    assert list(state) == ["base.linear.weight", "base.linear.bias"]


def test_equal_tensors_outside_of_a_base_stay() -> None:
    base, head = Network(), nn.Linear(2, 2)
    head.load_state_dict(base.linear.state_dict())
    _, state = refer_to_base(selection(base=base, head=head), REFERENCE, base_tensors(base))
    assert list(state) == ["head.weight", "head.bias"]


def test_a_memory_that_is_not_read_is_left_out() -> None:
    memory, prototypes = BufferDict(), BufferDict()
    memory["images"], prototypes["mean"] = torch.ones(2), torch.ones(3)
    chosen = selection(memory=memory, prototypes=prototypes)
    kept = without_unread_buffers(chosen.learner, chosen.state, frozenset({"prototypes.mean"}))
    assert list(kept) == ["prototypes.mean"]
