"""Device, precision and memory layout."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from sidetune_core.config.option_tables import DeviceOptions
from sidetune_core.errors import OptionError
from sidetune_core.system.device import Machine, choose


def test_a_device_that_is_not_there_is_told() -> None:
    with pytest.raises(OptionError, match="--device.name abacus: "):
        choose(DeviceOptions(name="abacus"))


def test_precision_can_be_set() -> None:
    assert choose(DeviceOptions(name="cpu", precision="bf16")).bf16
    assert not choose(DeviceOptions(name="cpu", precision="fp32")).bf16


def test_automatic_precision_is_bf16_only_where_the_hardware_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for has in (False, True):
        monkeypatch.setattr(
            torch.cpu, "get_capabilities", lambda has=has: {"avx512_bf16": has}, raising=False
        )
        assert choose(DeviceOptions(name="cpu")).bf16 is has


def test_bf16_is_the_arithmetic_of_the_networks_and_not_of_the_weights() -> None:
    machine = Machine(torch.device("cpu"), bf16=True, channels_last=False)
    layer = nn.Linear(3, 2)
    machine.place(layer)
    with machine.autocast():
        assert layer(torch.ones(1, 3)).dtype == torch.bfloat16
    assert layer.weight.dtype == torch.float32


def test_channels_last_holds_for_convolutions_and_images() -> None:
    machine = Machine(torch.device("cpu"), bf16=False, channels_last=True)
    layer = nn.Conv2d(3, 4, 3)
    machine.place(layer)
    assert layer.weight.is_contiguous(memory_format=torch.channels_last)
    assert machine.move(torch.zeros(2, 3, 8, 8)).is_contiguous(memory_format=torch.channels_last)
