"""Several independent labels, against scikit-learn and torch."""

from __future__ import annotations

import math

import pytest
import torch
from sklearn import metrics
from torch import Tensor
from torch.nn import functional

from sidetune_core.errors import DataError
from sidetune_core.interfaces.outputs import Outputs
from sidetune_core.supervised.class_metrics import read_classes
from sidetune_core.supervised.multi_label import MultiLabel

NAMES = ("red", "round", "rare")


def labelled(generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Logits (60, 3) with ties, and targets, of which no example has the last label."""
    output = (torch.randn(60, 3, generator=generator) * 4).round() / 4
    targets = (torch.rand(60, 3, generator=generator) + output / 8 > 0.5).float()
    targets[:, 2] = 0
    return output, targets


def test_the_loss_is_the_mean_of_the_binary_entropies_of_an_example(generator: torch.Generator) -> None:
    output, targets = labelled(generator)
    loss = MultiLabel(NAMES).loss(output, targets)
    p = output.double().sigmoid()
    by_hand = -torch.where(targets == 1, p, 1 - p).log().mean(1)
    torch.testing.assert_close(loss.double(), by_hand, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(loss.mean(), functional.binary_cross_entropy_with_logits(output, targets))


def test_the_log_likelihood_is_a_sum_over_labels(generator: torch.Generator) -> None:
    output, targets = labelled(generator)
    likelihood = torch.distributions.Bernoulli(logits=output).log_prob(targets).sum(1)
    torch.testing.assert_close(-MultiLabel(3).negative_log_likelihood(output, targets), likelihood)


def test_the_metrics_are_those_of_scikit_learn_over_the_labels_that_occur(
    generator: torch.Generator,
) -> None:
    output, targets = labelled(generator)
    measurement = MultiLabel(NAMES).measure()
    for part in (slice(25), slice(25, 60)):
        measurement.add(output[part], targets[part])
    measured, predicted = measurement.metrics(), (output > 0).float()
    assert measured["map"] == pytest.approx(
        metrics.average_precision_score(targets[:, :2], output[:, :2], average="macro")
    )
    assert measured["f1"] == pytest.approx(
        metrics.f1_score(targets[:, :2], predicted[:, :2], average="macro")
    )
    assert measured["accuracy"] == pytest.approx(1 - metrics.hamming_loss(targets, predicted))
    assert measured["loss"] == pytest.approx(float(MultiLabel(3).loss(output, targets).mean()))


def test_average_precision_of_a_ranking_by_hand() -> None:
    """Positives at ranks 1 and 3 have the precisions 1 and 2/3."""
    measurement = MultiLabel(1).measure()
    measurement.add(torch.tensor([[3.0], [2.0], [1.0], [0.0]]), torch.tensor([[1], [0], [1], [0]]))
    assert measurement.metrics()["map"] == pytest.approx((1 + 2 / 3) / 2)


def test_a_split_without_any_label_has_no_map(generator: torch.Generator) -> None:
    measurement = MultiLabel(3).measure()
    measurement.add(torch.randn(4, 3, generator=generator), torch.zeros(4, 3))
    assert math.isnan(measurement.metrics()["map"])


def test_each_label_is_documented(generator: torch.Generator) -> None:
    output, targets = labelled(generator)
    measurement = MultiLabel(NAMES).measure()
    measurement.add(output, targets)
    red, round_, rare = read_classes(measurement.documents())
    assert (red.name, red.recall, red.precision) == (
        "red",
        pytest.approx(metrics.recall_score(targets[:, 0], output[:, 0] > 0)),
        pytest.approx(metrics.precision_score(targets[:, 0], output[:, 0] > 0)),
    )
    assert (rare.count, rare.recall) == (0, None)
    assert round_.count == int(targets[:, 1].sum())


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        (torch.tensor([0, 1]), r"numbers \(N, 3\).*these are int64 \(2,\)"),
        (torch.zeros(2, 4), r"of 3 labels .*these are float32 \(2, 4\)"),
        (torch.tensor([[0, 1, 0], [0.5, 0, 2]]), r"1 of 2 .*other than 0 and 1 \(example 1 has 0.5\)"),
        (torch.full((1, 3), float("nan")), "example 0 has nan"),
    ],
)
def test_targets_that_are_no_labels_are_an_error(targets: Tensor, message: str) -> None:
    with pytest.raises(DataError, match=f"of mine: .*{message}"):
        MultiLabel(3).check_targets(targets, "of mine")


def test_outputs_of_another_kind_are_an_error() -> None:
    with pytest.raises(ValueError, match="expected outputs of kind 'binary'"):
        MultiLabel(Outputs("logits", 3))
