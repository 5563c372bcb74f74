"""Messages that several checks share."""

from __future__ import annotations

DRAWS_IN_EVAL = (
    "a forward pass in eval mode draws random numbers or seeds a generator; draw only if self.training is set"
)
SEEDED_BY_CORE = "PyTorch's global generator (torch.manual_seed); remove it: the core seeds, plugins draw"
NO_PENALTY_YET = "return zero, or nothing, while there is no earlier task to protect"
NOT_INDEPENDENT = (
    "keep what a task reads and trains apart by task, make it in start(), or remove independent_tasks"
)
