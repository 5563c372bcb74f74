"""The three kinds of network part: base, side and merger.

Shapes leave the batch axis out: an encoding of shape ``(C,)``, ``(L, C)`` or ``(C, H, W)`` is a tensor ``(B, C)``, ``(B, L, C)`` or
``(B, C, H, W)``. Side-tuning (Zhang et al., ECCV 2020) predicts ``T(norm(M(B(x), S(x))))`` with B the base, S the side, M the merger
and T the head of the task.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Protocol

from torch import Tensor, nn

from sidetune_core.errors import FitError
from sidetune_core.interfaces.former_names import former_members
from sidetune_core.interfaces.inputs import Features, Inputs, Shape


class Cache(Protocol):
    """Something that remembers a frozen base's outputs (see `sidetune_core.feature_cache.cache`)."""

    def lookup(self, base: Base, inputs: Inputs) -> Features: ...


@former_members(shortened="first_layers", vocabulary="vocabulary_size", store="cache")
class Base(nn.Module, ABC):
    """A pretrained network that encodes an input.

    A subclass has a frozen attrs ``Config`` and takes ``(config, inputs)``: its options and the shapes of the inputs it will see. It
    sets `shape` and `tap_shapes`, and raises `FitError` for inputs that it cannot take.
    """

    Config: ClassVar[type[Any]]
    shape: Shape
    tap_shapes: tuple[Shape, ...] = ()
    cache: Cache | None = None
    """Set by the core while this base is frozen; a base never looks at it."""
    vocabulary_size: int | None = None
    """How many tokens have an embedding, in a base that reads tokens."""

    @abstractmethod
    def forward(self, inputs: Mapping[str, Tensor]) -> Features:
        """The encoding (B, *shape) and the taps of a batch of inputs."""

    def first_layers(self, layers: int) -> Base:
        """A copy of this base that ends after its first `layers` layers, with an encoding of the same shape; for sides that begin so.

        Raises:
            FitError: it has fewer layers, or cannot be cut.
        """
        raise FitError(
            f"{type(self).__name__} cannot be cut after {layers} layers, so no side can begin as its first layers"
        )

    def __call__(self, inputs: Mapping[str, Tensor]) -> Features:
        if self.cache is not None and isinstance(inputs, Inputs) and inputs.ids is not None:
            return self.cache.lookup(self, inputs)
        features: Features = super().__call__(inputs)
        return features


@former_members(uses_taps="needs_taps")
class Side(nn.Module, ABC):
    """A small network beside the base, with an encoding of the same shape.

    A subclass has a ``Config`` and takes ``(config, inputs, base)``. From the base it may read `shape` and `tap_shapes`, or copy it; it
    must not keep it. It raises `FitError` for inputs or a base that it does not fit.
    """

    Config: ClassVar[type[Any]]
    needs_taps: ClassVar[bool] = False
    """Whether `forward` reads the base's taps; if not, the core need not remember them."""

    @abstractmethod
    def forward(self, inputs: Mapping[str, Tensor], features: Features) -> Tensor:
        """The side's encoding (B, *base.shape); `features` are the base's, for sides that read its taps."""


@former_members(enter="stem", leave="project")
class StagedSide(Side):
    """A side that is a chain of stages, each linear up to its activation, so that other networks can add to it in between.

    A subclass sets `stage_shapes` and gives the stages; `forward` follows. Lateral connections (progressive networks) need such a side.
    """

    stage_shapes: tuple[Shape, ...]
    """What each stage gives, before and after its activation."""

    @abstractmethod
    def stem(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """What the first stage takes."""

    @abstractmethod
    def stages(self) -> Sequence[tuple[nn.Module, nn.Module]]:
        """For each stage, what comes before its activation, and the activation."""

    @abstractmethod
    def project(self, activation: Tensor) -> Tensor:
        """The encoding (B, *base.shape) out of what the last stage gives."""

    def forward(self, inputs: Mapping[str, Tensor], features: Features) -> Tensor:
        return self.project(self.run(inputs)[-1])

    def run(
        self, inputs: Mapping[str, Tensor], laterals: Callable[[int], Tensor | float] | None = None
    ) -> list[Tensor]:
        """What each stage gives, (B, *stage_shapes[k]); ``laterals(k)``, of the same shape, is added before the activation of stage k."""
        current, activations = self.stem(inputs), []
        for number, (linear, activate) in enumerate(self.stages()):
            before = linear(current)
            current = activate(before if laterals is None else before + laterals(number))
            activations.append(current)
        return activations


class Merger(nn.Module, ABC):
    """Fuses ``count`` encodings of one shape, base first, into one of the same shape.

    A subclass has a ``Config`` and takes ``(config, shape, count)``.
    """

    Config: ClassVar[type[Any]]

    @abstractmethod
    def forward(self, encodings: Sequence[Tensor]) -> Tensor:
        """(B, *shape) out of ``count`` tensors (B, *shape)."""

    def weights(self) -> dict[str, float]:
        """What to record about the mixture, for example the weight on the base; empty if there is nothing to tell."""
        return {}
