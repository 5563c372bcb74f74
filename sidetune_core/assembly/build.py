"""From a resolved run to objects: the env, the learner with its networks, and the check that they fit
together.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from sidetune_core.assembly.fit import Fit, fit_components
from sidetune_core.assembly.make import make_component, without_weights
from sidetune_core.config.data_paths import located
from sidetune_core.config.resolve import ResolvedRun
from sidetune_core.errors import PluginError, WeightsError
from sidetune_core.interfaces.learner import Components, Learner
from sidetune_core.interfaces.networks import (
    Base,
    Merger,
    Side,
    note_structure,
    outermost_bases,
    set_precision,
)
from sidetune_core.interfaces.tasks import Task, TaskStream
from sidetune_core.interfaces.training import ParamGroup, Phase, Trainable, members
from sidetune_core.scenarios import DEFAULT
from sidetune_core.seeding import seeded
from sidetune_core.system.device import Machine


def build_stream(resolved: ResolvedRun) -> TaskStream:
    """The env; it reads no data yet.

    Raises:
        WeightsError: its options depend on a base that cannot be reached.
    """
    if resolved.unfitted:
        raise WeightsError(resolved.unfitted)
    env = resolved.components["env"]
    config, spec = env.config, resolved.requested
    if spec is not None and (spec.begun_in or spec.moved):
        config = located(config, env.owner, spec.begun_in, spec.moved)
    stream: TaskStream = make_component(env, config, resolved.seed)
    stream.trust_local_code = resolved.trusts_data
    return stream


def build_learner(
    resolved: ResolvedRun, stream: TaskStream, check: bool = True, fit: Fit | None = None
) -> Learner:
    """The learner before its first task.

    Args:
        resolved: the components.
        stream: gives the shapes of inputs.
        check: pass a blank example through all components first, and load the weights that the learner
            itself loads later, which takes time to build them.
        fit: the outcome of the former, if it is known.

    Raises:
        DataError: the env's tokenizer cannot be read.
        FitError: the components do not fit together.
        WeightsError: the weights of a component cannot be loaded.
    """
    if check and fit is None:
        resolved = fit_components(resolved, stream).resolved
    factories = _Factories(resolved, stream)
    learner = resolved.components["learner"]
    with seeded(resolved.seed, "build"):
        built: Learner = learner.cls(learner.config, factories.components())
    if resolved.scenario != DEFAULT:
        built.scenario = resolved.scenario
    if check:
        with seeded(resolved.seed, "check"):
            factories.check_weights()
    return built


def start_task(learner: Learner, task: Task, seed: int, machine: Machine) -> Trainable:
    """Start a task under its seed, and move what the learner has added for it to the device.

    Raises:
        PluginError: `Learner.start` returned something that is not the learner's.
    """
    trainable = call_start(learner, task, seed)
    machine.place(learner)
    _check_owned(learner, trainable, "start")
    set_precisions(outermost_bases(learner), trainable, machine)
    return trainable


def set_precisions(bases: Iterable[Base], trainable: Trainable, machine: Machine) -> None:
    """Set the precision of a learner's bases when a task starts.

    Args:
        bases: the outermost ones.
        trainable: what the task trains.
        machine: has the precision of frozen bases.
    """
    if machine.base_arithmetic is not None:
        weights = (one.parameters() if isinstance(one, nn.Module) else (one,) for one in members(trainable))
        set_precision(bases, set(map(id, chain.from_iterable(weights))), machine.base_arithmetic)


def call_start(learner: Learner, task: Task, seed: int) -> Trainable:
    """What `Learner.start` returns under the task's seed, before it is placed or looked at.

    Raises:
        PluginError: it returned something other than a list of modules and parameters.
    """
    with seeded(seed, "start", task.id):
        trainable = _listed(learner, learner.start(task), "start")
    if learner.scenario != DEFAULT:
        learner.task_outputs = {**learner.task_outputs, task.id: task.outputs}
    return trainable


def start_phase(learner: Learner, task: Task, phase: Phase, seed: int) -> Trainable | None:
    """Start a phase of a task under its seed.

    Raises:
        PluginError: `Learner.start_phase` returned something that is not the learner's.
    """
    trainable = call_start_phase(learner, task, phase, seed)
    if trainable is not None:
        _check_owned(learner, trainable, "start_phase")
    return trainable


def call_start_phase(learner: Learner, task: Task, phase: Phase, seed: int) -> Trainable | None:
    """What `Learner.start_phase` returns under the seed of the phase, before it is looked at.

    Raises:
        PluginError: it returned something other than None or a list of modules and parameters.
    """
    with seeded(seed, "phase", task.id, phase.name), torch.no_grad():
        started = learner.start_phase(task, phase)
    return None if started is None else _listed(learner, started, "start_phase")


def restart_task(learner: Learner, task: Task, seed: int, machine: Machine) -> None:
    """Start a finished task and its phases again, before its state is loaded."""
    start_task(learner, task, seed, machine)
    for phase in learner.phases(task)[1:]:
        start_phase(learner, task, phase, seed)


def _listed(learner: Learner, trainable: object, method: str) -> Trainable:
    """What a learner has returned, as a tuple: it may be an iterator."""
    if isinstance(trainable, Iterable) and not isinstance(trainable, nn.Module | Tensor):
        items = tuple(trainable)
        if all(isinstance(item, nn.Module | nn.Parameter | ParamGroup) for item in items):
            return items
    raise PluginError(
        f"{type(learner).__name__}.{method}() returned a {type(trainable).__name__}; "
        "return a list of modules, parameters and ParamGroups"
    )


def _check_owned(learner: Learner, trainable: Trainable, method: str) -> None:
    owned = {id(item) for item in (*learner.modules(), *learner.parameters())}
    for item in members(trainable):
        if id(item) not in owned:
            raise PluginError(
                f"{type(learner).__name__}.{method}() returned a {type(item).__name__} that it does not own; "
                "assign it to an attribute of the learner first"
            )


class _Factories:
    """What makes the components of a run.

    Args:
        resolved: the run.
        stream: gives the shapes of inputs.
    """

    def __init__(self, resolved: ResolvedRun, stream: TaskStream) -> None:
        self._chosen, self._inputs = resolved.components, stream.inputs
        self._scenario = resolved.scenario
        self._loaded: set[str] = set()
        self._base: Base | None = None

    def components(self) -> Components:
        """For the learner."""
        return Components(
            self._inputs,
            self.make_base,
            self.make_side if "side" in self._chosen else None,
            self.make_merger if "merger" in self._chosen else None,
            self._scenario,
        )

    def make_base(self, pretrained: bool = True) -> Base:
        """See `MakeBase`."""
        base: Base = make_component(self._chosen["base"], self._config("base", pretrained), self._inputs)
        note_structure(base)
        self._base = base
        return base

    def make_side(self, base: Base, pretrained: bool = True) -> Side:
        """See `MakeSide`."""
        side: Side = make_component(
            self._chosen["side"], self._config("side", pretrained), self._inputs, base
        )
        return side

    def make_merger(self, base: Base, count: int) -> Merger:
        """See `MakeMerger`."""
        merger: Merger = make_component(
            self._chosen["merger"], self._config("merger", True), base.shape, count
        )
        return merger

    def check_weights(self) -> None:
        """Load the weights that the learner has not loaded yet: those that are missing or of another
        architecture are an error before any data is read.

        Raises:
            WeightsError: they are.
        """
        if self._has_weights("base") and "base" not in self._loaded:
            self.make_base()
        if "side" in self._chosen and self._has_weights("side") and "side" not in self._loaded:
            self.make_side(self._base or self.make_base(pretrained=False))

    def _has_weights(self, slot: str) -> bool:
        component = self._chosen[slot]
        return bool(without_weights(component) != component.config)

    def _config(self, slot: str, pretrained: bool) -> Any:
        if not pretrained:
            return without_weights(self._chosen[slot])
        self._loaded.add(slot)
        return self._chosen[slot].config
