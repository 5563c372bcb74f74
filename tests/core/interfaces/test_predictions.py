from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from sidetune_core.interfaces.predictions import (
    MapPrediction,
    ValuesPrediction,
    class_predictions,
    label_predictions,
)


def test_the_label_is_the_class_of_the_largest_logit() -> None:
    (prediction,) = class_predictions(torch.tensor([[0.0, 2.0, 1.0]]), ("cat", "dog", "owl"))
    assert prediction.label == "dog"


def test_probabilities_are_the_softmax_of_the_logits_in_class_order() -> None:
    (prediction,) = class_predictions(torch.tensor([[0.0, 2.0]]), ("cat", "dog"))
    assert dict(prediction.probabilities) == pytest.approx(
        {"cat": 1 / (1 + np.e**2), "dog": np.e**2 / (1 + np.e**2)}
    )


def test_classes_without_names_are_numbered() -> None:
    (prediction,) = class_predictions(torch.tensor([[0.0, 2.0]]))
    assert list(prediction.probabilities) == ["0", "1"]


def test_classes_of_one_name_stay_apart() -> None:
    (prediction,) = class_predictions(torch.tensor([[0.0, 2.0, 1.0]]), ("cat", "cat", "owl"))
    assert list(prediction.probabilities) == ["cat (0)", "cat (1)", "owl"]


def test_a_masked_class_has_probability_zero() -> None:
    (prediction,) = class_predictions(torch.tensor([[0.0, -torch.inf]]))
    assert dict(prediction.probabilities) == {"0": 1.0, "1": 0.0}


def test_logits_of_another_number_of_classes_are_refused() -> None:
    with pytest.raises(ValueError, match="logits of 3 classes have shape"):
        class_predictions(torch.zeros(1, 2), ("a", "b", "c"))


def test_top_lists_the_most_probable_classes_first() -> None:
    (prediction,) = class_predictions(torch.tensor([[0.0, 2.0, 1.0]]))
    assert [label for label, _ in prediction.top(2)] == ["1", "2"]


def test_a_class_prediction_is_shown_with_its_probability() -> None:
    (prediction,) = class_predictions(torch.tensor([[0.0, 20.0]]), ("cat", "dog"))
    assert str(prediction) == "dog 1.00"


def test_the_labels_that_apply_are_named_the_most_probable_first() -> None:
    logits = torch.tensor([[1.0, -1.0, 3.0], [0.0, -2.0, -9.0]])
    first, second = label_predictions(logits, ("red", "round", "rare"))
    assert (first.labels, str(first)) == (("rare", "red"), "rare 0.95, red 0.73")
    assert (second.labels, str(second)) == ((), "no label")
    assert list(first.to_json()) == ["labels", "probabilities"]
    assert dict(first.probabilities) == pytest.approx(
        {name: 1 / (1 + np.exp(-x)) for name, x in zip(("red", "round", "rare"), (1, -1, 3), strict=True)}
    )


def test_logits_of_another_number_of_labels_are_refused() -> None:
    with pytest.raises(ValueError, match="logits of 3 labels have shape"):
        label_predictions(torch.zeros(1, 2), ("a", "b", "c"))


def test_values_are_shown_by_name() -> None:
    assert str(ValuesPrediction({"x": 1.5, "y": -2.0})) == "x 1.5, y -2"


def test_a_map_is_shown_with_its_range() -> None:
    values = np.array([[[1.0, 2.5]]], np.float32)
    assert str(MapPrediction(values, "m")) == "map 1 x 1 x 2, 1 to 2.5 m"


def test_predictions_are_plain_values_in_json() -> None:
    (classes,) = class_predictions(torch.tensor([[0.0, 2.0]]))
    values = MapPrediction(np.zeros((1, 1, 2), np.float32), "m", ("depth",))
    assert json.loads(json.dumps([classes.to_json(), values.to_json()])) == [
        {"label": "1", "probability": classes.probability, "probabilities": classes.probabilities},
        {"values": [[[0.0, 0.0]]], "unit": "m", "names": ["depth"]},
    ]
