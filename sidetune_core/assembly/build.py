"""From a resolved run to objects: the env, the learner with its networks, and the check that they fit
together.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import attrs
import torch
from torch import Tensor, nn

from sidetune_core.config.resolve import ResolvedComponent, ResolvedRun
from sidetune_core.errors import FitError, PluginError
from sidetune_core.interfaces.capabilities import vocabulary_size
from sidetune_core.interfaces.inputs import Shape
from sidetune_core.interfaces.learner import Components, Learner
from sidetune_core.interfaces.networks import Base, Merger, Side, note_structure
from sidetune_core.interfaces.tasks import Task, TaskStream
from sidetune_core.interfaces.training import ParamGroup, Phase, Trainable, members
from sidetune_core.seeding import seeded
from sidetune_core.system.device import Machine

SPARE_TOKENS = 128
"""Most unused embeddings of a base: vocabulary sizes are often rounded up to a multiple of 64 or 128."""


def build_stream(resolved: ResolvedRun) -> TaskStream:
    """The env; it reads no data yet."""
    env = resolved.components["env"]
    stream: TaskStream = make_component(env, env.config, resolved.seed)
    stream.trust_local_code = resolved.trusts_data
    return stream


def make_component(component: ResolvedComponent, config: Any, *arguments: Any) -> Any:
    """A component from its options and the arguments of its kind, and from the object that was given for
    it."""
    if component.given is None:
        return component.cls(config, *arguments)
    return component.cls.from_object(component.given, config, *arguments)


def build_learner(resolved: ResolvedRun, stream: TaskStream, check: bool = True) -> Learner:
    """The learner before its first task.

    Args:
        resolved: the components.
        stream: gives the shapes of inputs.
        check: pass a blank example through all components first, which takes time to build them.

    Raises:
        DataError: the env's tokenizer cannot be read.
        FitError: the components do not fit together.
        WeightsError: the weights of a component cannot be loaded.
    """
    components = _factories(resolved, stream)
    learner = resolved.components["learner"]
    if check:
        with seeded(resolved.seed, "check"):
            _check_fit(resolved, components, vocabulary_size(stream))
    with seeded(resolved.seed, "build"):
        built: Learner = learner.cls(learner.config, components)
    return built


def start_task(learner: Learner, task: Task, seed: int, machine: Machine) -> Trainable:
    """Start a task under its seed, and move what the learner has added for it to the device.

    Raises:
        PluginError: `Learner.start` returned something that is not the learner's.
    """
    with seeded(seed, "start", task.id):
        trainable = _listed(learner, learner.start(task), "start")
    machine.place(learner)
    _check_owned(learner, trainable, "start")
    return trainable


def start_phase(learner: Learner, task: Task, phase: Phase, seed: int) -> Trainable | None:
    """Start a phase of a task under its seed.

    Raises:
        PluginError: `Learner.start_phase` returned something that is not the learner's.
    """
    with seeded(seed, "phase", task.id, phase.name), torch.no_grad():
        started = learner.start_phase(task, phase)
    if started is None:
        return None
    trainable = _listed(learner, started, "start_phase")
    _check_owned(learner, trainable, "start_phase")
    return trainable


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


def without_weights(component: ResolvedComponent) -> Any:
    """The config of a component with random weights: by convention, pretrained weights are an option
    ``weights``.
    """
    if any(field.name == "weights" for field in attrs.fields(component.cls.Config)):
        return attrs.evolve(component.config, weights="none")
    return component.config


def _factories(resolved: ResolvedRun, stream: TaskStream) -> Components:
    chosen = resolved.components

    def config(slot: str, pretrained: bool) -> Any:
        return chosen[slot].config if pretrained else without_weights(chosen[slot])

    def make_base(pretrained: bool = True) -> Base:
        base: Base = make_component(chosen["base"], config("base", pretrained), stream.inputs)
        note_structure(base)
        return base

    def make_side(base: Base, pretrained: bool = True) -> Side:
        side: Side = chosen["side"].cls(config("side", pretrained), stream.inputs, base)
        return side

    def make_merger(base: Base, count: int) -> Merger:
        merger: Merger = chosen["merger"].cls(config("merger", True), base.shape, count)
        return merger

    return Components(
        stream.inputs,
        make_base,
        make_side if "side" in chosen else None,
        make_merger if "merger" in chosen else None,
    )


def _check_fit(resolved: ResolvedRun, components: Components, tokens: int | None) -> None:
    """Pass a blank example through every network: a wrong shape is an error before training begins."""
    chosen = resolved.components
    blank = {name: torch.zeros(1, *shape) for name, shape in components.inputs.items()}
    with torch.no_grad():
        base = components.base().eval()
        _check_vocabulary(resolved, base, tokens)
        features = base(blank)
        _check_shape(chosen["base"], "an encoding", features.encoding, base.shape, "declares")
        for tap, shape in zip(features.taps, base.tap_shapes, strict=False):
            _check_shape(chosen["base"], "a tap", tap, shape, "declares")
        if len(features.taps) != len(base.tap_shapes):
            owner = chosen["base"].owner
            raise FitError(f"{owner} returns {len(features.taps)} taps and declares {len(base.tap_shapes)}")
        if components.side is not None:
            side = chosen["side"]
            if side.cls.needs_taps and not base.tap_shapes:
                raise FitError(
                    f"{side.owner} needs a base with taps; '{chosen['base'].plugin.name}' has none"
                )
            encoding = components.side(base).eval()(blank, features)
            _check_shape(side, "an encoding", encoding, base.shape, "needs the base's shape")
        if components.merger is not None:
            merged = components.merger(base, 2).eval()([features.encoding, features.encoding])
            _check_shape(chosen["merger"], "an encoding", merged, base.shape, "needs the base's shape")


def _check_vocabulary(resolved: ResolvedRun, base: Base, tokens: int | None) -> None:
    """The tokenizer of the env, of this number of tokens, must be the one that the base was trained with."""
    embeddings = vocabulary_size(base)
    if tokens is None or embeddings is None:
        return
    if not 0 <= embeddings - tokens < SPARE_TOKENS:
        owner, env = resolved.components["base"].owner, resolved.components["env"].owner
        raise FitError(
            f"{owner} has {embeddings} embeddings and the tokenizer of {env} {tokens} tokens: "
            "choose the tokenizer that the base was trained with"
        )


def _check_shape(component: ResolvedComponent, what: str, value: Tensor, shape: Shape, verb: str) -> None:
    if tuple(value.shape[1:]) != tuple(shape):
        raise FitError(
            f"{component.owner} returns {what} of shape {tuple(value.shape[1:])} and {verb} {tuple(shape)}"
        )
