"""Checks of bases, sides and mergers: what a network promises about shapes, seeds and state."""

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
from sidetune_core.testing.findings import SEED, Broken, Finding, Make, examine
from sidetune_core.testing.sample import INPUTS, TEXT, TinyBase, TinyReader, images, texts, values
from sidetune_core.testing.state import building, changed, equal, named_tensors, random_state, snapshot

SIDE_SHAPES: tuple[Shape, ...] = ((64,), (8, 4, 4))
MERGER_SHAPES: tuple[Shape, ...] = ((64,), (5, 8), (8, 4, 4))


@attrs.frozen(eq=False)
class Specimen:
    """A network, and how it is fed."""

    module: nn.Module
    shapes: tuple[Shape, ...]
    """What it declares to give, or has to."""
    forward: Callable[[Sequence[int]], Sequence[Tensor]]
    """Its outputs for examples by id."""
    beside: Base | None = None
    """The base that it was made for."""

    def outputs(self, *ids: int) -> list[Tensor]:
        """What it gives in evaluation."""
        self.module.eval()
        with torch.no_grad():
            return list(self.forward(ids))


def check_base(cls: type[Any], config: Any) -> list[Finding]:
    """Findings about a base."""

    def on(inputs: InputShapes, batch: Callable[[Sequence[int]], Inputs]) -> Make[Specimen]:
        def make(seed: int = SEED) -> Specimen:
            with building(seed, "base"):
                base: Base = cls(config, inputs)
            return Specimen(base, (base.shape, *base.tap_shapes), lambda ids: _flat(base(batch(ids))))

        return make

    if not _fits(on(INPUTS, images)) and _fits(reader := on(TEXT, texts)):
        return examine({"": reader}, (*SHARED, padding_does_not_matter))
    return examine({"": on(INPUTS, images)}, SHARED)


def check_side(cls: type[Any], config: Any) -> list[Finding]:
    """Findings about a side, beside bases of the kit."""

    def beside(base: Base, inputs: InputShapes, batch: Callable[[Sequence[int]], Inputs]) -> Make[Specimen]:
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
    places = {f"beside a base of shape {base.shape}": beside(base, INPUTS, images) for base in bases}
    if not any(map(_fits, places.values())):
        places = {"beside a base that reads tokens": beside(reader, TEXT, texts)}
    return examine(places, (*SHARED, base_is_not_kept))


def check_merger(cls: type[Any], config: Any) -> list[Finding]:
    """Findings about a merger of two and of three encodings of several shapes."""

    def of(shape: Shape, count: int) -> Make[Specimen]:
        def make(seed: int = SEED) -> Specimen:
            with building(seed, "merger"):
                merger: Merger = cls(config, shape, count)
            return Specimen(
                merger, (shape,), lambda ids: [merger([values(ids, shape, k) for k in range(count)])]
            )

        return make

    places = {
        f"on {count} encodings of shape {shape}": of(shape, count)
        for shape in MERGER_SHAPES
        for count in (2, 3)
    }
    return examine(places, (*SHARED, weights_are_finite_numbers))


def outputs_have_the_declared_shapes(make: Make[Specimen]) -> None:
    """A batch of two gives (2, *shape) for the encoding, and for each tap."""
    specimen = make()
    found = [tuple(output.shape) for output in specimen.outputs(0, 1)]
    wanted = [(2, *shape) for shape in specimen.shapes]
    if found != wanted:
        raise Broken(
            f"a batch of two gives {_words(found)} where {_words(wanted)} is declared; the encoding comes first, then the taps"
        )


def outputs_are_finite(make: Make[Specimen]) -> None:
    """Inputs in [0, 1] give numbers."""
    if not all(output.isfinite().all() for output in make().outputs(0, 1)):
        raise Broken(
            "inputs in [0, 1] give infinite values or NaN; look at divisions, logarithms and the first weights"
        )


def one_seed_gives_one_network(make: Make[Specimen]) -> None:
    """Two that are built under one seed agree bit for bit."""
    if not equal(make().outputs(0, 1), make().outputs(0, 1)):
        raise Broken(
            "two networks built under one seed differ; draw from the global generators, and seed none yourself"
        )


def evaluation_changes_nothing(make: Make[Specimen]) -> None:
    """A forward pass in eval mode leaves parameters and buffers as they are."""
    specimen = make()
    before = snapshot(specimen.module)
    specimen.outputs(0, 1)
    if names := changed(before, snapshot(specimen.module)):
        raise Broken(
            f"a forward pass in eval mode changes {', '.join(names)}; change state only where self.training holds"
        )


def evaluation_draws_no_random_numbers(make: Make[Specimen]) -> None:
    """A forward pass in eval mode leaves the global random states as they are."""
    specimen = make()
    before = random_state()
    specimen.outputs(0, 1)
    if random_state() != before:
        raise Broken(
            "a forward pass in eval mode draws random numbers or seeds a generator; draw only where self.training holds"
        )


def examples_do_not_mix(make: Make[Specimen]) -> None:
    """In eval mode an output depends on its own example: the core stores and reuses outputs by example."""
    specimen = make()
    one, other = specimen.outputs(0, 1), specimen.outputs(0, 2)
    if not all(torch.allclose(a[0], b[0], rtol=1e-4, atol=1e-5) for a, b in zip(one, other, strict=True)):
        raise Broken(
            "in eval mode the output for an example depends on the others in its batch; use running statistics there"
        )


def state_dict_is_the_whole_state(make: Make[Specimen]) -> None:
    """A network of another seed that is given the state dict gives the same outputs."""
    first, second = make(SEED), make(SEED + 1)
    second.module.load_state_dict(first.module.state_dict())
    if not equal(first.outputs(0, 1), second.outputs(0, 1)):
        raise Broken(
            "outputs differ after load_state_dict; what is drawn or counted has to be a parameter or a buffer"
        )


def padding_does_not_matter(make: Make[Specimen]) -> None:
    """A sequence that is padded gives what it gives alone, and zeros after its end."""
    specimen = make()
    together, alone = specimen.outputs(0, 1), specimen.outputs(1)
    for both, one in zip(together, alone, strict=True):
        length = one.shape[1]
        if not torch.allclose(both[1, :length], one[0], rtol=1e-4, atol=1e-5):
            raise Broken(
                "what a base makes of a sequence depends on its padding; let no position attend to what 'mask' leaves out"
            )
        if both[1, length:].any():
            raise Broken(
                "a base gives other values than zero after the end of a sequence; the core keeps outputs without their padding"
            )


def base_is_not_kept(make: Make[Specimen]) -> None:
    """A side holds nothing of the base itself, or it would be saved, moved and trained twice."""
    specimen = make()
    assert specimen.beside is not None
    owned = {id(tensor) for tensor in (*specimen.beside.parameters(), *specimen.beside.buffers())}
    kept = [name for name, tensor in named_tensors(specimen.module) if id(tensor) in owned]
    if kept:
        raise Broken(
            f"{', '.join(kept)} belong to the base; keep a copy (copy.deepcopy), or read the base's outputs in forward()"
        )


def weights_are_finite_numbers(make: Make[Specimen]) -> None:
    """What a merger wants recorded can be recorded."""
    module = make().module
    assert isinstance(module, Merger)
    wrong = {
        name: value
        for name, value in module.weights().items()
        if not isinstance(value, float) or not math.isfinite(value)
    }
    if wrong:
        raise Broken(f"weights() gives {wrong}; give floats by name, with float(value.detach())")


SHARED: tuple[Callable[[Make[Specimen]], None], ...] = (
    outputs_have_the_declared_shapes,
    outputs_are_finite,
    one_seed_gives_one_network,
    evaluation_changes_nothing,
    evaluation_draws_no_random_numbers,
    examples_do_not_mix,
    state_dict_is_the_whole_state,
)


def _fits(make: Make[Specimen]) -> bool:
    """Whether the inputs of the kit fit; what else goes wrong is found later."""
    try:
        make()
    except FitError:
        return False
    except Exception:  # a plugin may raise anything
        return True
    return True


def _flat(features: Features) -> list[Tensor]:
    return [features.encoding, *features.taps]


def _words(shapes: Sequence[Shape]) -> str:
    return ", ".join(map(str, shapes))
