"""Joint training: all tasks at once."""

from __future__ import annotations

from .finetune import FineTune


class Joint(FineTune):
    """Fine-tuning on the batches of all tasks in turn: what one shared network reaches when no task has to wait for another.

    It sees all data at once and so is no rival but the upper bound of methods that share their weights. With ``batchnorm`` moving, a
    batch is standardised by its own task's statistics in training and by the average over tasks in evaluation; where tasks look
    different, ``frozen`` or ``per-task`` is the fairer bound.
    """

    joint = True
