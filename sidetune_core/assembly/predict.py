"""A learner's output for a task, as tasks evaluate it."""

from __future__ import annotations

import torch
from torch import Tensor

from sidetune_core.interfaces.inputs import Inputs
from sidetune_core.interfaces.learner import Learner
from sidetune_core.interfaces.tasks import Predict, Task
from sidetune_core.system.device import Machine


def make_predict(learner: Learner, task: Task | None, machine: Machine) -> Predict:
    """The learner's current prediction for a task, without gradient, in float32; None for examples of which
    the task is not known.
    """

    task_id = None if task is None else task.id

    def predict(inputs: Inputs) -> Tensor:
        with torch.no_grad(), machine.autocast():
            output = learner.predict(machine.move_inputs(inputs, task_id), task_id)
        return output.float()

    return predict
