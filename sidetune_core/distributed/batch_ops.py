"""Batch norm and dropout on a shard of a batch, with the results of a single process.

They are intercepted where PyTorch's functions are called, so they work in networks of any origin and replace
no module.
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
"""Each multiplies by a mask that is drawn for the whole batch."""


def synchronized(group: ProcessGroup, shard: BatchShard) -> AbstractContextManager[object]:
    """For a block, batch norm and dropout on a shard compute what they would compute on the whole batch.

    Other operations that depend on several examples, or draw random numbers for each, see the shard only.
    """
    return _Synchronized(group, shard) if group.size > 1 else nullcontext()


class _Synchronized(TorchFunctionMode):
    def __init__(self, group: ProcessGroup, shard: BatchShard) -> None:
        super().__init__()
        self._group, self._shard = group, shard

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
        """``functional.batch_norm`` of (B, C, ...) by mean and variance of all shards together (Chan et al.,
        1979).
        """
        if not training:
            return functional.batch_norm(
                input, running_mean, running_var, weight, bias, training, momentum, eps
            )
        x = input.to(torch.promote_types(input.dtype, torch.float32))
        channels = x.shape[1]
        var, mean = torch.var_mean(x, [axis for axis in range(x.ndim) if axis != 1], correction=0)
        count = x.numel() // channels
        own = torch.cat([mean, count * var, mean.new_tensor([count])])
        zeros = torch.zeros_like(own)
        rows = [own if rank == self._group.rank else zeros for rank in range(self._group.size)]
        table = self._group.all_reduce(torch.stack(rows))  # a row for each process
        means, squares, counts = torch.split(table, [channels, channels, 1], 1)
        total = counts.sum()
        mean = (counts * means).sum(0) / total
        squared = (squares + counts * (means - mean).square()).sum(0)
        if running_mean is not None and running_var is not None:
            with torch.no_grad():
                running_mean.lerp_(mean.to(running_mean.dtype), momentum)
                running_var.lerp_((squared / (total - 1)).to(running_var.dtype), momentum)
        scale = torch.rsqrt(squared / total + eps)
        shape = (1, channels, *[1] * (x.ndim - 2))
        normed = (x - mean.view(shape)) * (scale if weight is None else scale * weight).view(shape)
        shifted: Tensor = normed if bias is None else normed + bias.view(shape)
        return shifted.to(input.dtype)

    def _dropout(
        self, drop: Any, input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False
    ) -> Tensor:
        """`drop` with this shard's rows of the mask of the whole batch.

        The first axis is that of examples, or of examples and positions together. Dropout of a parameter
        (dropped weights) has no batch axis: every process draws the same mask.
        """
        rows_per_example, remainder = divmod(len(input), len(self._shard.batch.targets))
        if not training or remainder or isinstance(input, nn.Parameter):
            dropped: Tensor = drop(input, p, training, inplace)
            return dropped
        ones = input.new_ones(rows_per_example * self._shard.batch_size, *input.shape[1:])
        if input.ndim == 4 and not input.is_contiguous():
            ones = ones.contiguous(
                memory_format=torch.channels_last
            )  # masks are drawn in the order of memory
        first = rows_per_example * self._shard.start
        mask = drop(ones, p)[first : first + len(input)]
        return input.mul_(mask) if inplace else input * mask
