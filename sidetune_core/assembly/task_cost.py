"""What a task of side-tuning costs, next to fine-tuning the base; known before any data is read, but for the
task's head.
"""

from __future__ import annotations

from typing import Any

import attrs
import torch

from sidetune_core.assembly.blank import BlankBase, count_parameters, merger_cost
from sidetune_core.assembly.trainable import TrainedParts
from sidetune_core.config.resolve import ResolvedRun
from sidetune_core.interfaces.inputs import Shape
from sidetune_core.interfaces.networks import Merger, Side, taps_read, union_of_taps
from sidetune_core.interfaces.tasks import Task
from sidetune_core.seeding import seeded
from sidetune_core.supervised.task import SupervisedTask
from sidetune_core.system.precision import CostMeter, Precision

TRAINING = 3
"""Multiply-adds of a training step of a network in those of a forward pass: the gradients of inputs and of
weights cost as much each."""


@attrs.frozen
class CachedColumns:
    """The encoding and the taps of an example in the feature cache."""

    fp32: int
    """Bytes where the base is computed in float32."""
    bf16: int
    """Bytes where it is computed in bfloat16."""
    at_most: bool
    """Whether they are of sequences, whose padding is not stored."""

    @classmethod
    def of(cls, blank: BlankBase, taps: tuple[int, ...] | None) -> CachedColumns:
        """The columns of a base with the taps that are read, None for all."""
        features = blank.features
        kept = features.taps if taps is None else [features.taps[index] for index in taps]
        columns = [features.encoding, *kept]
        narrow = (column.bfloat16() if column.dtype == torch.float32 else column for column in columns)
        return cls(
            sum(column.nbytes for column in columns),
            sum(column.nbytes for column in narrow),
            any(column.ndim == 3 for column in columns),
        )


@attrs.frozen
class SideTuning:
    """What is known of a task that trains a side and a merger next to a frozen base."""

    parameters: int
    """Trained ones, without those of the head."""
    base: int
    """Parameters of the base."""
    head_shape: Shape | None
    """Shape of the encodings that the task's head is made for; None if it has no head."""
    cached: CachedColumns
    step: int | None
    """Multiply-adds of a training step of side and merger for one example; None if unknown."""
    forward: int | None
    """Multiply-adds of a forward pass of the base for one example; None if unknown."""
    grows: bool = False
    """Whether later tasks also run networks of earlier ones."""


def side_tuning(
    blank: BlankBase, side: Side, meter: CostMeter, merger: Merger, trained: TrainedParts
) -> SideTuning | None:
    """What is known of a task; None unless it trains the side and nothing but side, merger and head.

    Args:
        blank: the frozen base.
        side: of the task.
        meter: has counted the side.
        merger: of the side and the base.
        trained: what the learner trains.
    """
    if trained.base or not trained.side:
        return None
    taps = union_of_taps([taps_read(side), trained.taps])
    merging, step = merger_cost(merger, blank), None
    if trained.is_plain and meter.covers(side) and merging.covers(merger):
        step = meter.training + merging.training
    cached = CachedColumns.of(blank, taps)
    return SideTuning(
        trained.parameters,
        blank.parameters,
        trained.head_shape,
        cached,
        step,
        blank.madds,
        not trained.is_independent,
    )


@attrs.frozen
class TaskCost:
    """What the first task of a run with side-tuning costs."""

    parameters: int
    """Trained ones."""
    base: int
    """Parameters of the base."""
    has_head: bool
    """Whether the task's head is counted."""
    cached: int | None
    """Bytes of an example in the feature cache; None without one."""
    at_most: bool
    """Whether an example may have fewer."""
    step: float | None
    """Multiply-adds of a training step in those of fine-tuning the base; None if unknown."""
    without_base: str
    """When the base is computed in addition; empty if the step has it."""
    grows: bool = False
    """Whether a step of a later task takes more."""

    def line(self, side: str) -> str:
        """For the header of a run; `side` names the side."""
        head = "with its head" if self.has_head else "without its head"
        percent = f"{100 * self.parameters / self.base:.1f} %" if self.base else "∞ %"
        parts = [f"{self.parameters:,} trainable parameters a task {head} ({percent} of the base)"]
        if self.cached is not None:
            parts.append(f"cache {'up to ' if self.at_most else ''}{_size(self.cached)} an example")
        if self.step is not None:
            base = f" plus the base {self.without_base}" if self.without_base else ""
            note = "" if self.has_head else " (without heads)"
            later = ", more in later tasks, which also run the sides before" if self.grows else ""
            first = " of the first task" if self.grows else ""
            parts.append(
                f"a step{first} takes {self.step:.2g} of fine-tuning's multiply-adds{note}{base}{later}"
            )
        return f"{side}: {', '.join(parts)}"

    def to_json(self) -> dict[str, Any]:
        """For ``run.json``, without what is unknown."""
        values = {"cache_bytes_per_example": self.cached, "step_of_fine_tuning": self.step}
        return {name: value for name, value in values.items() if value is not None}


def task_cost(
    known: SideTuning, resolved: ResolvedRun, precision: Precision, task: Task | None = None
) -> TaskCost:
    """The cost of a run's first task.

    Args:
        known: of the components.
        resolved: the run.
        precision: of the frozen base.
        task: its first task; None if it is not known yet, so that the head is not counted.
    """
    parameters, head = known.parameters, _Head(0, 0)
    if task is not None and known.head_shape is not None:
        with seeded(resolved.seed, "check"):
            head = _head(task, known.head_shape)
    has_cache = resolved.cache.mode != "off"
    without_base = _computed(task) if has_cache else ""
    columns = known.cached
    return TaskCost(
        parameters + head.parameters,
        known.base,
        task is not None,
        (columns.bf16 if precision == "bf16" else columns.fp32) if has_cache else None,
        columns.at_most,
        _step(known, head.madds, with_base=not without_base),
        without_base,
        known.grows,
    )


def _step(known: SideTuning, head: int | None, with_base: bool) -> float | None:
    """Multiply-adds of a step in those of fine-tuning; None if unknown."""
    if head is None or known.step is None or not known.forward:
        return None
    own = known.step + TRAINING * head + (known.forward if with_base else 0)
    return own / (TRAINING * (known.forward + head))


def _computed(task: Task | None) -> str:
    """When a cached base is computed in training; empty if in each step."""
    if not isinstance(task, SupervisedTask):
        return "where it is not cached"
    return "" if task.sources["train"].augments else "once an example"


@attrs.frozen
class _Head:
    """The head of a task."""

    parameters: int
    madds: int | None
    """Multiply-adds of a forward pass for one example; None if unknown."""


def _head(task: Task, shape: Shape) -> _Head:
    network, meter = task.make_head(shape).eval(), CostMeter()
    with torch.no_grad(), meter.counting(network, "head"):
        network(torch.zeros(1, *shape))
    return _Head(count_parameters(network), meter.cost.madds if meter.covers(network) else None)


def _size(size: int) -> str:
    """A number of bytes with its unit."""
    if size < 1024:
        return f"{size} bytes"
    return f"{size / 1024:.1f} KiB" if size < 2**20 else f"{size / 2**20:.1f} MiB"
