"""The gradient of a step in several processes: ours compared with PyTorch's DistributedDataParallel.

    python benchmarks/data_parallel.py [--processes 2] [--steps 40] [--repeats 3] [--quick]

Both compute `Learner.losses` and a penalty on the weights, on each process's shard of the same batch, in two
micro-batches, on CPU processes that are connected by gloo. Ours sums all gradients once, after the backward
pass (`ProcessGroup.all_reduce_gradients`). The other wraps a module whose ``forward`` computes the losses,
and sums buckets of gradients during the backward pass of the last micro-batch; it looks for unused parameters
and has a process group of its own, since batch norm communicates during the backward pass too. Steps take
turns. Printed for each learner: the largest difference between the gradients, relative to the largest
gradient; whether the same parameters get none; the median processor time of a step in the first process, over
repeats, with its range; and what wrapping costs, which is due for every task and phase, since each trains
other parameters. There is no target: the figures say which of the two is used.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import islice
from typing import Any

import attrs
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed import TCPStore  # type: ignore[attr-defined]
from torch.multiprocessing.spawn import start_processes
from torch.nn.parallel import DistributedDataParallel

from sidetune_core import RunSpec
from sidetune_core.assembly.build import build_learner, build_stream
from sidetune_core.config.resolve import resolve
from sidetune_core.distributed.batch_ops import synchronized
from sidetune_core.distributed.process_group import join_process_group
from sidetune_core.interfaces.learner import Learner
from sidetune_core.interfaces.tasks import Batch, Order, Task
from sidetune_core.interfaces.training import Phase, PhaseSteps, TrainingStep
from sidetune_core.system import device
from sidetune_core.training.batches import batches
from sidetune_core.training.context import Context
from sidetune_core.training.gradients import backward
from sidetune_core.training.tracked import TrackedLearner
from sidetune_core.training.trainable import set_trainable, start_task

LEARNERS = ("finetune", "sidetune")
PENALTY = 1e-4


def main() -> None:
    """Start the processes."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--steps", type=int, default=40, help="steps of each variant in a repeat")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--quick", action="store_true", help="two steps, once")
    options = parser.parse_args()
    if options.quick:
        options.steps, options.repeats = 2, 1
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    where = f"{device.processor()}, {os.cpu_count()} processors, {options.processes} processes"
    now = f"{time.strftime('%Y-%m-%d')}, commit {commit.stdout.strip()}, torch {torch.__version__}"
    print(f"{where}, {now}", flush=True)
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    start_processes(_work, (store.port, options), options.processes)  # type: ignore[no-untyped-call]


def _work(rank: int, port: int, options: argparse.Namespace) -> None:
    """One process of all."""
    torch.set_num_threads(1)
    variables = {
        "RANK": rank,
        "LOCAL_RANK": rank,
        "WORLD_SIZE": options.processes,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
        "TORCHELASTIC_USE_AGENT_STORE": True,
    }
    os.environ.update({name: str(value) for name, value in variables.items()})
    with join_process_group() as group:
        for name in LEARNERS:
            resolved = resolve(RunSpec(learner=name, env={"name": "digits", "num_tasks": 1}))
            stream = build_stream(resolved)
            learner, task = build_learner(resolved, stream), stream.tasks()[0]
            machine = device.choose(attrs.evolve(resolved.device, name="cpu", precision="fp32"))
            context = Context(options=resolved.train, seed=0, machine=machine, group=group)
            tracked = TrackedLearner(learner)
            tracked.place(machine)
            set_trainable(tracked, start_task(tracked, task, context), context)
            _with_penalty(learner)
            for line in _compare(learner, task, context, options):
                if group.is_main:
                    print(f"{name}: {line}", flush=True)


def _with_penalty(learner: Learner) -> None:
    """Add to the losses a penalty that reads weights and no input, as EWC's does."""
    original: Any = learner.losses

    def losses(batch: Batch, task: Task, step: TrainingStep) -> dict[str, Tensor]:
        weights = [weight for weight in learner.parameters() if weight.requires_grad]
        penalty = PENALTY * torch.stack([weight.square().sum() for weight in weights]).sum()
        return {**original(batch, task, step), "penalty": penalty}

    learner.losses = losses  # type: ignore[method-assign]


def _compare(learner: Learner, task: Task, context: Context, options: argparse.Namespace) -> Sequence[str]:
    order = Order(0, options.batch_size)
    micro_batches = list(islice(batches(task, learner, context, order), 2))
    steps = PhaseSteps(Phase("train"), 0, 1)
    step = TrainingStep(0, 1, 0, steps, 2 * options.batch_size, micro_batches=2)
    parameters = [parameter for parameter in learner.parameters() if parameter.requires_grad]
    own_group = dist.new_group()
    wrapped, wrapping = _timed(lambda: _wrap(learner, own_group))
    variants: dict[str, Callable[[], Mapping[str, Tensor]]] = {
        "ours": lambda: backward(learner, task, micro_batches, step, parameters, context),
        "DistributedDataParallel": lambda: _backward_wrapped(wrapped, task, micro_batches, step, context),
    }
    gradients: dict[str, list[Tensor | None]] = {}
    medians: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(options.repeats):
        seconds: dict[str, list[float]] = {name: [] for name in variants}
        for number in range(options.steps + 1):
            for name, compute in variants.items():
                for parameter in parameters:
                    parameter.grad = None
                torch.manual_seed(number)
                _, taken = _timed(compute)
                gradients[name] = [parameter.grad for parameter in parameters]
                if number:  # the first one warms up
                    seconds[name].append(taken)
        for name, values in seconds.items():
            medians[name].append(statistics.median(values))
    ours, theirs = gradients.values()
    pairs = [(a, b) for a, b in zip(ours, theirs, strict=True) if a is not None and b is not None]
    largest = max(float(a.abs().max()) for a, _ in pairs)
    apart = max(float((a - b).abs().max()) for a, b in pairs) / largest
    same = [a is None for a in ours] == [b is None for b in theirs]
    count = sum(parameter.numel() for parameter in parameters)
    return [
        f"{count:,} trainable parameters in {len(parameters)} tensors; gradients {apart:.1e} apart; "
        f"{'the same' if same else 'other'} parameters get none",
        *(
            f"{name} {1e3 * statistics.median(values):.1f} ms of processor time a step "
            f"({1e3 * min(values):.1f} to {1e3 * max(values):.1f})"
            for name, values in medians.items()
        ),
        f"wrapping {1e3 * wrapping:.1f} ms",
    ]


def _timed(compute: Callable[[], Any]) -> tuple[Any, float]:
    began = time.process_time()
    result = compute()
    return result, time.process_time() - began


class _Losses(nn.Module):
    """The losses of a learner as a ``forward``, which DistributedDataParallel needs."""

    def __init__(self, learner: Learner) -> None:
        super().__init__()
        self.learner = learner

    def forward(self, batch: Batch, task: Task, step: TrainingStep) -> dict[str, Tensor]:
        with step.autocast():
            return dict(self.learner.losses(batch, task, step))


def _wrap(learner: Learner, group: Any) -> DistributedDataParallel:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # broadcast_buffers is about to be renamed
        return DistributedDataParallel(
            _Losses(learner),
            broadcast_buffers=False,
            init_sync=False,
            find_unused_parameters=True,
            process_group=group,
        )


def _backward_wrapped(
    wrapped: DistributedDataParallel,
    task: Task,
    micro_batches: Sequence[Batch],
    step: TrainingStep,
    context: Context,
) -> dict[str, Tensor]:
    """`gradients.backward` with DistributedDataParallel in place of the sum afterwards."""
    group, first = context.group, 0
    sums: dict[str, Tensor] = {}
    for number, batch in enumerate(micro_batches):
        shard = group.shard_batch(batch)
        start = first + shard.start
        facts = attrs.evolve(
            context.with_autocast(step),
            micro_batch=number,
            rows=slice(start, start + len(shard.batch.targets)),
            gather=partial(group.gather_rows, shard=shard),
        )
        first += len(batch.targets)
        wrapped.require_backward_grad_sync = number + 1 == len(micro_batches)
        with synchronized(group, shard):
            losses = wrapped(shard.batch, task, facts)
        terms = torch.stack([loss.float() for loss in losses.values()]) * (shard.weight / len(micro_batches))
        (terms.sum() * group.size).backward()  # type: ignore[no-untyped-call]
        for name, term in zip(losses, terms.detach(), strict=True):
            sums[name] = sums[name] + term if name in sums else term
    totals = group.all_reduce(torch.stack(list(sums.values())))
    return dict(zip(sums, totals, strict=True))


if __name__ == "__main__":
    main()
