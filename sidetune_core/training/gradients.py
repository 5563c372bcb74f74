"""The gradient of a step, and what it does not reach."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import attrs
import torch
from torch import Tensor, nn

from sidetune_core.distributed.batch_ops import synchronized
from sidetune_core.errors import PluginError, shorten
from sidetune_core.interfaces.learner import Learner, has_former_penalty
from sidetune_core.interfaces.tasks import Batch, Task
from sidetune_core.interfaces.training import Trainable, TrainingStep, members
from sidetune_core.training.context import Context
from sidetune_core.training.tracked import TrackedLearner


def backward(
    learner: Learner,
    task: Task,
    micro_batches: Sequence[Batch],
    step: TrainingStep,
    parameters: Sequence[nn.Parameter],
    context: Context,
) -> dict[str, Tensor]:
    """Add the gradient of one step to the parameters: the mean over micro-batches, of which each process has
    a shard.

    Returns:
        The losses by name, averaged likewise.

    Raises:
        PluginError: the learner returned something that is not a scalar.
    """
    group = context.group
    sums: dict[str, Tensor] = {}
    first = 0
    for number, batch in enumerate(micro_batches):
        shard = group.shard_batch(batch)
        start = first + shard.start
        facts = attrs.evolve(
            context.with_autocast(step),
            micro_batch=number,
            rows=slice(start, start + len(shard.batch.targets)),
            gather=partial(group.gather_rows, shard=shard),
        )
        first += len(batch.targets)
        with synchronized(group, shard):
            losses = _losses(learner, task, shard.batch, facts)
        if not losses:
            continue
        terms = torch.stack([loss.float() for loss in losses.values()]) * (shard.weight / len(micro_batches))
        if terms.requires_grad:
            terms.sum().backward()  # type: ignore[no-untyped-call]
        for name, term in zip(losses, terms.detach(), strict=True):
            sums[name] = sums[name] + term if name in sums else term
    values = torch.stack(list(sums.values())) if sums else torch.zeros(0, device=context.machine.device)
    totals = group.all_reduce_gradients(parameters, values)
    return dict(zip(sums, totals, strict=True))


def _losses(learner: Learner, task: Task, batch: Batch, step: TrainingStep) -> dict[str, Tensor]:
    """The learner's losses, scalars by name."""
    owner = f"{type(learner).__name__}.losses()"
    with step.autocast():
        returned = learner.losses(batch, task, step)
    if not isinstance(returned, Mapping):
        raise PluginError(
            f'{owner} returns a {type(returned).__name__}; return scalars by name, such as {{"loss": …}}'
        )
    losses = dict(returned)
    if has_former_penalty(learner):
        losses |= learner.penalty(batch)
    for name, loss in losses.items():
        if not isinstance(loss, Tensor) or loss.ndim:
            found = (
                f"shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else f"type {type(loss).__name__}"
            )
            raise PluginError(
                f"{owner} returns '{name}' of {found}; return tensors without axes: sum or average them"
            )
    return losses


class Unreached:
    """Finds what a learner asked to train and no gradient reaches.

    Args:
        tracked: the learner that asked.
        trainable: what it asked for.
        looks: steps to look at: one for each task, since heads of tasks get gradients in turn.
    """

    def __init__(self, tracked: TrackedLearner, trainable: Trainable, looks: int) -> None:
        self._owner, self._looks = type(tracked.learner).__name__, looks
        self._waiting = {
            tracked.name_of(item) or self._owner: [*item.parameters()]
            if isinstance(item, nn.Module)
            else [item]
            for item in (members(trainable) if looks else ())
        }

    def look(self, task: Task) -> str:
        """Look at the gradients of a step; returns a warning after the last look if there is any."""
        if not self._looks:
            return ""
        self._looks -= 1
        self._waiting = {
            name: parameters
            for name, parameters in self._waiting.items()
            if parameters and all(parameter.grad is None for parameter in parameters)
        }
        if self._looks or not self._waiting:
            return ""
        return (
            f"no gradient reached {shorten(list(self._waiting))} in the first step of task {task.id}, "
            f"although {self._owner} asked to train it: it is not used in losses(), or its output is "
            "detached or comes from the feature cache"
        )
