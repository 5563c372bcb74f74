"""Whether one epoch is one pass: what a stage has drawn of the training examples, by their ids."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from sidetune_core.interfaces.capabilities import HasTrainingSize
from sidetune_core.interfaces.tasks import Batch
from sidetune_core.storage.within import PASS
from sidetune_core.training.stage import Stage


class SinglePass:
    """Collects the ids of the training batches of a stage.

    Args:
        stage: that is trained.
        drawn: ids by task so far; None if they are unknown, as in a checkpoint of an earlier version.
    """

    def __init__(self, stage: Stage, drawn: Mapping[str, Tensor] | None) -> None:
        self._stage = stage
        self._drawn: dict[str, list[Tensor]] | None = None
        if drawn is not None:
            self._drawn = {id: [ids] for id, ids in drawn.items()}

    def add(self, task_id: str, micro_batches: Sequence[Batch]) -> None:
        """Note the batches of a step."""
        if self._drawn is not None:
            self._drawn.setdefault(task_id, []).extend(batch.ids.detach() for batch in micro_batches)

    def state(self) -> dict[str, Tensor] | None:
        """The ids by task, for a checkpoint."""
        if self._drawn is None:
            return None
        return {id: torch.cat([one.cpu() for one in ids]) for id, ids in self._drawn.items()}

    def lines(self) -> list[dict[str, Any]]:
        """A line of ``within.jsonl`` for each task; none where the ids are unknown."""
        drawn = self.state()
        if drawn is None:
            return []
        counts = []
        for task in self._stage.tasks:
            ids = drawn.get(task.id, torch.empty(0, dtype=torch.int64))
            counts.append(
                {
                    "kind": PASS,
                    "stage": self._stage.name,
                    "task": task.id,
                    "examples": task.training_size() if isinstance(task, HasTrainingSize) else None,
                    "drawn": len(ids),
                    "distinct": len(set(ids.tolist())),
                }
            )
        return counts
