from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sidetune_core import load
from sidetune_core.certificate.probes import Stored
from sidetune_core.errors import InputError, OptionError, RunError, UntrustedCode
from sidetune_core.interfaces.networks import Base
from sidetune_core.interfaces.predictions import ClassPrediction
from sidetune_core.serving.model import Model

from .conftest import MakeRun, content

UNCHANGED: list[Any] = ["sidetune", {"name": "sidetune", "dense": True}, "features", "pnn", "independent"]
"""Learners in which no task changes what an earlier one computes."""

CHANGED: list[Any] = [
    "finetune",
    {"name": "finetune", "batchnorm": "per-task"},
    {"name": "ewc", "examples": 8, "fisher": "batched"},
    "lwf",
    "joint",
    "distill",
    "bsp",
]


@pytest.fixture(scope="module")
def model(digits_run: Path) -> Model:
    return load(digits_run)


@pytest.fixture
def image() -> torch.Tensor:
    return torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def images() -> torch.Tensor:
    return torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def base_forwards(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Sizes of the batches that bases were computed for."""
    from sidetune_plugins.bases.cifar_resnet import ResNet20

    sizes: list[int] = []
    forward = ResNet20.forward

    def count(self: Base, inputs: Any) -> Any:
        sizes.append(len(inputs["image"]))
        return forward(self, inputs)

    monkeypatch.setattr(ResNet20, "forward", count)
    return sizes


def probes(folder: Path, task: str) -> Stored:
    """Inputs of a task's evaluation right after it was trained, with the outputs."""
    return Stored.read(folder / "probes" / f"{task}.safetensors")


@pytest.mark.parametrize("learner", UNCHANGED, ids=str)
def test_outputs_of_all_tasks_are_bit_for_bit_those_of_the_run(learner: Any, make_run: MakeRun) -> None:
    model, folder = load(make_run(learner)), make_run(learner)
    for task in model.tasks:
        stored = probes(folder, task)
        assert torch.equal(model.outputs(stored.as_inputs(), task), stored.output)


@pytest.mark.parametrize("learner", CHANGED, ids=str)
def test_outputs_of_the_last_task_are_bit_for_bit_those_of_the_run(learner: Any, make_run: MakeRun) -> None:
    stored = probes(make_run(learner), "t1")
    assert torch.equal(load(make_run(learner)).outputs(stored.as_inputs(), "t1"), stored.output)


def test_one_example_has_one_prediction(model: Model, image: torch.Tensor) -> None:
    assert isinstance(model.predict(image, "t0"), ClassPrediction)


def test_several_examples_have_a_list_of_predictions(model: Model, images: torch.Tensor) -> None:
    predictions = model.predict(images, "t0")
    assert [type(one) for one in predictions] == [ClassPrediction] * 4


def test_a_list_of_one_example_has_a_list_of_one_prediction(model: Model, image: torch.Tensor) -> None:
    assert len(model.predict([image], "t0")) == 1


def test_arrays_and_tensors_by_name_have_the_same_predictions(model: Model, image: torch.Tensor) -> None:
    assert model.predict({"image": image.numpy()}, "t0") == model.predict(image, "t0")


def test_batches_do_not_change_predictions(model: Model, images: torch.Tensor) -> None:
    whole, apart = model.predict(images, "t0"), model.predict(images, "t0", batch_size=1)
    assert [one.probability for one in whole] == pytest.approx([one.probability for one in apart], abs=1e-5)


def test_bytes_are_read_as_such(model: Model) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (3, 32, 32), dtype=np.uint8)
    assert model.predict(pixels, "t0") == model.predict(pixels.astype(np.float32) / 255, "t0")


def test_all_tasks_predict_what_each_predicts_alone(model: Model, images: torch.Tensor) -> None:
    together = model.predict(images, tasks="all")
    assert list(together) == ["t0", "t1"]
    for task, predictions in together.items():
        assert [one.probability for one in predictions] == pytest.approx(
            [one.probability for one in model.predict(images, task)], abs=1e-6
        )


def test_several_tasks_of_one_example_have_one_prediction_each(model: Model, image: torch.Tensor) -> None:
    together = model.predict(image, tasks=["t1"])
    assert {task: type(one) for task, one in together.items()} == {"t1": ClassPrediction}


def test_a_task_for_each_example_predicts_in_the_order_of_the_examples(
    model: Model, images: torch.Tensor
) -> None:
    mixed = model.predict(images, task=["t1", "t0", "t1", "t0"])
    alone = [model.predict(one, task) for one, task in zip(images, ["t1", "t0"] * 2, strict=True)]
    assert [one.probability for one in mixed] == pytest.approx([one.probability for one in alone], abs=1e-5)


def test_the_base_runs_once_for_all_tasks(
    digits_run: Path, images: torch.Tensor, base_forwards: list[int]
) -> None:
    model = load(digits_run)
    base_forwards.clear()
    model.predict(images, tasks="all")
    assert base_forwards == [4]


def test_the_base_runs_once_for_a_mixed_batch(
    digits_run: Path, images: torch.Tensor, base_forwards: list[int]
) -> None:
    model = load(digits_run)
    base_forwards.clear()
    model.predict(images, task=["t1", "t0", "t1", "t0"])
    assert base_forwards == [4]


def test_a_base_of_a_single_task_runs_for_its_rows_only(
    make_run: MakeRun, images: torch.Tensor, base_forwards: list[int]
) -> None:
    model = load(make_run("independent"))
    model.predict(images, tasks="all")  # which base is whose is seen here
    base_forwards.clear()
    model.predict(images, task=["t1", "t0", "t1", "t1"])
    assert sorted(base_forwards) == [1, 3]


@pytest.mark.parametrize("learner", [{"name": "finetune", "batchnorm": "per-task"}, "bsp"], ids=str)
def test_a_base_that_differs_between_tasks_is_computed_for_each(
    learner: Any, make_run: MakeRun, images: torch.Tensor, base_forwards: list[int]
) -> None:
    model = load(make_run(learner))
    base_forwards.clear()
    together = model.predict(images, tasks="all")
    assert base_forwards == [4, 4]
    assert together["t1"] == model.predict(images, "t1")


def test_two_runs_on_one_base_share_its_memory_and_its_features(
    digits_run: Path, make_run: MakeRun, images: torch.Tensor, base_forwards: list[int]
) -> None:
    model = load(digits_run)
    model.add(make_run("features"), rename={"t0": "other", "t1": "another"})
    bases = [served.bases[0].base for served in {one.learner for one in model._tasks.values()}]
    assert len({next(base.parameters()).data_ptr() for base in bases}) == 1
    base_forwards.clear()
    model.predict(images, tasks="all")
    assert base_forwards == [4]


def test_bases_with_other_weights_stay_apart(
    digits_run: Path, make_run: MakeRun, images: torch.Tensor, base_forwards: list[int]
) -> None:
    model = load(digits_run)
    model.add(make_run("finetune"), rename={"t0": "other", "t1": "another"})
    base_forwards.clear()
    model.predict(images, tasks="all")
    assert base_forwards == [4, 4]


def test_a_second_task_of_the_same_id_is_refused(digits_run: Path, make_run: MakeRun) -> None:
    with pytest.raises(RunError, match=r"has a task 't0', and the model has one already. Rename it"):
        load(digits_run, make_run("features"))


def test_a_removed_task_is_gone(digits_run: Path, image: torch.Tensor) -> None:
    model = load(digits_run)
    model.remove("t0")
    assert model.tasks == ("t1",)
    with pytest.raises(InputError, match="no task 't0'"):
        model.predict(image, "t0")


def test_the_only_task_need_not_be_named(digits_run: Path, image: torch.Tensor) -> None:
    model = load(digits_run)
    model.remove("t0")
    assert model.predict(image) == model.predict(image, "t1")


def test_of_several_tasks_one_is_to_be_chosen(model: Model, image: torch.Tensor) -> None:
    with pytest.raises(InputError, match=r"several tasks; choose one: 't0' \(0, 1\), 't1' \(2, 3\)"):
        model.predict(image)


@pytest.mark.parametrize(
    "values",
    [
        torch.rand(3, 32, 32) * 255,
        torch.full((3, 32, 32), torch.nan),
        torch.rand(5, 32, 32, 3, 2),
        {"picture": torch.rand(3, 32, 32)},
        [],
        np.zeros((0, 3, 32, 32), np.float32),
        "photo",
        None,
    ],
    ids=["range", "nan", "shape", "name", "empty list", "empty array", "no file", "none"],
)
def test_a_wrong_input_is_refused(model: Model, values: Any) -> None:
    with pytest.raises(InputError):
        model.predict(values, "t0")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"task": "t7"}, "no task 't7'"),
        ({"task": "t0", "tasks": "all"}, "either task or tasks"),
        ({"tasks": []}, "tasks is empty"),
        ({"task": ["t0", "t1"]}, "4 examples and 2 tasks"),
        ({"task": []}, "no examples"),
        ({"task": "t0", "batch_size": 0}, "batch_size is 0"),
    ],
)
def test_wrong_arguments_are_refused_in_a_sentence(
    model: Model, images: torch.Tensor, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        model.predict(images, **arguments)


def test_raw_outputs_check_shapes_too(model: Model) -> None:
    with pytest.raises(InputError, match=r"has shape \(2, 3, 8, 8\), expected \(B, 3, 32, 32\)"):
        model.outputs(torch.zeros(2, 3, 8, 8), "t0")


@pytest.fixture
def own_handler(make_run: MakeRun, monkeypatch: pytest.MonkeyPatch) -> Model:
    """A task of an env with a handler of its own, which takes tuples of numbers."""
    monkeypatch.syspath_prepend(Path(__file__).parent)  # for serving_envs
    run = make_run(base="mlp", side="mlp", env="serving_envs:Vectors", trust_local_code=True)
    return load(run, trust_local_code=True)


def test_the_handler_of_an_env_preprocesses_and_names_the_classes(own_handler: Model) -> None:
    prediction = own_handler.predict([(0.1, 0.2, 0.3, 0.4)])[0]
    scaled = own_handler.outputs(torch.tensor([[0.2, 0.4, 0.6, 0.8]]))
    assert prediction.probabilities == {
        "no": pytest.approx(float(scaled.softmax(1)[0, 0]), abs=1e-6),
        "yes": pytest.approx(float(scaled.softmax(1)[0, 1]), abs=1e-6),
    }


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([("a", "b", "c", "d")], "task 't0' cannot use the input: "),
        ([(0.1, 0.2)], r"has shape \(1, 2\), expected \(B, 4\)"),
    ],
)
def test_what_a_handler_does_not_check_is_an_input_error_too(
    own_handler: Model, values: Any, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        own_handler.predict(values)


def test_a_run_that_names_code_is_not_loaded_without_trust(own_handler: Model, make_run: MakeRun) -> None:
    run = make_run(base="mlp", side="mlp", env="serving_envs:Vectors", trust_local_code=True)
    with pytest.raises(UntrustedCode, match="Python: pass trust_local_code=True"):
        load(run)


def test_an_output_that_is_not_finite_is_no_prediction(digits_run: Path, image: torch.Tensor) -> None:
    model = load(digits_run)
    for parameter in model._tasks["t0"].learner.learner.parameters():
        parameter.fill_(torch.nan)
    with pytest.raises(RunError, match="an output is NaN or infinite"):
        model.predict(image, "t0")


def test_an_unknown_device_is_refused(digits_run: Path) -> None:
    with pytest.raises(OptionError, match="device 'quantum'"):
        load(digits_run, device="quantum")


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="holds no run"):
        load(tmp_path)


def test_tasks_are_added_and_removed_while_threads_predict(
    digits_run: Path, make_run: MakeRun, image: torch.Tensor
) -> None:
    model, other = load(digits_run), make_run("features")
    expected = model.predict(image, "t0")
    stop, failures, answers = threading.Event(), [], 0

    def predict() -> None:
        nonlocal answers
        try:
            while not stop.is_set():
                together = model.predict(image, tasks="all")
                assert together["t0"].probability == pytest.approx(expected.probability, abs=1e-5)
                assert "a" in together or "b" not in together  # they come together, and b goes first
                answers += 1
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=predict) for _ in range(8)]
    for thread in threads:
        thread.start()
    for _ in range(3):
        model.add(other, rename={"t0": "a", "t1": "b"})
        model.remove("b")
        model.remove("a")
    stop.set()
    for thread in threads:
        thread.join()
    assert not failures
    assert answers > 8


def test_loading_changes_nothing_in_a_read_only_folder(digits_run: Path, image: torch.Tensor) -> None:
    before = content(digits_run)
    modes = {path: path.stat().st_mode for path in [digits_run, *digits_run.rglob("*")]}
    try:
        for path in modes:
            path.chmod(0o555 if path.is_dir() else 0o444)
        load(digits_run).predict(image, "t0")
    finally:
        for path, mode in modes.items():
            path.chmod(mode)
    assert content(digits_run) == before


LOAD = """
import os, sys, torch
from sidetune_core import load
import sidetune_core.serving.model
for _ in range(10):
    if not os.fork():
        prediction = load(sys.argv[1]).predict(torch.full((3, 32, 32), 0.5), "t1")
        os.write(1, f"{prediction.to_json()}\\n".encode())
        os._exit(0)
for _ in range(10):
    os.wait()
"""


def test_ten_processes_load_at_once(digits_run: Path, model: Model) -> None:
    expected = str(model.predict(torch.full((3, 32, 32), 0.5), "t1").to_json())
    done = subprocess.run([sys.executable, "-c", LOAD, str(digits_run)], capture_output=True, text=True)
    assert done.stdout.splitlines() == [expected] * 10, done.stderr
