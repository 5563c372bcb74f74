"""Buffers whose names and shapes change."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from sidetune_core.api import BufferDict
from sidetune_core.errors import WeightsError
from sidetune_core.storage import checkpoint


class Remembering(nn.Module):
    """A fixed layer, and a memory."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 3)
        self.memory = BufferDict()


def test_it_holds_the_latest_tensors() -> None:
    memory = BufferDict()
    memory["x.y"] = torch.ones(2)
    memory.replace({"a": torch.zeros(3), "b": torch.ones(1)})
    memory["a"] = torch.ones(4)
    assert {name: memory[name].tolist() for name in memory} == {"a": [1] * 4, "b": [1]}
    assert len(memory) == 2
    assert "x.y" not in memory


def test_a_state_replaces_names_and_shapes_whatever_was_held() -> None:
    first, second = Remembering(), Remembering()
    first.memory.replace({"input.x": torch.rand(5, 2), "id": torch.arange(5)})
    second.memory.replace({"id": torch.arange(9), "gone": torch.ones(1)})
    second.load_state_dict(first.state_dict())
    assert sorted(second.memory) == ["id", "input.x"]
    assert torch.equal(second.memory["input.x"], first.memory["input.x"])
    second.memory["id"] += 1
    assert first.memory["id"].tolist() == [0, 1, 2, 3, 4]


def test_a_checkpoint_of_any_size_loads(tmp_path: Path) -> None:
    first, second = Remembering(), Remembering()
    first.memory["x"] = torch.rand(7, 2)
    checkpoint.read(checkpoint.save(tmp_path, first, ["t0"], {}, {})).load(second)
    assert torch.equal(second.memory["x"], first.memory["x"])
    assert torch.equal(second.linear.weight, first.linear.weight)


def test_other_tensors_must_still_fit(tmp_path: Path) -> None:
    first, second = Remembering(), Remembering()
    first.memory["x"] = torch.rand(7, 2)
    first.linear = nn.Linear(2, 4)
    with pytest.raises(WeightsError, match="shapes differ: linear.weight"):
        checkpoint.read(checkpoint.save(tmp_path, first, ["t0"], {}, {})).load(second)
    assert len(second.memory) == 0


def test_tensors_have_the_order_of_memory_that_a_file_keeps() -> None:
    buffers, images = BufferDict(), torch.zeros(2, 3, 4, 4).contiguous(memory_format=torch.channels_last)
    buffers["one"] = images
    assert buffers["one"].is_contiguous()
    buffers.replace({"two": images})
    assert buffers["two"].is_contiguous()
    buffers.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    assert buffers["two"].is_contiguous()


def test_tensors_have_the_order_that_a_file_keeps() -> None:
    buffers = BufferDict()
    buffers.replace({"c": torch.ones(1), "a": torch.ones(1, dtype=torch.int8)})
    buffers["b"] = torch.ones(2)
    assert list(buffers) == list(buffers.state_dict()) == ["a", "b", "c"]
