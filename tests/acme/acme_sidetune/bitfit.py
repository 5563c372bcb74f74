"""BitFit: train the biases and normalisation of the base, and nothing else of it."""

from __future__ import annotations

from collections.abc import Mapping

import attrs
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector

from sidetune_core.api import (
    Batch,
    Components,
    FitError,
    Heads,
    Learner,
    Task,
    TrainingStep,
    at_least,
    option,
)


@attrs.frozen
class BitFitConfig:
    """Options of `BitFit`."""

    coef: float = option(
        0.0, "weight of the squared distance from the pretrained values (L2-SP, Li et al. 2018)", at_least(0)
    )


class BitFit(Learner):
    """Trains the base's parameters with at most one axis, the same for all tasks, and a head for each task.

    Ben Zaken et al. (ACL 2022) train the biases of BERT; this also trains scale and shift of normalisation
    layers. BatchNorm keeps the running statistics of pretraining. Earlier tasks are protected by `coef` only.

    Raises:
        FitError: the base has no such parameter.
    """

    Config = BitFitConfig

    def __init__(self, config: BitFitConfig, components: Components) -> None:
        super().__init__()
        self.base = components.base()
        self.heads = Heads(self.base.shape)
        self._coef = config.coef
        if not self._small_parameters():
            raise FitError("learner 'bitfit' trains biases and normalisation, and the base has neither")
        self.pretrained: Tensor
        self.register_buffer("pretrained", parameters_to_vector(self._small_parameters()).detach())

    def start(self, task: Task) -> list[nn.Module | nn.Parameter]:
        return [*self._small_parameters(), self.heads.add_task(task)]

    def forward(self, inputs: Mapping[str, Tensor], task_id: str) -> Tensor:
        return self.heads.predict(self.base(inputs).encoding, task_id)

    def losses(self, batch: Batch, task: Task, step: TrainingStep) -> dict[str, Tensor]:
        losses = dict(super().losses(batch, task, step))
        if self._coef:
            distance = parameters_to_vector(self._small_parameters()) - self.pretrained
            losses["distance"] = self._coef * distance.square().sum()
        return losses

    def _small_parameters(self) -> list[nn.Parameter]:
        return [parameter for parameter in self.base.parameters() if parameter.ndim <= 1]
