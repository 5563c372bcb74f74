"""DER++: replay of stored examples, with their labels and the logits of their time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import attrs
import torch
from torch import Tensor, nn
from torch.nn import functional

from sidetune_core.api import (
    Batch,
    BufferDict,
    Components,
    Heads,
    Inputs,
    Learner,
    Task,
    TrainingStep,
    at_least,
    mean_loss,
    option,
)


class DERpp(Learner):
    """Every task trains one base; a reservoir of all examples so far is replayed (Buzzega et al., NeurIPS
    2020, algorithm 2).

    The loss is ``loss + alpha mean((z - z')**2) + beta loss'``, with z' the stored logits and loss' the loss
    of stored examples, each for examples of their own. Inputs of variable length are not supported.
    """

    @attrs.frozen
    class Config:
        """Options of `DERpp`."""

        memory: int = option(200, "examples in the reservoir", at_least(1))
        alpha: float = option(0.1, "weight of the distance to stored logits", at_least(0))
        beta: float = option(0.5, "weight of the loss of stored examples", at_least(0))

    def __init__(self, config: Config, components: Components) -> None:
        super().__init__()
        self.base = components.base()
        self.heads = Heads(self.base.shape)
        self.memory = BufferDict()
        self._config = config
        self._tasks: list[Task] = []
        self._new: list[dict[str, Tensor]] = []  # within a step: the rows of each micro-batch
        self._draws = torch.empty(2, 0)  # within a step: the rows to replay

    def start(self, task: Task) -> list[nn.Module | nn.Parameter]:
        self._tasks.append(task)
        return [*self.base.parameters(), self.heads.add_task(task), self.memory]

    def forward(self, inputs: Mapping[str, Tensor], task_id: str) -> Tensor:
        return self.heads.predict(self.base(inputs).encoding, task_id)

    def losses(self, batch: Batch, task: Task, step: TrainingStep) -> dict[str, Tensor]:
        output = self(batch.inputs, task.id)
        if step.micro_batch == 0:
            self._new.clear()
            self._draws = torch.randint(max(1, self._filled()), (2, step.batch_size))
        rows = {f"inputs/{name}": value for name, value in batch.inputs.items()}
        rows |= {f"targets/{task.id}": batch.targets, f"logits/{task.id}": output.float()}
        rows["task"] = torch.full_like(batch.ids, self._tasks.index(task))
        self._new.append({name: step.gather(value) for name, value in rows.items()})
        losses = {"loss": mean_loss(task, output, batch)}
        if not self._filled():
            return losses
        first, second = self._draws.chunk(step.micro_batches, 1)[step.micro_batch].to(output.device)
        for owner, stored, logits, fraction in self._replay(first):
            distance = functional.mse_loss(self(stored.inputs, owner.id).float(), logits)
            losses["logits"] = losses.get("logits", 0) + self._config.alpha * fraction * distance
        for owner, stored, _, fraction in self._replay(second):
            loss = mean_loss(owner, self(stored.inputs, owner.id), stored)
            losses["replay"] = losses.get("replay", 0) + self._config.beta * fraction * loss
        return losses

    def after_step(self, task: Task, step: TrainingStep) -> None:
        rows = {name: torch.cat([new[name] for new in self._new]) for name in self._new[0]}
        size, seen = self._config.memory, self._seen()
        for name, value in rows.items():
            if name not in self.memory:
                self.memory[name] = value.new_zeros(size, *value.shape[1:])
        for row in range(len(rows["task"])):  # reservoir sampling
            slot = seen if seen < size else int(torch.randint(seen + 1, ()))
            seen += 1
            if slot < size:
                for name, value in rows.items():
                    self.memory[name][slot] = value[row]
        self.memory["seen"] = torch.tensor([seen])

    def _replay(self, rows: Tensor) -> Iterator[tuple[Task, Batch, Tensor, float]]:
        """Stored examples by task, with their logits and their fraction of `rows`."""
        for number, task in enumerate(self._tasks):
            mine = rows[self.memory["task"][rows] == number]
            if len(mine):
                names = [name for name in self.memory if name.startswith("inputs/")]
                inputs = {name.removeprefix("inputs/"): self.memory[name][mine] for name in names}
                batch = Batch(mine, Inputs(inputs), self.memory[f"targets/{task.id}"][mine])
                yield task, batch, self.memory[f"logits/{task.id}"][mine], len(mine) / len(rows)

    def _seen(self) -> int:
        """Examples so far."""
        return int(self.memory["seen"]) if "seen" in self.memory else 0

    def _filled(self) -> int:
        """Examples in the reservoir."""
        return min(self._seen(), self._config.memory)
