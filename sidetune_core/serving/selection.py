"""Which tensors of a run a task needs: those of a learner that is started on that task alone, if it gives the
same outputs for the run's probes; otherwise earlier tasks are included.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
from torch import Tensor, nn

from sidetune_core.assembly.cards import CardStream, CardTask, make_handler
from sidetune_core.assembly.predict import make_predict
from sidetune_core.assembly.restore import start_all
from sidetune_core.certificate import probes
from sidetune_core.certificate.probes import ROUNDING, Replay, Stored
from sidetune_core.config.resolve import ResolvedRun
from sidetune_core.hashing import tensor_digest
from sidetune_core.interfaces.buffers import BufferDict
from sidetune_core.interfaces.learner import Learner
from sidetune_core.serving.base_weights import BaseReference, Tensors, bases_in
from sidetune_core.serving.source import Trained
from sidetune_core.storage.weights import fill
from sidetune_core.system.device import Machine


@attrs.frozen(eq=False)
class Restored:
    """The learner of a run after all its tasks, and its tasks without their data."""

    trained: Trained
    resolved: ResolvedRun
    """As others resolve it: see `public_spec`."""
    tasks: Mapping[str, CardTask]
    learner: Learner
    machine: Machine


@attrs.frozen(eq=False)
class Selection:
    """What of a run's state a task needs."""

    tasks: tuple[str, ...]
    """Those that the learner is started on, in order."""
    state: Mapping[str, Any]
    """State dict of that learner."""
    learner: Learner
    reasons: tuple[str, ...] = ()
    """Why other tasks are included, in sentences."""


def restore_all(trained: Trained, resolved: ResolvedRun, machine: Machine, trust: bool) -> Restored:
    """The learner of a run from its cards.

    Raises:
        WeightsError: the state is not that of this learner.
        FitError: the head of a task can only be made from its data.
        SidetuneError: a component cannot be built.
    """
    source = Path(trained.source)
    tasks = {name: CardTask(card, make_handler(card, source, trust)) for name, card in trained.cards.items()}
    learner = _start(resolved, list(tasks.values()), machine)
    fill(learner, trained.state, trained.source)
    return Restored(trained, resolved, tasks, learner.eval(), machine)


def select(run: Restored, task: str, stored: Stored | None, all_tasks: bool = False) -> Selection:
    """The fewest tasks with which the outputs for a task's probes are bit-identical to those with all.

    Args:
        run: the learner after all tasks.
        task: its id.
        stored: the probes of the task; without any, all tasks are included.
        all_tasks: include all tasks.
    """
    order = list(run.tasks)
    reasons: list[str] = []
    if stored is None and not all_tasks and len(order) > 1:
        reasons.append(
            f"the run has no probes of {task} to check an adapter with, so all of its tasks are included"
        )
    if stored is None:
        return Selection(tuple(order), run.trained.state, run.learner, tuple(reasons))
    expected = _replay(run.learner, run, task, stored)
    for tasks in [] if all_tasks else _candidates(order, task):
        learner = _start(run.resolved, [run.tasks[name] for name in tasks], run.machine)
        state, problem = _state_of(learner, run.trained.state)
        state = without_unread_buffers(learner, state, expected.read)
        if not problem:
            fill(learner, state, run.trained.source)
            problem = _difference(expected, _replay(learner.eval(), run, task, stored), learner)
        if not problem:
            return Selection(tuple(tasks), state, learner, tuple(reasons))
        reasons.append(f"a learner that is started on {', '.join(tasks)} alone {problem}")
    state = without_unread_buffers(run.learner, run.trained.state, expected.read)
    learner = _start(run.resolved, list(run.tasks.values()), run.machine)
    fill(learner, state, run.trained.source)
    if problem := _difference(expected, _replay(learner.eval(), run, task, stored), learner):
        reasons.append(f"without what it does not read for the probes, the learner {problem}")
        state, learner = dict(run.trained.state), run.learner
    return Selection(tuple(order), state, learner, tuple(reasons))


def refer_to_base(
    selection: Selection, reference: BaseReference, base: Tensors
) -> tuple[BaseReference | None, dict[str, Any]]:
    """The state without the tensors of a base, and the reference with their names; None if no module of the
    learner is that base with all its tensors.
    """
    names = {tensor_digest("", value): name for name, value in base.items()}
    modules: list[str] = []
    tensors: dict[str, str] = {}
    for module in bases_in(selection.learner):
        own = {
            key.removeprefix(f"{module}."): value
            for key, value in selection.state.items()
            if key.startswith(f"{module}.") and isinstance(value, Tensor)
        }
        digests = {key: tensor_digest("", value) for key, value in own.items()}
        if own.keys() >= base.keys() and _equal(own, base):
            modules.append(module)
        elif names.keys() <= set(digests.values()):
            tensors |= {
                f"{module}.{key}": names[digest] for key, digest in digests.items() if digest in names
            }
    if not modules and not tensors:
        return None, dict(selection.state)
    reference = attrs.evolve(reference, modules=tuple(modules), tensors=tensors)
    left_out = {key for key, _ in reference.names(base)}
    return reference, {key: value for key, value in selection.state.items() if key not in left_out}


def without_unread_buffers(
    learner: nn.Module, state: Mapping[str, Any], read: frozenset[str]
) -> dict[str, Any]:
    """A state without the content of each `BufferDict` of which prediction reads nothing, such as a memory of
    training examples.
    """
    unread = tuple(
        f"{name}."
        for name, module in learner.named_modules()
        if isinstance(module, BufferDict) and not any(key.startswith(f"{name}.") for key in read)
    )
    return {key: value for key, value in state.items() if not key.startswith(unread)}


def _candidates(order: Sequence[str], task: str) -> list[list[str]]:
    """Lists of fewer tasks to start a learner on, the shortest first."""
    alone, earlier = [task], list(order[: order.index(task) + 1])
    return [tasks for tasks in ([alone] if alone == earlier else [alone, earlier]) if len(tasks) < len(order)]


def _start(resolved: ResolvedRun, tasks: Sequence[CardTask], machine: Machine) -> Learner:
    learner = start_all(resolved, CardStream(tasks), tasks, machine)
    learner.requires_grad_(False).eval()
    return learner


def _state_of(learner: Learner, state: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    """What a learner needs of the state of one that was started on more tasks, and why that does not fit."""
    free = tuple(f"{name}." for name, module in learner.named_modules() if isinstance(module, BufferDict))
    own = {key: value for key, value in learner.state_dict().items() if not key.startswith(free)}
    for key, value in own.items():
        if key not in state:
            if key.endswith("num_batches_tracked"):
                continue
            return {}, f"has '{key}', which the run has not"
        if isinstance(value, Tensor) and value.shape != state[key].shape:
            return {}, (
                f"has '{key}' of shape {tuple(value.shape)}, and in the run it is {tuple(state[key].shape)}"
            )
    return {key: value for key, value in state.items() if key in own or key.startswith(free)}, ""


def _replay(learner: Learner, run: Restored, task: str, stored: Stored) -> Replay:
    predict = make_predict(learner, run.tasks[task], run.machine)
    rounding = ROUNDING[run.machine.coarsest_arithmetic]
    return probes.replay(learner, predict, stored.as_inputs(), rounding, task)


def _difference(expected: Replay, replayed: Replay, learner: Learner) -> str:
    """How a learner of fewer tasks differs from the run's, in words; empty if it does not."""
    if not probes.same(expected.output, replayed.output):
        change = probes.change(expected.output, replayed.output)
        size = f" by up to {change.absolute:.3g}" if change is not None else ""
        return f"gives outputs for the probes that differ{size}"
    names = {name for name, _ in probes.named_tensors(learner)}
    if other := sorted(expected.read - names):
        return f"lacks '{other[0]}', which the run reads for this task"
    return ""


def _equal(own: Tensors, base: Tensors) -> bool:
    return all(tensor_digest("", own[name]) == tensor_digest("", value) for name, value in base.items())
