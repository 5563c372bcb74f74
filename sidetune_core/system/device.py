"""The device, precision and memory layout of a run."""

from __future__ import annotations

import platform
import resource
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager, suppress
from pathlib import Path

import attrs
import torch
from torch import Tensor, nn

from sidetune_core.config.option_tables import DeviceOptions
from sidetune_core.errors import OptionError
from sidetune_core.interfaces.inputs import Inputs
from sidetune_core.interfaces.tasks import Batch
from sidetune_core.system.precision import Precision, Precisions


@attrs.frozen
class Machine:
    """Device, precision and memory layout, chosen once for a run."""

    device: torch.device
    bf16: bool
    """Whether the networks that are trained, and all around them, run in bfloat16."""
    channels_last: bool
    base_bf16: bool = attrs.field(default=attrs.Factory(lambda self: self.bf16, takes_self=True))
    """Whether a frozen base does."""

    @property
    def memory_format(self) -> torch.memory_format:
        return torch.channels_last if self.channels_last else torch.contiguous_format

    @property
    def arithmetic(self) -> Precision:
        """``bf16`` or ``fp32``."""
        return "bf16" if self.bf16 else "fp32"

    @property
    def base_arithmetic(self) -> Precision | None:
        """The precision of a frozen base; None if it is that of everything else."""
        if self.base_bf16 == self.bf16:
            return None
        return "bf16" if self.base_bf16 else "fp32"

    @property
    def coarsest_arithmetic(self) -> Precision:
        """The precision that bounds the rounding of outputs."""
        return "bf16" if self.bf16 or self.base_bf16 else "fp32"

    def autocast(self) -> AbstractContextManager[object]:
        """The autocast context of forward passes; a frozen base has its own (see `Base._precision`)."""
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
        context = {name: self.move(value) for name, value in inputs.context.items()}
        return attrs.evolve(inputs, tensors=tensors, task=task_id, context=context)

    def peak_memory(self) -> int:
        """Peak memory in bytes: of the GPU, or the resident set of this process, mapped files included."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device)
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return most if sys.platform == "darwin" else most * 1024

    def __str__(self) -> str:
        name = torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else self.device.type
        base = self.base_arithmetic
        precision = self.arithmetic if base is None else f"base {base}, trained {self.arithmetic}"
        return f"{name}, {precision}, {'channels last' if self.channels_last else 'channels first'}"


def choose(options: DeviceOptions, local: int | None = None, preferred: Precisions | None = None) -> Machine:
    """The device that the options request.

    On a CPU with bfloat16 units, 'auto' is the preferred precision of the base and of what is trained; on
    other devices bfloat16 for both where they have the units, otherwise float32.

    Args:
        options: device, precision and memory layout.
        local: rank of this process on this computer, where each process has its own GPU; None for a single
            one.
        preferred: by the rule (see `Fit.precisions`), or those that a run was made with (see
            `recorded_precisions`); None for bfloat16.

    Raises:
        OptionError: this computer has no such device, or the networks cannot be trained in this precision.
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
    has_units = "auto" in (options.precision, options.base_precision) and _has_bf16_units(device)
    if preferred is None or device.type != "cpu":
        trains_base = preferred is not None and preferred.base_is_trained
        preferred = Precisions("bf16", "bf16", base_is_trained=trains_base)
    if options.precision != "auto":
        bf16 = base_bf16 = options.precision == "bf16"
    else:
        bf16, base_bf16 = (has_units and name == "bf16" for name in (preferred.trained, preferred.base))
    if options.base_precision != "auto":
        base_bf16 = options.base_precision == "bf16"
        if preferred.base_is_trained and base_bf16 != bf16:
            raise OptionError(
                f"--device.base-precision {options.base_precision}: the learner trains the base, which then "
                f"has the precision of everything else, {'bf16' if bf16 else 'fp32'}; pass "
                f"--device.precision {options.base_precision}"
            )
    if bf16 and device.type == "cpu" and preferred.narrow:
        raise OptionError(
            f"--device.precision bf16: {_wrong_gradient(preferred.narrow)}; pass --device.precision fp32"
        )
    channels_last = (
        options.channels_last if options.channels_last is not None else device.type in ("cpu", "cuda")
    )
    return Machine(device, bf16, channels_last, base_bf16)


def recorded_precisions(machine: str) -> Precisions | None:
    """The precisions in the text of a `Machine`, as run folders have it; None if it has none."""
    words = [word.split() for word in machine.split(", ")]
    found = {word[0] if word[1:] else "": word[-1] for word in words if word[-1:] in (["fp32"], ["bf16"])}
    base, trained = (found.get(name, found.get("")) for name in ("base", "trained"))
    if base is None or trained is None:
        return None
    return Precisions("bf16" if base == "bf16" else "fp32", "bf16" if trained == "bf16" else "fp32")


def narrow_note(machine: Machine, options: DeviceOptions, narrow: Sequence[str]) -> str:
    """What to report of convolutions for which bfloat16 is wrong on a CPU (see `precision.is_narrow`); empty
    where it makes no difference.
    """
    if not narrow or machine.device.type != "cpu":
        return ""
    if machine.bf16:  # a run of a recorded spec keeps its precision
        return f"warning: {_wrong_gradient(narrow)}; with --device.precision fp32 it is right"
    if options.precision != "auto" or not _has_bf16_units(machine.device):
        return ""
    return f"trained in fp32: {_wrong_gradient(narrow)}"


def _wrong_gradient(narrow: Sequence[str]) -> str:
    first, count = narrow[0], len(narrow)
    layers = first if count == 1 else f"{first} and {count - 1} further layer{'s' if count > 2 else ''}"
    return (
        f"on a CPU, PyTorch computes bf16 gradients from uninitialised memory for convolutions with a stride "
        f"whose map is one pixel wide ({layers})"
    )


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
