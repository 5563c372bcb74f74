"""Checks of bases, sides and mergers: shapes, seeds and state."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch

from sidetune_core.assembly.tap_check import check_declared_taps
from sidetune_core.errors import FitError, PluginError
from sidetune_core.interfaces.inputs import Features, Inputs, Shape
from sidetune_core.interfaces.networks import Merger, Side
from sidetune_core.seeding import seeded
from sidetune_core.testing import attributes
from sidetune_core.testing.advice import DRAWS_IN_EVAL
from sidetune_core.testing.device import half_precision
from sidetune_core.testing.findings import SEED, Broken, Make, Skipped, described, requires
from sidetune_core.testing.specimen import ENCODING, TAP, Specimen
from sidetune_core.testing.state import changed, equal, named_tensors, random_state, snapshot

TRAINING_PASSES = 3
"""Forward passes in training mode before the state dict is compared."""


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


@requires("outputs_have_the_declared_shapes")
def outputs_are_finite(make: Make[Specimen]) -> None:
    """Inputs in [0, 1], constant ones included, give finite outputs."""
    specimen = make()
    if not all(output.isfinite().all() for output in specimen.outputs(0, 1)):
        raise Broken(
            "outputs for inputs in [0, 1] are infinite or NaN; check divisions, logarithms, initial weights"
        )
    for constant in (0.0, 1.0):
        inputs = specimen.inputs(0, 1)
        if any(not value.is_floating_point() for value in inputs.values()):
            return
        blank = specimen.prepare({name: torch.full_like(value, constant) for name, value in inputs.items()})
        if not all(output.isfinite().all() for output in specimen.run(blank)):
            raise Broken(
                f"outputs for an input that is {constant:g} everywhere are infinite or NaN; "
                "add a small number to what you divide by, such as a standard deviation"
            )


@requires("outputs_have_the_declared_shapes")
def outputs_are_float32(make: Make[Specimen]) -> None:
    """Outputs are in float32; in half precision the core uses autocast."""
    for output in make().outputs(0, 1):
        if output.dtype != torch.float32:
            name = str(output.dtype).removeprefix("torch.")
            raise Broken(f"an output is in {name}; return float32: the core chooses another precision")


@requires("outputs_have_the_declared_shapes")
def evaluation_draws_no_random_numbers(make: Make[Specimen]) -> None:
    """A forward pass in eval mode does not change the global random states."""
    specimen = make()
    before = random_state()
    specimen.outputs(0, 1)
    if random_state() != before:
        raise Broken(DRAWS_IN_EVAL)


@requires("outputs_have_the_declared_shapes", "evaluation_draws_no_random_numbers")
def one_seed_gives_one_network(make: Make[Specimen]) -> None:
    """Two networks built with one seed have bitwise equal outputs."""
    if not equal(make().outputs(0, 1), make().outputs(0, 1)):
        raise Broken(
            "two networks built with one seed differ; draw from the global generators, and do not seed them"
        )


@requires("outputs_have_the_declared_shapes")
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


@requires("outputs_have_the_declared_shapes")
def inputs_are_unchanged(make: Make[Specimen]) -> None:
    """A forward pass changes none of its inputs in place: others read them too."""
    specimen = make()
    for training in (False, True):
        inputs = specimen.inputs(0, 1)
        before = {name: value.clone() for name, value in inputs.items()}
        specimen.run(inputs, training=training)
        if names := [name for name, value in inputs.items() if not torch.equal(value, before[name])]:
            raise Broken(
                f"a forward pass changes {', '.join(names)} in place, which others read too; "
                "make a new tensor (x + 1, not x.add_(1) or x += 1)"
            )


@requires(
    "outputs_have_the_declared_shapes",
    "evaluation_draws_no_random_numbers",
    "inputs_are_unchanged",
    "taps_are_read_only_if_declared",
)
def examples_are_independent(make: Make[Specimen]) -> None:
    """In eval mode an output depends on its own example only: the core caches outputs by example."""
    specimen = make()
    pairs = zip(specimen.outputs(0, 1), specimen.outputs(0, 2), strict=True)
    if not all(torch.allclose(a[0], b[0], rtol=1e-4, atol=1e-5) for a, b in pairs):
        raise Broken(
            "in eval mode the output for an example depends on the others in its batch; "
            "use running statistics in eval mode"
        )


@requires("outputs_have_the_declared_shapes", "examples_are_independent")
def one_example_is_a_batch(make: Make[Specimen]) -> None:
    """A batch of one has outputs (1, *shape)."""
    specimen = make()
    if specimen.examples([0]).lengths is not None:
        raise Skipped("padded inputs are as long as the longest example")
    try:
        shapes = [tuple(output.shape) for output in specimen.outputs(0)]
    except Exception as error:  # plugins may raise anything
        raise Broken(f"a batch of one fails: {described(error)}") from error
    if shapes != (declared := [(1, *shape) for shape in specimen.shapes]):
        raise Broken(
            f"outputs for a batch of one have shapes {_listed(shapes)}, not {_listed(declared)}; "
            "do not squeeze the batch axis"
        )


@requires(
    "outputs_have_the_declared_shapes", "evaluation_draws_no_random_numbers", "one_seed_gives_one_network"
)
def state_dict_holds_all_state(make: Make[Specimen]) -> None:
    """A network of another seed with the state dict loaded has the same outputs, trained or not."""
    first, second = make(SEED), make(SEED + 1)
    for passes in (0, TRAINING_PASSES):
        with seeded(SEED, "training"):
            for step in range(passes):
                first.run(first.inputs(step, step + 1), training=True)
        second.module.load_state_dict(first.module.state_dict())
        if equal(first.outputs(0, 1), second.outputs(0, 1)):
            continue
        if hidden := attributes.unregistered(first.module):
            raise Broken(f"outputs differ after load_state_dict: {'; '.join(hidden)}")
        after = f" {passes} forward passes in training mode and" if passes else ""
        raise Broken(
            f"outputs differ after{after} load_state_dict; "
            "keep random and counted state in parameters and buffers"
        )


@requires("outputs_have_the_declared_shapes")
def gradients_reach_the_weights(make: Make[Specimen]) -> None:
    """In training mode, outputs have gradients with respect to the weights."""
    specimen = make()
    parameters = list(specimen.module.parameters())
    inputs = specimen.inputs(0, 1)
    if isinstance(specimen.module, Merger):
        inputs = Inputs({name: value.requires_grad_() for name, value in inputs.items()})
    elif not parameters:
        raise Skipped("it has no parameters")
    specimen.module.requires_grad_(True)
    with seeded(SEED, "training"):
        specimen.backward(specimen.run(inputs, training=True, grad=True))
    if isinstance(specimen.module, Merger) and all(value.grad is None for value in [*inputs.values()][1:]):
        raise Broken("no gradient reaches the sides' encodings, so sides are not trained; remove detach()")
    if parameters and all(parameter.grad is None for parameter in parameters):
        raise Broken(
            "no gradient reaches any of its parameters, so it cannot be trained; "
            "remove detach() and torch.no_grad() from forward()"
        )


@requires("outputs_have_the_declared_shapes")
def runs_in_channels_last(make: Make[Specimen]) -> None:
    """Images and convolutions in channels-last memory format, the default of runs, are accepted."""
    specimen = make()
    specimen.module.to(memory_format=torch.channels_last)
    with seeded(SEED, "training"):
        _runs(
            specimen.in_channels_last(0, 1),
            specimen,
            "in channels-last memory format (--device.channels-last)",
            "use reshape() or flatten(), not view()",
        )


@requires("outputs_have_the_declared_shapes", "runs_in_channels_last")
def runs_in_bfloat16(make: Make[Specimen]) -> None:
    """A pass forward and backward works under autocast to bfloat16."""
    specimen = make()
    specimen.module.to(memory_format=torch.channels_last)
    with seeded(SEED, "training"), half_precision():
        inputs = specimen.in_channels_last(0, 1)
        if isinstance(specimen.module, Merger):  # the encodings have it too
            inputs = Inputs({name: value.bfloat16() for name, value in inputs.items()})
        _runs(
            inputs,
            specimen,
            "in half precision (--device.precision bf16)",
            "convert with .float() where an operation needs it",
        )


def _runs(inputs: Inputs, specimen: Specimen, where: str, remedy: str) -> None:
    """A pass forward in both modes, and backward."""
    specimen.module.requires_grad_(True)
    for training in (False, True):
        try:
            outputs = specimen.run(inputs, training=training, grad=training)
            if training and any(output.requires_grad for output in outputs):
                specimen.backward(outputs)
        except Broken:
            raise
        except Exception as error:  # plugins may raise anything
            raise Broken(f"fails {where}: {described(error)}; {remedy}") from error
        if not all(output.isfinite().all() for output in outputs):
            raise Broken(f"gives infinite or NaN outputs {where}")


@requires("outputs_have_the_declared_shapes")
def tensors_follow_the_device(make: Make[Specimen]) -> None:
    """With weights and inputs on a GPU (pretended) every tensor is there."""
    specimen = make()
    with seeded(SEED, "training"):
        specimen.run_on_gpu(0, 1)


@requires("outputs_have_the_declared_shapes")
def other_inputs_are_encoded_or_refused(make: Make[Specimen]) -> None:
    """Images of other sizes and channels are encoded, or refused with a `FitError` in `__init__`."""
    for shape, others in make().others.items():
        images = f"images of {shape[1]} x {shape[2]} with {shape[0]} channel{'s' if shape[0] > 1 else ''}"
        try:
            specimen = others()
        except FitError:
            continue
        except Exception as error:  # plugins may raise anything
            raise Broken(f"{images} are not refused, but __init__ {described(error)}{REFUSE}") from error
        try:
            shapes = [tuple(output.shape) for output in specimen.outputs(0, 1)]
        except Exception as error:  # plugins may raise anything
            raise Broken(f"{images} are not refused, but forward() {described(error)}{REFUSE}") from error
        if shapes != [(2, *shape) for shape in specimen.shapes]:
            raise Broken(f"outputs for {images} have shapes {_listed(shapes)}, not those declared{REFUSE}")


REFUSE = "; compute sizes from the input shapes, or raise FitError in __init__"


@requires("outputs_have_the_declared_shapes", "examples_are_independent")
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


@requires("outputs_have_the_declared_shapes")
def taps_are_read_only_if_declared(make: Make[Specimen]) -> None:
    """A side that does not set `needs_taps` works without taps: the core does not cache them for it."""
    specimen = make()
    if getattr(specimen.module, "needs_taps", False):
        raise Skipped("it sets needs_taps")
    inputs = specimen.inputs(0, 1)
    without = {name: value for name, value in inputs.items() if not name.startswith(TAP)}
    try:
        same = equal(specimen.run(inputs), specimen.run(Inputs(without, lengths=inputs.lengths)))
    except Exception:  # plugins may raise anything
        same = False
    if not same:
        raise Broken("forward() reads the base's taps; set needs_taps = True, so that the core keeps them")


@requires("outputs_have_the_declared_shapes", "evaluation_draws_no_random_numbers")
def tap_indices_name_the_taps_that_are_read(make: Make[Specimen]) -> None:
    """A side that sets `tap_indices` works with all other taps empty: the core caches only these."""
    specimen = make()
    side = specimen.module
    assert isinstance(side, Side)
    if side.tap_indices is None:
        raise Skipped("it does not set tap_indices")
    if not side.needs_taps:
        raise Broken(f"it sets tap_indices = {side.tap_indices} without needs_taps = True: no tap is cached")
    inputs = specimen.inputs(0, 1)
    own = {name: value for name, value in inputs.items() if not name.startswith((ENCODING, TAP))}
    taps = tuple(value for name, value in inputs.items() if name.startswith(TAP))
    try:
        check_declared_taps(
            "the side", side.eval(), Inputs(own, lengths=inputs.lengths), Features(inputs[ENCODING], taps)
        )
    except PluginError as error:
        raise Broken(str(error)) from error


@requires("outputs_have_the_declared_shapes")
def it_begins_as_the_base_if_declared(make: Make[Specimen]) -> None:
    """A side that sets `begins_at_base` has the base's encoding before the first step."""
    specimen = make()
    side = specimen.module
    assert isinstance(side, Side)
    if not side.begins_at_base:
        raise Skipped("it does not set begins_at_base")
    inputs = specimen.inputs(0, 1)
    (encoding,) = specimen.run(inputs)
    if not torch.allclose(encoding, inputs[ENCODING], rtol=1e-3, atol=1e-4):
        raise Broken("its encoding is not the base's before the first step; remove begins_at_base = True")


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


@requires("outputs_have_the_declared_shapes")
def every_side_counts(make: Make[Specimen]) -> None:
    """The output depends on all sides, or on none (with a fixed weight, or at the start of a schedule)."""
    specimen = make()
    with seeded(SEED, "training"), torch.no_grad():
        specimen.run(specimen.inputs(0, 1), training=True)
        for parameter in specimen.module.parameters():  # a weight may be zero at first
            parameter.add_(0.1 * torch.randn_like(parameter))
    inputs = specimen.inputs(0, 1)
    before = specimen.run(inputs)
    unread = [
        name
        for name, value in [*inputs.items()][1:]
        if equal(before, specimen.run(Inputs({**inputs.tensors, name: 1 - value})))
    ]
    if 0 < len(unread) < len(inputs) - 1:
        raise Broken(
            f"{unread[0]} of {len(inputs)} has no effect; merge all of them, "
            "or raise FitError for their number in __init__"
        )


@requires("outputs_have_the_declared_shapes")
def equal_encodings_are_kept_if_declared(make: Make[Specimen]) -> None:
    """A merger that sets `is_mean` merges equal encodings into the same."""
    specimen = make()
    assert isinstance(specimen.module, Merger)
    if not specimen.module.is_mean:
        raise Skipped("it does not set is_mean")
    inputs = specimen.inputs(0, 1)
    first = next(iter(inputs.values()))
    (merged,) = specimen.run(Inputs(dict.fromkeys(inputs, first), lengths=inputs.lengths))
    if not torch.allclose(merged, first, rtol=1e-4, atol=1e-5):
        raise Broken("it does not merge equal encodings into the same; remove is_mean = True")


@requires("outputs_have_the_declared_shapes")
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


FIRST: tuple[Callable[[Make[Specimen]], None], ...] = (
    outputs_have_the_declared_shapes,
    outputs_are_finite,
    outputs_are_float32,
    evaluation_draws_no_random_numbers,
    one_seed_gives_one_network,
    evaluation_changes_nothing,
    inputs_are_unchanged,
)
LAST: tuple[Callable[[Make[Specimen]], None], ...] = (
    examples_are_independent,
    one_example_is_a_batch,
    state_dict_holds_all_state,
    gradients_reach_the_weights,
    runs_in_channels_last,
    runs_in_bfloat16,
    tensors_follow_the_device,
)
IMAGE_BASE_CHECKS = (*FIRST, *LAST, other_inputs_are_encoded_or_refused)
TEXT_BASE_CHECKS = (*FIRST, *LAST, padding_has_no_effect)
BASE_CHECKS = (*IMAGE_BASE_CHECKS, padding_has_no_effect)
SIDE_CHECKS = (
    *FIRST,
    taps_are_read_only_if_declared,
    tap_indices_name_the_taps_that_are_read,
    it_begins_as_the_base_if_declared,
    *LAST,
    base_is_not_kept,
    other_inputs_are_encoded_or_refused,
)
MERGER_CHECKS = (
    *FIRST,
    *LAST,
    every_side_counts,
    equal_encodings_are_kept_if_declared,
    weights_are_finite_numbers,
)


def _listed(shapes: Sequence[Shape]) -> str:
    return ", ".join(map(str, shapes))
