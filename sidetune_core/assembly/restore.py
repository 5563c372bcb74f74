"""The one way back from a run folder to a learner: used to resume a run, to verify it and to record its
policy.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from sidetune_core.assembly.build import build_learner, restart_task
from sidetune_core.assembly.make import without_weights
from sidetune_core.assembly.objects import give_objects
from sidetune_core.config.given import NONE, Objects
from sidetune_core.config.resolve import ResolvedRun, resolve
from sidetune_core.config.spec import Trust
from sidetune_core.config.spec_file import recorded_spec
from sidetune_core.errors import OptionError
from sidetune_core.interfaces.learner import Learner
from sidetune_core.interfaces.tasks import Task, TaskStream
from sidetune_core.storage.run_folder import RunFolder
from sidetune_core.storage.weights import fill
from sidetune_core.system import device
from sidetune_core.system.device import Machine
from sidetune_core.system.precision import Precisions


def read_resolved(
    folder: RunFolder,
    trust_local_code: Trust = False,
    objects: Objects = NONE,
    same_weights: bool = False,
) -> ResolvedRun:
    """The resolved run of ``run.json``; see `ResolvedRun.plugin_changes` for plugins that are others now.

    Args:
        folder: of the run.
        trust_local_code: see `Trust`.
        objects: the network and the tasks that Python gave to the run; tasks of a run that was extended are
            given to `read_parts` instead.
        same_weights: see `give_objects`.

    Raises:
        RunError: ``run.json`` is missing or damaged.
        UntrustedCode: it names code to import, without `trust_local_code`.
        PluginError, OptionError: a component is not installed, or no longer has these options.
    """
    about = folder.read_json("run.json")
    resolved = resolve(recorded_spec(about, str(folder.path / "run.json"), trust_local_code))
    if objects == NONE:
        return resolved
    return give_objects(resolved, about, objects, same_weights)


def choose_machine(resolved: ResolvedRun) -> Machine:
    """The device that the run asked for, or the CPU where this computer has no such device; with the
    precisions of the run."""
    preferred = run_precisions(resolved)
    try:
        return device.choose(resolved.device, preferred=preferred)
    except OptionError:
        return device.choose(attrs.evolve(resolved.device, name="cpu"), preferred=preferred)


def run_precisions(resolved: ResolvedRun) -> Precisions | None:
    """The precisions of the run that a spec was read from; None for a new spec."""
    conditions = resolved.requested.conditions if resolved.requested is not None else None
    return device.recorded_precisions(conditions.machine) if conditions is not None else None


def restore(
    resolved: ResolvedRun,
    stream: TaskStream,
    tasks: Sequence[Task],
    state: Mapping[str, Any],
    source: str,
    machine: Machine,
    check: bool = True,
) -> Learner:
    """The learner after some tasks, frozen and in eval mode.

    It is built with random weights, which needs no weight files, since the state has all of them.

    Args:
        resolved: the components of the run.
        stream: gives the shapes of inputs; its data is not read here.
        tasks: those that the learner was trained on, in order.
        state: the state dict of their checkpoint.
        source: the checkpoint's name, for messages.
        machine: the device.
        check: see `build_learner`.

    Raises:
        WeightsError: the state is not that of this learner.
    """
    learner = start_all(resolved, stream, tasks, machine, check)
    fill(learner, state, source)
    learner.requires_grad_(False).eval()
    return learner


def start_all(
    resolved: ResolvedRun,
    stream: TaskStream,
    tasks: Sequence[Task],
    machine: Machine,
    check: bool = True,
) -> Learner:
    """A learner with random weights in which some tasks have been started, in order: what a state dict of
    theirs is loaded into. See `restore` for the arguments.
    """
    components = {
        slot: attrs.evolve(component, config=without_weights(component))
        for slot, component in resolved.components.items()
    }
    learner = build_learner(attrs.evolve(resolved, components=components), stream, check)
    machine.place(learner)
    for task in tasks:
        restart_task(learner, task, resolved.seed, machine)
    return learner
