"""Which bases may be served: those whose output is a function of their input and of weights that stay."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterable
from itertools import chain
from operator import attrgetter
from pathlib import Path

import attrs
import torch
from torch import Tensor, nn

from sidetune_core.hashing import fingerprint
from sidetune_core.interfaces.networks import Base
from sidetune_core.interfaces.structure import has_global_hooks, is_as_built


def is_frozen(base: Base) -> bool:
    """Whether a base is in eval mode, and none of its parameters requires a gradient."""
    return not any(module.training for module in base.modules()) and not any(
        parameter.requires_grad for parameter in base.parameters()
    )


def has_additions(base: Base) -> bool:
    """Whether hooks, parametrisations or other modules were added to a base after it was built, so that its
    output may depend on them.
    """
    return has_global_hooks() or not is_as_built(base, base._built_as)


class BaseState:
    """The modules, tensors and hooks of a base, to notice cheaply that a learner has replaced or changed one.

    A learner may register hooks, swap weights or modules (`torch.func.functional_call`) or write to weights.
    Comparing takes tens of microseconds.
    """

    def __init__(self, base: Base) -> None:
        self._modules = list(base.modules())
        self._attributes = [vars(module) for module in self._modules]
        self._hooks = [
            hooks for module in self._modules for hooks in (module._forward_hooks, module._forward_pre_hooks)
        ]
        self._members: list[Iterable[object]] = [  # these change with the dictionaries
            members.values()
            for module in self._modules
            for members in (module._modules, module._parameters, module._buffers)
        ]
        self._kept = list(chain.from_iterable(self._members))  # so that no other object gets the same id
        self._tensors = [member for member in self._kept if isinstance(member, Tensor)]
        self._versioned = [tensor for tensor in self._tensors if not tensor.is_inference()]
        self._state, self._versions = self._get_state(), self._get_versions()

    def is_same(self) -> bool:
        """Whether nothing was added, replaced or written to, and there are no hooks on all modules."""
        return (
            not has_global_hooks()
            and self._get_state() == self._state
            and self._get_versions() == self._versions
        )

    def _get_state(self) -> tuple[list[int], list[int], list[int], list[bool], list[bool], list[bool]]:
        """Ids of hooks; ids of modules and tensors; where tensors are in memory; which of them require a
        gradient; which modules are in training mode; and which have a `forward` of their own.
        """
        return (
            list(chain.from_iterable(self._hooks)),
            list(map(id, chain.from_iterable(self._members))),
            [tensor.data_ptr() for tensor in self._tensors],
            list(map(attrgetter("requires_grad"), self._tensors)),
            list(map(attrgetter("training"), self._modules)),
            ["forward" in attributes for attributes in self._attributes],
        )

    def _get_versions(self) -> list[int]:
        """How often each tensor was written to in place."""
        return list(map(attrgetter("_version"), self._versioned))


class Attached(BaseState):
    """A frozen base as it was when it was attached to the cache; `is_unchanged` runs at every lookup."""

    def __init__(self, base: Base) -> None:
        super().__init__(base)
        self._base = base  # kept, so that no other one gets its id
        self._settings = settings(base)
        self.identity = identity(base)
        self._written = False

    def is_still(self, base: Base) -> bool:
        """Whether this is that base, with the same settings, and neither replaced nor written to since."""
        return self._base is base and self.is_unchanged(base) and settings(base) == self._settings

    def is_unchanged(self, base: Base) -> bool:
        """Whether the base still computes what it computed when it was attached."""
        if has_global_hooks() or self._get_state() != self._state:
            return False
        versions = self._get_versions()
        if versions != self._versions and not self._written:
            self._written = identity(base) != self.identity  # the same values may have been written
            self._versions = versions
        return not self._written


def identity(base: Base) -> str:
    """What the features of an input depend on: the base's code, settings and weights, the device and
    PyTorch's version.

    Bases with equal weights and different options differ in plain attributes of a module, such as a stride.
    Of the code, the files that define the classes of the modules count; what they import does not.
    """
    numbers = dict(base.named_parameters()) | dict(base.named_buffers())
    devices = sorted({number.device.type for number in numbers.values()})
    return f"{settings(base)}/{_code(base)}/{fingerprint(numbers)}/{devices}/{torch.__version__}"


def settings(base: Base) -> list[tuple[str, ...]]:
    """The names and classes of a base's modules, and their plain attributes."""
    ours = set(vars(nn.Module())) | {"cache", "_precision", "_is_trained"}
    return [
        (name, type(module).__module__, type(module).__qualname__, key, repr(value))
        for name, module in base.named_modules()
        for key, value in sorted(vars(module).items())
        if key not in ours and _is_plain(value)
    ]


def _code(base: Base) -> str:
    """A digest of the files that define the classes of a base's modules, without those of PyTorch."""
    classes = {
        cls
        for module in base.modules()
        for cls in type(module).__mro__
        if not cls.__module__.startswith(("torch.", "builtins"))
    }
    files = {getattr(sys.modules.get(cls.__module__), "__file__", None) for cls in classes}
    digest = hashlib.sha256()
    for file in sorted(file for file in files if file and Path(file).is_file()):
        digest.update(Path(file).read_bytes())
    return digest.hexdigest()


def _is_plain(value: object) -> bool:
    """Whether a value is determined by its printed form."""
    if isinstance(value, tuple | list):
        return all(map(_is_plain, value))
    return (
        value is None or isinstance(value, bool | int | float | str | torch.dtype) or attrs.has(type(value))
    )
