"""What heads reach on encodings that were computed in several ways: a part of `frozen_base`.

The job is that of the learner `features` on the first tasks of iCIFAR: a normalisation in 8 groups and a
linear layer for each task, Adam at 1e-3, gradients clipped to a norm of 1, 157 batches of 128. Heads of one
seed start with the same weights and see the same batches whatever the encoding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import attrs
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from sidetune_core.interfaces.heads import normalise

Encode = Callable[[Tensor], Tensor]
STEPS, BATCH, ENCODED = 157, 128, 64


@attrs.frozen(eq=False)
class Examples:
    """A split of the first tasks of iCIFAR."""

    images: Tensor
    """(N, 3, 32, 32) in uint8."""
    labels: Tensor
    """(N,) of CIFAR-100; a task has ten consecutive ones."""


def read(archive: Path, tasks: int) -> tuple[Examples, Examples]:
    """Training and test examples of CIFAR-100 as .npz."""
    with np.load(archive) as arrays:
        splits = []
        for split in ("train", "test"):
            labels = torch.from_numpy(arrays[f"y_{split}"])
            own = labels < 10 * tasks
            images = torch.from_numpy(arrays[f"x_{split}"])[own].permute(0, 3, 1, 2)
            splits.append(Examples(images, labels[own]))
    return splits[0], splits[1]


def accuracies(encode: Encode, train: Examples, test: Examples, seeds: Sequence[int]) -> Tensor:
    """The accuracy on the test split of each task, by seed: (seeds, tasks)."""
    encoded = [_encode_all(encode, split.images) for split in (train, test)]
    tasks = int(train.labels.max()) // 10 + 1
    rows = []
    for seed in seeds:
        torch.manual_seed(seed)
        row = []
        for task in range(tasks):
            (x, classes), held_out = (
                (encoding[split.labels // 10 == task], split.labels[split.labels // 10 == task] % 10)
                for encoding, split in zip(encoded, (train, test), strict=True)
            )
            head = _train(x, classes)
            row.append(float((head(held_out[0]).argmax(1) == held_out[1]).float().mean()))
        rows.append(row)
    return torch.tensor(rows)


def _encode_all(encode: Encode, images: Tensor) -> Tensor:
    """Encodings (N, d) in fp32, by full batches: some encoders accept no others."""
    padded = torch.cat([images, images[: -len(images) % ENCODED]])
    with torch.no_grad():
        outputs = [
            encode((batch.float() / 255).contiguous(memory_format=torch.channels_last)).float()
            for batch in torch.split(padded, ENCODED)
        ]
    return normalise(torch.cat(outputs)[: len(images)])


def _train(x: Tensor, classes: Tensor) -> nn.Linear:
    head = nn.Linear(x.shape[1], 10)
    optimizer = torch.optim.Adam(head.parameters(), lr=1e-3)
    epochs = -(-STEPS * BATCH // len(x))
    order = torch.cat([torch.randperm(len(x)) for _ in range(epochs)])[: STEPS * BATCH]
    for rows in torch.split(order, BATCH):
        loss = functional.cross_entropy(head(x[rows]), classes[rows])
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(head.parameters(), 1.0)
        optimizer.step()
    return head
