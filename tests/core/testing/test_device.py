"""The pretended GPU fails where a GPU would, and nowhere else."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn

from sidetune_core.testing.device import PretendedGpu, half_precision
from sidetune_core.testing.findings import Broken

CPU = torch.ones(3)


@pytest.fixture
def x() -> Iterator[Tensor]:
    """(2, 3), on a pretended GPU."""
    with PretendedGpu() as gpu:
        yield gpu.copy(torch.rand(2, 3))


FAILS: dict[str, Callable[[Tensor], object]] = {
    "a new tensor": lambda x: x + torch.zeros(3),
    "an old tensor": lambda x: x * CPU,
    "an index into the CPU": lambda x: CPU[x[0].long()],
    "values for a mask": lambda x: x.clone().__setitem__(x > 2, torch.zeros(0)),
    "NumPy": lambda x: x.numpy(),
    "cuda()": lambda x: x.cuda(),
    "after cpu()": lambda x: x.cpu() + x,
}
WORKS: dict[str, Callable[[Tensor], object]] = {
    "a tensor on its device": lambda x: x + torch.zeros(3, device=x.device),
    "a tensor that is moved": lambda x: x * CPU.to(x.device) + CPU.to(x),
    "a number": lambda x: x + torch.tensor(1.0),
    "an index on the CPU": lambda x: x[torch.tensor([0, 1])],
    "a number for a mask": lambda x: x.clone().__setitem__(x > 0, 3),
    "cpu()": lambda x: (x.cpu() + CPU).numpy(),
    "like it": lambda x: x + torch.zeros_like(x) + x.new_zeros(3),
    "a functional transform": lambda x: torch.func.vmap(lambda row: row.sum())(x),
}


@pytest.mark.parametrize("operation", FAILS.values(), ids=FAILS)
def test_what_fails_on_a_gpu_fails(operation: Callable[[Tensor], object], x: Tensor) -> None:
    with pytest.raises(Broken):
        operation(x)


@pytest.mark.parametrize("operation", WORKS.values(), ids=WORKS)
def test_what_works_on_a_gpu_works(operation: Callable[[Tensor], object], x: Tensor) -> None:
    operation(x)


def test_the_message_has_the_line_and_a_remedy(x: Tensor) -> None:
    with pytest.raises(
        Broken, match=r"add \(test_device.py, line \d+\).*\(3,\) is on the CPU.*register_buffer"
    ):
        _ = x + torch.ones(3)


def test_weights_of_a_module_are_moved_and_gradients_follow() -> None:
    layer = nn.Linear(3, 2)
    with PretendedGpu() as gpu:
        gpu.place(layer)
        layer(gpu.copy(torch.rand(2, 3))).sum().backward()
        assert layer.weight.grad is not None
        assert gpu.holds(layer.weight.grad)


def test_functions_without_a_kernel_for_half_precision_fail() -> None:
    with half_precision(), pytest.raises(Broken, match="fft_fft of a torch.bfloat16 tensor"):
        torch.fft.fft(nn.Linear(4, 4)(torch.rand(2, 4)))


def test_functions_that_are_given_float32_work() -> None:
    with half_precision():
        assert torch.fft.fft(nn.Linear(4, 4)(torch.rand(2, 4)).float()).shape == (2, 4)
