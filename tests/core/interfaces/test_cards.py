from __future__ import annotations

from typing import Any

import pytest

from sidetune_core.interfaces.cards import TaskCard
from sidetune_core.interfaces.outputs import Outputs

CARD = TaskCard(
    "t0",
    "cat, dog",
    "sidetune/images",
    {"image": (3, 32, 32)},
    Outputs.of_classes(("cat", "dog")),
    "accuracy",
    head="linear",
    splits={"train": 12, "test": None},
    values={"image_size": 32},
)


def test_a_card_is_read_back_as_it_was() -> None:
    assert TaskCard.from_json(CARD.to_json()) == CARD


@pytest.mark.parametrize(
    "changes",
    [
        {"format": 99},
        {"id": 3},
        {"inputs": {}},
        {"inputs": {"image": "3"}},
        {"inputs": {"image": [3, 2**30, 2**30]}},
        {"outputs": {"kind": "logits", "size": 2**40, "names": []}},
        {"outputs": {"kind": "logits", "size": 3, "names": ["cat", "dog"]}},
        {"outputs": {"kind": "code", "size": 2, "names": []}},
        {"head": "os.system"},
        {"splits": {"train": -1}},
        {"values": []},
    ],
)
def test_a_damaged_card_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="it|its|input|outputs|head|task"):
        TaskCard.from_json(CARD.to_json() | changes)
