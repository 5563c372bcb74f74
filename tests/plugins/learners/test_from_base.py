"""Side-tuning that begins at the base's encoding, whatever merger and side are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import torch
from sidetune_plugins.learners._from_base import FromBase
from torch import Tensor

from sidetune_core.api import Components, Features, Side, seeded
from sidetune_core.config.kinds import LEARNER, MERGER, SIDE
from sidetune_core.config.registry import find, load
from sidetune_core.testing import sample

MERGERS = ["alpha", "concat", "film", "mlp", "mlp-hidden", "mlp2", "product", "resmlp", "side", "sum"]
INPUTS = {"x": torch.randn(5, 6, generator=torch.Generator().manual_seed(1))}
OF_MAPS = ["conv", "copy", "fcn3", "fcn5", "fcn8", "fork", "ladder", "combined", "mlp"]


def merged(learner: Any, task: str = "t0") -> Tensor:
    """The merged encoding."""
    seen: list[Tensor] = []
    with learner.mergers[task].register_forward_hook(lambda _, args, output: seen.append(output)):
        learner(INPUTS, task)
    return seen[0]


@pytest.mark.parametrize("merger", MERGERS)
@pytest.mark.parametrize(
    ("begin", "dense"), [("base", False), ("base", True), ("base-linear", False)], ids=str
)
def test_each_task_begins_at_the_base_s_encoding_and_leaves_it(
    merger: str, begin: str, dense: bool, world: Any
) -> None:
    learner = world.learner("sidetune", merger=merger, dense=dense, begin=begin)
    base = learner.base.eval()(INPUTS).encoding
    for task in world.tasks[:2]:
        trained = world.start(learner, task)
        assert torch.equal(merged(learner.eval(), task.id), base)
        for module in trained:
            module.train()
        side = learner.sides[task.id]
        start = {name: value.clone() for name, value in side.named_parameters()}
        world.train(learner, task, steps=3)
        assert not torch.equal(merged(learner, task.id), base)
        assert not any(torch.equal(value, start[name]) for name, value in side.named_parameters())


@pytest.mark.parametrize("merger", ["alpha", "side"])
@pytest.mark.parametrize("name", ["fork", "copy"])
def test_a_side_that_begins_as_the_base_is_trained(name: str, merger: str) -> None:
    base = sample.TinyBase((8, 4, 4)).eval()

    def make_side(base: Any, pretrained: bool = True) -> Side:
        side: Side = make(SIDE, name, sample.INPUTS, base)
        return side

    parts = Components(
        sample.INPUTS,
        lambda pretrained=True: base,
        make_side,
        lambda base, count: make(MERGER, merger, base.shape, count),
    )
    cls = load(find(LEARNER, "sidetune"))
    task = sample.tasks()[0]
    with seeded(0, "start"):
        learner = cls(cls.Config(begin="base"), parts)
        learner.start(task)
    inputs, side, mixing = sample.images([0, 1]), learner.sides[task.id], learner.mergers[task.id]
    features = base(inputs)
    begin = mixing([features.encoding, side.eval()(inputs, features)])
    torch.testing.assert_close(begin, features.encoding)
    before = [value.clone() for value in side.parameters()]
    optimizer = torch.optim.SGD([*side.parameters(), *mixing.parameters()], lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        (learner(inputs, task.id) - 1).square().sum().backward()
        optimizer.step()
    assert not all(map(torch.equal, before, side.parameters()))


def make(kind: Any, name: str, *arguments: Any) -> Any:
    cls = load(find(kind, name))
    with seeded(0, name):
        return cls(cls.Config(), *arguments)


@pytest.mark.parametrize("shape", [(64,), (6, 8), (8, 4, 4)], ids=str)
@pytest.mark.parametrize("merger", MERGERS)
def test_a_gate_of_one_is_the_merger(merger: str, shape: tuple[int, ...]) -> None:
    inner = make(MERGER, merger, shape, 2)
    gated = FromBase(inner, shape).double().eval()
    encodings = [torch.randn(3, *shape, dtype=torch.float64) for _ in range(2)]
    assert torch.equal(gated(encodings), encodings[0])
    torch.nn.init.ones_(gated.gate)
    torch.testing.assert_close(gated(encodings), inner(encodings))


@pytest.mark.parametrize("shape", [(64,), (6, 8), (8, 4, 4)], ids=str)
def test_a_linear_map_mixes_the_channels_at_each_position(shape: tuple[int, ...]) -> None:
    linear = FromBase(make(MERGER, "sum", shape, 2), shape, linear=True).double()
    base, side = (torch.randn(3, *shape, dtype=torch.float64) for _ in range(2))
    assert torch.equal(linear([base, side]), base)
    with torch.no_grad():
        linear.projection.copy_(torch.randn_like(linear.projection))
    axes = "oc,bchw->bohw" if len(shape) == 3 else "oc,b...c->b...o"
    torch.testing.assert_close(
        linear([base, side]), base + torch.einsum(axes, linear.projection, side), rtol=1e-12, atol=1e-12
    )


def sides() -> Sequence[Any]:
    maps = sample.TinyBase((8, 4, 4)).eval(), sample.images([0, 1]), sample.INPUTS
    text = sample.TinyReader().eval(), sample.texts([0, 1]), sample.TEXT
    return [*((name, *maps) for name in OF_MAPS), *((name, *text) for name in ("fork", "ladder-text"))]


@pytest.mark.parametrize("merger", ["alpha", "concat", "film", "mlp2", "product", "side"])
def test_every_side_begins_at_the_base_s_encoding(merger: str) -> None:
    for name, base, inputs, shapes in sides():
        side: Side = make(SIDE, name, shapes, base).train()
        features: Features = base(inputs)
        encodings = [features.encoding, side(inputs, features)]
        gated = FromBase(make(MERGER, merger, base.shape, 2), base.shape)
        assert torch.equal(gated(encodings), features.encoding), name


def test_the_gate_has_a_gradient_from_the_first_step_on_and_the_side_from_the_second() -> None:
    gated = FromBase(make(MERGER, "sum", (4,), 2), (4,))
    base, side = torch.randn(3, 4), torch.randn(3, 4, requires_grad=True)
    gated([base, side]).sum().backward()
    assert gated.gate.grad is not None
    torch.testing.assert_close(gated.gate.grad, side.detach().sum(0))
    assert side.grad is not None
    assert not side.grad.any()
    with torch.no_grad():
        gated.gate += 0.1
    gated([base, side]).sum().backward()
    assert side.grad.all()


def test_gate_and_linear_map_are_recorded_next_to_the_weights_of_the_merger(world: Any) -> None:
    learner = world.learner("sidetune", begin="base")
    world.start(learner, world.tasks[0])
    assert learner.record() == {"merger.base": 0.5, "merger.gate": 0.0}
    linear = world.learner("sidetune", begin="base-linear")
    world.start(linear, world.tasks[0])
    assert linear.record() == {"merger.base": 0.5, "merger.projection": 0.0}


def test_by_default_a_task_has_no_gate(world: Any) -> None:
    learner = world.learner("sidetune")
    world.start(learner, world.tasks[0])
    names: Mapping[str, Tensor] = learner.state_dict()
    assert not any("gate" in name for name in names)
