"""A learner's output for a task, as tasks evaluate it."""

from __future__ import annotations

import torch
from torch import Tensor

from sidetune_core.interfaces.inputs import Inputs
from sidetune_core.interfaces.learner import Learner
from sidetune_core.interfaces.tasks import Predict, Task
from sidetune_core.system.device import Machine


def make_predict(learner: Learner, task: Task | None, machine: Machine, known: bool = True) -> Predict:
    """The learner's current prediction, without gradient, in float32.

    Args:
        learner: in eval mode.
        task: that the examples belong to; None if nobody knows.
        machine: the device.
        known: whether the learner is given the task id; otherwise only its feature cache is.
    """

    task_id = None if task is None else task.id

    def predict(inputs: Inputs) -> Tensor:
        with torch.no_grad(), machine.autocast():
            output = learner.predict(machine.move_inputs(inputs, task_id), task_id if known else None)
        return output.float()

    return predict
