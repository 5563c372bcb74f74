from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from sidetune_core import load
from sidetune_core.errors import WeightsError
from sidetune_core.serving.allocation import count_elements, limited

from .conftest import alter


def test_what_a_state_needs_is_allocated() -> None:
    with limited(10, "run"):
        assert torch.nn.Linear(100, 100).weight.shape == (100, 100)


def test_far_more_than_a_state_needs_is_refused_before_it_is_allocated() -> None:
    larger = pytest.raises(WeightsError, match="run asks for a network that is far larger than its tensors")
    with larger, limited(10, "run"):
        torch.empty(2**50)


def test_nothing_is_allocated_on_the_meta_device() -> None:
    with limited(0, "run"):
        assert torch.empty(2**50, device="meta").numel() == 2**50


def test_far_more_tensors_than_a_state_has_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sidetune_core.serving.allocation.SPARE_TENSORS", 10)
    with limited(0, "run", tensors=1):
        torch.nn.Sequential(*(torch.nn.Linear(1, 1) for _ in range(13)))
    with pytest.raises(WeightsError, match="far larger than its tensors"), limited(0, "run", tensors=1):
        torch.nn.Sequential(*(torch.nn.Linear(1, 1) for _ in range(14)))


def test_tensors_of_a_state_are_counted() -> None:
    assert count_elements({"weight": torch.zeros(2, 3), "extra": 4}) == 6


def test_an_adapter_with_an_absurd_side_is_not_built(adapter: Path) -> None:
    side = {"name": "mlp", "options": {"width": 10**7}}
    alter(adapter, lambda values: values["spec"].update(side=side))
    with pytest.raises(WeightsError, match="far larger than its tensors"):
        load(adapter)


def test_an_adapter_with_an_absurd_base_is_not_built(adapter: Path) -> None:
    def change(values: dict[str, Any]) -> None:
        values["spec"]["base"] = {"name": "mlp", "options": {"width": 10**7}}
        values["base"]["weights"] = "component"

    alter(adapter, change)
    with pytest.raises(WeightsError, match="far larger than its tensors"):
        load(adapter)


def test_an_adapter_with_a_base_of_absurd_depth_is_not_built(
    adapter: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sidetune_core.serving.allocation.SPARE_TENSORS", 100)

    def change(values: dict[str, Any]) -> None:
        values["spec"]["base"] = {"name": "mlp", "options": {"width": 1, "layers": 10**12}}
        values["base"]["weights"] = "component"

    alter(adapter, change)
    (adapter / "base.safetensors").unlink()
    alter(adapter, lambda values: values["files"].pop("base.safetensors"))
    with pytest.raises(WeightsError, match="far larger than its tensors"):
        load(adapter)
