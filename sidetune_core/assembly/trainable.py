"""What a learner trains in a task, known before any data is read."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import attrs
import torch
from torch import Tensor, nn

from sidetune_core.assembly.blank import BlankBase
from sidetune_core.config.resolve import ResolvedComponent
from sidetune_core.errors import FitError
from sidetune_core.interfaces.inputs import InputShapes, Shape
from sidetune_core.interfaces.learner import Components, Learner
from sidetune_core.interfaces.networks import Base, Merger, Side, taps_read
from sidetune_core.interfaces.outputs import Outputs
from sidetune_core.interfaces.tasks import Batch, Order, Predict, Task
from sidetune_core.interfaces.training import members


@attrs.frozen
class TrainedParts:
    """What a learner trains in its first task, without the task's head."""

    parameters: int
    """Number of scalars."""
    side: bool
    """Whether any of them is the side's."""
    base: bool
    """Whether any is the base's, or belongs to none of the components and may so act within the base."""
    head_shape: Shape | None = None
    """Shape of the encodings that the task's head was made for; None if it was not made."""
    taps: tuple[int, ...] | None = None
    """Indices of the taps that the learner itself reads; None for all."""
    is_plain: bool = False
    """Whether a training step of the first task is a forward pass of its networks and one back: the learner
    has the losses of its class."""
    is_of_copies: bool = False
    """Whether it took copies of side and merger on the meta device to find this out. The precision of such
    runs is chosen as if it were not known, as earlier versions did."""
    is_independent: bool = True
    """Whether no task uses networks of earlier ones, so that a step of a later one costs the same."""


def trained_parts(
    learner: ResolvedComponent, blank: BlankBase, side: Side | None, merger: Merger | None
) -> TrainedParts | None:
    """What a learner trains in its first task.

    The learner is built with a base on the meta device, which takes no memory, and starts a task without
    data. None if it needs weights or data for that.

    Args:
        learner: of the run.
        blank: its base.
        side: its side (see `check_side`); None if it has none.
        merger: its merger; None if it has none.

    Raises:
        FitError: the learner does not accept these components.
    """
    for with_copies in (False, True):  # a learner may need all networks on one device
        try:
            if not with_copies:
                return _trained_parts(learner, blank, side, merger)
            own = blank.on_meta(side) if side is not None else None
            merging = blank.on_meta(merger) if merger is not None else None
            return attrs.evolve(_trained_parts(learner, blank, own, merging), is_of_copies=True)
        except FitError:
            raise
        except Exception:  # whatever it needs, the run itself has it
            continue
    return None


def _trained_parts(
    learner: ResolvedComponent, blank: BlankBase, side: Side | None, merger: Merger | None
) -> TrainedParts:
    """See `trained_parts`; raises whatever the learner raises."""

    def make_base(pretrained: bool = True) -> Base:
        return blank.meta_base()

    def make_side(base: Base, pretrained: bool = True) -> Side:
        assert side is not None
        return side

    def make_merger(base: Base, count: int) -> Merger:
        assert merger is not None
        return merger

    components = Components(
        blank.inputs,
        make_base,
        make_side if side is not None else None,
        make_merger if merger is not None else None,
    )
    with torch.no_grad():
        built: Learner = learner.cls(learner.config, components)
        task = _BlankTask(blank.inputs)
        trainable = list(built.start(task))
    parameters: dict[int, int] = {}
    for member in members(trainable):
        owned = member.parameters() if isinstance(member, nn.Module) else [member]
        parameters |= {id(parameter): parameter.numel() for parameter in owned}
    mergers = [module for module in built.modules() if isinstance(module, Merger)]
    in_side = {id(one) for one in side.parameters()} if side is not None else set()
    in_merger = {id(one) for module in mergers for one in module.parameters()}
    trained = parameters.keys()
    return TrainedParts(
        sum(parameters.values()),
        bool(trained & in_side),
        bool(trained - in_side - in_merger),
        task.head_shape,
        taps_read(built),
        is_plain=type(built).losses is Learner.losses,
        is_independent=built.independent_tasks,
    )


class _BlankTask(Task):
    """A task without data, whose head has no parameters. What a learner trains is not counted if it asks for
    examples when it starts. `head_shape` is that of the encodings that its head was made for."""

    id = "t0"
    title = "blank"
    outputs = Outputs.of_classes(("0", "1"))

    def __init__(self, inputs: InputShapes) -> None:
        self.inputs = inputs
        self.head_shape: Shape | None = None

    def make_head(self, shape: Shape) -> nn.Module:
        self.head_shape = tuple(shape)
        return nn.Flatten()

    def steps_per_epoch(self, batch_size: int) -> int:
        return 1

    def train(self, predict: Predict, order: Order) -> Iterator[Batch]:
        raise NotImplementedError("it has no examples")

    def loss(self, output: Tensor, batch: Batch) -> Tensor:
        raise NotImplementedError("it has no examples")

    def evaluate(self, predict: Predict, split: str = "test") -> dict[str, Any]:
        raise NotImplementedError("it has no examples")
