"""Classification without a task id by networks of which each knows the classes of one task.

The probability of class c of task t is ``P(t, c|x) = P(t|x) p_t(c|x)`` (Kim et al., A Theoretical Study on
Solving Continual Learning, NeurIPS 2022), with ``p_t`` the softmax of task t's own logits. The rules here say
what ``P(t|x)`` is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from sidetune_core.scenarios import Scenario

TaskRule = Literal["max-softmax", "energy", "entropy"]

REMAINDER = 1e-6
"""Probability of all tasks that a rule does not infer, together: the cross-entropy of a task that is not
inferred stays finite."""


def task_scores(outputs: Sequence[Tensor], rule: TaskRule = "max-softmax") -> Tensor:
    """A score for each task (B, T), the larger the more probable that an example belongs to it.

    - max-softmax: the largest probability of a class, ``max_c p_t(c|x)`` (Hendrycks & Gimpel, ICLR 2017);
    - energy: the negative free energy ``log sum_c exp z_t,c`` of the logits ``z_t`` (Liu et al., Energy-based
      Out-of-distribution Detection, NeurIPS 2020, eq. 4 with T = 1 and the other sign);
    - entropy: the negative entropy ``sum_c p_t(c|x) log p_t(c|x)`` (Wortsman et al., Supermasks in
      Superposition, NeurIPS 2020, infer the task of least entropy).

    Args:
        outputs: of each of the T tasks, its logits (B, classes).
        rule: see above.
    """
    if rule == "energy":
        scores = [logits.float().logsumexp(1) for logits in outputs]
    elif rule == "entropy":
        scores = [-torch.special.entr(logits.float().softmax(1)).sum(1) for logits in outputs]
    else:
        scores = [logits.float().log_softmax(1).amax(1) for logits in outputs]
    return torch.stack(scores, 1)


def joint_scores(outputs: Sequence[Tensor], scores: Tensor | None, scenario: Scenario) -> Tensor:
    """Logits without a task id, in float32.

    In ``class``, ``log P(t, c|x)`` up to a constant, of the classes of all tasks in order. Without `scores`,
    ``P(t|x)`` is the same for all tasks: the log-probabilities ``log p_t(c|x)`` of all tasks, one after
    another. With `scores`, the task with the largest score is inferred: ``P(t|x)`` is ``1 - REMAINDER`` for
    it, and the other tasks share the remainder.

    In ``domain``, where all tasks have the same classes, ``log p_t(c|x)`` of the task with the largest score.

    Args:
        outputs: of each of the T tasks, its logits (B, classes).
        scores: of the tasks (B, T), as of `task_scores`; None in ``class`` for none.
        scenario: ``class`` or ``domain``.
    """
    logs = [logits.float().log_softmax(1) for logits in outputs]
    inferred = None if scores is None else scores.argmax(1)
    if scenario == "domain":
        assert inferred is not None
        return torch.stack(logs, 1)[torch.arange(len(inferred)), inferred]
    if inferred is None or len(logs) == 1:
        return torch.cat(logs, 1)
    rest = math.log(REMAINDER / (len(logs) - 1))
    return torch.cat(
        [
            log + torch.where(inferred == index, math.log1p(-REMAINDER), rest)[:, None]
            for index, log in enumerate(logs)
        ],
        1,
    )
