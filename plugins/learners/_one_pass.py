"""Each training example of a task once."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from sidetune_core.api import Batch, OptionError, Task


def one_pass(task: Task, batches: Iterator[Batch]) -> Iterator[Batch]:
    """Each of a task's training examples once, from endless batches that repeat them; ids tell which came
    before.

    It ends when all examples were seen, or after as many batches as an epoch has, or a single one where that
    is unknown, without a new example: a sampler may leave some out.
    """
    try:
        count = task.steps_per_epoch(1)
    except OptionError:  # the length of the data is unknown
        count = 0
    seen: set[int] = set()
    repeats = 0
    while not count or len(seen) < count:
        batch = next(batches)
        rows = {example: row for row, example in enumerate(batch.ids.tolist()) if example not in seen}
        repeats = 0 if rows else repeats + 1
        if repeats > count // len(batch.ids):
            return
        if rows:
            seen |= rows.keys()
            yield batch.rows(torch.tensor(list(rows.values())))
