"""Side-tuning on iCIFAR by Avalanche's strategy Naive: a variant of `icifar_store`.

The model is that of `icifar_plain`, as a `MultiTaskModule` with a side, a merger and a head for each task.
Batches, optimiser, clipping and evaluations are the same. Avalanche loads examples one at a time, and
measures the accuracy of each experience; it writes no log.
"""

from __future__ import annotations

import statistics
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.icifar_plain import BATCH, EVALUATION_BATCH, PlainJob


class Examples(torch.utils.data.Dataset[tuple[Tensor, int]]):
    """Rows of a split: images in uint8 and classes within the task.

    Args:
        job: has the data.
        split: 'train' or 'test'.
        rows: in the order in which they are read.
    """

    def __init__(self, job: PlainJob, split: str, rows: Tensor) -> None:
        self._job, self._split, self._rows = job, split, rows
        self.targets: list[int] = job.examples(split, rows)[1].tolist()

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self._job.examples(self._split, self._rows[index])[0], self.targets[index]


def train(job: PlainJob) -> float:
    """Train and evaluate all tasks; returns the mean accuracy after the last."""
    # Imported here, and not found by mypy: only the environment of this variant has Avalanche.
    from avalanche.benchmarks import (
        benchmark_from_datasets,
        task_incremental_benchmark,
        with_classes_timeline,
    )
    from avalanche.benchmarks.utils import as_classification_dataset
    from avalanche.evaluation.metrics import accuracy_metrics
    from avalanche.models import MultiTaskModule
    from avalanche.training import Naive
    from avalanche.training.plugins import EvaluationPlugin, SupervisedPlugin

    class SideTuned(MultiTaskModule):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.networks = nn.ModuleList(job.networks)

        def forward_single_task(self, x: Tensor, task_label: int) -> Tensor:
            return job.forward(task_label, x)

    class Clip(SupervisedPlugin):  # type: ignore[misc]
        def before_update(self, strategy: Any, **_: Any) -> None:
            nn.utils.clip_grad_norm_(strategy.model.parameters(), 1.0)

    tasks = range(len(job.networks))
    rows = {
        "train": [job.training_order(task) for task in tasks],
        "test": [job.test_rows(task) for task in tasks],
    }
    datasets = {
        split: [as_classification_dataset(Examples(job, split, own)) for own in by_task]
        for split, by_task in rows.items()
    }
    benchmark = with_classes_timeline(task_incremental_benchmark(benchmark_from_datasets(**datasets)))
    model = SideTuned()
    strategy = Naive(
        model=model,
        optimizer=torch.optim.Adam(model.parameters(), lr=1e-3, fused=True),
        criterion=nn.CrossEntropyLoss(),
        train_mb_size=BATCH,
        train_epochs=1,  # an experience has the examples of all steps, in order
        eval_mb_size=EVALUATION_BATCH,
        plugins=[Clip()],
        evaluator=EvaluationPlugin(accuracy_metrics(experience=True), loggers=[]),
    )
    measured = strategy.eval(benchmark.test_stream)
    for task, experience in enumerate(benchmark.train_stream):
        if task:
            strategy.eval(benchmark.test_stream[task : task + 1])
        strategy.train(experience, shuffle=False)
        measured = strategy.eval(benchmark.test_stream[: task + 1])
    return float(
        statistics.mean(value for name, value in measured.items() if name.startswith("Top1_Acc_Exp/"))
    )
