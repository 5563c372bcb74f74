from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from sidetune_core.errors import InputError
from sidetune_core.interfaces.cards import TaskCard
from sidetune_core.interfaces.handlers import Preprocessed
from sidetune_core.interfaces.inputs import Inputs, Shape
from sidetune_core.interfaces.outputs import Outputs
from sidetune_core.interfaces.predictions import MapPrediction, ValuesPrediction
from sidetune_core.serving.tensor_handler import TensorHandler


def handler(outputs: Outputs | None = None, **inputs: Shape) -> TensorHandler:
    outputs = outputs or Outputs.of_classes(2)
    return TensorHandler(TaskCard("t0", "title", "acme/env", inputs, outputs, "accuracy"))


IMAGES = handler(image=(3, 8, 8))
TWO = handler(state=(4,), goal=(2,))
EXAMPLES = Preprocessed(Inputs({}), 2)


@pytest.mark.parametrize(
    ("value", "several"),
    [
        (torch.zeros(3, 8, 8), False),
        (torch.zeros(5, 3, 8, 8), True),
        (np.zeros((5, 3, 8, 8)), True),
        ([torch.zeros(3, 8, 8)], True),
        ({"image": torch.zeros(3, 8, 8)}, False),
        ({"image": torch.zeros(5, 3, 8, 8)}, True),
    ],
)
def test_a_further_axis_or_a_list_is_several_examples(value: Any, several: bool) -> None:
    assert IMAGES.is_batch(value) is several


def test_bytes_become_floats_in_the_unit_interval() -> None:
    pixels = np.full((3, 8, 8), 51, np.uint8)
    assert torch.equal(IMAGES.preprocess([pixels]).inputs["image"], torch.full((1, 3, 8, 8), 51.0) / 255)


def test_numbers_of_any_type_become_float32() -> None:
    inputs = handler(state=(4,)).preprocess([np.arange(4, dtype=">i2"), torch.ones(4).double()]).inputs
    assert torch.equal(inputs["state"], torch.tensor([[0.0, 1, 2, 3], [1, 1, 1, 1]]))


def test_several_inputs_are_given_by_name() -> None:
    prepared = TWO.preprocess([{"state": np.ones(4), "goal": np.zeros(2)}])
    assert {name: tuple(value.shape) for name, value in prepared.inputs.items()} == {
        "state": (1, 4),
        "goal": (1, 2),
    }


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (torch.rand(3, 8, 8) * 255, "images are float in .0, 1.: divide by 255, or give uint8"),
        (torch.rand(3, 8, 8) - 1, "images are float in .0, 1."),
        (torch.full((3, 8, 8), torch.nan), "NaN or infinite"),
        (torch.zeros(3, 8, 8, dtype=torch.int64), "has type int64: give uint8 in 0..255, or float in"),
        (torch.rand(8, 8, 3), r"has shape \(8, 8, 3\), expected \(3, 8, 8\)"),
        ({"picture": torch.rand(3, 8, 8)}, r"has the inputs 'image' \(3, 8, 8\); got 'picture'"),
        ("photo", "is a str, expected an array or tensor"),
        (np.array(["a", "b"]), "is an array of <U1"),
        (torch.zeros(3, 8, 8, dtype=torch.complex64), "is a tensor of torch.complex64"),
        (None, "is a NoneType, expected an array or tensor"),
    ],
)
def test_a_wrong_input_is_refused_in_a_sentence(value: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        IMAGES.preprocess([value])


def test_several_inputs_without_names_are_refused() -> None:
    with pytest.raises(InputError, match=r"several inputs: give them by name: 'state' \(4,\), 'goal'"):
        TWO.preprocess([np.ones(4)])


def test_infinite_numbers_are_refused() -> None:
    with pytest.raises(InputError, match="NaN or infinite"):
        handler(state=(2,)).preprocess([np.array([0.0, np.inf])])


def test_a_regression_predicts_values_by_name() -> None:
    regression = handler(Outputs("regression", 2, ("x", "y")), state=(4,))
    assert regression.postprocess(torch.tensor([[1.0, 2], [3, 4]]), EXAMPLES) == [
        ValuesPrediction({"x": 1.0, "y": 2.0}),
        ValuesPrediction({"x": 3.0, "y": 4.0}),
    ]


def test_a_dense_regression_predicts_maps() -> None:
    dense = handler(Outputs("regression", 1, ("depth",)), image=(3, 8, 8))
    first, _ = dense.postprocess(torch.ones(2, 1, 8, 8), EXAMPLES)
    assert isinstance(first, MapPrediction)
    assert (first.values.shape, first.names) == ((1, 8, 8), ("depth",))


def test_the_transform_leaves_other_inputs_as_they_are() -> None:
    mixed = handler(state=(4,), image=(3, 8, 8)).transform()
    state, image = mixed(torch.ones(1, 4), torch.full((1, 3, 8, 8), 255, dtype=torch.uint8))
    assert torch.equal(state, torch.ones(1, 4))
    assert torch.equal(image, torch.ones(1, 3, 8, 8))
