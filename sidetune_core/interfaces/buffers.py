"""Buffers whose names and shapes change during training."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn


class BufferDict(nn.Module):
    """Tensors in the state dict that can be added, removed and resized: a replay buffer, class prototypes.

    An ordinary buffer needs its final shape before a state dict is loaded. Here, loading replaces all
    tensors, names and shapes included, so a checkpoint loads whatever the buffer held. A learner that fills
    one in training returns it from `start`. Tensors are stored contiguously and in the order of their names,
    since a file keeps no other order of memory or of tensors, on which rounding and the masks of dropout
    depend.
    """

    def __init__(self) -> None:
        super().__init__()
        # moves with the module, so loaded tensors go to its device
        self.register_buffer("_place", torch.empty(0), persistent=False)

    def __getitem__(self, name: str) -> Tensor:
        return self._tensors()[name]

    def __setitem__(self, name: str, value: Tensor) -> None:
        self.replace({**self._tensors(), name: value})

    def __contains__(self, name: object) -> bool:
        return name in self._tensors()

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors())

    def __len__(self) -> int:
        return len(self._tensors())

    def replace(self, tensors: Mapping[str, Tensor]) -> None:
        """Replace all tensors with `tensors`."""
        for name in self._tensors():
            del self._buffers[name]
        self._buffers.update({name: tensors[name].contiguous() for name in sorted(tensors)})

    def _tensors(self) -> dict[str, Tensor]:
        return {
            name: value
            for name, value in self._buffers.items()
            if value is not None and name not in self._non_persistent_buffers_set
        }

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> BufferDict:
        """Called by `Module.to`, which may ask for another order of memory."""
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self.replace(self._tensors())
        return self

    def _load_from_state_dict(self, state_dict: Mapping[str, Tensor], prefix: str, *_: Any) -> None:
        """Called by `load_state_dict` for each module."""
        own = {
            name.removeprefix(prefix): value for name, value in state_dict.items() if name.startswith(prefix)
        }
        device = self.get_buffer("_place").device
        self.replace({name: value.detach().to(device, copy=True) for name, value in own.items()})
