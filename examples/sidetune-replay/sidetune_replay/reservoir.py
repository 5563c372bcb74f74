"""A sample of fixed size of all past examples."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from sidetune_core.api import BufferDict

Columns = Mapping[str, Tensor]
"""Examples by column: tensors (n, ...) of one length."""

Sample = Mapping[str, tuple[Tensor, Columns]]
"""Examples by task, with their positions (n,) in the sample."""


class Reservoir(nn.Module):
    """Reservoir sampling (Vitter, 1985): stores `size` of the `seen` examples, each with equal probability.

    An example counts each time that it is added. Rows are stored by task, since tasks may have targets and
    outputs of different shapes. Random numbers come from torch's global generator on the CPU. The state dict
    has all rows.
    """

    seen: Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size
        self.tasks = nn.ModuleDict()
        self.register_buffer("seen", torch.tensor(0))

    def __len__(self) -> int:
        return sum(len(self._slots(task_id)) for task_id in self.tasks)

    def add_task(self, task_id: str) -> None:
        """Add a buffer for the examples of a new task."""
        self.tasks[task_id] = BufferDict()

    def add(self, task_id: str, columns: Columns) -> None:
        """Offer a batch of a task's examples to the reservoir."""
        count = len(next(iter(columns.values())))
        slots = self._draw_slots(count)
        last_in_slot = [row for row, slot in enumerate(slots) if slot >= 0 and slot not in slots[row + 1 :]]
        stored = torch.tensor(last_in_slot, dtype=torch.int64)
        if not len(stored):
            return
        new_slots = torch.tensor(slots)[stored]
        for other_id in self.tasks:
            remaining = ~torch.isin(self._slots(other_id), new_slots)
            if not remaining.all():
                self._rows(other_id).replace(_select(self._rows(other_id), remaining))
        rows = self._rows(task_id)
        new = {name: values.detach()[stored] for name, values in columns.items()}
        new["slot"] = new_slots
        rows.replace(
            {
                name: torch.cat([rows[name].to(values), values]) if name in rows else values
                for name, values in new.items()
            }
        )

    def draw(self, count: int) -> Tensor:
        """Slots (count,) of stored examples in random order, none of them k + 1 times before all k times."""
        slots = torch.cat([self._slots(task_id) for task_id in self.tasks])
        rounds = -(-count // len(slots))
        return torch.cat([slots[torch.randperm(len(slots))] for _ in range(rounds)])[:count]

    def read(self, slots: Tensor) -> Sample:
        """The examples in `slots` (n,) by task."""
        sample = {}
        for task_id in self.tasks:
            positions, rows = (slots[:, None] == self._slots(task_id)).nonzero(as_tuple=True)
            if len(rows):
                columns = _select(self._rows(task_id), rows)
                sample[task_id] = positions, columns
        return sample

    def _draw_slots(self, count: int) -> list[int]:
        """Slots of the next `count` examples; -1 for examples that are not stored."""
        first = int(self.seen)
        self.seen += count
        positions = torch.arange(first, first + count)
        random = (torch.rand(count, dtype=torch.float64) * (positions + 1)).long()  # uniform in 0 … position
        slots = torch.where(positions < self.size, positions, random)
        return torch.where(slots < self.size, slots, -1).tolist()

    def _rows(self, task_id: str) -> BufferDict:
        rows = self.tasks[task_id]
        assert isinstance(rows, BufferDict)
        return rows

    def _slots(self, task_id: str) -> Tensor:
        rows = self._rows(task_id)
        return rows["slot"].cpu() if "slot" in rows else torch.empty(0, dtype=torch.int64)


def _select(rows: BufferDict, index: Tensor) -> Columns:
    return {name: rows[name][index] for name in rows}
