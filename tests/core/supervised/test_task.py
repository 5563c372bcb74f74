"""Supervised tasks over any source."""

from __future__ import annotations

from itertools import islice
from typing import Any

import pytest
import torch
from torch import Tensor

from sidetune_core.errors import DataError
from sidetune_core.interfaces.heads import ClassHead
from sidetune_core.interfaces.inputs import Inputs
from sidetune_core.interfaces.tasks import Order
from sidetune_core.supervised.multi_label import MultiLabel
from sidetune_core.supervised.objectives import Classification
from sidetune_core.supervised.regression import Regression
from sidetune_core.supervised.task import SupervisedTask

CLASSES = torch.tensor([0, 0, 0, 0, 0, 0, 0, 1])


def task_of(rows: Any, objective: Any = None, targets: Tensor = CLASSES, **options: Any) -> SupervisedTask:
    sources = {"train": rows(targets), "test": rows(targets, len(targets))}
    return SupervisedTask("t0", "some", sources, objective or Classification(2), **options)


def zeros(inputs: Inputs) -> Tensor:
    return torch.zeros(len(inputs["x"]), 2)


def predict(_: Inputs) -> Tensor:
    raise AssertionError("a supervised task does not act")


def test_its_outputs_metric_and_head_are_those_of_the_objective(rows: Any) -> None:
    task = task_of(rows, Regression(("height", "width")), torch.zeros(8, 2))
    assert (task.outputs.names, task.metric, task.higher_is_better) == (("height", "width"), "rmse", False)
    head = task.make_head((5,))
    assert isinstance(head, ClassHead)
    assert head(torch.zeros(3, 5)).shape == (3, 2)


def test_documents_are_those_of_the_latest_evaluation(rows: Any) -> None:
    task = task_of(rows)
    assert task.documents() == {}
    metrics = task.evaluate(zeros)
    assert (metrics["accuracy"], metrics["balanced_accuracy"]) == (7 / 8, 0.5)
    assert task.documents()["confusion.csv"] == "true,predicted,count\n0,0,7\n1,0,1\n"


def test_balanced_sampling_resumes_at_any_step_and_keeps_the_steps_of_an_epoch(rows: Any) -> None:
    task, uniform = task_of(rows, sampling="balanced"), task_of(rows)
    whole = [batch.ids for batch in islice(task.train(predict, Order(3, 4)), 6)]
    rest = [batch.ids for batch in islice(task.train(predict, Order(3, 4, 2)), 4)]
    assert all(map(torch.equal, rest, whole[2:]))
    targets = torch.cat([batch.targets for batch in islice(task.train(predict, Order(3, 4)), 50)])
    assert 0.4 < float(targets.float().mean()) < 0.6
    assert task.steps_per_epoch(4) == uniform.steps_per_epoch(4) == 2


@pytest.mark.parametrize(
    ("objective", "targets"), [(Regression(1), torch.zeros(8)), (MultiLabel(1), torch.zeros(8, 1))]
)
def test_balanced_sampling_without_classes_is_an_error(rows: Any, objective: Any, targets: Tensor) -> None:
    with pytest.raises(DataError, match=r"task 't0' \(some\): balanced sampling needs classes"):
        task_of(rows, objective, targets, sampling="balanced")


def test_targets_of_every_split_are_checked(rows: Any) -> None:
    sources = {"train": rows(CLASSES), "val": rows(CLASSES + 1), "test": rows(CLASSES)}
    with pytest.raises(DataError, match=r"task 't0' \(some\), split 'val': 1 of 8 targets"):
        SupervisedTask("t0", "some", sources, Classification(2))


def test_targets_that_are_read_lazily_are_checked_as_they_are_read(rows: Any) -> None:
    sources = {"train": rows(CLASSES), "test": rows(CLASSES + 1)}
    for source in sources.values():
        source.lazy_targets = True
    task = SupervisedTask("t0", "some", sources, Classification(2))
    next(task.train(predict, Order(0, 8)))
    with pytest.raises(DataError, match=r"split 'test': 1 of 8 targets are not the number of a class"):
        task.evaluate(zeros)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"test": None}, "no split 'test'; a task needs training and test examples"),
        ({"train": (CLASSES[:0],), "test": (CLASSES[:0],)}, "no examples in split 'train' and 'test'"),
        (
            {"test": (CLASSES, 8, 3)},
            r"inputs of split 'test' have shapes {'x': \(3,\)}, and those of 'train'",
        ),
    ],
)
def test_splits_that_do_not_fit_are_an_error(
    rows: Any, changes: dict[str, tuple[Any, ...] | None], message: str
) -> None:
    given = {"train": (CLASSES,), "test": (CLASSES, 8), **changes}
    sources = {split: rows(*arguments) for split, arguments in given.items() if arguments is not None}
    with pytest.raises(DataError, match=message):
        SupervisedTask("t0", "some", sources, Classification(2))
