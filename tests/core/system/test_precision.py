"""The cost of networks, the rule of the precision, and convolutions for which bfloat16 is wrong."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from sidetune_core.config.option_tables import DeviceOptions
from sidetune_core.errors import OptionError
from sidetune_core.system.device import Machine, choose, narrow_note, recorded_precisions
from sidetune_core.system.precision import Cost, CostMeter, Precisions, is_narrow

CPU = torch.device("cpu")
MIXED = Precisions("bf16", "fp32")


@pytest.fixture(params=(True, False), ids=("with units", "without units"))
def has_units(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    has = bool(request.param)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": has}, raising=False)
    return has


def test_the_cost_of_layers_is_that_of_the_closed_form() -> None:
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1, groups=1),
        nn.ReLU(),
        nn.ConvTranspose2d(8, 4, 2, stride=2),
        nn.Flatten(),
        nn.Linear(4 * 36, 5),
    )
    meter = CostMeter()
    with torch.no_grad(), meter.counting(network, "net"):
        network(torch.zeros(1, 3, 6, 6))
    convolution, transposed, linear = 8 * 9 * 3 * 9, 8 * 9 * 4 * 4, 4 * 36 * 5
    assert meter.cost == Cost(convolution + transposed + linear, 8 * 9 + 4 * 36 + 5)
    assert not any(module._forward_hooks for module in network.modules())


class Borrowing(nn.Module):
    """A layer of its own, one that it does not train, and one of another network, which it does not own."""

    def __init__(self, other: nn.Linear) -> None:
        super().__init__()
        self.own, self.frozen = nn.Linear(4, 5), nn.Linear(5, 6).requires_grad_(False)
        self.__dict__["other"] = other

    def forward(self, inputs: Tensor) -> Tensor:
        output: Tensor = self.__dict__["other"](self.frozen(self.own(inputs)))
        return output


def test_a_training_step_adds_two_gradients_for_own_layers_and_one_for_the_others() -> None:
    network, meter = Borrowing(nn.Linear(6, 7)), CostMeter()
    with meter.counting(network, "net"):
        network(torch.zeros(1, 4))
    assert meter.cost.madds == 4 * 5 + 5 * 6 + 6 * 7
    assert meter.training == 3 * 4 * 5 + 2 * (5 * 6 + 6 * 7)
    assert meter.covers(network)


@pytest.mark.parametrize(
    ("network", "inputs", "covered"),
    [
        (nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 5)), torch.zeros(1, 3, dtype=torch.long), True),
        (nn.Sequential(nn.Linear(3, 3), nn.GRUCell(3, 3)), torch.zeros(1, 3), False),
        (nn.TransformerEncoderLayer(4, 2, 8), torch.zeros(1, 1, 4), False),
    ],
    ids=("embedding", "gru", "attention"),
)
def test_a_network_that_multiplies_by_other_matrices_is_not_covered(
    network: nn.Module, inputs: Tensor, covered: bool
) -> None:
    meter = CostMeter()
    with torch.no_grad(), meter.counting(network, "net"):
        network.eval()(inputs)
    assert meter.covers(network) is covered


def test_bf16_is_for_networks_that_compute_much_for_each_value() -> None:
    assert Cost(97_000_000, 416_000).best_precision == "bf16"  # resnet44
    assert Cost(1_650_000, 23_000).best_precision == "fp32"  # fcn4
    assert Cost(330_000, 1_100).best_precision == "fp32"  # too small


@pytest.mark.parametrize(
    ("conv", "shape", "expected"),
    [
        (nn.Conv2d(4, 8, 3, 2, 1), (4, 5, 1), True),
        (nn.Conv2d(4, 8, 3, 2, 1), (4, 5, 2), True),
        (nn.Conv2d(4, 8, 3, 2, 1), (4, 1, 3), False),
        (nn.Conv2d(4, 8, 3, 1, 1), (4, 5, 1), False),
        (nn.Conv2d(4, 8, 1, 2), (4, 5, 1), False),
        (nn.Conv2d(4, 8, 3, (2, 1), 1), (4, 5, 1), False),
        (nn.Conv2d(4, 8, (1, 3), (1, 2), (0, 1)), (4, 5, 1), True),
        (nn.Conv1d(4, 8, 3, 2, 1), (4, 1), True),
        (nn.ConvTranspose2d(4, 8, 3, 2, 1), (4, 5, 1), True),
        (nn.ConvTranspose2d(4, 8, 3, 2, 1), (4, 5, 2), False),
    ],
)
def test_a_stride_along_maps_of_one_value_is_found(
    conv: nn.Conv2d, shape: tuple[int, ...], expected: bool
) -> None:
    inputs = torch.zeros(2, *shape)
    assert is_narrow(conv, inputs, conv(inputs)) is expected


@pytest.mark.parametrize("base", [False, True])
@pytest.mark.parametrize("bf16", [False, True])
def test_the_precisions_are_read_back_from_the_text_of_a_machine(bf16: bool, base: bool) -> None:
    machine = Machine(CPU, bf16, channels_last=True, base_bf16=base)
    recorded = recorded_precisions(str(machine))
    assert recorded == Precisions("bf16" if base else "fp32", "bf16" if bf16 else "fp32")


def test_a_text_without_a_precision_has_none() -> None:
    assert recorded_precisions("") is recorded_precisions("cpu, channels last") is None


def test_automatic_precisions_are_the_preferred_ones_where_the_cpu_has_units(has_units: bool) -> None:
    machine = choose(DeviceOptions(name="cpu"), preferred=MIXED)
    assert (machine.base_bf16, machine.bf16) == (has_units, False)
    expected = "cpu, base bf16, trained fp32, channels last" if has_units else "cpu, fp32, channels last"
    assert str(machine) == expected


def test_an_option_sets_both_precisions_and_another_that_of_the_base() -> None:
    both = choose(DeviceOptions(name="cpu", precision="bf16"), preferred=MIXED)
    assert both.base_bf16
    assert both.bf16
    assert both.base_arithmetic is None
    mixed = choose(DeviceOptions(name="cpu", precision="fp32", base_precision="bf16"))
    assert (mixed.base_arithmetic, mixed.arithmetic, mixed.coarsest_arithmetic) == ("bf16", "fp32", "bf16")


def test_a_base_that_is_trained_has_no_precision_of_its_own() -> None:
    trained = Precisions("fp32", "fp32", base_is_trained=True)
    with pytest.raises(OptionError, match="trains the base.*pass --device.precision bf16"):
        choose(DeviceOptions(name="cpu", precision="fp32", base_precision="bf16"), preferred=trained)


def test_bf16_is_refused_where_its_gradients_are_wrong() -> None:
    narrow = Precisions("fp32", "fp32", ("side.conv3", "side.conv4"))
    with pytest.raises(OptionError, match=r"side.conv3 and 1 further layer\); pass --device.precision fp32"):
        choose(DeviceOptions(name="cpu", precision="bf16"), preferred=narrow)
    assert not choose(DeviceOptions(name="cpu"), preferred=narrow).bf16


def test_a_run_says_why_it_is_trained_in_fp32(has_units: bool) -> None:
    machine = Machine(CPU, bf16=False, channels_last=True)
    note = narrow_note(machine, DeviceOptions(), ("side.conv3",))
    assert note.startswith("trained in fp32: on a CPU, PyTorch computes") is has_units
    assert narrow_note(machine, DeviceOptions(precision="fp32"), ("side.conv3",)) == ""
    assert narrow_note(machine, DeviceOptions(), ()) == ""


def test_a_recorded_run_in_bf16_with_wrong_gradients_is_warned() -> None:
    machine = Machine(CPU, bf16=True, channels_last=True)
    assert narrow_note(machine, DeviceOptions(), ("base.conv",)).startswith("warning: on a CPU, PyTorch")
