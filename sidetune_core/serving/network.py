"""One task as a plain module, and as a file for other programs: torch.export, ONNX and TorchScript."""

from __future__ import annotations

import io
import json
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

import torch
from torch import Tensor, nn

from sidetune_core.errors import FitError, OptionError, PluginError
from sidetune_core.interfaces.cards import TaskCard
from sidetune_core.interfaces.handlers import TaskHandler
from sidetune_core.interfaces.learner import Learner
from sidetune_core.interfaces.networks import Base, outermost_bases, set_precision
from sidetune_core.serving.task_copy import copy_for_task
from sidetune_core.storage.atomic import write_bytes, writing

if TYPE_CHECKING:
    from sidetune_core.serving.model import Model

Format = Literal["onnx", "torchscript", "torch-export"]

TOLERANCE: Mapping[str, float] = {"onnx": 1e-4, "torchscript": 1e-5, "torch-export": 1e-5}
"""Largest difference of outputs from those of the network, relative to the largest of them or to 1."""

OUTPUT = "output"
"""Name of the output in a file."""


class TaskNetwork(nn.Module):
    """A task's network with the preprocessing of tensors: raw outputs (B, ...) in float32.

    ``forward`` takes tensors (B, *shape) in the order of `inputs`. It has no feature cache, needs no run
    folder, and can be pickled where the packages of its components are installed.

    Args:
        learner: has the task only (see `copy_for_task`).
        task: its name in the learner.
        card: of the task.
        transform: what preprocesses tensors (see `TaskHandler.transform`).
        bf16: compute under autocast to bfloat16, as the run did; a base that the run did not train has its
            own precision, that of the run.
    """

    def __init__(
        self, learner: Learner, task: str, card: TaskCard, transform: nn.Module, bf16: bool = False
    ) -> None:
        super().__init__()
        self.learner, self.transform = learner, transform
        self.task, self.card, self.bf16 = task, card, bf16
        self.eval()

    @property
    def rounds(self) -> bool:
        """Whether any part of it computes in bfloat16."""
        bases = (module for module in self.learner.modules() if isinstance(module, Base))
        return self.bf16 or any(base._precision == "bf16" for base in bases)

    def use_float32(self) -> None:
        """Compute all of it in float32."""
        self.bf16 = False
        set_precision(outermost_bases(self.learner), (), None)

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the inputs, in the order of the arguments of ``forward``."""
        return tuple(self.card.inputs)

    def forward(self, *inputs: Tensor) -> Tensor:
        """The output (B, ...) in float32."""
        values = self._preprocess(inputs)
        named = dict(zip(self.inputs, values, strict=True))
        if not self.bf16:
            return self.learner.predict(named, self.task).float()
        with torch.autocast(values[0].device.type, torch.bfloat16):
            output = self.learner.predict(named, self.task)
        return output.float()

    def examples(self, count: int = 2) -> tuple[Tensor, ...]:
        """Inputs of blank examples, on the device of the network."""
        device = next((tensor.device for tensor in self.parameters()), torch.device("cpu"))
        return tuple(torch.zeros(count, *shape, device=device) for shape in self.card.inputs.values())

    def _preprocess(self, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        if isinstance(self.transform, nn.Identity):
            return inputs
        values = self.transform(*inputs)
        return (values,) if isinstance(values, Tensor) else tuple(values)


def make_network(
    learner: Learner, task: str, tasks: tuple[str, ...], card: TaskCard, handler: TaskHandler, bf16: bool
) -> TaskNetwork:
    """The network of a task, a copy of a learner that has `tasks`."""
    device = next((tensor.device for tensor in learner.parameters()), torch.device("cpu"))
    samples = [{name: sample.to(device) for name, sample in named.items()} for named in _samples(card)]

    def compute(candidate: Learner) -> list[Tensor]:
        with torch.no_grad(), torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            return [candidate.predict(sample, task).float() for sample in samples]

    alone = copy_for_task(learner, task, tasks, compute)
    return TaskNetwork(alone, task, card, handler.transform(), bf16).requires_grad_(False)


def write_network(model: Model, task: str, path: Path, format: Format) -> None:
    """Write a task as a file that other programs run: batches of any size, in float32.

    The file is loaded again and compared with the network, for batches of several sizes.

    Args:
        model: has the task.
        task: its id.
        path: of the file; `torch.export.load` wants the ending ``.pt2``.
        format: ``onnx``, ``torchscript`` or ``torch-export``.

    Raises:
        OptionError: there is no such format.
        InputError: there is no such task.
        PluginError: ONNX needs packages that are not installed.
        FitError: the network cannot be written in this format, or computes something else in it.
        WriteError: the file cannot be written.
    """
    if format not in get_args(Format):
        raise OptionError(f"no format '{format}'; there are {', '.join(get_args(Format))}")
    network = model.module(task).cpu()
    network.use_float32()
    write, run = FORMATS[format]
    what = f"task '{task}' cannot be written as {format}"
    with _explained(what):
        content = write(network)
    for inputs in (network.examples(1), random_inputs(network.card, 3), random_inputs(network.card, 5)):
        with torch.no_grad(), _explained(what):
            expected, written = network(*inputs), run(content, inputs)
        if written.shape != expected.shape or not _is_close(written, expected, TOLERANCE[format]):
            raise FitError(
                f"{what}: the file has other outputs than the network for a batch of {len(inputs[0])}"
            )
    with writing(path):
        write_bytes(path, content)


def random_inputs(card: TaskCard, count: int) -> tuple[Tensor, ...]:
    """Random inputs (count, *shape) in [0, 1), the same every time."""
    generator = torch.Generator().manual_seed(count)
    return tuple(torch.rand(count, *shape, generator=generator) for shape in card.inputs.values())


def _samples(card: TaskCard) -> list[dict[str, Tensor]]:
    """Two batches that are valid for images, vectors and tokens."""
    ones = {name: torch.ones(2, *shape) for name, shape in card.inputs.items()}
    return [ones, dict(zip(card.inputs, random_inputs(card, 2), strict=True))]


def _to_torch_export(network: TaskNetwork) -> bytes:
    buffer = io.BytesIO()
    torch.export.save(_exported(network), buffer)
    return buffer.getvalue()


def _exported(network: TaskNetwork) -> torch.export.ExportedProgram:
    """The graph for batches of any size."""
    batch = torch.export.Dim("batch")
    inputs = network.examples()
    shapes = {"inputs": tuple({0: batch} for _ in inputs)}
    with torch.no_grad():
        return torch.export.export(network, inputs, dynamic_shapes=shapes)


def _run_torch_export(content: bytes, inputs: tuple[Tensor, ...]) -> Tensor:
    output: Tensor = torch.export.load(io.BytesIO(content)).module()(*inputs)
    return output


def _to_torchscript(network: TaskNetwork) -> bytes:
    buffer = io.BytesIO()
    with torch.no_grad():
        traced = torch.jit.trace(network, network.examples(), check_trace=False)  # type: ignore[no-untyped-call]
    torch.jit.save(traced, buffer)
    return buffer.getvalue()


def _run_torchscript(content: bytes, inputs: tuple[Tensor, ...]) -> Tensor:
    output: Tensor = torch.jit.load(io.BytesIO(content))(*inputs)  # type: ignore[no-untyped-call]
    return output


def _to_onnx(network: TaskNetwork) -> bytes:
    if missing := [name for name in ("onnx", "onnxscript") if find_spec(name) is None]:
        raise PluginError(f"ONNX needs {' and '.join(missing)}: pip install 'sidetune[onnx]'")
    program = torch.onnx.export(
        _exported(network),
        (),
        input_names=list(network.inputs),
        output_names=[OUTPUT],
        dynamo=True,
        verbose=False,
    )
    assert program is not None
    proto = program.model_proto
    for key, value in _metadata(network).items():
        proto.metadata_props.add(key=key, value=value)
    content: bytes = proto.SerializeToString()
    return content


def _metadata(network: TaskNetwork) -> dict[str, str]:
    """What a file says of its task."""
    outputs = network.card.outputs
    return {"title": network.card.title, "outputs": outputs.kind, "names": json.dumps(outputs.names)}


def _run_onnx(content: bytes, inputs: tuple[Tensor, ...]) -> Tensor:
    if find_spec("onnxruntime") is None:
        raise PluginError("checking an ONNX file needs onnxruntime: pip install 'sidetune[onnx]'")
    import onnxruntime

    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    named = {one.name: value.numpy() for one, value in zip(session.get_inputs(), inputs, strict=True)}
    return torch.from_numpy(session.run(None, named)[0])


FORMATS: Mapping[
    str, tuple[Callable[[TaskNetwork], bytes], Callable[[bytes, tuple[Tensor, ...]], Tensor]]
] = {
    "onnx": (_to_onnx, _run_onnx),
    "torchscript": (_to_torchscript, _run_torchscript),
    "torch-export": (_to_torch_export, _run_torch_export),
}
"""How a network is written, and how the file is run."""


@contextmanager
def _explained(what: str) -> Iterator[None]:
    """Turn what an exporter raises into a sentence, and hide its warnings."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except (PluginError, OptionError, FitError):
        raise
    except Exception as error:  # exporters raise whatever their passes and the code of plugins raise
        raise FitError(f"{what}: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    """The innermost cause in one line."""
    while error.__cause__ is not None and isinstance(error.__cause__, Exception):
        error = error.__cause__
    lines = [line.strip() for line in re.sub(r"\x1b\[[0-9;]*m", "", str(error)).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:300] if lines else 'no further reason'}"


def _is_close(first: Tensor, second: Tensor, tolerance: float) -> bool:
    scale = max(1.0, float(second.abs().nan_to_num(0, 0, 0).max()))
    return torch.allclose(first, second, rtol=0, atol=tolerance * scale, equal_nan=True)
