"""A pretended GPU: finds tensors that a plugin leaves on the CPU, on computers that have no GPU."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from sidetune_core.certificate.probes import named_tensors
from sidetune_core.interfaces.inputs import Inputs
from sidetune_core.testing.findings import Broken

TORCH = Path(torch.__file__).parent
KIT = Path(__file__).parent
NO_HALF = frozenset(
    {"cholesky", "det", "inverse", "logdet", "pinverse", "qr", "quantile", "slogdet", "stft", "svd"}
)
"""Functions without a kernel for half precision, which autocast converts on a CPU only, besides those of
``torch.fft`` and ``torch.linalg``."""
MAKE_THERE = (
    "make it there (device=x.device), or keep it with register_buffer, so that it moves with its module"
)


class PretendedGpu:
    """A context in which the tensors that it moves count as on a GPU, like all that are computed from them.

    All are on the CPU in fact, so every operation works. An operation fails here that would fail on a GPU,
    since one of its tensors was made on the CPU.
    """

    def __init__(self) -> None:
        self._moved: dict[int, Any] = {}  # storages by address; kept, so that no other takes the address
        self._modes = ExitStack()
        self.inside = False
        """Whether PyTorch is within a call that was given tensors on the GPU."""
        self.transforming = False
        """Whether PyTorch is within ``torch.func``, whose tensors cannot be followed."""

    def __enter__(self) -> PretendedGpu:
        self._modes.enter_context(_Operations(self))
        self._modes.enter_context(_Calls(self))
        return self

    def __exit__(self, *error: Any) -> None:
        self._modes.close()

    def place(self, module: nn.Module) -> None:
        """Move a module: all its parameters and buffers."""
        for _, tensor in named_tensors(module):
            self.move(tensor)

    def move(self, tensor: Tensor) -> Tensor:
        """Let a tensor, and all that share its memory, count as on the GPU."""
        storage = _storage(tensor)
        if storage is not None:
            self._moved[storage._cdata] = storage
        return tensor

    def copy(self, tensor: Tensor) -> Tensor:
        """A copy of a tensor on the GPU."""
        return self.move(tensor.clone())

    def move_inputs(self, inputs: Inputs) -> Inputs:
        """A copy of inputs on the GPU; their ids and lengths stay on the CPU, as in a run."""
        tensors = {name: self.copy(value) for name, value in inputs.items()}
        return Inputs(tensors, inputs.ids, inputs.lengths, inputs.window)

    def holds(self, tensor: Tensor) -> bool:
        """Whether a tensor counts as on the GPU."""
        storage = _storage(tensor)
        return storage is not None and storage._cdata in self._moved

    def bring(self, tensor: Tensor, *, here: bool) -> Tensor:
        """A tensor on the GPU, or on the CPU; a copy if it is not there yet."""
        if self.holds(tensor) == here:
            return tensor
        copy = tensor.clone()
        if here:
            return self.move(copy)
        if (storage := _storage(copy)) is not None:
            self._moved.pop(storage._cdata, None)
        return copy


def _storage(tensor: Tensor) -> Any:
    try:
        return tensor.untyped_storage()
    except (NotImplementedError, RuntimeError):  # a wrapper, as in torch.func
        return None


class _CheckOperations:
    """The methods of `_Operations`; apart, since PyTorch imports its compiler for a class that has them."""

    def __init__(self, gpu: PretendedGpu) -> None:
        super().__init__()
        self._gpu = gpu

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        there = [tensor for tensor in tensors if self._gpu.holds(tensor)]
        if (
            there
            and not self._gpu.transforming
            and (left := self._left_behind(name, args, tensors)) is not None
        ):
            raise Broken(
                f"a GPU run fails at {name}{_line()}: a tensor {tuple(left.shape)} is on the CPU, the others "
                f"are on the GPU; {MAKE_THERE}"
            )
        output = func(*args, **(kwargs or {}))
        made_inside = not tensors and self._gpu.inside
        if (there and name != "copy_") or made_inside or self._gpu.transforming:
            for leaf in tree_leaves(output):
                if isinstance(leaf, Tensor):
                    self._gpu.move(leaf)
        return output

    def _left_behind(self, name: str, args: Any, tensors: list[Tensor]) -> Tensor | None:
        """The tensor on the CPU that does not go with the others; numbers without axes do."""
        if name in ("copy_", "set_"):
            return None
        indexes = name.startswith(("index", "_index", "_unsafe_index")) and isinstance(args[1], list | tuple)
        if indexes and self._gpu.holds(args[0]):  # the indices may stay on the CPU
            tensors = [leaf for leaf in (args[0], *args[2:]) if isinstance(leaf, Tensor)]
        if name.startswith(("index_put", "_index_put", "masked_fill")):  # a single number may stay there too
            tensors = [tensor for tensor in tensors if tensor.numel() != 1]
        for tensor in tensors:
            if tensor.ndim and not self._gpu.holds(tensor):
                return tensor
        return None


class _Operations(_CheckOperations, TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Sees the operations of PyTorch below autograd."""


class _Calls(TorchFunctionMode):
    """Sees the calls of PyTorch's functions, with the devices that they name."""

    def __init__(self, gpu: PretendedGpu) -> None:
        super().__init__()
        self._gpu = gpu

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        kwargs = kwargs or {}
        tensor = args[0] if args and isinstance(args[0], Tensor) else None
        if name == "cuda":
            raise Broken(f"calls cuda(){_line()}: leave the device to the core, and follow x.device")
        if name in ("numpy", "__array__") and tensor is not None and self._gpu.holds(tensor):
            raise Broken(f"a GPU run fails at {name}(){_line()}: call .cpu() on the tensor first")
        output = self._call(func, args, kwargs)
        if not isinstance(output, Tensor):
            return output
        if name == "cpu" or "cpu" in (kwargs.get("device"), *args[1:2]):
            return self._gpu.bring(output, here=False)
        if name in ("to", "type_as", "__deepcopy__") and any(self._known(args, kwargs)):
            return self._gpu.bring(output, here=True)
        if any(isinstance(value, torch.device) for value in (*args, *kwargs.values())):
            return self._gpu.bring(output, here=True)
        return output

    def _call(self, func: Any, args: Any, kwargs: Mapping[str, Any]) -> Any:
        gpu = self._gpu
        before = gpu.inside, gpu.transforming
        leaves = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        gpu.transforming = gpu.transforming or any(_storage(leaf) is None for leaf in leaves)
        gpu.inside = gpu.inside or any(map(gpu.holds, leaves))
        try:
            return func(*args, **kwargs)
        finally:
            gpu.inside, gpu.transforming = before

    def _known(self, args: Any, kwargs: Mapping[str, Any]) -> Iterator[bool]:
        values = [value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)]
        return (self._gpu.holds(value) for value in values)


@contextmanager
def half_precision(*, autocast: bool = True) -> Iterator[None]:
    """Autocast to bfloat16, in which what has no such kernel on a GPU fails as there.

    Raises:
        Broken: an operation that is computed in float32 on a CPU, and not on a GPU.
    """
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast), _HalfCalls():
        yield


class _HalfCalls(TorchFunctionMode):
    """Sees the calls of PyTorch's functions under autocast."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        if name.startswith(("fft_", "linalg_")) or name in NO_HALF:
            for leaf in tree_leaves((args, kwargs)):
                if isinstance(leaf, Tensor) and leaf.dtype in (torch.bfloat16, torch.float16):
                    raise Broken(
                        f"fails in half precision on a GPU: {name} of a {leaf.dtype} tensor{_line()}; "
                        "convert it with .float() first"
                    )
        return func(*args, **(kwargs or {}))


def _line() -> str:
    """Where the plugin is, such as `` (my_learner.py, line 30)``; empty if it is nowhere on the stack."""
    frame = sys._getframe(1)
    while frame.f_back is not None:
        path = Path(frame.f_code.co_filename)
        if TORCH not in path.parents and KIT not in path.parents and path.suffix == ".py":
            if "sidetune_core" in path.parts and path.parent.name in ("training", "assembly"):
                break
            return f" ({path.name}, line {frame.f_lineno})"
        frame = frame.f_back
    return ""
