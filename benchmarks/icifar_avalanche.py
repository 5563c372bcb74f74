"""Side-tuning on iCIFAR by Avalanche's strategy Naive: a variant of `icifar_store`.

The model is that of `icifar_plain`, as a `MultiTaskModule` with a side, a merger and a head for each task.
Batches, optimiser, clipping and evaluations are the same. Avalanche loads examples one at a time, and
measures the accuracy of each experience; it writes no log.
"""

from __future__ import annotations

import statistics
from typing import Any

import torch
from icifar_plain import BATCH, EVALUATION_BATCH, PlainJob
from torch import Tensor, nn


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
    # Imported here: Avalanche has no type hints that mypy can read, and is in no other environment.
    from avalanche.benchmarks import benchmark_from_datasets  # type: ignore[import-not-found, unused-ignore]
    from avalanche.benchmarks.utils import (  # type: ignore[import-not-found, unused-ignore]
        make_avalanche_dataset,
    )
    from avalanche.benchmarks.utils.data_attribute import (  # type: ignore[import-not-found, unused-ignore]
        DataAttribute,
    )
    from avalanche.evaluation.metrics import (  # type: ignore[import-not-found, unused-ignore]
        accuracy_metrics,
    )
    from avalanche.models import MultiTaskModule  # type: ignore[import-not-found, unused-ignore]
    from avalanche.training import Naive  # type: ignore[import-not-found, unused-ignore]
    from avalanche.training.plugins import (  # type: ignore[import-not-found, unused-ignore]
        EvaluationPlugin,
        SupervisedPlugin,
    )

    class SideTuned(MultiTaskModule):  # type: ignore[misc, unused-ignore]
        def __init__(self) -> None:
            super().__init__()
            self.networks = nn.ModuleList(job.networks)

        def forward_single_task(self, x: Tensor, task_label: int) -> Tensor:
            return job.forward(task_label, x)

    class Clip(SupervisedPlugin):  # type: ignore[misc, unused-ignore]
        def before_update(self, strategy: Any, **_: Any) -> None:
            nn.utils.clip_grad_norm_(strategy.model.parameters(), 1.0)

    def dataset(task: int, split: str, rows: Tensor) -> Any:
        examples = Examples(job, split, rows)
        labels = {"targets": examples.targets, "targets_task_labels": [task] * len(rows)}
        attributes = [
            DataAttribute(values, name, use_in_getitem=name == "targets_task_labels")
            for name, values in labels.items()
        ]
        return make_avalanche_dataset(examples, data_attributes=attributes)

    tasks = range(len(job.networks))
    benchmark = benchmark_from_datasets(
        train=[dataset(task, "train", job.training_order(task)) for task in tasks],
        test=[dataset(task, "test", job.test_rows(task)) for task in tasks],
    )
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
    return statistics.mean(value for name, value in measured.items() if name.startswith("Top1_Acc_Exp/"))
