"""Fine-tuning: one shared network, all of it trainable."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from sidetune_core.api import Heads, Learner, Parts, Task

from ._norm import NormConfig


class FineTune(Learner):
    """Every task trains the same base, and a head of its own; what earlier tasks needed may be overwritten.

    With a side (``--side fcn4``) the shared network is ``M(B(x), S(x))``, all of it trainable: the capacity of side-tuning, as the
    original fine-tuning baseline has it.
    """

    Config = NormConfig
    takes = frozenset({"side", "merger"})

    def __init__(self, config: NormConfig, parts: Parts) -> None:
        super().__init__()
        self.base = parts.base()
        self.side = parts.side(self.base) if parts.side else None
        self.merger = parts.merger(self.base, 2) if parts.merger else None
        self.heads = Heads(self.base.shape, config.norm)

    def start(self, task: Task) -> list[nn.Module | nn.Parameter]:
        shared = [part for part in (self.base, self.side, self.merger) if part is not None]
        return [*shared, self.heads.start(task)]

    def forward(self, inputs: Mapping[str, Tensor], task_id: str) -> Tensor:
        features = self.base(inputs)
        encoding = features.encoding
        if self.side is not None and self.merger is not None:
            encoding = self.merger([encoding, self.side(inputs, features)])
        return self.heads.predict(encoding, task_id)
