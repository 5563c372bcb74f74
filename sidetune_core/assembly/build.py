"""From a composition to objects: the stream, the factories of parts, the learner; and whether they fit together."""

from __future__ import annotations

from typing import Any

import attrs
import torch

from sidetune_core.config.resolve import Composition, Part
from sidetune_core.errors import FitError
from sidetune_core.interfaces.inputs import Shape
from sidetune_core.interfaces.learner import Learner, Parts
from sidetune_core.interfaces.networks import Base, Merger, Side
from sidetune_core.interfaces.tasks import TaskStream
from sidetune_core.seeding import seeded

SPARE_TOKENS = 128
"""Embeddings that a base may have in excess, for their number is often rounded up to a multiple of 64 or 128."""


def build_stream(composition: Composition) -> TaskStream:
    """The env; it reads no data yet."""
    env = composition.parts["env"]
    stream: TaskStream = env.cls(env.config, composition.seed)
    return stream


def build_learner(composition: Composition, stream: TaskStream) -> Learner:
    """The learner, before its first task.

    Raises:
        DataError: the env's tokenizer cannot be read.
        FitError: parts do not work together.
        WeightsError: a part's weights cannot be used.
    """
    parts = _factories(composition, stream)
    learner = composition.parts["learner"]
    with seeded(composition.seed, "check"):
        _check_fit(composition, parts, stream.vocabulary)
    with seeded(composition.seed, "build"):
        built: Learner = learner.cls(learner.config, parts)
    return built


def _factories(composition: Composition, stream: TaskStream) -> Parts:
    chosen = composition.parts
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

    return Parts(stream.inputs, make_base, make_side if side else None, make_merger if merger else None)


def without_weights(part: Part) -> Any:
    """The part's options, but for weights at random: by convention, a part that has pretrained weights has an option ``weights``."""
    if any(field.name == "weights" for field in attrs.fields(part.cls.Config)):
        return attrs.evolve(part.config, weights="none")
    return part.config


def _check_fit(composition: Composition, parts: Parts, vocabulary: int | None) -> None:
    """Run one blank example through every part: wrong shapes are told here, not in the middle of a run."""
    blank = {name: torch.zeros(1, *shape) for name, shape in parts.inputs.items()}
    with torch.no_grad():
        base = parts.base().eval()
        if (
            vocabulary is not None
            and base.vocabulary is not None
            and not 0 <= base.vocabulary - vocabulary < SPARE_TOKENS
        ):
            reader, env = composition.parts["base"].owner, composition.parts["env"].owner
            raise FitError(
                f"{reader} knows {base.vocabulary} tokens and the tokenizer of {env} has {vocabulary}: choose the one that the base was "
                "trained with"
            )
        features = base(blank)
        _check_shape(composition.parts["base"], "an encoding", features.encoding, base.shape, "declares")
        for tap, shape in zip(features.taps, base.tap_shapes, strict=False):
            _check_shape(composition.parts["base"], "a tap", tap, shape, "declares")
        if len(features.taps) != len(base.tap_shapes):
            owner = composition.parts["base"].owner
            raise FitError(f"{owner} gives {len(features.taps)} taps and declares {len(base.tap_shapes)}")
        if parts.side is not None:
            side = composition.parts["side"]
            if side.cls.uses_taps and not base.tap_shapes:
                raise FitError(
                    f"{side.owner} needs a base with taps; '{composition.parts['base'].plugin.name}' has none"
                )
            encoding = parts.side(base).eval()(blank, features)
            _check_shape(side, "an encoding", encoding, base.shape, "needs, as the base's is,")
        if parts.merger is not None:
            merged = parts.merger(base, 2).eval()([features.encoding, features.encoding])
            _check_shape(
                composition.parts["merger"], "an encoding", merged, base.shape, "needs, as the base's is,"
            )


def _check_shape(part: Part, what: str, value: torch.Tensor, shape: Shape, verb: str) -> None:
    if tuple(value.shape[1:]) != tuple(shape):
        raise FitError(
            f"{part.owner} gives {what} of shape {tuple(value.shape[1:])} and {verb} {tuple(shape)}"
        )
