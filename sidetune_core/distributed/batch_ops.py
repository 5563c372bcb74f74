"""Operations that look at a whole batch, on one process's share of it: batch norm and dropout.

They are found where PyTorch's functions are called, so networks of any origin do as they do in one process, and no module is replaced.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from sidetune_core.distributed.process_group import BatchShard, ProcessGroup

DROPOUTS = (functional.dropout, functional.dropout1d, functional.dropout2d, functional.dropout3d)
"""Each multiplies with numbers that are drawn for the batch."""


def synchronized(group: ProcessGroup, share: BatchShard) -> AbstractContextManager[object]:
    """For a block, let batch norm and dropout on a share do what they would do on the whole batch.

    What else depends on other examples of the batch, or draws random numbers for each, sees the share only.
    """
    return _AsWhole(group, share) if group.size > 1 else nullcontext()


class _AsWhole(TorchFunctionMode):
    def __init__(self, group: ProcessGroup, share: BatchShard) -> None:
        super().__init__()
        self._group, self._share = group, share

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is functional.batch_norm:
            return self._batch_norm(*args, **kwargs)
        if func in DROPOUTS:
            return self._dropout(func, *args, **kwargs)
        return func(*args, **kwargs)

    def _batch_norm(
        self,
        input: Tensor,
        running_mean: Tensor | None,
        running_var: Tensor | None,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        training: bool = False,
        momentum: float = 0.1,
        eps: float = 1e-5,
    ) -> Tensor:
        """``functional.batch_norm`` of (B, C, ...), by the mean and variance of all shares together (Chan et al., 1979)."""
        if not training:
            return functional.batch_norm(
                input, running_mean, running_var, weight, bias, training, momentum, eps
            )
        x = input.to(torch.promote_types(input.dtype, torch.float32))
        channels = x.shape[1]
        var, mean = torch.var_mean(x, [axis for axis in range(x.ndim) if axis != 1], correction=0)
        count = x.numel() // channels
        own = torch.cat([mean, count * var, mean.new_tensor([count])])
        blank = torch.zeros_like(own)
        table = self._group.all_reduce(
            torch.stack([own if rank == self._group.rank else blank for rank in range(self._group.size)])
        )
        means, squares, counts = torch.split(table, [channels, channels, 1], 1)  # a row for each process
        whole = counts.sum()
        mean = (counts * means).sum(0) / whole
        squared = (squares + counts * (means - mean).square()).sum(0)
        if running_mean is not None and running_var is not None:
            with torch.no_grad():
                running_mean.lerp_(mean.to(running_mean.dtype), momentum)
                running_var.lerp_((squared / (whole - 1)).to(running_var.dtype), momentum)
        scale = torch.rsqrt(squared / whole + eps)
        shape = (1, channels, *[1] * (x.ndim - 2))
        normed = (x - mean.view(shape)) * (scale if weight is None else scale * weight).view(shape)
        shifted: Tensor = normed if bias is None else normed + bias.view(shape)
        return shifted.to(input.dtype)

    def _dropout(
        self, drop: Any, input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False
    ) -> Tensor:
        """`drop` with the numbers that are drawn for the whole batch, of which those for this share are taken.

        The first axis is that of examples, or examples and something else, such as places, put together. Dropped weights are no part
        of a batch: every process draws the same for them.
        """
        rows, rest = divmod(len(input), len(self._share.batch.targets))  # of an example
        if not training or rest or isinstance(input, nn.Parameter):
            dropped: Tensor = drop(input, p, training, inplace)
            return dropped
        ones = input.new_ones(rows * self._share.whole, *input.shape[1:])
        if input.ndim == 4 and not input.is_contiguous():
            ones = ones.contiguous(
                memory_format=torch.channels_last
            )  # numbers are drawn in the order of memory
        first = rows * self._share.start
        mask = drop(ones, p)[first : first + len(input)]
        return input.mul_(mask) if inplace else input * mask
