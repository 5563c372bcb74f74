"""Checks of bases that give a trainable copy of what follows a tap (see `Continuable`)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import attrs
import torch
from torch import Tensor

from sidetune_core.errors import FitError
from sidetune_core.interfaces.capabilities import Continuable
from sidetune_core.interfaces.continuation import Continuation
from sidetune_core.interfaces.inputs import Features, Inputs
from sidetune_core.interfaces.networks import Base
from sidetune_core.seeding import seeded
from sidetune_core.testing.findings import SEED, Broken, Make, Skipped, described, requires
from sidetune_core.testing.specimen import Specimen
from sidetune_core.testing.state import named_tensors, random_state

TOLERANCE = 1e-4
"""Largest difference between two encodings that count as one, relative to the largest value."""


def is_continuable(cls: type[Any]) -> bool:
    """Whether the bases of a class have the capability `Continuable`."""
    return issubclass(cls, Base) and hasattr(cls, "blocks") and hasattr(cls, "continued")


@attrs.frozen(eq=False)
class Continued:
    """A frozen base, and its continuations from a tap."""

    base: Base
    source: Continuable
    tap: int
    continuation: Continuation
    inputs: Inputs
    features: Features

    def encode(self, continuation: Continuation, *, training: bool = False, grad: bool = False) -> Tensor:
        """The encoding that a continuation computes."""
        continuation.train(training)
        with torch.set_grad_enabled(grad):
            return continuation(self.features.taps[self.tap], self.inputs)  # type: ignore[no-any-return]


def _continued(make: Make[Specimen], *ids: int) -> Iterator[Continued]:
    """For each tap that a continuation can begin at, the base with features of examples by id.

    They are built when they are asked for: tracing a network takes long.

    Raises:
        Skipped: there is none.
    """
    specimen = make()
    base, inputs = specimen.module, specimen.inputs(*ids)
    assert isinstance(base, Base)
    assert isinstance(base, Continuable)
    base.eval().requires_grad_(False)
    with torch.no_grad():
        features = base(inputs)
    refusals: list[str] = []
    for tap in range(len(base.tap_shapes)):
        try:
            continuation = base.continued(tap)
        except FitError as error:
            refusals.append(str(error))
        else:
            yield Continued(base, base, tap, continuation, inputs, features)
    if len(refusals) == len(base.tap_shapes):
        raise Skipped(refusals[0] if refusals else "it has no taps")


def blocks_are_in_order(make: Make[Specimen]) -> None:
    """Blocks have the names of submodules, and `after` is the index of a tap, or -1, and never decreases."""
    base = make().module
    assert isinstance(base, Base)
    assert isinstance(base, Continuable)
    blocks, modules = base.blocks(), dict(base.named_modules())
    if unknown := [block.name for block in blocks if block.name not in modules]:
        raise Broken(
            f"blocks() names '{unknown[0]}', but the base has no such submodule; "
            "use its name in the state dict, such as 'layers.0'"
        )
    if len({block.name for block in blocks}) < len(blocks):
        raise Broken("blocks() names a submodule twice; list each block once")
    after = [block.after for block in blocks]
    if after != sorted(after) or any(not -1 <= tap < len(base.tap_shapes) for tap in after):
        raise Broken(
            f"`after` of the blocks is {after}; with {len(base.tap_shapes)} taps it is the index of the last "
            "tap at or before the input of the block, or -1, in the order in which blocks are computed"
        )


def continuation_reproduces_the_encoding(make: Make[Specimen]) -> None:
    """Without a block left out, a continuation computes the base's encoding from each tap."""
    for continued in _continued(make, 0, 1):
        encoding = continued.encode(continued.continuation)
        if not _same(encoding, continued.features.encoding):
            raise Broken(
                f"continued({continued.tap}) computes another encoding than the base from tap "
                f"{continued.tap}; copy all layers that follow the tap, or raise FitError if the encoding "
                "depends on more than the tap"
            )


def continuation_is_a_trainable_copy(make: Make[Specimen]) -> None:
    """A continuation shares no tensor with the base, requires gradients, has its mode and names, and draws
    no random numbers."""
    for continued in _continued(make, 0, 1):
        base, tap = continued.base, continued.tap
        owned = {tensor.untyped_storage().data_ptr() for _, tensor in named_tensors(base) if tensor.numel()}
        for training in (False, True):
            base.train(training)
            before = random_state()
            continuation = continued.source.continued(tap)
            if random_state() != before:
                raise Broken(f"continued({tap}) draws random numbers; copy the layers, and build none")
            if any(part.training != training for part in continuation.modules()):
                raise Broken(f"continued({tap}) has not the base's mode; call train(self.training) on it")
        base.eval()
        own = dict(named_tensors(continuation))
        if shared := [name for name, tensor in own.items() if tensor.untyped_storage().data_ptr() in owned]:
            raise Broken(f"continued({tap}) shares {shared[0]} with the base; copy it (copy.deepcopy)")
        if not all(parameter.requires_grad for parameter in continuation.parameters()):
            raise Broken(
                f"parameters of continued({tap}) do not require gradients; call requires_grad_(True) on it"
            )
        if any(parameter.requires_grad for parameter in base.parameters()):
            raise Broken(
                f"continued({tap}) sets requires_grad of the base's parameters; set that of the copy"
            )
        if others := sorted(continuation.state_dict().keys() - base.state_dict().keys()):
            raise Broken(
                f"continued({tap}) has '{others[0]}' in its state dict, which the base's has not; "
                "name its layers as in the base"
            )


@requires("continuation_reproduces_the_encoding")
def gradients_reach_the_continuation(make: Make[Specimen]) -> None:
    """Each weight of a continuation that the encoding depends on has a gradient in training mode."""
    for continued in _continued(make, 0, 1):
        continuation = continued.continuation
        if not any(True for _ in continuation.parameters()):
            continue
        with seeded(SEED, "training"):
            encoding = continued.encode(continuation, training=True, grad=True)
            encoding.float().square().sum().backward()  # type: ignore[no-untyped-call]
            before = continued.encode(continuation)
            for name, parameter in continuation.named_parameters():
                if parameter.grad is not None:
                    continue
                with torch.no_grad():
                    parameter.add_(torch.randn_like(parameter))
                if not torch.equal(continued.encode(continuation), before):
                    raise Broken(
                        f"the encoding of continued({continued.tap}) depends on {name}, which has no "
                        "gradient; remove detach() and torch.no_grad()"
                    )


@requires("continuation_reproduces_the_encoding")
def optional_blocks_can_be_left_out(make: Make[Specimen]) -> None:
    """A continuation without an optional block has an encoding of the same shape, and fewer parameters."""
    continued = next(_continued(make, 0, 1))
    blocks = continued.source.blocks()
    following = [number for number, block in enumerate(blocks) if block.after >= continued.tap]
    whole = _parameters(continued.continuation)
    optional = [number for number in following if blocks[number].optional]
    if not optional:
        raise Skipped("none of its blocks is optional")
    if len(following) == 1:
        raise Skipped("it has one block")
    for number in optional:
        keep = [other for other in following if other != number]
        where = f"continued({continued.tap}, keep=...) without block {number} ('{blocks[number].name}')"
        try:
            continuation = continued.source.continued(continued.tap, keep)
            encoding = continued.encode(continuation)
        except Exception as error:  # plugins may raise anything
            raise Broken(
                f"{where} {described(error)}; set optional=False for blocks that are needed"
            ) from error
        if encoding.shape != continued.features.encoding.shape or not encoding.isfinite().all():
            raise Broken(f"{where} has an encoding {tuple(encoding.shape)}, or one that is not finite")
        weights = continued.base.get_submodule(blocks[number].name).parameters()
        if any(True for _ in weights) and _parameters(continuation) >= whole:
            raise Broken(f"{where} has as many parameters as with it; do not copy what is left out")


def impossible_continuations_are_refused(make: Make[Specimen]) -> None:
    """`continued` raises `FitError` for a tap or a block that there is not, and without a block it needs."""
    continued = next(_continued(make, 0))
    source, tap, blocks = continued.source, continued.tap, continued.source.blocks()
    following = [number for number, block in enumerate(blocks) if block.after >= tap]
    cases: dict[str, tuple[int, list[int] | None]] = {
        f"continued({len(continued.base.tap_shapes)})": (len(continued.base.tap_shapes), None),
        "continued(-1)": (-1, None),
        f"continued({tap}, keep=[..., {len(blocks)}])": (tap, [*following, len(blocks)]),
    }
    for number in following:
        if not blocks[number].optional:
            keep = [other for other in following if other != number]
            cases[f"continued({tap}, keep={keep})"] = (tap, keep)
            break
    for case, arguments in cases.items():
        try:
            source.continued(*arguments)
        except FitError:
            continue
        except Exception as error:  # plugins may raise anything
            raise Broken(f"{case} {described(error)}; raise FitError, as select_blocks does") from error
        raise Broken(f"{case} is not refused; raise FitError, as select_blocks does")


@requires("continuation_reproduces_the_encoding")
def continuation_reads_only_the_tap(make: Make[Specimen]) -> None:
    """A continuation reads neither the base nor other examples, and does not change the tap in place."""
    for first, second in zip(_continued(make, 0, 1), _continued(make, 0, 2), strict=True):
        continuation = first.continuation
        before, tap = first.features.taps[first.tap].clone(), first.tap
        encoding = first.encode(continuation)
        other = second.encode(continuation)
        if not torch.allclose(encoding[0], other[0], rtol=1e-4, atol=1e-5):
            raise Broken(
                f"the encoding of continued({tap}) depends on other examples of the batch in eval mode"
            )
        with torch.no_grad():
            for parameter in first.base.parameters():
                parameter.add_(1)
        if not torch.equal(first.encode(continuation), encoding):
            raise Broken(f"continued({tap}) reads the weights of the base; copy them (copy.deepcopy)")
        with torch.no_grad():
            for parameter in first.base.parameters():
                parameter.sub_(1)
        first.encode(continuation, training=True)
        if not torch.equal(first.features.taps[tap], before):
            raise Broken(
                f"continued({tap}) changes the tap in place, which others read too; make a new tensor"
            )


CHECKS: Sequence[Callable[[Make[Specimen]], None]] = (
    blocks_are_in_order,
    continuation_reproduces_the_encoding,
    continuation_is_a_trainable_copy,
    gradients_reach_the_continuation,
    optional_blocks_can_be_left_out,
    impossible_continuations_are_refused,
    continuation_reads_only_the_tap,
)


def _same(encoding: Tensor, expected: Tensor) -> bool:
    return encoding.shape == expected.shape and torch.allclose(
        encoding, expected, rtol=0, atol=TOLERANCE * max(float(expected.abs().max()), 1e-6)
    )


def _parameters(continuation: Continuation) -> int:
    return sum(parameter.numel() for parameter in continuation.parameters())
