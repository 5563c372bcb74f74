"""Copies of the layers of a base that follow one of its taps."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import Tensor, nn

from sidetune_core.api import Base, Block, Continuation, Features, FitError, select_blocks

C = TypeVar("C", bound=Continuation)
M = TypeVar("M", bound=nn.Module)
TOLERANCE = 1e-4
"""Largest difference between the encoding and that of the copy, relative to the largest value."""


def left_out(
    base: Base, blocks: Sequence[Block], tap: int, keep: Collection[int] | None
) -> tuple[nn.Module, ...]:
    """The blocks of a base that a continuation lacks: those before the tap, and those that are not kept.

    Raises:
        FitError: see `select_blocks`.
    """
    kept = select_blocks(blocks, len(base.tap_shapes), tap, keep)
    return tuple(base.get_submodule(block.name) for n, block in enumerate(blocks) if n not in kept)


def as_trainable(continuation: C, base: Base) -> C:
    """A continuation with gradients, in the mode of the base."""
    return continuation.requires_grad_(True).train(base.training)


def copy_without(module: M, parts: Collection[nn.Module], memo: Mapping[int, object] | None = None) -> M:
    """A copy of a module without some parts of its ``Sequential`` and ``ModuleList`` containers.

    The other parts keep their names, and a container computes what is left of it. `memo` has what stands in
    the copy for other objects, by their `id`.
    """
    copied = copy.deepcopy(module, {id(part): None for part in parts} | dict(memo or {}))
    for container in copied.modules():
        if isinstance(container, nn.Sequential | nn.ModuleList):
            for name in [name for name, part in container._modules.items() if part is None]:
                del container._modules[name]
    return copied


def stage_blocks(
    stages: Mapping[str, nn.Sequential], first: int, is_optional: Callable[[nn.Module], bool]
) -> tuple[Block, ...]:
    """The blocks of a base whose stages each have one tap, their output.

    Args:
        stages: by name, in order; each is made of blocks.
        first: index of the tap that the first stage reads; -1 if it reads none.
        is_optional: whether input and output of a block have one shape.
    """
    return tuple(
        Block(f"{name}.{index}", first + number, is_optional(block))
        for number, (name, stage) in enumerate(stages.items())
        for index, block in enumerate(stage)
    )


class Stages(Continuation):
    """What is left of the stages of a base; a subclass adds what follows them.

    Args:
        stages: all stages of the base by name, in order.
        parts: blocks of them that are not copied.
    """

    def __init__(self, stages: Mapping[str, nn.Sequential], parts: Collection[nn.Module]) -> None:
        super().__init__()
        for name, stage in stages.items():
            if len(copied := copy_without(stage, parts)):
                self.add_module(name, copied)
        self._stages = tuple(name for name, _ in self.named_children())

    def run(self, tap: Tensor) -> Tensor:
        """The output of the last stage, (B, C, H, W)."""
        for name in self._stages:
            tap = self.get_submodule(name)(tap)
        return tap


def check_copy(
    base: Base, whole: Continuation, tap: int, inputs: Mapping[str, Tensor], hint: str = ""
) -> None:
    """Compare the encoding of a base with that of the whole copy after a tap, for a few inputs.

    Raises:
        FitError: they differ, or the copy cannot be run: the encoding depends on more than the tap.
    """
    with in_eval_mode(base), torch.no_grad():
        features: Features = base.forward(inputs)
        expected = features.encoding
        try:
            encoding = whole.eval()(features.taps[tap], inputs)
            same = torch.allclose(encoding, expected, rtol=0, atol=TOLERANCE * float(expected.abs().max()))
            reason = "the copy computes another encoding"
        except (RuntimeError, ValueError, TypeError, AttributeError, IndexError) as error:
            same, reason = False, str(error).splitlines()[0]
    if not same:
        raise FitError(
            f"the network cannot be continued from tap {tap}, since its encoding depends on more than that "
            f"({reason}){f'; {hint}' if hint else ''}"
        )


@contextmanager
def in_eval_mode(module: nn.Module) -> Iterator[None]:
    """Eval mode within the block; afterwards each submodule has its own mode."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training
