"""Binary superposition: the networks of all tasks in one set of weights, told apart by signs."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Literal

import attrs
import torch
from torch import Tensor, nn
from torch.func import functional_call

from sidetune_core.api import Components, at_least, derive_seed, option

from .finetune import FineTune

KEYED = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)


class BSP(FineTune):
    """Fine-tuning of shared weights that each task sees through a key of signs of its own (Cheung et al., NeurIPS 2019).

    Task t computes with ``W * k_t``, where W is the stored weight, (out, in) or (out, in, *kernel), and ``k_t`` is fixed, +1 or -1 for
    each input of it, (1, in) or (1, in, *kernel), the same for all outputs. The weights of two tasks are nearly orthogonal then, so
    that training one adds little but noise to the other. Every convolution and linear layer of base, side and merger has keys, and no
    head, bias or norm (the original leaves out the first layer of a ResNet, and its mergers have neither).

    Task t has key ``t % period``. Keys are drawn once, from the run's seed alone, and never trained. Pretrained weights have to be
    multiplied with the first key before they are stored, so that the first task gets them as they are, since ``k * k = 1``. Only the
    products of keys matter to what is learnt (a sign that is common to all keys goes into W), so the first key is taken to be all +1,
    which spares the multiplication: W *is* what the first task uses. Later tasks begin with scrambled weights.

    A BatchNorm that averages over tasks would standardise none of them, for different keys give different activations. So by default
    every task has copies of the base's BatchNorm layers, scales, shifts and statistics (``batchnorm`` per-task). The original shares
    scales and shifts, and standardises by the batch at hand, in evaluation too, where a prediction then depends on its neighbours.
    """

    @attrs.frozen
    class Config(FineTune.Config):
        """Options of `BSP`."""

        period: int = option(
            10, "how many different keys there are; task t has key t modulo this", at_least(1)
        )
        batchnorm: Literal["moving", "frozen", "per-task"] = option(
            "per-task",
            "the base's BatchNorm layers: trained like all else, or frozen statistics (scale and shift are trained), or copies for tasks",
        )

    def __init__(self, config: Config, components: Components) -> None:
        super().__init__(config, components)
        keyed = {
            f"{name}.weight": module for name, module in self.named_modules() if isinstance(module, KEYED)
        }  # no head is there yet
        self._shapes = {name: (1, *module.weight.shape[1:]) for name, module in keyed.items()}
        self.keys = Keys(config.period, sum(map(prod, self._shapes.values())))

    def encode(self, inputs: Mapping[str, Tensor], task_id: str) -> Tensor:
        signs = self.keys(list(self.heads).index(task_id)).split(
            [prod(shape) for shape in self._shapes.values()]
        )
        weights = {
            f"learner.{name}": self.get_parameter(name) * key.view(shape)
            for (name, shape), key in zip(self._shapes.items(), signs, strict=True)
        }
        plain = dict(
            inputs
        )  # without ids: what the base makes of an example depends on the task, and is not to be stored
        encoding: Tensor = functional_call(Encode(self), weights, (plain, task_id))
        return encoding


class Keys(nn.Module):
    """`period` keys of `size` signs, int8: the first is all +1, the others are drawn from the seed that torch was given last."""

    signs: Tensor

    def __init__(self, period: int, size: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(derive_seed(torch.initial_seed(), "keys"))
        drawn = torch.randint(2, (period - 1, size), generator=generator, dtype=torch.int8)
        self.register_buffer("signs", torch.cat([torch.ones(1, size, dtype=torch.int8), 2 * drawn - 1]))

    def forward(self, number: int) -> Tensor:
        """The key of task `number`, from 0: (size,)."""
        return self.signs[number % len(self.signs)]


class Encode(nn.Module):
    """`FineTune.encode` of a learner as a module, for `functional_call` to run it with other weights."""

    def __init__(self, learner: FineTune) -> None:
        super().__init__()
        self.learner = learner

    def forward(self, inputs: Mapping[str, Tensor], task_id: str) -> Tensor:
        return FineTune.encode(self.learner, inputs, task_id)
