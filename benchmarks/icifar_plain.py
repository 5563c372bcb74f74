"""Side-tuning on iCIFAR written by hand: what `icifar_store` and `icifar_avalanche` compare a run with."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from sidetune_core.api import Features
from sidetune_core.config.resolve import resolve
from sidetune_core.config.spec import RunSpec

BATCH, EVALUATION_BATCH = 128, 250


class PlainJob:
    """The data, a frozen base, and a side, a merger and a head for each task.

    Args:
        archive: CIFAR-100 as .npz.
        tasks: number of tasks, of ten classes each.
        steps: of a task.
        weights: of base and sides.
        precision: 'fp32', or 'bf16' for autocast to bfloat16.
    """

    def __init__(self, archive: Path, tasks: int, steps: int, weights: str, precision: str) -> None:
        self.steps, self._precision = steps, precision
        chosen = {"weights": weights}
        components = resolve(
            RunSpec(base={"name": "resnet44", **chosen}, side={"name": "fcn4", **chosen}, merger="mlp2")
        ).components
        inputs = {"image": (3, 32, 32)}
        torch.manual_seed(0)
        base = components["base"].cls(components["base"].config, inputs)
        self._base = base.eval().requires_grad_(False).to(memory_format=torch.channels_last)
        with np.load(archive) as arrays:
            self._data = {
                split: (
                    torch.from_numpy(arrays[f"x_{split}"]).permute(0, 3, 1, 2).contiguous(),
                    torch.from_numpy(arrays[f"y_{split}"]),
                )
                for split in ("train", "test")
            }
        self.networks = []
        for _ in range(tasks):
            side = components["side"].cls(components["side"].config, inputs, base)
            merger = components["merger"].cls(components["merger"].config, base.shape, 2)
            network = nn.ModuleList([side, merger, nn.Linear(64, 10)])
            self.networks.append(network.to(memory_format=torch.channels_last).eval())

    def forward(self, task: int, images: Tensor) -> Tensor:
        """Logits (B, 10) for images (B, 3, 32, 32) in uint8."""
        side, merger, head = self.networks[task]
        with torch.autocast("cpu", torch.bfloat16, enabled=self._precision == "bf16"):
            x = (images.float() / 255).contiguous(memory_format=torch.channels_last)
            encoding = self._encode(x)
            merged = functional.group_norm(merger([encoding, side({"image": x}, Features(encoding))]), 8)
            logits: Tensor = head(merged).float()
            return logits

    def _encode(self, x: Tensor) -> Tensor:
        """The base's encoding, layer by layer; our run folds the norms of a frozen base."""
        base = self._base
        x = functional.relu(base.bn1(base.conv1((x - base.mean) / base.std)))
        for block in (*base.layer1, *base.layer2, *base.layer3):
            residual = block.bn2(block.conv2(functional.relu(block.bn1(block.conv1(x)))))
            if block.stride > 1 or block.padding:
                x = functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, block.padding, block.padding))
            x = functional.relu(x + residual)
        encoding: Tensor = x.mean((2, 3))
        return encoding

    def training_order(self, task: int) -> Tensor:
        """Rows of the training split: all steps' batches, in epochs over the shuffled examples."""
        _, labels = self._data["train"]
        own = (labels // 10 == task).nonzero()[:, 0]
        epochs = -(-self.steps * BATCH // len(own))
        return torch.cat([own[torch.randperm(len(own))] for _ in range(epochs)])[: self.steps * BATCH]

    def test_rows(self, task: int) -> Tensor:
        """Rows of a task in the test split."""
        return (self._data["test"][1] // 10 == task).nonzero()[:, 0]

    def examples(self, split: str, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Images (B, 3, 32, 32) in uint8, and classes (B,) within the task."""
        images, labels = self._data[split]
        return images[rows], labels[rows] % 10

    def accuracy(self, task: int) -> float:
        """The accuracy of a task on its test split."""
        rows = self.test_rows(task)
        with torch.no_grad():
            return sum(self._correct(task, batch) for batch in torch.split(rows, EVALUATION_BATCH)) / len(
                rows
            )

    def _correct(self, task: int, rows: Tensor) -> int:
        images, classes = self.examples("test", rows)
        return int((self.forward(task, images).argmax(1) == classes).sum())

    def batches(self, task: int) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches of a task's training."""
        for rows in torch.split(self.training_order(task), BATCH):
            yield self.examples("train", rows)


def train(job: PlainJob) -> float:
    """Train and evaluate all tasks; returns the mean accuracy after the last."""
    accuracies = [job.accuracy(task) for task in range(len(job.networks))]
    for task, network in enumerate(job.networks):
        if task:
            job.accuracy(task)
        network.train()
        optimizer = torch.optim.Adam(network.parameters(), lr=1e-3, fused=True)
        for images, classes in job.batches(task):
            loss = functional.cross_entropy(job.forward(task, images), classes)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
        network.eval()
        accuracies = [job.accuracy(earlier) for earlier in range(task + 1)]
    return statistics.mean(accuracies)
