"""Learning to prompt (L2P)."""

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
    Trainable,
    TrainingStep,
    at_least,
    mean_loss,
    option,
)

from ._prompted import prompted, transformer_blocks


class L2P(Learner):
    """Prompts from a pool, which the input chooses, as further tokens of a frozen transformer (Wang et al.,
    Learning to Prompt for Continual Learning, CVPR 2022).

    The query ``q(x)`` is the base's encoding, averaged over positions. The `select` prompts of the pool with
    the keys nearest to it, of `length` tokens each, join the tokens before the first block (eq. 3 and 4). The
    mean of their states after the last block is the encoding for the head. The loss is ``task + pull *
    sum (1 - cos(q(x), k))`` over the keys k that are chosen (eq. 5). Keys and prompts are trained on all
    tasks; the base is not.

    The task has no part in the choice, so that one pass through the base serves the heads of all tasks.
    Without a task id, the output has the logits of all classes; as in the original code, a task trains those
    of its own classes only. Prompts have no position, and come before the last norm of the base, in place of
    which `norm` standardises. The penalty on prompts that earlier tasks chose often is no part of this.

    Raises:
        FitError: the base is not a transformer whose blocks take tokens (B, L, C) of the width of its
            encoding.
    """

    @attrs.frozen
    class Config:
        """Options of `L2P`."""

        pool: int = option(10, "prompts in the pool (M in the paper)", at_least(1))
        select: int = option(5, "prompts for an input, at most those of the pool (N)", at_least(1))
        length: int = option(5, "tokens of a prompt (L_p)", at_least(1))
        pull: float = option(
            0.5, "weight of the distance of queries to the keys that they choose (lambda)", at_least(0)
        )
        norm: bool = option(
            True, "standardise the encoding before the head (8 groups of channels, no parameters)"
        )

    scenarios = frozenset({"task", "domain", "class"})

    def __init__(self, config: Config, components: Components) -> None:
        super().__init__()
        self.base = components.base()
        self._blocks = transformer_blocks(self.base)
        if not self._blocks:
            raise FitError(
                "learner 'l2p' needs a transformer, such as --base timm --base.model vit_small_patch16_224; "
                "the base has no list of blocks with attention"
            )
        shape = self.base.shape
        width = shape[1] if len(shape) == 2 else shape[0]
        self.heads = Heads((width,), config.norm, "domain" if components.scenario == "domain" else "task")
        self.keys = nn.Parameter(torch.randn(config.pool, width))
        self.prompts = nn.Parameter(0.02 * torch.randn(config.pool, config.length, width))
        self._config = config

    def start(self, task: Task) -> Trainable:
        return [self.keys, self.prompts, self.heads.add_task(task)]

    def forward(self, inputs: Mapping[str, Tensor], task_id: str) -> Tensor:
        return self.heads.predict(self._encode(inputs, self._match(inputs)[1]), task_id)

    def predict(self, inputs: Mapping[str, Tensor], task_id: str | None) -> Tensor:
        if task_id is not None:
            output: Tensor = self(inputs, task_id)
            return output
        encoding = self._encode(inputs, self._match(inputs)[1])
        return torch.cat([self.heads.predict(encoding, started) for started in self.heads], 1)

    def losses(self, batch: Batch, task: Task, step: TrainingStep) -> dict[str, Tensor]:
        similarities, chosen = self._match(batch.inputs)
        output = self.heads.predict(self._encode(batch.inputs, chosen), task.id)
        pull = self._config.pull * (1 - similarities).sum(1).mean()
        return {"loss": mean_loss(task, output, batch), "pull": pull}

    def _match(self, inputs: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Cosine similarities (B, select) of queries to the nearest keys, and the numbers of these."""
        query: Tensor = self.base(inputs).encoding.float()
        if query.ndim > 2:  # (B, C, H, W) or (B, L, C)
            query = query.mean((2, 3) if query.ndim == 4 else 1)
        similarities = functional.cosine_similarity(query[:, None], self.keys, dim=2)
        nearest = similarities.topk(min(self._config.select, self._config.pool), 1)
        return nearest.values, nearest.indices

    def _encode(self, inputs: Mapping[str, Tensor], chosen: Tensor) -> Tensor:
        """The mean state (B, C) of the prompts of numbers (B, select) after the last block."""
        with prompted(self._blocks, self.prompts[chosen].flatten(1, 2)) as tokens:
            self.base(dict(inputs))  # without ids: the prompts are no function of the example alone
        if tokens.passed != len(self._blocks):
            raise FitError(
                f"learner 'l2p' needs a base that calls its {len(self._blocks)} blocks, once each; it called "
                f"{tokens.passed}. Use base 'timm' or 'hf-vision' for images, or 'transformer' for text"
            )
        return tokens.states.mean(1)
