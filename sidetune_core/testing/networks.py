"""Checks of bases, sides and mergers: shapes, seeds and state."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import attrs
import torch
from torch import Tensor, nn

from sidetune_core.errors import FitError
from sidetune_core.interfaces.inputs import Features, Inputs, InputShapes, Shape
from sidetune_core.interfaces.networks import Base, Merger, Side
from sidetune_core.seeding import seeded
from sidetune_core.testing.advice import DRAWS_IN_EVAL
from sidetune_core.testing.findings import SEED, Broken, Finding, Make, examine
from sidetune_core.testing.sample import INPUTS, TEXT, TinyBase, TinyReader, images, texts, values
from sidetune_core.testing.state import building, changed, equal, named_tensors, random_state, snapshot

SIDE_SHAPES: tuple[Shape, ...] = ((64,), (8, 4, 4))
MERGER_SHAPES: tuple[Shape, ...] = ((64,), (5, 8), (8, 4, 4))


@attrs.frozen(eq=False)
class Specimen:
    """A network to check, and how to run it."""

    module: nn.Module
    shapes: tuple[Shape, ...]
    """Shapes of the outputs that it declares, or that its kind requires."""
    forward: Callable[[Sequence[int]], Sequence[Tensor]]
    """Outputs for examples by id."""
    base: Base | None = None
    """The base of a side."""

    def outputs(self, *ids: int) -> list[Tensor]:
        """Outputs in eval mode."""
        self.module.eval()
        with torch.no_grad():
            return list(self.forward(ids))


def check_base(cls: type[Any], config: Any) -> list[Finding]:
    """Findings about a base."""

    def on(inputs: InputShapes, batch: Callable[[Sequence[int]], Inputs]) -> Make[Specimen]:
        def make(seed: int = SEED) -> Specimen:
            with building(seed, "base"):
                base: Base = cls(config, inputs)
            return Specimen(base, (base.shape, *base.tap_shapes), lambda ids: _tensors(base(batch(ids))))

        return make

    if not _fits(on(INPUTS, images)) and _fits(reader := on(TEXT, texts)):
        return examine({"": reader}, BASE_CHECKS)
    return examine({"": on(INPUTS, images)}, SHARED)


def check_side(cls: type[Any], config: Any) -> list[Finding]:
    """Findings about a side, next to bases of the kit."""

    def next_to(base: Base, inputs: InputShapes, batch: Callable[[Sequence[int]], Inputs]) -> Make[Specimen]:
        def make(seed: int = SEED) -> Specimen:
            with building(seed, "side"):
                side: Side = cls(config, inputs, base)

            def forward(ids: Sequence[int]) -> list[Tensor]:
                return [side(batch(ids), base(batch(ids)))]

            return Specimen(side, (base.shape,), forward, base)

        return make

    with seeded(SEED, "kit"):
        reader = TinyReader().eval()
        bases = [TinyBase(shape).eval() for shape in SIDE_SHAPES]
    setups = {f"next to a base of shape {base.shape}": next_to(base, INPUTS, images) for base in bases}
    if not any(map(_fits, setups.values())):
        setups = {"next to a base that reads tokens": next_to(reader, TEXT, texts)}
    return examine(setups, SIDE_CHECKS)


def check_merger(cls: type[Any], config: Any) -> list[Finding]:
    """Findings about a merger of two and three encodings of several shapes."""

    def of(shape: Shape, count: int) -> Make[Specimen]:
        def make(seed: int = SEED) -> Specimen:
            with building(seed, "merger"):
                merger: Merger = cls(config, shape, count)

            def forward(ids: Sequence[int]) -> list[Tensor]:
                return [merger([values(ids, shape, k) for k in range(count)])]

            return Specimen(merger, (shape,), forward)

        return make

    setups = {
        f"on {count} encodings of shape {shape}": of(shape, count)
        for shape in MERGER_SHAPES
        for count in (2, 3)
    }
    return examine(setups, MERGER_CHECKS)


def outputs_have_the_declared_shapes(make: Make[Specimen]) -> None:
    """Encoding and taps of a batch of two have shape (2, *shape), with the declared shapes."""
    specimen = make()
    shapes = [tuple(output.shape) for output in specimen.outputs(0, 1)]
    declared = [(2, *shape) for shape in specimen.shapes]
    if shapes != declared:
        raise Broken(
            f"outputs for a batch of two have shapes {_listed(shapes)}, but {_listed(declared)} is declared; "
            "return the encoding first, then the taps"
        )


def outputs_are_finite(make: Make[Specimen]) -> None:
    """Inputs in [0, 1] give finite outputs."""
    if not all(output.isfinite().all() for output in make().outputs(0, 1)):
        raise Broken(
            "outputs for inputs in [0, 1] are infinite or NaN; check divisions, logarithms, initial weights"
        )


def one_seed_gives_one_network(make: Make[Specimen]) -> None:
    """Two networks built with one seed have bitwise equal outputs."""
    if not equal(make().outputs(0, 1), make().outputs(0, 1)):
        raise Broken(
            "two networks built with one seed differ; draw from the global generators, and do not seed them"
        )


def evaluation_changes_nothing(make: Make[Specimen]) -> None:
    """A forward pass in eval mode changes no parameter or buffer."""
    specimen = make()
    before = snapshot(specimen.module)
    specimen.outputs(0, 1)
    if names := changed(before, snapshot(specimen.module)):
        raise Broken(
            f"a forward pass in eval mode changes {', '.join(names)}; "
            "change state only if self.training is set"
        )


def evaluation_draws_no_random_numbers(make: Make[Specimen]) -> None:
    """A forward pass in eval mode does not change the global random states."""
    specimen = make()
    before = random_state()
    specimen.outputs(0, 1)
    if random_state() != before:
        raise Broken(DRAWS_IN_EVAL)


def examples_are_independent(make: Make[Specimen]) -> None:
    """In eval mode an output depends on its own example only: the core caches outputs by example."""
    specimen = make()
    pairs = zip(specimen.outputs(0, 1), specimen.outputs(0, 2), strict=True)
    if not all(torch.allclose(a[0], b[0], rtol=1e-4, atol=1e-5) for a, b in pairs):
        raise Broken(
            "in eval mode the output for an example depends on the others in its batch; "
            "use running statistics in eval mode"
        )


def state_dict_holds_all_state(make: Make[Specimen]) -> None:
    """A network of another seed with the state dict loaded has the same outputs."""
    first, second = make(SEED), make(SEED + 1)
    second.module.load_state_dict(first.module.state_dict())
    if not equal(first.outputs(0, 1), second.outputs(0, 1)):
        raise Broken(
            "outputs differ after load_state_dict; keep random and counted state in parameters and buffers"
        )


def padding_has_no_effect(make: Make[Specimen]) -> None:
    """A padded sequence has the outputs of the sequence alone, and zeros after its end."""
    specimen = make()
    for padded, alone in zip(specimen.outputs(0, 1), specimen.outputs(1), strict=True):
        length = alone.shape[1]
        if not torch.allclose(padded[1, :length], alone[0], rtol=1e-4, atol=1e-5):
            raise Broken(
                "outputs for a sequence depend on its padding; mask the padding in attention and means"
            )
        if padded[1, length:].any():
            raise Broken(
                "outputs after the end of a sequence are not zero; "
                "set them to zero, since the core caches outputs without padding"
            )


def base_is_not_kept(make: Make[Specimen]) -> None:
    """A side holds no tensor of the base, which would be saved and trained twice."""
    specimen = make()
    assert specimen.base is not None
    owned = {id(tensor) for tensor in (*specimen.base.parameters(), *specimen.base.buffers())}
    kept = [name for name, tensor in named_tensors(specimen.module) if id(tensor) in owned]
    if kept:
        raise Broken(
            f"{', '.join(kept)} belong to the base; "
            "keep a copy (copy.deepcopy), or read the base's outputs in forward()"
        )


def weights_are_finite_numbers(make: Make[Specimen]) -> None:
    """`weights` of a merger returns finite floats, which can be logged."""
    module = make().module
    assert isinstance(module, Merger)
    wrong = {
        name: value
        for name, value in module.weights().items()
        if not isinstance(value, float) or not math.isfinite(value)
    }
    if wrong:
        raise Broken(f"weights() returns {wrong}; return floats by name, with float(value.detach())")


SHARED: tuple[Callable[[Make[Specimen]], None], ...] = (
    outputs_have_the_declared_shapes,
    outputs_are_finite,
    one_seed_gives_one_network,
    evaluation_changes_nothing,
    evaluation_draws_no_random_numbers,
    examples_are_independent,
    state_dict_holds_all_state,
)
BASE_CHECKS = (*SHARED, padding_has_no_effect)
"""The last one runs for bases that read tokens."""
SIDE_CHECKS = (*SHARED, base_is_not_kept)
MERGER_CHECKS = (*SHARED, weights_are_finite_numbers)


def _fits(make: Make[Specimen]) -> bool:
    """Whether the kit's inputs fit; a later check reports other errors."""
    try:
        make()
    except FitError:
        return False
    except Exception:  # plugins may raise anything
        return True
    return True


def _tensors(features: Features) -> list[Tensor]:
    return [features.encoding, *features.taps]


def _listed(shapes: Sequence[Shape]) -> str:
    return ", ".join(map(str, shapes))
