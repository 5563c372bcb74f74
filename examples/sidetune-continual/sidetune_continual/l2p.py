"""Prompts from a pool, chosen by keys, as in L2P."""

from __future__ import annotations

from collections.abc import Mapping

import attrs
import torch
from torch import Tensor, nn
from torch.nn import functional

from sidetune_core.api import (
    Batch,
    Components,
    FitError,
    Heads,
    Learner,
    Task,
    TrainingStep,
    at_least,
    mean_loss,
    option,
)

Stem = nn.Embedding | nn.Linear | nn.Conv2d


class Prompts(Learner):
    """Learned vectors, added to the first layer of a frozen base; the input chooses them from a pool.

    As in L2P (Wang et al., CVPR 2022), the query is the encoding without prompts, the prompts with the
    nearest keys are used, and keys are pulled to the queries (eq. 5). Unlike there, the mean of the chosen
    prompts is added to every position of the first layer's output, which any base has; L2P prepends them as
    tokens, which changes the length that a base was built for. The task has no part in the choice: without a
    task id, the output is the logits of all heads.

    Raises:
        FitError: the base begins with none of `nn.Embedding`, `nn.Linear` and `nn.Conv2d`.
    """

    @attrs.frozen
    class Config:
        """Options of `Prompts`."""

        pool: int = option(10, "prompts in the pool", at_least(1))
        select: int = option(2, "prompts for an input", at_least(1))
        pull: float = option(0.5, "weight of the loss on the distance of keys and queries", at_least(0))

    def __init__(self, config: Config, components: Components) -> None:
        super().__init__()
        self.base = components.base()
        self.heads = Heads(self.base.shape)
        shape = self.base.shape
        self.keys = nn.Parameter(torch.randn(config.pool, shape[-1] if len(shape) == 2 else shape[0]))
        width = self._stem().weight.shape[-1 if isinstance(self._stem(), nn.Embedding) else 0]
        self.prompts = nn.Parameter(0.02 * torch.randn(config.pool, width))
        self._config = config

    def start(self, task: Task) -> list[nn.Module | nn.Parameter]:
        return [self.keys, self.prompts, self.heads.add_task(task)]

    def forward(self, inputs: Mapping[str, Tensor], task_id: str) -> Tensor:
        return self.heads.predict(self._encode(inputs, self._match(inputs)[1]), task_id)

    def predict(self, inputs: Mapping[str, Tensor], task_id: str | None) -> Tensor:
        encoding = self._encode(inputs, self._match(inputs)[1])
        known = [task_id] if task_id is not None else list(self.heads)
        return torch.cat([self.heads.predict(encoding, one) for one in known], 1)

    def losses(self, batch: Batch, task: Task, step: TrainingStep) -> dict[str, Tensor]:
        similarities, chosen = self._match(batch.inputs)
        output = self.heads.predict(self._encode(batch.inputs, chosen), task.id)
        pull = self._config.pull * (1 - similarities).mean()
        return {"loss": mean_loss(task, output, batch), "pull": pull}

    def _match(self, inputs: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Cosine similarities (B, select) of queries to the nearest keys, and the numbers of these."""
        query = self.base(inputs).encoding.float()
        if len(self.base.shape) > 1:  # (B, C, H, W) or (B, L, C)
            query = query.mean((2, 3) if len(self.base.shape) == 3 else 1)
        similarities = functional.cosine_similarity(query[:, None], self.keys, dim=2)
        return tuple(similarities.topk(self._config.select, 1))

    def _encode(self, inputs: Mapping[str, Tensor], chosen: Tensor) -> Tensor:
        """Encodings with the prompts of numbers (B, select); without ids, since they depend on those."""
        prompt = self.prompts[chosen].mean(1)

        def add(stem: nn.Module, arguments: tuple[Tensor], output: Tensor) -> Tensor:
            between = (1,) * (output.ndim - 2)
            at_end = not isinstance(stem, nn.Conv2d)
            return output + prompt.unflatten(1, (*between, -1) if at_end else (-1, *between)).to(output.dtype)

        with self._stem().register_forward_hook(add):
            return self.base(dict(inputs)).encoding

    def _stem(self) -> Stem:
        for module in self.base.modules():
            if isinstance(module, Stem):
                return module
        raise FitError("learner 'prompts' needs a base that begins with an embedding or a linear layer")
