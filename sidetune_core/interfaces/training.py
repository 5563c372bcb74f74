"""What a learner returns and is given in training: trainable members and their optimiser groups, phases, and
the facts of a step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext

import attrs
from torch import Tensor, nn

Member = nn.Module | nn.Parameter
"""A module or a parameter of the learner."""


def _as_tuple(members: Iterable[Member]) -> tuple[Member, ...]:
    return tuple(members)  # `tuple` itself as a converter: mypy accepts no list of parameters


@attrs.frozen(eq=False)
class ParamGroup:
    """Modules and parameters that are trained with a learning rate or weight decay of their own."""

    members: Sequence[Member] = attrs.field(converter=_as_tuple)
    lr_scale: float = attrs.field(
        default=1.0, validator=[attrs.validators.ge(0), attrs.validators.lt(float("inf"))]
    )
    """Factor on the learning rate of each step."""
    weight_decay: float | None = attrs.field(
        default=None, validator=attrs.validators.optional(attrs.validators.ge(0))
    )
    """Weight decay; None for that of ``--train.weight-decay``."""


Trainable = Sequence[nn.Module | nn.Parameter | ParamGroup]
"""What `Learner.start` returns: what is trained on a task."""


def members(trainable: Trainable) -> list[Member]:
    """The modules and parameters of `trainable`, those of groups included."""
    listed: list[Member] = []
    for item in trainable:
        listed += item.members if isinstance(item, ParamGroup) else [item]
    return listed


@attrs.frozen
class Phase:
    """A part of the training steps of a task, such as the retraining after pruning."""

    name: str = "train"
    fraction: float = attrs.field(default=1.0, validator=attrs.validators.ge(0))
    """Fraction of the task's steps; the fractions of all phases of a task sum to 1."""


@attrs.frozen
class PhaseSteps:
    """The steps of one phase: those from `first` up to, but not including, `end`."""

    phase: Phase
    first: int
    end: int


def split_steps(phases: Iterable[Phase], total: int) -> list[PhaseSteps]:
    """Distribute the steps of a task over its phases.

    Raises:
        ValueError: there is no phase, two have one name, or the fractions do not sum to 1.
    """
    phases = list(phases)
    names = [phase.name for phase in phases]
    whole = sum(phase.fraction for phase in phases)
    if not phases or len(set(names)) < len(names) or abs(whole - 1) > 1e-6:
        raise ValueError(f"phases {names} with fractions {[phase.fraction for phase in phases]}")
    ends, reached = [], 0.0
    for phase in phases:
        reached += phase.fraction
        ends.append(round(total * reached))
    firsts = [0, *ends[:-1]]
    return [PhaseSteps(*steps) for steps in zip(phases, firsts, ends, strict=True)]


@attrs.frozen(eq=False)
class TrainingStep:
    """The facts of an optimiser step; `losses` gets them for each of its micro-batches."""

    number: int
    """Steps taken before it on this task, from 0; of joint training, on all tasks together."""
    total: int
    """Steps of the task."""
    epoch: int
    """Passes over the task's training examples that are complete before this step, from 0."""
    steps: PhaseSteps
    batch_size: int
    """Examples of the whole step: of all micro-batches and all processes."""
    micro_batch: int = 0
    """Number of the micro-batch, from 0 (see ``--train.accumulate``)."""
    micro_batches: int = 1
    """Micro-batches of a step."""
    rows: slice = slice(None)
    """In `losses`, which of the `batch_size` examples of the step the batch has. A learner that draws one
    stored example for each of the step's, when `micro_batch` is 0, and uses these of them with each batch,
    trains the same under ``--train.accumulate`` and in several processes as with one large batch."""
    _gather: Callable[[Tensor], Tensor] | None = None
    _autocast: Callable[[], AbstractContextManager[object]] | None = None

    @property
    def phase(self) -> Phase:
        """The phase that the step belongs to."""
        return self.steps.phase

    @property
    def phase_number(self) -> int:
        """Steps taken before it in its phase, from 0."""
        return self.number - self.steps.first

    @property
    def phase_total(self) -> int:
        """Steps of its phase."""
        return self.steps.end - self.steps.first

    @property
    def is_last_micro_batch(self) -> bool:
        """Whether the step's gradient is complete after this micro-batch."""
        return self.micro_batch + 1 == self.micro_batches

    def gather(self, rows: Tensor) -> Tensor:
        """The rows (B, ...) of the whole micro-batch from those of this process's shard (b, ...), detached.

        In a distributed run every process computes a shard of each batch. What a learner stores of a batch
        must be the same in all processes: pass it through `gather` first. In a single process this returns
        `rows`, detached. To be called in `losses` only.
        """
        return rows.detach() if self._gather is None else self._gather(rows.detach())

    def autocast(self) -> AbstractContextManager[object]:
        """The precision of the run, for forward passes in `after_backward` and `after_step`."""
        return nullcontext() if self._autocast is None else self._autocast()
