from __future__ import annotations

import pytest
import torch

from sidetune_core.errors import InputError
from sidetune_core.interfaces.cards import TaskCard
from sidetune_core.interfaces.outputs import Outputs
from sidetune_core.serving.inputs import as_inputs

CARD = TaskCard("t0", "title", "sidetune/digits", {"image": (3, 4, 4)}, Outputs.of_classes(2), "accuracy")


def test_floats_have_the_precision_of_networks() -> None:
    assert as_inputs(CARD, torch.zeros(2, 3, 4, 4, dtype=torch.float64))["image"].dtype == torch.float32


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (torch.zeros(2, 3, 4, 4, dtype=torch.uint8), "divide by 255"),
        (torch.full((2, 3, 4, 4), torch.nan), "NaN or infinite"),
        (torch.zeros(3, 4, 4), r"expected \(B, 3, 4, 4\)"),
        (torch.zeros(0, 3, 4, 4), "0 examples"),
    ],
    ids=["bytes", "nan", "no batch", "empty"],
)
def test_tensors_that_are_no_inputs_are_refused(value: torch.Tensor, words: str) -> None:
    with pytest.raises(InputError, match=words):
        as_inputs(CARD, value)
