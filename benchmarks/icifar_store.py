"""Side-tuning on iCIFAR: our run compared with a plain PyTorch loop of the same job.

    python benchmarks/icifar_store.py --archive cifar100.npz [--tasks 10] [--repeats 1] [--precision fp32]

The plain loop is the job written without this project: the same networks, optimiser, batches and evaluations
(all tasks untrained, each task right before its training, and the tasks so far after each task), with the
frozen base re-computed on every batch. Variants take turns, each in its own process, which is timed in full,
imports included. Printed: seconds, ratio to the plain loop, peak memory of the process, mean accuracy.

``disk`` is a second run with the feature cache that a first run, not timed, left on disk.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import sidetune_core

VARIANTS = ("plain", "memory", "off", "disk")
BATCH, STEPS, EVALUATION_BATCH = 128, 157, 250


def main() -> None:
    """Time every variant and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--archive", type=Path, required=True, help="CIFAR-100 as .npz (x_train, y_train, x_test, y_test)"
    )
    parser.add_argument("--tasks", type=int, default=10, help="number of tasks")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--weights", default="packaged", help="'packaged', or 'none' for random weights")
    parser.add_argument("--child", choices=VARIANTS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child == "plain":
        print(json.dumps(_plain(options)))
    elif options.child:
        print(json.dumps(_ours(options)))
    else:
        _compare(options)


def _compare(options: argparse.Namespace) -> None:
    seconds: dict[str, list[float]] = {variant: [] for variant in options.variants}
    memory, accuracy = dict.fromkeys(options.variants, 0.0), dict.fromkeys(options.variants, 0.0)
    with tempfile.TemporaryDirectory() as folder:
        if "disk" in options.variants:
            _child("disk", Path(folder), f"{folder}/first")
        for repeat in range(options.repeats):
            for variant in options.variants:
                duration, peak, result = _child(variant, Path(folder), f"{folder}/{variant}-{repeat}")
                seconds[variant].append(duration)
                memory[variant] = max(memory[variant], peak)
                accuracy[variant] = result
                print(f"# {variant}: {duration:.1f} s", file=sys.stderr)
    base = statistics.median(seconds[options.variants[0]])
    job = f"iCIFAR, {options.tasks} tasks x {STEPS} steps, batch {BATCH}, {options.precision}"
    print(f"{job}, median of {options.repeats}")
    print(f"{'variant':<10}{'seconds':>9}{'ratio':>8}{'peak GB':>9}{'accuracy %':>12}")
    for variant in options.variants:
        median = statistics.median(seconds[variant])
        times = f"{median:>9.1f}{median / base:>8.3f}"
        print(f"{variant:<10}{times}{memory[variant]:>9.2f}{100 * accuracy[variant]:>12.2f}")


def _child(variant: str, folder: Path, out: str) -> tuple[float, float, float]:
    """Run a variant; its seconds, peak memory in GB, and mean accuracy."""
    command = [sys.executable, __file__, *sys.argv[1:], "--child", variant, "--folder", out]
    began = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        text = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    duration = time.perf_counter() - began
    if process.returncode:
        sys.exit(f"the variant {variant} failed")
    return duration, usage.ru_maxrss * 1024 / 1e9, json.loads(text.splitlines()[-1])


def _ours(options: argparse.Namespace) -> float:

    spec = sidetune_core.RunSpec(
        base={"name": "resnet44", "weights": options.weights},
        side={"name": "fcn4", "weights": options.weights},
        merger="mlp2",
        learner="sidetune",
        env={"name": "icifar", "archive": options.archive, "num_tasks": options.tasks},
        cache={"mode": options.child, "dir": options.folder.parent / "store"},
        device={"precision": options.precision},
    )
    row = sidetune_core.run(spec, options.folder).results.rows[-1]
    return statistics.mean(cell for cell in row if cell is not None)


def _plain(options: argparse.Namespace) -> float:
    """The same job, written by hand."""
    import numpy as np
    import torch
    from torch import nn
    from torch.nn import functional

    from sidetune_core.api import Features
    from sidetune_core.config.resolve import resolve
    from sidetune_core.config.spec import RunSpec

    weights = {"weights": options.weights}
    components = resolve(
        RunSpec(base={"name": "resnet44", **weights}, side={"name": "fcn4", **weights}, merger="mlp2")
    ).components
    inputs = {"image": (3, 32, 32)}
    torch.manual_seed(0)
    base = components["base"].cls(components["base"].config, inputs)
    base = base.eval().requires_grad_(False).to(memory_format=torch.channels_last)

    def encode(x: torch.Tensor) -> torch.Tensor:
        """The base's encoding, layer by layer; our run folds the norms of a frozen base."""
        x = functional.relu(base.bn1(base.conv1((x - base.mean) / base.std)))
        for block in (*base.layer1, *base.layer2, *base.layer3):
            residual = block.bn2(block.conv2(functional.relu(block.bn1(block.conv1(x)))))
            if block.stride > 1:
                x = functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, block.widen, block.widen))
            x = functional.relu(x + residual)
        return x.mean((2, 3))

    with np.load(options.archive) as archive:
        data = {
            split: (
                torch.from_numpy(archive[f"x_{split}"]).permute(0, 3, 1, 2).contiguous(),
                torch.from_numpy(archive[f"y_{split}"]),
            )
            for split in ("train", "test")
        }

    def batch(images: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"image": (images.float() / 255).contiguous(memory_format=torch.channels_last)}

    def forward(network: nn.ModuleList, images: torch.Tensor) -> torch.Tensor:
        side, merger, head = network
        with torch.autocast("cpu", torch.bfloat16, enabled=options.precision == "bf16"):
            x = batch(images)
            encoding = encode(x["image"])
            merged = functional.group_norm(merger([encoding, side(x, Features(encoding))]), 8)
            logits: torch.Tensor = head(merged).float()
            return logits

    def accuracy(network: nn.ModuleList, task: int) -> float:
        images, labels = data["test"]
        rows = (labels // 10 == task).nonzero()[:, 0]
        with torch.no_grad():
            correct = sum(
                int((forward(network, images[batch]).argmax(1) == labels[batch] % 10).sum())
                for batch in torch.split(rows, EVALUATION_BATCH)
            )
        return correct / len(rows)

    networks = []
    for _ in range(options.tasks):
        side = components["side"].cls(components["side"].config, inputs, base)
        network = nn.ModuleList(
            [side, components["merger"].cls(components["merger"].config, base.shape, 2), nn.Linear(64, 10)]
        )
        networks.append(network.to(memory_format=torch.channels_last).eval())
    accuracies = [accuracy(network, task) for task, network in enumerate(networks)]
    for task, network in enumerate(networks):
        if task:
            accuracy(network, task)
        images, labels = data["train"]
        own = (labels // 10 == task).nonzero()[:, 0]
        network.train()
        optimizer = torch.optim.Adam(network.parameters(), lr=1e-3, fused=True)
        epochs = -(-STEPS * BATCH // len(own))
        order = torch.cat([own[torch.randperm(len(own))] for _ in range(epochs)])
        for step in range(STEPS):
            rows = order[step * BATCH : (step + 1) * BATCH]
            loss = functional.cross_entropy(forward(network, images[rows]), labels[rows] % 10)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
        network.eval()
        accuracies = [accuracy(networks[earlier], earlier) for earlier in range(task + 1)]
    return statistics.mean(accuracies)


if __name__ == "__main__":
    main()
