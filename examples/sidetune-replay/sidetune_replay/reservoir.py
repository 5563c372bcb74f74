"""A sample of all examples that went by, of a size that does not grow."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from sidetune_core.api import BufferDict

Columns = Mapping[str, Tensor]
"""Examples by column: tensors (n, ...) of one length."""


class Reservoir(nn.Module):
    """Reservoir sampling (Vitter, 1985): each of the `seen` examples so far is among the `size` that are kept with equal probability.

    An example counts each time that it goes by. Rows are kept apart by task, since tasks may have targets and outputs of different
    shapes. Random numbers come from torch's global generator on the CPU. All of it is in the state dict.
    """

    seen: Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size
        self.tasks = nn.ModuleDict()
        self.register_buffer("seen", torch.tensor(0))

    def __len__(self) -> int:
        return sum(len(self._slots(task_id)) for task_id in self.tasks)

    def start(self, task_id: str) -> None:
        """Make room for the examples of a new task."""
        self.tasks[task_id] = BufferDict()

    def add(self, task_id: str, columns: Columns) -> None:
        """Let a batch of a task's examples go by."""
        count = len(next(iter(columns.values())))
        slots = self._draw_slots(count)
        kept = torch.tensor(
            [place for place, slot in enumerate(slots) if slot >= 0 and slot not in slots[place + 1 :]],
            dtype=torch.int64,
        )
        if not len(kept):
            return
        taken = torch.tensor(slots)[kept]
        for other in self.tasks:
            stays = ~torch.isin(self._slots(other), taken)
            if not stays.all():
                self._rows(other).replace(_select(self._rows(other), stays))
        rows = self._rows(task_id)
        new = {name: values.detach()[kept.to(values.device)] for name, values in columns.items()} | {
            "slot": taken
        }
        rows.replace(
            {
                name: torch.cat([rows[name].to(values.device), values]) if name in rows else values
                for name, values in new.items()
            }
        )

    def draw(self, count: int) -> dict[str, Columns]:
        """`count` of the kept examples, or all if there are fewer, none twice; by task."""
        every = torch.cat([self._slots(task_id) for task_id in self.tasks])
        chosen = every[torch.randperm(len(every))[:count]]
        picked = {task_id: torch.isin(self._slots(task_id), chosen) for task_id in self.tasks}
        return {task_id: _select(self._rows(task_id), rows) for task_id, rows in picked.items() if rows.any()}

    def _draw_slots(self, count: int) -> list[int]:
        """Where the next `count` examples go; -1 for those that are not kept."""
        first = int(self.seen)
        self.seen += count
        numbers = torch.arange(first, first + count)
        anywhere = (torch.rand(count, dtype=torch.float64) * (numbers + 1)).long()  # uniform in 0 … number
        slots = torch.where(numbers < self.size, numbers, anywhere)
        return torch.where(slots < self.size, slots, -1).tolist()

    def _rows(self, task_id: str) -> BufferDict:
        rows = self.tasks[task_id]
        assert isinstance(rows, BufferDict)
        return rows

    def _slots(self, task_id: str) -> Tensor:
        rows = self._rows(task_id)
        return rows["slot"].cpu() if "slot" in rows else torch.empty(0, dtype=torch.int64)


def _select(rows: BufferDict, where: Tensor) -> Columns:
    return {name: rows[name][where.to(rows[name].device)] for name in rows}
