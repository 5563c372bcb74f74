from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from sidetune_core import load
from sidetune_core.errors import FitError, OptionError
from sidetune_core.serving.model import Model
from sidetune_core.serving.network import Format, random_inputs, write_network

from .conftest import MakeRun

LEARNERS: list[Any] = [
    "sidetune",
    {"name": "sidetune", "dense": True},
    "features",
    {"name": "finetune", "batchnorm": "per-task"},
    {"name": "ewc", "examples": 8, "fisher": "batched"},
    "lwf",
    {"name": "pnn", "dense": True},
    "independent",
    "distill",
    "bsp",
]

LoadCase = Callable[[str], Model]


@pytest.fixture
def load_case(make_run: MakeRun, tiny_bert: Path, monkeypatch: pytest.MonkeyPatch) -> LoadCase:
    """Loads a run with task t0, of a kind of network."""
    monkeypatch.syspath_prepend(Path(__file__).parent)  # for serving_envs

    def load_run(name: str) -> Model:
        cases: dict[str, dict[str, Any]] = {
            "alpha": {},
            "ladder": {
                "base": {"name": "torchvision", "model": "resnet18", "weights": "none"},
                "side": "ladder",
            },
            "mlp": {"base": "mlp", "side": "mlp", "env": "serving_envs:Vectors"},
            "branching": {"base": "mlp", "side": "mlp", "env": "serving_envs:Branching"},
            "text": {
                "base": {"name": "transformer", "model": str(tiny_bert)},
                "side": "ladder-text",
                "env": "serving_envs:Tokens",
            },
        }
        trusts = "env" in cases[name]
        others: dict[str, Any] = {"trust_local_code": True} if trusts else {}
        others["device"] = {"precision": "fp32"}  # that of files
        return load(make_run(**cases[name], **others), trust_local_code=trusts)

    return load_run


def run_torch_export(path: Path, inputs: tuple[Tensor, ...]) -> Tensor:
    output: Tensor = torch.export.load(path).module()(*inputs)
    return output


def run_torchscript(path: Path, inputs: tuple[Tensor, ...]) -> Tensor:
    output: Tensor = torch.jit.load(path)(*inputs)
    return output


def run_onnx(path: Path, inputs: tuple[Tensor, ...]) -> Tensor:
    onnxruntime = pytest.importorskip("onnxruntime")
    session = onnxruntime.InferenceSession(path)
    named = {one.name: value.numpy() for one, value in zip(session.get_inputs(), inputs, strict=True)}
    return torch.from_numpy(session.run(None, named)[0])


RUN: dict[Format, Callable[[Path, tuple[Tensor, ...]], Tensor]] = {
    "torch-export": run_torch_export,
    "torchscript": run_torchscript,
    "onnx": run_onnx,
}


@pytest.mark.parametrize("learner", LEARNERS, ids=str)
def test_a_network_computes_the_outputs_of_its_task(learner: Any, make_run: MakeRun) -> None:
    model = load(make_run(learner))
    (inputs,) = random_inputs(model.cards["t1"], 3)
    assert torch.equal(model.module("t1")(inputs), model.outputs(inputs, "t1"))


@pytest.mark.parametrize("learner", LEARNERS, ids=str)
def test_a_network_computes_the_same_after_pickling(learner: Any, make_run: MakeRun) -> None:
    network = load(make_run(learner)).module("t0")
    inputs = random_inputs(network.card, 3)
    assert torch.equal(pickle.loads(pickle.dumps(network))(*inputs), network(*inputs))


@pytest.mark.parametrize("learner", ["sidetune", "independent"])
def test_a_network_has_no_weights_of_other_tasks(learner: str, make_run: MakeRun) -> None:
    two, one = load(make_run(learner)), load(make_run(learner, tasks=1))
    count = [sum(tensor.numel() for tensor in model.module("t0").parameters()) for model in (two, one)]
    assert count[0] == count[1]


def test_a_network_takes_images_of_bytes(digits_run: Path) -> None:
    network = load(digits_run).module("t0")
    pixels = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    assert torch.equal(network(pixels), network(pixels.float() / 255))


def test_a_network_is_a_copy(digits_run: Path) -> None:
    model = load(digits_run)
    (inputs,) = random_inputs(model.cards["t0"], 2)
    before = model.outputs(inputs, "t0")
    for parameter in model.module("t0").parameters():
        parameter.zero_()
    assert torch.equal(model.outputs(inputs, "t0"), before)


@pytest.mark.parametrize(
    ("case", "format"),
    [
        ("alpha", "torch-export"),
        ("alpha", "torchscript"),
        ("alpha", "onnx"),
        ("ladder", "torchscript"),
        ("ladder", "onnx"),
        ("mlp", "torch-export"),
        ("mlp", "torchscript"),
        ("mlp", "onnx"),
        ("text", "onnx"),
    ],
)
def test_a_file_has_the_outputs_of_the_run(
    case: str, format: Format, load_case: LoadCase, tmp_path: Path
) -> None:
    model, path = load_case(case), tmp_path / "network.pt2"
    if format == "onnx":
        pytest.importorskip("onnxscript")
    write_network(model, "t0", path, format)
    card = model.cards["t0"]
    inputs = random_inputs(card, 4)
    expected = model.outputs(dict(zip(card.inputs, inputs, strict=True)), "t0")
    tolerance = 1e-4 if format == "onnx" else 1e-5
    torch.testing.assert_close(RUN[format](path, inputs), expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("format", ["torch-export", "torchscript"])
def test_a_network_that_cannot_be_written_is_refused_with_the_reason(
    format: Format, load_case: LoadCase, tmp_path: Path
) -> None:
    with pytest.raises(FitError, match=f"task 'branching' cannot be written as {format}: "):
        write_network(load_case("branching"), "branching", tmp_path / "network", format)
    assert not [*tmp_path.iterdir()]


def test_an_unknown_format_is_refused(digits_run: Path, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="no format 'keras'; there are onnx, torchscript, torch-export"):
        write_network(load(digits_run), "t0", tmp_path / "network", "keras")  # type: ignore[arg-type]


def test_a_copy_of_a_torchvision_network_is_in_eval_mode(load_case: LoadCase) -> None:
    model = load_case("ladder")
    (inputs,) = random_inputs(model.cards["t0"], 3)
    assert torch.equal(model.module("t0")(inputs), model.outputs(inputs, "t0"))


def test_pickling_a_torchvision_network_keeps_its_outputs(load_case: LoadCase) -> None:
    network = load_case("ladder").module("t0")
    inputs = random_inputs(network.card, 3)
    assert torch.equal(pickle.loads(pickle.dumps(network))(*inputs), network(*inputs))
