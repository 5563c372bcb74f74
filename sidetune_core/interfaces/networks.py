"""The three kinds of network component: base, side and merger.

Shapes leave out the batch axis: an encoding of shape ``(C,)``, ``(L, C)`` or ``(C, H, W)`` is a tensor
``(B, C)``, ``(B, L, C)`` or ``(B, C, H, W)``.

Side-tuning (Zhang et al., ECCV 2020) predicts ``T(norm(M(B(x), S(x))))`` with B the base, S the side, M the
merger and T the head of the task.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, Literal, Protocol

import torch
from torch import Tensor, nn

from sidetune_core.interfaces.former_names import former_members
from sidetune_core.interfaces.inputs import Features, Inputs, Shape
from sidetune_core.interfaces.structure import Structure, structure


class Cache(Protocol):
    """A cache of a frozen base's outputs (see `sidetune_core.feature_cache.cache`)."""

    def lookup(self, base: Base, inputs: Inputs) -> Features: ...


@former_members(shortened="first_layers", vocabulary="vocabulary_size", store="cache")
class Base(nn.Module, ABC):
    """A pretrained network that encodes an input.

    A subclass has a frozen attrs ``Config`` and takes ``(config, inputs)``: its options and the shapes of its
    inputs. It sets `shape` and `tap_shapes`, and raises `FitError` for inputs that it does not accept.
    """

    Config: ClassVar[type[Any]]
    shape: Shape
    tap_shapes: tuple[Shape, ...] = ()
    cache: Cache | None = None
    """Set by the core while this base is frozen; a base never reads it."""
    _built_as: Structure | None = None
    _precision: Literal["fp32", "bf16"] | None = None
    """Its own, set by the core for a base that no task trains; None for that of its caller."""
    _is_trained: bool = False

    @abstractmethod
    def forward(self, inputs: Mapping[str, Tensor]) -> Features:
        """The encoding (B, *shape) and the taps of a batch of inputs."""

    def __call__(self, inputs: Mapping[str, Tensor]) -> Features:
        if self._precision is None:
            return self._encode(inputs)
        device = next(iter(inputs.values())).device.type
        with torch.autocast(device, torch.bfloat16, enabled=self._precision == "bf16"):
            features = self._encode(inputs)
        encoding, *taps = (self._as_served(value) for value in (features.encoding, *features.taps))
        return Features(encoding, tuple(taps))

    def _as_served(self, value: Tensor) -> Tensor:
        """An output in float32, rounded as the cache would store it: results do not depend on what is
        cached.
        """
        if not value.is_floating_point():
            return value
        return value.bfloat16().float() if self._precision == "bf16" else value.float()

    def _encode(self, inputs: Mapping[str, Tensor]) -> Features:
        if self.cache is not None and isinstance(inputs, Inputs) and inputs.ids is not None:
            return self.cache.lookup(self, inputs)
        features: Features = super().__call__(inputs)
        return features


def outermost_bases(module: nn.Module) -> Iterator[Base]:
    """The bases in a learner that are no part of another base."""
    for child in module.children():
        if isinstance(child, Base):
            yield child
        else:
            yield from outermost_bases(child)


def set_precision(
    bases: Iterable[Base], trained: Collection[int], precision: Literal["fp32", "bf16"] | None
) -> None:
    """Set the precision of the bases of a learner that no task has trained so far.

    A base of which a parameter is trained has the precision of everything else from then on, frozen or not,
    and so do its copies: what it computes changes with its weights only.

    Args:
        bases: see `outermost_bases`.
        trained: ids of the parameters that the present task trains.
        precision: of frozen bases.
    """
    for base in bases:
        base._is_trained = base._is_trained or any(id(weight) in trained for weight in base.parameters())
        base._precision = None if base._is_trained else precision


def note_structure(base: Base) -> None:
    """Record the modules and hooks that a base was built with; the cache serves no base with others."""
    for module in base.modules():
        if isinstance(module, Base):
            module._built_as = structure(module)


@former_members(uses_taps="needs_taps")
class Side(nn.Module, ABC):
    """A small network next to the base, with an encoding of the same shape.

    A subclass has a ``Config`` and takes ``(config, inputs, base)``. It may read `shape` and `tap_shapes` of
    the base, or copy it, but must not register a part of it as its own. It raises `FitError` for inputs or a
    base that it does not fit.
    """

    Config: ClassVar[type[Any]]
    needs_taps: ClassVar[bool] = False
    """Whether `forward` reads the base's taps; taps that nothing reads are not cached."""
    tap_indices: tuple[int, ...] | None = None
    """With `needs_taps`, the indices of the taps that `forward` reads, set in ``__init__``; None for all. The
    others may be empty tensors (B, 0)."""
    begins_at_base: bool = False
    """Whether its encoding is the base's before the first step, in eval mode, as that of a copy."""

    @abstractmethod
    def forward(self, inputs: Mapping[str, Tensor], features: Features) -> Tensor:
        """The side's encoding (B, *base.shape); `features` are the base's, for sides that read its taps."""


class TapReader(Protocol):
    """A side or a learner."""

    needs_taps: ClassVar[bool]
    tap_indices: tuple[int, ...] | None


def taps_read(*readers: TapReader) -> tuple[int, ...] | None:
    """The indices of the taps that any of these sides and learners reads, sorted; None for all."""
    return union_of_taps(reader.tap_indices if reader.needs_taps else () for reader in readers)


def union_of_taps(indices: Iterable[tuple[int, ...] | None]) -> tuple[int, ...] | None:
    """The taps that are in any of these sets, sorted; None for all."""
    union: set[int] = set()
    for some in indices:
        if some is None:
            return None
        union.update(some)
    return tuple(sorted(union))


@former_members(enter="stem", leave="project")
class StagedSide(Side):
    """A side made of stages, each linear up to its activation, where lateral connections can be added.

    A subclass sets `stage_shapes` and defines `stem`, `stages` and `project`; `forward` follows from these.
    Progressive networks need such a side.
    """

    stage_shapes: tuple[Shape, ...]
    """Shape of each stage's output, before and after its activation."""

    @abstractmethod
    def stem(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """The input of the first stage."""

    @abstractmethod
    def stages(self) -> Sequence[tuple[nn.Module, nn.Module]]:
        """For each stage, the module before its activation, and the activation."""

    @abstractmethod
    def project(self, activation: Tensor) -> Tensor:
        """The encoding (B, *base.shape) from the output of the last stage."""

    def forward(self, inputs: Mapping[str, Tensor], features: Features) -> Tensor:
        return self.project(self.run(inputs)[-1])

    def run(
        self, inputs: Mapping[str, Tensor], laterals: Callable[[int], Tensor | float] | None = None
    ) -> list[Tensor]:
        """The output of each stage, (B, *stage_shapes[k]).

        ``laterals(k)``, of the same shape, is added before the activation of stage k.
        """
        current, activations = self.stem(inputs), []
        for stage, (linear, activate) in enumerate(self.stages()):
            preactivation = linear(current)
            current = activate(preactivation if laterals is None else preactivation + laterals(stage))
            activations.append(current)
        return activations


class Merger(nn.Module, ABC):
    """Fuses ``count`` encodings of one shape, base first, into one of the same shape.

    A subclass has a ``Config`` and takes ``(config, shape, count)``.
    """

    Config: ClassVar[type[Any]]
    is_mean: ClassVar[bool] = False
    """Whether it merges equal encodings into the same, as a weighted mean does."""

    @abstractmethod
    def forward(self, encodings: Sequence[Tensor]) -> Tensor:
        """(B, *shape) from ``count`` tensors (B, *shape)."""

    def weights(self) -> dict[str, float]:
        """Scalars to log about the mixture, such as the weight on the base; empty if there are none."""
        return {}
