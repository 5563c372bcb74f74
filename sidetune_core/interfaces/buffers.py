"""Buffers whose number and shapes change while a run goes on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn


class BufferDict(nn.Module):
    """Named tensors that are part of the state and may come, go, and change their shapes: a memory of examples, prototypes of classes.

    An ordinary buffer has to have its shape before a state is loaded. Here a state that is loaded replaces all that is held, names and
    shapes too, so that a checkpoint fits whatever its memory held. A learner that fills one in training returns it from `start`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer(
            "_place", torch.empty(0), persistent=False
        )  # goes along to the device, where a state is loaded to

    def __getitem__(self, name: str) -> Tensor:
        return self._held()[name]

    def __setitem__(self, name: str, value: Tensor) -> None:
        self._buffers[name] = value

    def __contains__(self, name: object) -> bool:
        return name in self._held()

    def __iter__(self) -> Iterator[str]:
        return iter(self._held())

    def __len__(self) -> int:
        return len(self._held())

    def replace(self, tensors: Mapping[str, Tensor]) -> None:
        """Hold these tensors, and no others."""
        for name in self._held():
            del self._buffers[name]
        self._buffers.update(tensors)

    def _held(self) -> dict[str, Tensor]:
        return {
            name: value
            for name, value in self._buffers.items()
            if value is not None and name not in self._non_persistent_buffers_set
        }

    def _load_from_state_dict(self, state_dict: Mapping[str, Tensor], prefix: str, *_: Any) -> None:
        """What `load_state_dict` does to each module."""
        own = {
            name.removeprefix(prefix): value for name, value in state_dict.items() if name.startswith(prefix)
        }
        device = self.get_buffer("_place").device
        self.replace({name: value.detach().to(device, copy=True) for name, value in own.items()})
