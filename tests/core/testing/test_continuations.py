"""Faults of continuations are named, by the check that finds them."""

from __future__ import annotations

import copy
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import attrs
import pytest
from torch import Tensor, nn

from sidetune_core.api import Base, Block, Continuation, Features, FitError, InputShapes, select_blocks
from sidetune_core.testing.network_checks import check_base


class Rest(Continuation):
    def __init__(self, layers: nn.Sequential) -> None:
        super().__init__()
        self.layers = layers

    def forward(self, tap: Tensor, inputs: Mapping[str, Tensor]) -> Tensor:
        encoding: Tensor = self.layers(tap).mean((2, 3))
        return encoding


class Sound(Base):
    """A convolution that changes the number of channels, and two that do not."""

    @attrs.frozen
    class Config:
        """No options."""

    def __init__(self, config: Config, inputs: InputShapes) -> None:
        super().__init__()
        self.stem = nn.Conv2d(inputs["image"][0], 4, 4, stride=4)
        self.layers = nn.Sequential(nn.Conv2d(4, 6, 1), *(nn.Conv2d(6, 6, 3, padding=1) for _ in range(2)))
        self.shape, height, width = (6,), inputs["image"][1] // 4, inputs["image"][2] // 4
        self.tap_shapes = ((4, height, width), (6, height, width))

    def forward(self, inputs: Mapping[str, Tensor]) -> Features:
        first = self.stem(inputs["image"])
        second = self.layers[0](first)
        return Features(self.layers[1:](second).mean((2, 3)), (first, second))

    def blocks(self) -> Sequence[Block]:
        return [Block("layers.0", 0, False), Block("layers.1", 1, True), Block("layers.2", 1, True)]

    def continued(self, tap: int, keep: Collection[int] | None = None) -> Continuation:
        kept = select_blocks(self.blocks(), 2, tap, keep)
        layers = copy.deepcopy(self.layers)
        for number in {0, 1, 2} - kept:
            del layers._modules[str(number)]
        return Rest(layers).requires_grad_(True).train(self.training)


class WrongName(Sound):
    def blocks(self) -> Sequence[Block]:
        return [attrs.evolve(block, name=f"blocks.{block.name}") for block in super().blocks()]


class WrongOrder(Sound):
    def blocks(self) -> Sequence[Block]:
        return [Block("layers.0", 1, False), Block("layers.1", 0, True), Block("layers.2", 1, True)]


class TooShort(Sound):
    def continued(self, tap: int, keep: Collection[int] | None = None) -> Continuation:
        return super().continued(tap, keep if keep is not None else [0, 1][tap:])


class Shared(Sound):
    def continued(self, tap: int, keep: Collection[int] | None = None) -> Continuation:
        continuation = super().continued(tap, keep)
        continuation.layers._modules["2"] = self.layers[2]  # type: ignore[union-attr]
        return continuation


class Frozen(Sound):
    def continued(self, tap: int, keep: Collection[int] | None = None) -> Continuation:
        return super().continued(tap, keep).requires_grad_(False)


class Drawing(Sound):
    def continued(self, tap: int, keep: Collection[int] | None = None) -> Continuation:
        nn.Linear(2, 2)
        return super().continued(tap, keep)


class OtherMode(Sound):
    def continued(self, tap: int, keep: Collection[int] | None = None) -> Continuation:
        return super().continued(tap, keep).train()


class Detached(Sound):
    def continued(self, tap: int, keep: Collection[int] | None = None) -> Continuation:
        continuation = super().continued(tap, keep)
        continuation.layers[-1].register_forward_pre_hook(  # type: ignore[union-attr, index]
            lambda module, arguments: (arguments[0].detach(),)
        )
        return continuation


class NoneOptional(Sound):
    def blocks(self) -> Sequence[Block]:
        return [attrs.evolve(block, optional=True) for block in super().blocks()]


class Lenient(Sound):
    def continued(self, tap: int, keep: Collection[int] | None = None) -> Continuation:
        known = {0, 1, 2} & set(keep) if keep is not None else None
        return super().continued(min(max(tap, 0), 1), known)


class Reading(Sound):
    def continued(self, tap: int, keep: Collection[int] | None = None) -> Continuation:
        def read(module: nn.Module, arguments: Any, output: Tensor) -> Tensor:
            return output + self.stem.bias.sum() - bias  # type: ignore[union-attr]

        bias = self.stem.bias.detach().sum()  # type: ignore[union-attr]
        continuation = super().continued(tap, keep)
        continuation.register_forward_hook(read)
        return continuation


class InPlace(Sound):
    def continued(self, tap: int, keep: Collection[int] | None = None) -> Continuation:
        continuation = super().continued(tap, keep)

        def write(module: nn.Module, arguments: Any) -> None:
            if module.training:
                arguments[0].detach().add_(1)

        continuation.register_forward_pre_hook(write)
        return continuation


class Refusing(Sound):
    def continued(self, tap: int, keep: Collection[int] | None = None) -> Continuation:
        raise FitError("it is no chain")


@pytest.mark.parametrize(
    ("base", "check", "message"),
    [
        (WrongName, "blocks_are_in_order", "no such submodule"),
        (WrongOrder, "blocks_are_in_order", r"is \[1, 0, 1\]; with 2 taps"),
        (TooShort, "continuation_reproduces_the_encoding", r"continued\(0\) computes another encoding"),
        (Shared, "continuation_is_a_trainable_copy", "shares layers.2.weight with the base"),
        (Frozen, "continuation_is_a_trainable_copy", "do not require gradients"),
        (Drawing, "continuation_is_a_trainable_copy", "draws random numbers"),
        (OtherMode, "continuation_is_a_trainable_copy", "has not the base's mode"),
        (Detached, "gradients_reach_the_continuation", "depends on layers.0.weight, which has no gradient"),
        (NoneOptional, "optional_blocks_can_be_left_out", r"without block 0 \('layers.0'\) raises"),
        (Lenient, "impossible_continuations_are_refused", r"continued\(2\) is not refused"),
        (Reading, "continuation_reads_only_the_tap", "reads the weights of the base"),
        (InPlace, "continuation_reads_only_the_tap", "changes the tap in place"),
    ],
)
def test_a_fault_is_named_by_its_check(base: type[Base], check: str, message: str) -> None:
    finding = next(finding for finding in check_base(base, Sound.Config()) if finding.check == check)
    assert not finding.passed
    assert re.search(message, finding.message)


def test_a_sound_base_passes() -> None:
    assert not [
        finding for finding in check_base(Sound, Sound.Config()) if not finding.passed or finding.skipped
    ]


def test_a_base_that_refuses_each_tap_is_not_checked_further() -> None:
    skipped = [finding for finding in check_base(Refusing, Sound.Config()) if finding.skipped]
    assert len(skipped) == 6
    assert {finding.message for finding in skipped} == {"it is no chain"}
