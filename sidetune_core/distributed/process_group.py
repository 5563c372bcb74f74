"""A run on several processes, as `torchrun` starts them: each computes its share of every batch, and the gradients are summed.

They are summed by one all-reduce after the backward pass, not by DistributedDataParallel: what moves changes from task to task, penalties
read weights outside of `forward`, some weights get no gradient, and what is clipped is the norm of the sum.
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

from sidetune_core.errors import EndedElsewhere, Interrupted, PluginError, RunError
from sidetune_core.hashing import tensor_digest
from sidetune_core.interfaces.tasks import Batch
from sidetune_core.storage.nested_state import flatten
from sidetune_core.storage.weights import fill
from sidetune_core.system.signals import StopRequest, StopRequested

T = TypeVar("T")

TIMEOUT = timedelta(hours=1)
"""Longest that processes wait for each other, as for the evaluation that one of them does. One that dies is noticed at once."""

EXIT_GRACE = timedelta(seconds=20)
"""Longest that a process which has failed waits for the first one to write down why: torchrun ends the others when one is gone."""

VARIABLES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@attrs.frozen(eq=False)
class BatchShard:
    """What one process has of a batch: so many examples in a row."""

    batch: Batch
    start: int = 0
    """Place in the whole batch of the first of them."""
    whole: int = 0
    """Examples in the whole batch."""
    weight: float = 1.0
    """The share's part of the whole. Means over shares, times this, add up to the mean over the batch; what does not depend on the
    batch, such as a pull on weights, adds up to itself."""


@attrs.frozen(eq=False)
class ProcessGroup:
    """The processes that work on a run; one alone where nothing else is said. The methods are called by all of them, in the same order.

    Raises, in every method that needs the others:
        Stopped: a signal has ended another process.
        EndedElsewhere: another process has failed.
        RunError: another process is gone.
    """

    rank: int = 0
    size: int = 1
    local: int | None = None
    """Number of this process on its machine; None where it is alone."""
    _store: Store | None = None

    @property
    def is_main(self) -> bool:
        """Whether this is the process that writes and tells."""
        return self.rank == 0

    def shard_batch(self, batch: Batch) -> BatchShard:
        """This process's share of a batch; the sizes of shares differ by one at most.

        Raises:
            RunError: there are fewer examples than processes.
        """
        if self.size == 1:
            return BatchShard(batch)
        whole = len(batch.targets)
        if whole < self.size:
            raise RunError(
                f"a batch of {whole} cannot be shared by {self.size} processes: give a larger --train.batch-size, or begin with fewer processes"
            )
        start, end = (whole * rank // self.size for rank in (self.rank, self.rank + 1))
        rows = slice(start, end)
        given = batch.inputs
        ids, lengths = (None if value is None else value[rows] for value in (given.ids, given.lengths))
        inputs = attrs.evolve(
            given, tensors={name: value[rows] for name, value in given.items()}, ids=ids, lengths=lengths
        )
        return BatchShard(
            Batch(batch.ids[rows], inputs, batch.targets[rows]), start, whole, (end - start) / whole
        )

    def shard(self, things: Sequence[T]) -> Sequence[T]:
        """Those of some things that this process has to take care of."""
        return things[self.rank :: self.size]

    def all_reduce_gradients(self, parameters: Sequence[nn.Parameter], figures: Tensor) -> Tensor:
        """Replace the gradients of `parameters` by their sums over all processes, and return the sums of `figures` (n,)."""
        if self.size == 1:
            return figures
        used = torch.tensor([one.grad is not None for one in parameters], dtype=torch.uint8)
        self._reduce(used, dist.ReduceOp.MAX)
        moving = [one for one, anywhere in zip(parameters, used.tolist(), strict=True) if anywhere]
        for one in moving:
            if one.grad is None:
                one.grad = torch.zeros_like(one)
        gradients = [one.grad for one in moving if one.grad is not None]
        parts = [*gradients, figures]
        summed = self.all_reduce(torch.cat([part.flatten() for part in parts]))
        *sums, totals = torch.split(summed, [part.numel() for part in parts])
        for gradient, total in zip(gradients, sums, strict=True):
            gradient.copy_(total.view(gradient.shape))
        return totals

    def all_reduce(self, value: Tensor) -> Tensor:
        """The sum of a tensor over all processes, the same bits in each; gradients flow back to every one of them."""
        summed: Tensor = _AllReduce.apply(value, self)
        return summed

    def sync_stop(self, stop: StopRequest) -> None:
        """Let all note the signal that one has been sent."""
        if self.size > 1:
            number = torch.tensor(stop.number or 0)
            self._reduce(number, dist.ReduceOp.MAX)
            stop.number = int(number) or None

    def gather(self, value: T) -> list[T]:
        """What each process gives here, in order."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        with self._reaching():
            dist.all_gather_object(values, value)
        return values

    def broadcast_from_main(self, make: Callable[[], T]) -> T:
        """What `make` gives in the first process, in all of them."""
        if self.size == 1:
            return make()
        held: list[Any] = [make() if self.is_main else None]
        with self._reaching():
            dist.broadcast_object_list(held, device=torch.device("cpu"))
        made: T = held[0]
        return made

    @contextmanager
    def main_process_first(self) -> Iterator[None]:
        """Let the first process of each machine do something before the others, such as a download that they then find done."""
        if self.local:
            self.gather(None)
        yield
        if self.local == 0:
            self.gather(None)

    def check_replicas_match(self, learner: nn.Module, when: str, batch: Batch | None = None) -> None:
        """See that the processes have the same learner and, if one is given, the same batch. Expensive: every tensor is hashed.

        Raises:
            PluginError: what differs.
        """
        if self.size == 1:
            return
        examples = {} if batch is None else {"ids": batch.ids, "targets": batch.targets, **batch.inputs}
        if _differing(self.gather(_digests(examples))):
            raise PluginError(
                f"{when}, the processes were given other examples than each other: what a task draws has to follow from the seed. Run it "
                "in one process, without torchrun"
            )
        if names := _differing(self.gather(_digests(learner.state_dict()))):
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            raise PluginError(
                f"{when}, {', '.join(names[:3])}{more} of {type(learner).__name__} differ between the processes: in training, these "
                "change in other ways than by gradients and batch norm, and each process sees its share of a batch only. Run it in one "
                "process, without torchrun"
            )

    def broadcast_state(self, learner: nn.Module) -> None:
        """Give every process the first one's state, where what each has computed may differ in the last bits."""
        if self.size > 1:
            state = self.broadcast_from_main(
                lambda: tree_map(
                    lambda leaf: leaf.cpu() if isinstance(leaf, Tensor) else leaf, learner.state_dict()
                )
            )
            if not self.is_main:
                fill(learner, state, "the first process")

    def _reduce(self, value: Tensor, operation: Any = dist.ReduceOp.SUM) -> None:
        with self._reaching():
            dist.all_reduce(value, operation)

    @contextmanager
    def _reaching(self) -> Iterator[None]:
        """Say why another process cannot be reached."""
        try:
            yield
        except RuntimeError as error:  # of torch.distributed and of gloo
            raise self._why() from error

    def _why(self) -> BaseException:
        assert self._store is not None
        try:
            self._store.wait(["end"], timedelta(seconds=2))
            rank, number, text = json.loads(self._store.get("end"))
        except RuntimeError:
            return RunError("another process of this run is gone, and has not said why")
        return StopRequested(number) if number else EndedElsewhere(f"process {rank} of {self.size}: {text}")

    def _tell_end(self, error: BaseException) -> bool:
        """Tell the others why this process ends; whether it is the first to tell."""
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
    """Join the processes that `torchrun` has started beside this one, for a block; alone where it has not.

    When the block raises in one process, it ends in all: with the same signal, or with `EndedElsewhere` where another has told why.

    Raises:
        RunError: the others cannot be found.
    """
    if os.environ.get("WORLD_SIZE", "1") == "1" or any(name not in os.environ for name in VARIABLES):
        yield ProcessGroup()
        return
    group = _join(os.environ)
    try:
        yield group
    except BaseException as error:
        told = group._tell_end(error)
        dist.destroy_process_group()  # those who wait for this one need not any longer
        group._leave(failed=True)
        if told or isinstance(error, KeyboardInterrupt | EndedElsewhere):
            raise
        raise EndedElsewhere("another process has said why") from error
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
        runs = common.add(
            f"sidetune/runs of process {rank}", 1
        )  # a script may do several, and each has names of its own
        store = PrefixStore(f"sidetune/run {runs}", common)
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if gpus else "gloo", store=store, rank=rank, world_size=size, timeout=TIMEOUT
        )
    except (RuntimeError, ValueError) as error:
        given = ", ".join(f"{name}={variables[name]}" for name in VARIABLES)
        raise RunError(
            f"the processes of this run cannot find each other ({given}): {str(error).splitlines()[0]}"
        ) from error
    return ProcessGroup(rank, size, local, store)


class _AllReduce(torch.autograd.Function):
    """The sum over processes. Each of them uses it, so the gradient of their common loss is the sum of theirs."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, group: ProcessGroup) -> Tensor:
        ctx.group = group
        summed = value.clone(memory_format=torch.contiguous_format)
        group._reduce(summed)
        return summed

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return _AllReduce.forward(ctx, gradients[0], ctx.group), None


def _differing(states: Sequence[Mapping[str, str]]) -> list[str]:
    """Names of what is not the same in all."""
    names = dict.fromkeys(name for state in states for name in state)
    return [name for name in names if len({state.get(name) for state in states}) > 1]


def _digests(state: Mapping[str, Any]) -> dict[str, str]:
    """Of tensors by name, and of what else is in a learner's state."""
    tensors = {name: value for name, value in state.items() if isinstance(value, Tensor)}
    rest, inner = flatten({name: value for name, value in state.items() if name not in tensors})
    found = {name: tensor_digest(name, value).hex() for name, value in (tensors | inner).items()}
    return found | ({"extra state": json.dumps(rest)} if rest != {"table": []} else {})
