"""Networks under examination: how the kit builds bases, sides and mergers, and runs them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import attrs
import torch
from torch import Tensor, nn

from sidetune_core.errors import FitError
from sidetune_core.interfaces.inputs import Features, Inputs, InputShapes, Shape
from sidetune_core.interfaces.networks import Base, Merger, Side
from sidetune_core.seeding import seeded
from sidetune_core.testing.device import PretendedGpu
from sidetune_core.testing.findings import SEED, Broken, Make
from sidetune_core.testing.sample import INPUTS, TinyBase, TinyReader, images, values
from sidetune_core.testing.state import building

SIDE_SHAPES: tuple[Shape, ...] = ((64,), (8, 4, 4))
MERGER_SHAPES: tuple[Shape, ...] = ((64,), (5, 8), (8, 4, 4))
OTHER_IMAGES: tuple[Shape, ...] = ((3, 32, 64), (1, 32, 32))
"""Sizes of images that a base or side encodes or refuses."""
ENCODING, TAP = "the base's encoding", "the base's tap "
"""Names of what a side receives besides the inputs."""

Examples = Callable[[Sequence[int]], Inputs]


@attrs.frozen(eq=False)
class Specimen:
    """A network to check, and how to run it."""

    module: nn.Module
    shapes: tuple[Shape, ...]
    """Shapes of the outputs that it declares, or that its kind requires."""
    examples: Examples
    """Its inputs without those that `prepare` adds, for examples by id."""
    call: Callable[[Inputs], Sequence[Tensor]]
    """The outputs for inputs."""
    base: Base | None = None
    """The base of a side."""
    others: Mapping[Shape, Callable[[], Specimen]] = {}
    """Networks for images of another size."""

    def inputs(self, *ids: int) -> Inputs:
        """All that it receives, flat by name: for a side also encoding and taps of the base."""
        examples = self.examples(ids)
        return self.prepare(examples.tensors, examples.lengths)

    def prepare(self, tensors: Mapping[str, Tensor], lengths: Tensor | None = None) -> Inputs:
        """Inputs with the features of the base; `tensors` may have older ones, which are replaced."""
        plain = {name: value for name, value in tensors.items() if not name.startswith((ENCODING, TAP))}
        if self.base is None:
            return Inputs(plain, lengths=lengths)
        with torch.no_grad():
            features = self.base(Inputs(plain, lengths=lengths))
        taps = {f"{TAP}{index}": tap for index, tap in enumerate(features.taps)}
        return Inputs({**plain, ENCODING: features.encoding, **taps}, lengths=lengths)

    def in_channels_last(self, *ids: int) -> Inputs:
        """`inputs` in channels-last memory format."""
        inputs = self.inputs(*ids)
        tensors = {
            name: value.contiguous(memory_format=torch.channels_last) if value.ndim == 4 else value
            for name, value in inputs.items()
        }
        return Inputs(tensors, lengths=inputs.lengths)

    def run(self, inputs: Inputs, *, training: bool = False, grad: bool = False) -> list[Tensor]:
        """Outputs for `inputs`."""
        self.module.train(training)
        with torch.set_grad_enabled(grad):
            return list(self.call(inputs))

    def outputs(self, *ids: int) -> list[Tensor]:
        """Outputs in eval mode for examples by id."""
        return self.run(self.inputs(*ids))

    def backward(self, outputs: Sequence[Tensor]) -> None:
        """Propagate a gradient back.

        Raises:
            Broken: no output requires one.
        """
        trained = [output.float().square().sum() for output in outputs if output.requires_grad]
        if not trained:
            raise Broken("the output has no gradient; remove detach() and torch.no_grad() from forward()")
        torch.stack(trained).sum().backward()  # type: ignore[no-untyped-call]

    def run_on_gpu(self, *ids: int) -> None:
        """A pass forward in both modes, and backward, on a pretended GPU."""
        inputs = self.inputs(*ids)
        self.module.requires_grad_(True)
        gpu = PretendedGpu()
        for module in (self.module, self.base):  # a side may read weights of its base, which is there too
            if module is not None:
                gpu.place(module)
        with gpu:
            for training in (False, True):
                outputs = self.run(gpu.move_inputs(inputs), training=training, grad=training)
                if training and any(output.requires_grad for output in outputs):
                    self.backward(outputs)


def bases(cls: type[Any], config: Any, inputs: InputShapes, examples: Examples) -> Make[Specimen]:
    """Makes the base to check for some inputs."""

    def make(seed: int = SEED) -> Specimen:
        with building(seed, "base"):
            base: Base = cls(config, inputs)

        def call(batch: Inputs) -> list[Tensor]:
            features = base(batch)
            if not isinstance(features, Features):
                raise Broken(
                    f"forward() returns a {type(features).__name__}; return Features(encoding, taps)"
                )
            return [features.encoding, *features.taps]

        def other(shape: Shape) -> Callable[[], Specimen]:
            return lambda: bases(cls, config, *_others(inputs)[shape])()

        others = {shape: other(shape) for shape in _others(inputs)}
        return Specimen(base, (base.shape, *base.tap_shapes), examples, call, others=others)

    return make


def sides(cls: type[Any], config: Any, base: Base, inputs: InputShapes, examples: Examples) -> Make[Specimen]:
    """Makes the side to check, next to a base."""

    def make(seed: int = SEED) -> Specimen:
        with building(seed, "side"):
            side: Side = cls(config, inputs, base)

        def call(batch: Inputs) -> list[Tensor]:
            own = {name: value for name, value in batch.items() if not name.startswith((ENCODING, TAP))}
            taps = tuple(value for name, value in batch.items() if name.startswith(TAP))
            return [_tensor(side(Inputs(own, lengths=batch.lengths), Features(batch[ENCODING], taps)))]

        def other(shape: Shape) -> Callable[[], Specimen]:
            sizes, batch = _others(inputs)[shape]
            return lambda: sides(cls, config, tiny_base(base.shape, sizes), sizes, batch)()

        others = {shape: other(shape) for shape in _others(inputs)}
        return Specimen(side, (base.shape,), examples, call, base, others)

    return make


def mergers(cls: type[Any], config: Any, shape: Shape, count: int) -> Make[Specimen]:
    """Makes the merger to check, for encodings of a shape."""

    def make(seed: int = SEED) -> Specimen:
        with building(seed, "merger"):
            merger: Merger = cls(config, shape, count)

        def examples(ids: Sequence[int]) -> Inputs:
            return Inputs({f"encoding {k + 1}": values(ids, shape, k) for k in range(count)})

        return Specimen(merger, (shape,), examples, lambda inputs: [_tensor(merger(list(inputs.values())))])

    return make


def tiny_base(shape: Shape, inputs: InputShapes = INPUTS) -> TinyBase:
    """A frozen base of the kit."""
    with seeded(SEED, "kit"):
        return TinyBase(shape, inputs).eval().requires_grad_(False)


def tiny_reader() -> TinyReader:
    """A frozen base of the kit that reads tokens."""
    with seeded(SEED, "kit"):
        return TinyReader().eval().requires_grad_(False)


def fits(make: Make[Specimen]) -> bool:
    """Whether the inputs fit; a later check reports other errors."""
    try:
        make()
    except FitError:
        return False
    except Exception:  # plugins may raise anything
        return True
    return True


def _others(inputs: InputShapes) -> dict[Shape, tuple[InputShapes, Examples]]:
    """By size: images of it, for a network that was built for `INPUTS`."""
    if inputs is not INPUTS:
        return {}

    def of(shape: Shape) -> tuple[InputShapes, Examples]:
        sizes = {"image": shape}
        return sizes, lambda ids: images(ids, sizes)

    return {shape: of(shape) for shape in OTHER_IMAGES}


def _tensor(output: object) -> Tensor:
    if not isinstance(output, Tensor):
        raise Broken(f"forward() returns a {type(output).__name__}; return a tensor (B, *shape)")
    return output
