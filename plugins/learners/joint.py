"""Joint training on all tasks at once."""

from __future__ import annotations

from .finetune import FineTune


class Joint(FineTune):
    """Fine-tuning on the batches of all tasks in turn: the upper bound of methods that share their weights.

    All data is available from the start, so it is not a continual-learning baseline. With ``batchnorm``
    trained, a batch is normalised by its own task's statistics in training and by the average over tasks in
    evaluation; if the inputs of tasks differ, ``frozen`` or ``per-task`` is the fairer bound.
    """

    joint = True
