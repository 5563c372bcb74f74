"""The device, precision and memory layout of a run."""

from __future__ import annotations

import platform
import resource
import sys
from contextlib import AbstractContextManager, suppress
from pathlib import Path

import attrs
import torch
from torch import Tensor, nn

from sidetune_core.config.spec import DeviceOptions
from sidetune_core.errors import OptionError
from sidetune_core.interfaces.inputs import Inputs
from sidetune_core.interfaces.tasks import Batch


@attrs.frozen
class Machine:
    """Device, precision and memory layout, chosen once for a run."""

    device: torch.device
    bf16: bool
    channels_last: bool

    @property
    def memory_format(self) -> torch.memory_format:
        return torch.channels_last if self.channels_last else torch.contiguous_format

    @property
    def arithmetic(self) -> str:
        """``bf16`` or ``fp32``."""
        return "bf16" if self.bf16 else "fp32"

    def autocast(self) -> AbstractContextManager[object]:
        """The autocast context of forward passes."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16)

    def place(self, module: nn.Module) -> None:
        """Move a module to the device, convolutions in the memory format."""
        module.to(self.device)
        module.to(memory_format=self.memory_format)

    def move(self, value: Tensor) -> Tensor:
        """A tensor on the device, images (B, C, H, W) in the memory format."""
        if value.ndim == 4:
            return value.to(self.device, non_blocking=True, memory_format=self.memory_format)
        return value.to(self.device, non_blocking=True)

    def move_batch(self, batch: Batch, task_id: str | None = None) -> Batch:
        """A batch of a task on the device; example ids stay on the CPU."""
        return Batch(batch.ids, self.move_inputs(batch.inputs, task_id), self.move(batch.targets))

    def move_inputs(self, inputs: Inputs, task_id: str | None = None) -> Inputs:
        """Inputs of a task on the device; their ids and lengths stay where they are."""
        tensors = {name: self.move(value) for name, value in inputs.items()}
        return attrs.evolve(inputs, tensors=tensors, task=task_id)

    def peak_memory(self) -> int:
        """Peak memory in bytes: of the GPU, or the resident set of this process, mapped files included."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device)
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return most if sys.platform == "darwin" else most * 1024

    def __str__(self) -> str:
        name = torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else self.device.type
        return f"{name}, {self.arithmetic}, {'channels last' if self.channels_last else 'channels first'}"


def choose(options: DeviceOptions, local: int | None = None) -> Machine:
    """The device that the options request.

    Args:
        options: device, precision and memory layout.
        local: rank of this process on this computer, where each process has its own GPU; None for a single
            one.

    Raises:
        OptionError: this computer has no such device.
    """
    name = options.name
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if local is not None and name.startswith("cuda"):
        if name != "cuda":
            raise OptionError(
                f"--device.name {name}: each of several processes uses its own GPU; write 'cuda' or 'cpu'"
            )
        name = f"cuda:{local}"
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise OptionError(f"--device.name {options.name}: {str(error).splitlines()[0]}") from error
    bf16 = options.precision == "bf16" or (options.precision == "auto" and _has_bf16_units(device))
    channels_last = (
        options.channels_last if options.channels_last is not None else device.type in ("cpu", "cuda")
    )
    return Machine(device, bf16, channels_last)


def processor() -> str:
    """The model of this computer's processor, on which rounding depends; empty where it is not known."""
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        models = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
        return next(models, platform.machine())
    return platform.processor()


def _has_bf16_units(device: torch.device) -> bool:
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type == "cpu" and hasattr(torch.cpu, "get_capabilities"):  # torch 2.12 and later
        found = torch.cpu.get_capabilities()
        return bool(found.get("avx512_bf16") or found.get("amx_bf16"))
    return False
