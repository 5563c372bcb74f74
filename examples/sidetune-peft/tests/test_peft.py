"""Adapters of peft in sidetune's bases."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
import pytest
import torch
from sidetune_peft.peft import Peft
from torch import Tensor, nn

from sidetune_core import RunSpec, run
from sidetune_core import load as load_run
from sidetune_core.api import Base, ClassHead, Components, Features, FitError, OptionError, Shape, seeded
from sidetune_core.cli.main import main
from sidetune_core.config.kinds import BASE, LEARNER
from sidetune_core.config.registry import find, load
from sidetune_core.storage.weights import read_tensors
from sidetune_core.testing import check_plugin

BY_LAYER = ["lora", "ia3", "loha", "lokr", "hra", "hira"]
"""Methods that support convolutions and linear layers."""


class Linear(Base):
    """(6,) to (16,), with an attribute that peft would take for a transformers configuration."""

    def __init__(self, pretrained: bool = True) -> None:
        super().__init__()
        self.shape, self.config = (16,), object()
        self.first, self.second = nn.Linear(6, 16), nn.Linear(16, 16)

    def forward(self, inputs: Mapping[str, Tensor]) -> Features:
        return Features(self.second(self.first(inputs["x"]).relu()))


class Scale(Base):
    """A base without a layer that could have an adapter."""

    def __init__(self, pretrained: bool = True) -> None:
        super().__init__()
        self.shape = (6,)
        self.weight = nn.Parameter(torch.ones(6))

    def forward(self, inputs: Mapping[str, Tensor]) -> Features:
        return Features(self.weight * inputs["x"])


@attrs.frozen
class TaskStub:
    """The members of a task that `start` uses."""

    id: str

    def make_head(self, shape: Shape) -> nn.Module:
        return ClassHead(shape, 3)


def make(make_base: Any = Linear, **options: Any) -> Peft:
    with seeded(0, "build"):
        return Peft(Peft.Config(**options), Components({"x": (6,)}, make_base))


def start(learner: Peft, task_id: str) -> list[nn.Module | nn.Parameter]:
    task: Any = TaskStub(task_id)
    with seeded(0, "start", task_id):
        trainable = learner.start(task)
    learner.requires_grad_(False).eval()
    for returned in trainable:
        returned.requires_grad_(True)
    return trainable


def perturb(trainable: list[nn.Module | nn.Parameter]) -> None:
    """Change the trainable parameters, like training."""
    with torch.no_grad():
        for returned in trainable:
            for parameter in returned.parameters() if isinstance(returned, nn.Module) else [returned]:
                parameter.add_(0.3)


def resnet(depth: int) -> Any:
    cls = load(find(BASE, f"resnet{depth}"))
    return lambda pretrained=True: cls(cls.Config(weights="none"), {"image": (3, 16, 16)})


@pytest.mark.parametrize("method", ["lora", "ia3"])
def test_it_conforms(method: str) -> None:
    findings = check_plugin("learner", "sidetune-peft/peft", {"method": method})
    assert [finding for finding in findings if not finding.passed] == []


@pytest.mark.parametrize("method", BY_LAYER)
def test_adapters_of_earlier_tasks_and_the_base_do_not_change(method: str) -> None:
    learner, x = make(method=method), {"x": torch.randn(5, 6)}
    own = {name: value.clone() for name, value in learner.base.named_parameters()}
    perturb(start(learner, "t0"))
    first = learner(x, "t0")
    perturb(start(learner, "t1"))
    assert not torch.equal(learner(x, "t1"), first)
    assert torch.equal(learner(x, "t0"), first)
    now = {name.replace(".base_layer", ""): value for name, value in learner.base.named_parameters()}
    assert all(torch.equal(value, now[name]) for name, value in own.items())


@pytest.mark.parametrize("depth", [20, 44])
@pytest.mark.parametrize("method", ["lora", "ia3"])
def test_every_convolution_of_a_resnet_gets_an_adapter_that_has_an_effect(depth: int, method: str) -> None:
    learner, x = make(resnet(depth), method=method), {"image": torch.rand(2, 3, 16, 16)}
    with torch.no_grad():
        frozen = learner.base.eval()(x).encoding
        trainable = start(learner, "t0")
        adapters = [returned for returned in trainable if isinstance(returned, nn.Parameter)]
        assert len(adapters) == (depth - 1) * {"lora": 2, "ia3": 1}[method]
        # a new adapter has no effect
        torch.testing.assert_close(learner.base(x).encoding, frozen, rtol=1e-4, atol=1e-4)
        perturb(adapters[-1:])
        assert (learner.base(x).encoding - frozen).abs().max() > 0.01 * frozen.abs().max()


def test_lora_adds_the_scaled_product_of_its_matrices() -> None:
    learner, x = make(rank=2, alpha=6.0, norm=False), torch.randn(4, 6)
    perturb(start(learner, "t0"))
    state = learner.state_dict()

    def layer(name: str, value: Tensor) -> Tensor:
        a, b = state[f"base.{name}.lora_A.t0.weight"], state[f"base.{name}.lora_B.t0.weight"]
        assert a.shape[0] == b.shape[1] == 2
        weight = state[f"base.{name}.base_layer.weight"] + 6 / 2 * b @ a
        return value @ weight.T + state[f"base.{name}.base_layer.bias"]

    encoding = layer("second", layer("first", x).relu())
    expected = encoding @ state["heads.t0.linear.weight"].T + state["heads.t0.linear.bias"]
    torch.testing.assert_close(learner({"x": x}, "t0"), expected)


def test_its_lora_is_that_of_the_built_in_learner() -> None:
    peft, task = make(resnet(20), method="lora", rank=4, alpha=6.0), TaskStub("t0")
    cls, images = load(find(LEARNER, "lora")), {"image": (3, 16, 16)}
    with seeded(0, "build"):
        builtin = cls(cls.Config(rank=4, alpha=6.0), Components(images, resnet(20)))
    builtin.start(task)
    builtin.eval()
    start(peft, "t0")
    names = [name for name, module in builtin.base.named_modules() if isinstance(module, nn.Conv2d)]
    with torch.no_grad():
        builtin.base.load_state_dict(
            {name.replace(".base_layer", ""): value for name, value in peft.base.state_dict().items()}, False
        )
        for name, (first, second) in zip(names, builtin.added["t0"], strict=True):
            nn.init.normal_(second.weight, std=0.1)
            layer = peft.base.get_submodule(name)
            layer.lora_A["t0"].weight.copy_(first.weight)  # type: ignore[operator, index, union-attr]
            layer.lora_B["t0"].weight.copy_(second.weight)  # type: ignore[operator, index, union-attr]
        builtin.heads.load_state_dict(peft.heads.state_dict())
        x = {"image": torch.rand(2, 3, 16, 16)}
        expected, plain = builtin(x, "t0"), builtin.heads.predict(builtin.base(x).encoding, "t0")
    assert not torch.allclose(expected, plain)
    torch.testing.assert_close(peft(x, "t0"), expected, rtol=1e-4, atol=1e-4)


def test_a_forward_pass_of_another_task_does_not_change_what_is_trainable() -> None:
    learner, x = make(), {"x": torch.randn(2, 6)}
    start(learner, "t0")
    start(learner, "t1")
    before = {name: parameter.requires_grad for name, parameter in learner.named_parameters()}
    learner(x, "t0")
    learner(x, "t1")
    assert {name: parameter.requires_grad for name, parameter in learner.named_parameters()} == before
    trainable = [name for name, requires_grad in before.items() if requires_grad and name.startswith("base.")]
    assert {name.split(".")[-2] for name in trainable} == {"t1"}


def test_the_option_layers_selects_the_layers_with_adapters() -> None:
    learner = make(resnet(20), layers="conv")
    assert len(start(learner, "t0")) > 1
    with pytest.raises(FitError, match="finds no layer of the base to adapt; see --learner.layers"):
        make(resnet(20), layers="linear")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "prefix_tuning"}, "peft has no method 'prefix_tuning' .* ia3, "),
        ({"method": "osf"}, "peft has no method 'osf'"),
        ({"method": "ia3", "rank": 2}, "method 'ia3' has no rank; leave out --learner.rank"),
        ({"method": "ia3", "alpha": 2.0}, "method 'ia3' has no alpha"),
    ],
)
def test_options_that_a_method_does_not_have_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        make(**options)


def test_a_base_without_layers_is_refused() -> None:
    with pytest.raises(FitError, match="finds no layer"):
        make(Scale)


def test_a_method_that_does_not_support_the_layers_is_refused() -> None:
    learner = make(resnet(20), method="delora")
    with pytest.raises(FitError, match="method 'delora' does not fit this base: .*Conv2d"):
        start(learner, "t0")


def test_an_exported_adapter_has_no_tensor_of_the_base(tmp_path: Path) -> None:
    spec = RunSpec(
        learner="peft",  # type: ignore[arg-type]
        base="mlp",  # type: ignore[arg-type]
        env={"name": "digits", "num_tasks": 2},  # type: ignore[arg-type]
        train={"steps": 1, "batch_size": 4},
    )
    run(spec, tmp_path / "run", quiet=True)
    assert main(["export", str(tmp_path / "run"), "--task", "t1", "--out", str(tmp_path / "t1")]) == 0
    names = read_tensors(tmp_path / "t1" / "adapter.safetensors").keys()
    assert [name for name in names if ".t1." not in name] == []
    image = torch.rand(1, 3, 32, 32)
    whole, adapter = load_run(tmp_path / "run"), load_run(tmp_path / "t1", base=tmp_path / "run")
    assert torch.equal(adapter.outputs(image, "t1"), whole.outputs(image, "t1"))
