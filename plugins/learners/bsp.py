"""Binary superposition (BSP): one set of weights for all tasks, with a key of signs for each."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Literal

import attrs
import torch
from torch import Tensor, nn
from torch.func import functional_call

from sidetune_core.api import (
    BufferDict,
    Components,
    FitError,
    Task,
    Trainable,
    at_least,
    derive_seed,
    option,
)

from .finetune import FineTune

KEYED = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)


class BSP(FineTune):
    """Fine-tuning of weights that a key of signs multiplies in each task (Cheung et al., NeurIPS 2019).

    Task t computes with ``W * k_t``, where W is the stored weight, (out, in) or (out, in, *kernel), and
    ``k_t`` is fixed, +1 or -1 for each input, (1, in) or (1, in, *kernel), the same for all outputs. The
    weights of two tasks are then nearly orthogonal, so that training one adds little more than noise to the
    other. Every convolution and linear layer of base, side and merger has keys; heads, biases and norms have
    none (the original excludes the first layer of a ResNet, and its mergers have no keys).

    Every task has a key of its own; with a `period`, task t has key ``t % period``, as in the original, where
    the period is the length of the stream. Keys are drawn once, from the run's seed alone, and never trained:
    those of the first tasks are the same with and without a period. For the
    first task to use the pretrained weights, they would have to be multiplied by the first key before they
    are stored, as ``k * k = 1``. Only products of keys matter in training (a sign common to all keys is
    absorbed by W), so the first key is all +1 without loss of generality: W *is* the first task's weight.
    Later tasks start with scrambled weights.

    Different keys produce different activations, so a BatchNorm that averages over tasks would normalise
    none of them. By default every task has copies of the base's BatchNorm layers: scales, shifts and
    statistics (``batchnorm`` per-task). The original shares scales and shifts and normalises by the
    statistics of the current batch, in evaluation too, where a prediction then depends on the rest of its
    batch.
    """

    @attrs.frozen
    class Config(FineTune.Config):
        """Options of `BSP`."""

        period: int | None = option(
            None,
            "number of different keys; task t has key t modulo period; none: as many as the stream has tasks",
            at_least(1),
        )
        batchnorm: Literal["trained", "frozen", "per-task"] = option(
            "per-task",
            "the base's BatchNorm layers: trained, frozen (statistics fixed, scale and shift trained), or "
            "a copy per "
            "task",
        )

    scenarios = frozenset({"task"})

    def __init__(self, config: Config, components: Components) -> None:
        super().__init__(config, components)
        keyed = [id(module.weight) for module in self.modules() if isinstance(module, KEYED)]
        if len(set(keyed)) < len(keyed):
            raise FitError(
                "learner 'bsp' gives each layer a key of its own, and two layers here have one weight, as in "
                "side 'fork' with --side.train adapters, lora or norm; choose --side.train full"
            )
        self._key_shapes = {
            f"{name}.weight": (1, *module.weight.shape[1:])
            for name, module in self.named_modules()  # heads do not exist yet
            if isinstance(module, KEYED)
        }
        size = sum(map(prod, self._key_shapes.values()))
        self.keys = TaskKeys(size) if config.period is None else Keys(config.period, size)

    def start(self, task: Task) -> Trainable:
        if not isinstance(self.keys, TaskKeys):
            return super().start(task)
        self.keys.add()
        return [*super().start(task), self.keys]  # so that a state within the task has its key

    def encode(self, inputs: Mapping[str, Tensor], task_id: str) -> Tensor:
        key = self.keys(self.heads.task_ids.index(task_id))
        signs = key.split([prod(shape) for shape in self._key_shapes.values()])
        weights = {
            f"learner.{name}": self.get_parameter(name) * sign.view(shape)
            for (name, shape), sign in zip(self._key_shapes.items(), signs, strict=True)
        }
        uncached = dict(inputs)  # without ids: the base's output for an example depends on the task
        encoding: Tensor = functional_call(Encode(self), weights, (uncached, task_id))
        return encoding


class Keys(nn.Module):
    """`period` keys of `size` signs, int8: all +1, and others drawn from torch's current seed."""

    signs: Tensor

    def __init__(self, period: int, size: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(derive_seed(torch.initial_seed(), "keys"))
        drawn = torch.randint(2, (period - 1, size), generator=generator, dtype=torch.int8)
        self.register_buffer("signs", torch.cat([torch.ones(1, size, dtype=torch.int8), 2 * drawn - 1]))

    def forward(self, index: int) -> Tensor:
        """The key of task `index`, from 0: (size,)."""
        return self.signs[index % len(self.signs)]


class TaskKeys(nn.Module):
    """A key of `size` signs for each task, int8: those of `Keys`, as far as they are needed."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.signs = BufferDict()
        """By the number of the task."""
        self._size = size
        generator = torch.Generator().manual_seed(derive_seed(torch.initial_seed(), "keys"))
        self._state = bytes(generator.get_state().numpy())

    def add(self) -> None:
        """Draw the key of the next task."""
        key = torch.ones(self._size, dtype=torch.int8)
        if number := len(self.signs):
            generator = torch.Generator()
            generator.set_state(torch.frombuffer(bytearray(self._state), dtype=torch.uint8))
            key = 2 * torch.randint(2, (self._size,), generator=generator, dtype=torch.int8) - 1
            self._state = bytes(generator.get_state().numpy())
        self.signs[str(number)] = key

    def forward(self, index: int) -> Tensor:
        """The key of task `index`, from 0: (size,)."""
        return self.signs[str(index)]


class Encode(nn.Module):
    """`FineTune.encode` of a learner as a module, which `functional_call` can run with other weights."""

    def __init__(self, learner: FineTune) -> None:
        super().__init__()
        self.learner = learner

    def forward(self, inputs: Mapping[str, Tensor], task_id: str) -> Tensor:
        return FineTune.encode(self.learner, inputs, task_id)
