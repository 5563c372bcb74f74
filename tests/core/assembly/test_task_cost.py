"""The line of a run's header that says what a task of side-tuning costs."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sidetune_core.assembly.build import build_stream
from sidetune_core.assembly.fit import fit_components
from sidetune_core.assembly.task_cost import TaskCost
from sidetune_core.cli.main import main_run
from sidetune_core.config.resolve import resolve
from sidetune_core.config.spec import RunSpec
from sidetune_core.system.device import Machine

RESNET20 = {"name": "resnet20", "weights": "none"}
BASE = 9 * 1024 * (3 * 16 + 6 * 16 * 16) + 2 * (9 * 256 * (16 * 32 + 5 * 32 * 32))
"""Multiply-adds of the convolutions of a CIFAR ResNet-20: its three stages have maps of 32 x 32, 16 x 16 and
8 x 8, and the second and the third compute the same number."""
LADDER = 256 * (16 * 32 + 32 * 48 + 9 * (32 * 48 + 48 * 64)) + 64 * (64 * 64 + 9 * 64 * 64)
"""Of a ladder of width 32 on its taps: rungs of 32, 48 and 64 channels, two with maps of 16 x 16."""
HEAD = 64 * 2

MATRIX = """
import attrs
import torch
from torch import nn
from sidetune_core.api import Side

class Matrix(Side):
    @attrs.frozen
    class Config:
        pass

    def __init__(self, config, inputs, base):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(base.shape[0], base.shape[0]))

    def forward(self, inputs, features):
        return features.encoding @ self.weight
"""


def cost(with_task: bool = True, bf16: bool = True, **slots: Any) -> TaskCost | None:
    slots = {"base": RESNET20, "side": "ladder", "env": "digits", **slots}
    resolved = resolve(RunSpec(**slots))
    with closing(build_stream(resolved)) as stream:
        fit = fit_components(resolved, stream)
        task = stream.tasks()[0] if with_task else None
    return fit.task_cost(Machine(torch.device("cpu"), bf16=bf16, channels_last=True), task)


def test_the_line_has_parameters_cache_and_step_of_the_first_task() -> None:
    found = cost()
    assert found is not None
    assert found.step == (LADDER + HEAD) / (BASE + HEAD)
    assert found.parameters == 84_896 + 1 + HEAD + 2  # side, alpha, head
    assert found.cached == 2 * (64 + 16 * 32 * 32 + 32 * 16 * 16 + 64 * 8 * 8)
    assert found.line("side ladder") == (
        "side ladder: 85,027 trainable parameters a task with its head (31.6 % of the base), cache "
        "56.1 KiB an example, a step takes 0.34 of fine-tuning's multiply-adds plus the base once an example"
    )


def test_in_fp32_the_cache_has_twice_the_bytes() -> None:
    narrow, wide = cost(), cost(bf16=False)
    assert narrow is not None
    assert wide is not None
    assert (wide.cached, wide.step) == (2 * (narrow.cached or 0), narrow.step)


def test_without_its_task_a_run_says_that_the_head_is_not_counted() -> None:
    found = cost(with_task=False)
    assert found is not None
    assert found.step == LADDER / BASE
    assert found.line("side ladder") == (
        "side ladder: 84,897 trainable parameters a task without its head (31.6 % of the base), cache "
        "56.1 KiB an example, a step takes 0.34 of fine-tuning's multiply-adds (without heads) plus the base "
        "where it is not cached"
    )


def test_without_a_cache_each_step_computes_the_base() -> None:
    found = cost(cache={"mode": "off"})
    assert found is not None
    assert found.step == (3 * LADDER + 3 * HEAD + BASE) / (3 * (BASE + HEAD))
    assert found.line("side ladder") == (
        "side ladder: 85,027 trainable parameters a task with its head (31.6 % of the base), a step "
        "takes 0.67 of fine-tuning's multiply-adds"
    )


def test_augmented_images_are_not_cached_in_training(tmp_path: Path) -> None:
    images = np.zeros((4, 32, 32, 3), np.uint8)
    labels = np.array([0, 0, 1, 1])
    np.savez(tmp_path / "a.npz", x_train=images, y_train=labels, x_test=images, y_test=labels)
    env = {"name": "images", "archive": str(tmp_path / "a.npz"), "augment": "crop-flip"}
    env |= {"image_size": 32, "classes_per_task": 2}
    found = cost(env=env)
    assert found is not None
    assert found.step == (3 * LADDER + 3 * HEAD + BASE) / (3 * (BASE + HEAD))
    assert found.line("").endswith(
        "cache 56.1 KiB an example, a step takes 0.67 of fine-tuning's multiply-adds"
    )


def test_a_step_that_is_not_known_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("own_matrix.py").write_text(MATRIX)
    found = cost(side="own_matrix:Matrix")
    assert found is not None
    assert (found.step, "step" in found.line("")) == (None, False)


def test_where_tasks_use_earlier_sides_the_step_is_that_of_the_first_task() -> None:
    found, plain = cost(learner={"name": "sidetune", "dense": True}), cost()
    assert found is not None
    assert plain is not None
    assert found.step == plain.step
    assert found.line("").endswith(
        "a step of the first task takes 0.34 of fine-tuning's multiply-adds plus the base once an example, "
        "more in later tasks, which also run the sides before"
    )


def test_a_learner_that_needs_its_networks_on_one_device_says_what_it_trains() -> None:
    resolved = resolve(RunSpec(base=RESNET20, side="conv", merger="alpha", learner="ewc", env="digits"))
    with closing(build_stream(resolved)) as stream:
        fit = fit_components(resolved, stream)
    assert fit.side is not None
    assert fit.trainable == fit.base + fit.side + 1  # alpha


@pytest.mark.parametrize("learner", ["finetune", "independent", "features", "pnn", "ewc"])
def test_learners_that_train_something_else_have_no_such_line(learner: str) -> None:
    side = {"pnn": "fcn4"}.get(learner)
    assert cost(learner=learner, side=side, with_task=False) is None


def test_a_run_prints_and_records_what_a_task_costs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = ["--base", "resnet20", "--base.weights", "none", "--side", "ladder", "--device.precision", "bf16"]
    run += ["--env.num-tasks", "1", "--train.steps", "1", "--out", str(tmp_path / "run")]
    assert main_run(run) == 0
    line = (
        "side ladder: 85,027 trainable parameters a task with its head (31.6 % of the base), "
        "cache 56.1 KiB an example"
    )
    assert line in capsys.readouterr().err
    recorded = json.loads((tmp_path / "run" / "run.json").read_text())["task_cost"]
    assert recorded == {
        "cache_bytes_per_example": 57_472,
        "step_of_fine_tuning": (LADDER + HEAD) / (BASE + HEAD),
    }
    report = (tmp_path / "run" / "report.md").read_text()
    assert "| cache, bytes of an example | 57,472 |" in report
    assert "| multiply-adds of a step, in those of fine-tuning | 0.339 |" in report
