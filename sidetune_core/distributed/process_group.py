"""Data-parallel runs in several processes, as `torchrun` starts them: each has a shard of every batch,
gradients are summed.

They are summed by one all-reduce after the backward pass and not by DistributedDataParallel. Wrapped around
`Learner.losses`, with a process group of its own and a new wrapper for every phase, that gives the same bits
at about the same cost (`benchmarks/data_parallel.py`, which has both), but not everywhere:

- Where the loss of one shard reaches no parameter (masked examples, rare classes), the others wait for it
  until the timeout. Here that shard adds nothing.
- It refuses networks with reentrant activation checkpointing while it looks for unused parameters, which it
  must, since heads of tasks get gradients in turn.
- It prints a warning of its own for every wrapper whose parameters are all used.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any, TypeVar

import attrs
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous
from torch.utils._pytree import tree_map

from sidetune_core.errors import EndedElsewhere, Interrupted, PluginError, RunError, shorten
from sidetune_core.hashing import tensor_digest
from sidetune_core.interfaces.tasks import Batch
from sidetune_core.storage.nested_state import flatten
from sidetune_core.storage.weights import fill
from sidetune_core.system.signals import StopRequest, StopRequested

T = TypeVar("T")

TIMEOUT = timedelta(hours=1)
"""Longest time that processes wait for each other, for example for an evaluation. The death of one is noticed
at once."""

EXIT_GRACE = timedelta(seconds=20)
"""Longest time that a failed process waits for the first one to record the error: torchrun then ends all of
them."""

VARIABLES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@attrs.frozen(eq=False)
class BatchShard:
    """The consecutive examples of a batch that one process computes."""

    batch: Batch
    start: int = 0
    """Index of the first of them in the whole batch."""
    batch_size: int = 0
    """Examples in the whole batch."""
    weight: float = 1.0
    """Fraction of the batch. Means over shards times their weights sum to the mean over the batch, and a term
    that does not depend on the batch, such as a penalty on weights, sums to itself."""


@attrs.frozen(eq=False)
class ProcessGroup:
    """The processes of a run, by default a single one. All of them call the same methods in the same order.

    Raises, in every method that communicates:
        StopRequested: a signal has ended another process.
        EndedElsewhere: another process has failed and reported its error.
        RunError: another process exited without a report.
    """

    rank: int = 0
    size: int = 1
    local: int | None = None
    """Rank on its computer; None for a single process."""
    _store: Store | None = None

    @property
    def is_main(self) -> bool:
        """Whether this is the process that writes and reports."""
        return self.rank == 0

    def shard_batch(self, batch: Batch) -> BatchShard:
        """This process's shard of a batch; the sizes of shards differ by one at most.

        Raises:
            RunError: the batch has fewer examples than there are processes.
        """
        if self.size == 1:
            return BatchShard(batch)
        batch_size = len(batch.targets)
        if batch_size < self.size:
            raise RunError(
                f"a batch of {batch_size} cannot be sharded over {self.size} processes: "
                "increase --train.batch-size or start fewer processes"
            )
        start, end = (batch_size * rank // self.size for rank in (self.rank, self.rank + 1))
        return BatchShard(batch.rows(slice(start, end)), start, batch_size, (end - start) / batch_size)

    def shard(self, items: Sequence[T]) -> Sequence[T]:
        """This process's shard of a sequence: every `size`-th item from number `rank` on."""
        return items[self.rank :: self.size]

    def all_reduce_gradients(self, parameters: Sequence[nn.Parameter], values: Tensor) -> Tensor:
        """Replace the gradients of `parameters` by their sums over all processes; returns the sums of
        `values` (n,).
        """
        if self.size == 1:
            return values
        has_gradient = torch.tensor(
            [parameter.grad is not None for parameter in parameters], dtype=torch.uint8
        )
        self._reduce(has_gradient, dist.ReduceOp.MAX)
        gradients: list[Tensor] = []
        for parameter, anywhere in zip(parameters, has_gradient.tolist(), strict=True):
            if anywhere:
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
                gradients.append(parameter.grad)
        terms = [*gradients, values]
        reduced = self.all_reduce(torch.cat([term.flatten() for term in terms]))
        *sums, totals = torch.split(reduced, [term.numel() for term in terms])
        for gradient, total in zip(gradients, sums, strict=True):
            gradient.copy_(total.view(gradient.shape))
        return totals

    def all_reduce(self, value: Tensor) -> Tensor:
        """The sum of a tensor over all processes, with the same bits in each; differentiable in every
        process.
        """
        reduced: Tensor = _AllReduce.apply(value, self)
        return reduced

    def gather_rows(self, rows: Tensor, shard: BatchShard) -> Tensor:
        """The rows (B, ...) of a whole batch from those of each process's shard (b, ...)."""
        if self.size == 1:
            return rows
        whole = rows.new_zeros(
            shard.batch_size, *rows.shape[1:], dtype=torch.uint8 if rows.dtype == torch.bool else None
        )
        whole[shard.start : shard.start + len(rows)] = rows
        self._reduce(whole)
        if rows.ndim == 4 and not rows.is_contiguous():  # as in one process: masks are drawn in this order
            whole = whole.contiguous(memory_format=torch.channels_last)
        return whole.to(rows.dtype)

    def sync_stop(self, stop: StopRequest) -> None:
        """Propagate a stop request to all processes."""
        if self.size > 1:
            number = torch.tensor(stop.number or 0)
            self._reduce(number, dist.ReduceOp.MAX)
            stop.number = int(number) or None

    def gather(self, value: T) -> list[T]:
        """The values of all processes, by rank."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        with self._explain_failure():
            dist.all_gather_object(values, value)
        return values

    def broadcast_from_main(self, make: Callable[[], T]) -> T:
        """The result of `make` in the first process, which alone calls it."""
        if self.size == 1:
            return make()
        objects: list[Any] = [make() if self.is_main else None]
        with self._explain_failure():
            dist.broadcast_object_list(objects, device=torch.device("cpu"))
        made: T = objects[0]
        return made

    @contextmanager
    def main_process_first(self) -> Iterator[None]:
        """The first process of each computer runs the block before the others, for example to download a file
        for all.
        """
        if self.local:
            self.gather(None)
        yield
        if self.local == 0:
            self.gather(None)

    def check_replicas_match(self, learner: nn.Module, when: str, batch: Batch | None = None) -> None:
        """Check that all processes have the same learner and, if one is given, the same batch. Hashes every
        tensor.

        Raises:
            PluginError: with the names of the tensors that differ.
        """
        if self.size == 1:
            return
        examples = {} if batch is None else {"ids": batch.ids, "targets": batch.targets, **batch.inputs}
        if _differing(self.gather(_digests(examples))):
            raise PluginError(
                f"{when}, the processes were given different examples: the order of examples must be "
                "a function of the seed. Run it in one process, without torchrun"
            )
        if names := _differing(self.gather(_digests(learner.state_dict()))):
            owner = type(learner).__name__
            raise PluginError(
                f"{when}, {shorten(names)} of {owner} differ between the processes: "
                "training changes them by other means than gradients and batch norm, and each process "
                "sees only its shard of a batch. Run it in one process, without torchrun"
            )

    def broadcast_state(self, learner: nn.Module) -> None:
        """Copy the first process's state to all, where their own may differ in the last bits."""
        if self.size > 1:
            state = self.broadcast_from_main(
                lambda: tree_map(
                    lambda leaf: leaf.cpu() if isinstance(leaf, Tensor) else leaf, learner.state_dict()
                )
            )
            if not self.is_main:
                fill(learner, state, "the first process")

    def _reduce(self, value: Tensor, operation: Any = dist.ReduceOp.SUM) -> None:
        with self._explain_failure():
            dist.all_reduce(value, operation)

    @contextmanager
    def _explain_failure(self) -> Iterator[None]:
        """Replace an error of torch.distributed by the reason for which another process has ended."""
        try:
            yield
        except RuntimeError as error:  # of torch.distributed and of gloo
            raise self._reason() from error

    def _reason(self) -> BaseException:
        assert self._store is not None
        try:
            self._store.wait(["end"], timedelta(seconds=2))
            rank, number, text = json.loads(self._store.get("end"))
        except RuntimeError:
            return RunError("another rank exited without reporting an error")
        return StopRequested(number) if number else EndedElsewhere(f"rank {rank} of {self.size}: {text}")

    def _report_end(self, error: BaseException) -> bool:
        """Report to the others why this process ends; returns whether it is the first to report."""
        assert self._store is not None
        number = error.number if isinstance(error, Interrupted | StopRequested) else 0
        mine = json.dumps([self.rank, number, (str(error) or type(error).__name__).splitlines()[0]])
        with suppress(RuntimeError):  # the store has gone with the process that kept it
            return bool(self._store.compare_set("end", "", mine).decode() == mine)
        return True

    def _leave(self, failed: bool) -> None:
        assert self._store is not None
        with suppress(RuntimeError):
            if self.is_main:
                self._store.set("left", "1")
            elif failed:
                self._store.wait(["left"], EXIT_GRACE)


@contextmanager
def join_process_group() -> Iterator[ProcessGroup]:
    """Join the processes that `torchrun` has started, for a block; a group of one where it has started none.

    An exception of the block in one process ends it in all: with the same signal, or with `EndedElsewhere`.

    Raises:
        RunError: the processes cannot reach each other.
    """
    if os.environ.get("WORLD_SIZE", "1") == "1" or any(name not in os.environ for name in VARIABLES):
        yield ProcessGroup()
        return
    group = _join(os.environ)
    try:
        yield group
    except BaseException as error:
        reported_first = group._report_end(error)
        dist.destroy_process_group()  # ends the waiting of the others
        group._leave(failed=True)
        if reported_first or isinstance(error, KeyboardInterrupt | EndedElsewhere):
            raise
        raise EndedElsewhere("see the error of another rank") from error
    dist.destroy_process_group()
    group._leave(failed=False)


def _join(variables: Mapping[str, str]) -> ProcessGroup:
    gpus = (
        torch.cuda.is_available() and int(variables.get("LOCAL_WORLD_SIZE", "1")) <= torch.cuda.device_count()
    )
    try:
        rank, size = int(variables["RANK"]), int(variables["WORLD_SIZE"])
        local = int(variables.get("LOCAL_RANK", rank))
        common, _, _ = next(rendezvous("env://", rank, size, timeout=TIMEOUT))
        run_number = common.add(f"sidetune/runs of process {rank}", 1)  # a script may do several runs
        store = PrefixStore(f"sidetune/run {run_number}", common)
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if gpus else "gloo", store=store, rank=rank, world_size=size, timeout=TIMEOUT
        )
    except (RuntimeError, ValueError) as error:
        given = ", ".join(f"{name}={variables[name]}" for name in VARIABLES)
        raise RunError(
            f"the processes of this run cannot reach each other ({given}): {str(error).splitlines()[0]}"
        ) from error
    return ProcessGroup(rank, size, local, store)


class _AllReduce(torch.autograd.Function):
    """The sum over processes. All of them use it, so its gradient is the sum of their gradients."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, group: ProcessGroup) -> Tensor:
        ctx.group = group
        reduced = value.clone(memory_format=torch.contiguous_format)
        group._reduce(reduced)
        return reduced

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return _AllReduce.forward(ctx, gradients[0], ctx.group), None


def _differing(states: Sequence[Mapping[str, str]]) -> list[str]:
    """Names whose values are not the same in all states."""
    names = dict.fromkeys(name for state in states for name in state)
    return [name for name in names if len({state.get(name) for state in states}) > 1]


def _digests(state: Mapping[str, Any]) -> dict[str, str]:
    """Digests of the tensors of a state dict by name, and its extra state as JSON."""
    tensors = {name: value for name, value in state.items() if isinstance(value, Tensor)}
    extra, inner = flatten({name: value for name, value in state.items() if name not in tensors})
    result = {name: tensor_digest(name, value).hex() for name, value in (tensors | inner).items()}
    if extra != {"table": []}:
        result["extra state"] = json.dumps(extra)
    return result
