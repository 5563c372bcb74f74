"""Classification: weights, metrics of each class and checks of targets, against scikit-learn."""

from __future__ import annotations

import csv
import io

import numpy as np
import pytest
import torch
from sklearn import metrics
from torch.nn import functional

from sidetune_core.errors import DataError
from sidetune_core.supervised.class_metrics import ClassCounts, read_classes, read_confusions
from sidetune_core.supervised.objectives import Classification

ODD_NAMES = ("cat, big", 'the "cat"', "two\nlines", "=1+1", "carriage\rreturn", "", "\udcff")


def predictions(classes: int, count: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Outputs (N, K), and targets (N,) in which the last class has no example."""
    output = torch.randn(count, classes, generator=generator)
    targets = torch.randint(classes - 1, (count,), generator=generator)
    output[torch.arange(count), targets] += 1
    return output, targets


def counts_of(output: torch.Tensor, targets: torch.Tensor) -> ClassCounts:
    names = [str(k) for k in range(output.shape[1])]
    return ClassCounts.of(targets.numpy(), output.argmax(1).numpy(), names)


def test_weights_scale_the_training_loss_only(generator: torch.Generator) -> None:
    output, targets = predictions(4, 40, generator)
    weights = torch.tensor([0.5, 1.0, 2.0, 0.0])
    weighted, plain = Classification(4, weights), Classification(4)
    expected = functional.cross_entropy(output, targets, weights, reduction="none")
    assert torch.equal(weighted.loss(output, targets), expected)
    measurements = [objective.measure() for objective in (weighted, plain)]
    for one in measurements:
        one.add(output, targets)
    assert measurements[0].metrics() == measurements[1].metrics()
    assert measurements[1].metrics()["loss"] == pytest.approx(float(plain.loss(output, targets).mean()))


def test_balanced_accuracy_is_the_mean_recall_of_the_classes_with_examples(
    generator: torch.Generator,
) -> None:
    output, targets = predictions(5, 100, generator)
    measurement = Classification(5).measure()
    for part in (slice(60), slice(60, 100)):
        measurement.add(output[part], targets[part])
    recalls = metrics.recall_score(targets, output.argmax(1), labels=range(4), average=None)
    assert measurement.metrics()["balanced_accuracy"] == pytest.approx(recalls.mean())


def test_the_metrics_of_each_class_are_those_of_scikit_learn(generator: torch.Generator) -> None:
    output, targets = predictions(5, 100, generator)
    expected = metrics.precision_recall_fscore_support(
        targets, output.argmax(1), labels=range(5), zero_division=np.nan
    )
    for column, name in zip(expected, ("precision", "recall", "f1", "count"), strict=True):
        values = [getattr(one, name) for one in counts_of(output, targets).classes()]
        assert [np.nan if value is None else value for value in values] == pytest.approx(
            column.tolist(), nan_ok=True
        )


def test_the_confusion_matrix_is_that_of_scikit_learn(generator: torch.Generator) -> None:
    output, targets = predictions(5, 100, generator)
    pairs = counts_of(output, targets).confusions()
    matrix = np.zeros((5, 5), int)
    for pair in pairs:
        matrix[int(pair.true), int(pair.predicted)] = pair.count
    np.testing.assert_array_equal(matrix, metrics.confusion_matrix(targets, output.argmax(1)))
    assert min(pair.count for pair in pairs) > 0


def test_documents_are_read_back_whatever_the_names() -> None:
    true = np.arange(len(ODD_NAMES))
    documents = ClassCounts.of(true, true[::-1].copy(), ODD_NAMES).documents()
    written = [*ODD_NAMES[:-1], r"\udcff"]  # no Unicode
    assert [one.name for one in read_classes(documents)] == written
    assert [(pair.true, pair.predicted) for pair in read_confusions(documents)] == list(
        zip(written, written[::-1], strict=True)
    )
    rows = list(csv.reader(io.StringIO(documents["classes.csv"], newline="")))
    assert rows[0] == ["class", "examples", "correct", "predicted", "recall", "precision", "f1"]
    assert rows[4] == ["=1+1", "1", "1", "1", "1.0", "1.0", "1.0"]


def test_the_confusion_matrix_of_many_classes_has_the_pairs_that_occur() -> None:
    classes = 20_000
    true = np.array([0, 0, 19_999])
    counts = ClassCounts.of(true, np.array([0, 7, 3]), [str(k) for k in range(classes)])
    assert counts.documents()["confusion.csv"] == "true,predicted,count\n0,0,1\n0,7,1\n19999,3,1\n"
    assert counts.balanced_accuracy() == 0.25


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        (torch.tensor([1, 2, 3, 3]), r"2 of 4 targets are not the number of a class, 0 to 2: 3 \(the first"),
        (
            torch.tensor([0, -1, 9]),
            r"2 of 3 targets .*: -1, 9 \(the first is example 1\); number the classes",
        ),
        (torch.tensor([0.0, 1.0]), r"int64 \(N,\).*these are float32 \(2,\)"),
        (torch.tensor([[0, 1]]), r"these are int64 \(1, 2\)"),
    ],
)
def test_targets_that_are_no_classes_are_an_error(targets: torch.Tensor, message: str) -> None:
    with pytest.raises(DataError, match=f"of mine: .*{message}"):
        Classification(3).check_targets(targets, "of mine")
