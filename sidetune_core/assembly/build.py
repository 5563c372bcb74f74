"""From a composition to objects: the stream, the factories of parts, the learner; and whether they fit together."""

from __future__ import annotations

from typing import Any

import attrs
import torch

from sidetune_core.config.resolve import ResolvedComponent, ResolvedRun
from sidetune_core.errors import FitError
from sidetune_core.interfaces.inputs import Shape
from sidetune_core.interfaces.learner import Components, Learner
from sidetune_core.interfaces.networks import Base, Merger, Side
from sidetune_core.interfaces.tasks import TaskStream
from sidetune_core.seeding import seeded

SPARE_TOKENS = 128
"""Embeddings that a base may have in excess, for their number is often rounded up to a multiple of 64 or 128."""


def build_stream(composition: ResolvedRun) -> TaskStream:
    """The env; it reads no data yet."""
    env = composition.components["env"]
    stream: TaskStream = env.cls(env.config, composition.seed)
    return stream


def build_learner(composition: ResolvedRun, stream: TaskStream) -> Learner:
    """The learner, before its first task.

    Raises:
        DataError: the env's tokenizer cannot be read.
        FitError: parts do not work together.
        WeightsError: a part's weights cannot be used.
    """
    components = _factories(composition, stream)
    learner = composition.components["learner"]
    with seeded(composition.seed, "check"):
        _check_fit(composition, components, stream.vocabulary_size)
    with seeded(composition.seed, "build"):
        built: Learner = learner.cls(learner.config, components)
    return built


def _factories(composition: ResolvedRun, stream: TaskStream) -> Components:
    chosen = composition.components
    base, side, merger = chosen["base"], chosen.get("side"), chosen.get("merger")

    def make_base(pretrained: bool = True) -> Base:
        made: Base = base.cls(base.config if pretrained else without_weights(base), stream.inputs)
        return made

    def make_side(beside: Base, pretrained: bool = True) -> Side:
        assert side is not None
        made: Side = side.cls(side.config if pretrained else without_weights(side), stream.inputs, beside)
        return made

    def make_merger(beside: Base, count: int) -> Merger:
        assert merger is not None
        made: Merger = merger.cls(merger.config, beside.shape, count)
        return made

    return Components(stream.inputs, make_base, make_side if side else None, make_merger if merger else None)


def without_weights(component: ResolvedComponent) -> Any:
    """The part's options, but for weights at random: by convention, a part that has pretrained weights has an option ``weights``."""
    if any(field.name == "weights" for field in attrs.fields(component.cls.Config)):
        return attrs.evolve(component.config, weights="none")
    return component.config


def _check_fit(composition: ResolvedRun, components: Components, vocabulary_size: int | None) -> None:
    """Run one blank example through every part: wrong shapes are told here, not in the middle of a run."""
    blank = {name: torch.zeros(1, *shape) for name, shape in components.inputs.items()}
    with torch.no_grad():
        base = components.base().eval()
        if (
            vocabulary_size is not None
            and base.vocabulary_size is not None
            and not 0 <= base.vocabulary_size - vocabulary_size < SPARE_TOKENS
        ):
            reader, env = composition.components["base"].owner, composition.components["env"].owner
            raise FitError(
                f"{reader} knows {base.vocabulary_size} tokens and the tokenizer of {env} has {vocabulary_size}: choose the one that the base was "
                "trained with"
            )
        features = base(blank)
        _check_shape(composition.components["base"], "an encoding", features.encoding, base.shape, "declares")
        for tap, shape in zip(features.taps, base.tap_shapes, strict=False):
            _check_shape(composition.components["base"], "a tap", tap, shape, "declares")
        if len(features.taps) != len(base.tap_shapes):
            owner = composition.components["base"].owner
            raise FitError(f"{owner} gives {len(features.taps)} taps and declares {len(base.tap_shapes)}")
        if components.side is not None:
            side = composition.components["side"]
            if side.cls.needs_taps and not base.tap_shapes:
                raise FitError(
                    f"{side.owner} needs a base with taps; '{composition.components['base'].plugin.name}' has none"
                )
            encoding = components.side(base).eval()(blank, features)
            _check_shape(side, "an encoding", encoding, base.shape, "needs, as the base's is,")
        if components.merger is not None:
            merged = components.merger(base, 2).eval()([features.encoding, features.encoding])
            _check_shape(
                composition.components["merger"],
                "an encoding",
                merged,
                base.shape,
                "needs, as the base's is,",
            )


def _check_shape(
    component: ResolvedComponent, what: str, value: torch.Tensor, shape: Shape, verb: str
) -> None:
    if tuple(value.shape[1:]) != tuple(shape):
        raise FitError(
            f"{component.owner} gives {what} of shape {tuple(value.shape[1:])} and {verb} {tuple(shape)}"
        )
