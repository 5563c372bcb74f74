"""The training batches of a task, on the device."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor, nn

from sidetune_core.assembly.finite import require_finite
from sidetune_core.assembly.predict import make_predict
from sidetune_core.interfaces.inputs import Inputs
from sidetune_core.interfaces.learner import Learner
from sidetune_core.interfaces.tasks import Batch, Order, Task
from sidetune_core.training.context import Context


def batches(task: Task, learner: Learner, context: Context, order: Order) -> Iterator[Batch]:
    """A task's training batches without end, on the device.

    A task that collects experience does so with the policy that is evaluated, in eval mode; a stop request
    ends that.

    Raises:
        Diverged: an output of the policy is not finite.
        StopRequested: a signal came.
    """
    compute = make_predict(learner, task, context.machine)
    in_training: list[nn.Module] = []  # modules in training mode, while they are in eval mode

    def predict(inputs: Inputs) -> Tensor:
        context.stop.check()
        if not in_training:
            in_training.extend(module for module in learner.modules() if module.training)
            for module in in_training:
                module.training = False
        return require_finite(compute(inputs), task)

    for batch in task.train(predict, order):
        for module in in_training:
            module.training = True
        in_training.clear()
        yield context.machine.move_batch(batch, task.id)
