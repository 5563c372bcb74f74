"""Whatever a task card holds, its handler answers, and what it then predicts allocates no absurd size."""

from __future__ import annotations

import base64
import zlib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidetune_core.assembly.cards import make_handler
from sidetune_core.errors import SidetuneError
from sidetune_core.interfaces.cards import TaskCard
from sidetune_core.interfaces.handlers import TaskHandler

COMMON = {
    "format": 1,
    "id": "t0",
    "title": "title",
    "metric": "accuracy",
    "higher_is_better": True,
    "data": "",
}
IMAGE = {"image": [3, 32, 32]}
TEXT = {name: [32] for name in ("tokens", "mask", "types")}
TOKENIZER = {"name": "minilm", "vocabulary": "", "content": "", "special_tokens": {}}
GOOD: dict[str, dict[str, Any]] = {
    "images": {
        "env": "sidetune/images",
        "inputs": IMAGE,
        "outputs": {"kind": "logits", "size": 2, "names": ["cat", "dog"]},
        "head": "linear",
        "values": {"resize": "pillow"},
    },
    "rgbd": {
        "env": "sidetune/rgbd",
        "inputs": IMAGE,
        "outputs": {"kind": "regression", "size": 1, "names": []},
        "head": "handler",
        "values": {"resize": "area", "per_image": False, "width": 16, "metres": 5.0},
    },
    "squad": {
        "env": "sidetune/squad",
        "inputs": TEXT,
        "outputs": {"kind": "logits", "size": None, "names": []},
        "head": "handler",
        "values": {
            "doc_stride": 8,
            "max_answer_length": 5,
            "n_best": 3,
            "null_threshold": 0.0,
            "tokenizer": TOKENIZER,
        },
    },
}


def handler_of(values: Any) -> TaskHandler | None:
    """The handler of a card, as a run folder has it; None where it is refused."""
    try:
        return make_handler(TaskCard.from_json(values), Path("card.json"))
    except ValueError:  # what a reader of cards turns into an error that names the file
        return None


@pytest.mark.parametrize("env", GOOD)
def test_a_good_card_has_a_handler(env: str) -> None:
    assert handler_of({**COMMON, **GOOD[env]}) is not None


@pytest.mark.parametrize("env", GOOD)
@given(data=st.data())
def test_spoilt_cards(env: str, data: st.DataObject, spoil_values: Any, answer: Any) -> None:
    values = {**COMMON, **GOOD[env], "values": data.draw(spoil_values(GOOD[env]["values"]))}
    handler = answer(lambda: handler_of(values))
    if handler is not None:
        answer(lambda: handler.make_head((8, 2, 2) if env != "squad" else (32, 8)))


def test_a_card_names_no_code() -> None:
    with pytest.raises(SidetuneError, match="names code|import"):
        handler_of({**COMMON, **GOOD["images"], "env": "os:system"})


def test_images_of_an_absurd_size_are_refused() -> None:
    assert handler_of({**COMMON, **GOOD["images"], "inputs": {"image": [3, 10**6, 10**6]}}) is None


def test_a_tokenizer_that_unpacks_to_an_absurd_size_is_refused() -> None:
    packer = zlib.compressobj(9)
    content = b"".join([*(packer.compress(bytes(2**22)) for _ in range(32)), packer.flush()])
    saved = {**TOKENIZER, "name": "other", "content": base64.b64encode(content).decode()}
    card = {**COMMON, **GOOD["squad"], "values": {**GOOD["squad"]["values"], "tokenizer": saved}}
    handler = handler_of(card)
    assert handler is not None
    with pytest.raises(SidetuneError, match="unpacks to more than"):
        handler.preprocess([("question", "context")])
