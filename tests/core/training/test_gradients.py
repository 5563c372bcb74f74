"""Warnings about what no gradient reaches."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from torch import Tensor, nn

from sidetune_core.api import BufferDict, Task, Trainable

from .conftest import Plain, Training

NO_GRADIENT = "no gradient reached"


class Detached(Plain):
    """Its layer is trained in vain."""

    def forward(self, inputs: Mapping[str, Tensor], task_id: str) -> Tensor:
        return self.heads.predict(self.layer(self.base(inputs).encoding).detach(), task_id)


def test_what_no_gradient_reaches_is_named_once_for_each_task(
    training: Training, capsys: pytest.CaptureFixture[str]
) -> None:
    training.learn(training.make(Detached))
    lines = [line for line in capsys.readouterr().err.splitlines() if NO_GRADIENT in line]
    assert [line[: line.index(",")] for line in lines] == [
        f"warning: {NO_GRADIENT} layer in the first step of task {task}" for task in ("t0", "t1")
    ]
    assert NO_GRADIENT in (training.path / "run" / "log.txt").read_text()


def test_a_part_of_a_module_that_is_not_used_is_no_cause_for_a_warning(
    training: Training, capsys: pytest.CaptureFixture[str]
) -> None:
    class Learner(Plain):
        def start(self, task: Task) -> Trainable:
            self.extra = nn.ModuleDict({"layer": self.layer, "unused": nn.Linear(2, 2), "rows": BufferDict()})
            return [self.extra, self.extra["rows"], self.heads.add_task(task)]

    training.learn(training.make(Learner))
    assert NO_GRADIENT not in capsys.readouterr().err


def test_joint_training_gives_each_head_its_turn(
    training: Training, capsys: pytest.CaptureFixture[str]
) -> None:
    class Learner(Plain):
        joint = True

    training.learn(training.make(Learner))
    assert NO_GRADIENT not in capsys.readouterr().err
