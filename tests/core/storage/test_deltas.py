"""Tables that change from step to step."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest

from sidetune_core.storage.deltas import (
    Delta,
    History,
    apply,
    difference,
    order_to_json,
    read_delta,
    read_order,
)


def test_a_delta_leads_from_one_table_to_the_next() -> None:
    before, now = {"a": 1, "b": 2, "c": 3}, {"b": 2, "c": 4, "d": 5}
    delta = difference(before, now)
    assert delta == Delta({"c": 4, "d": 5}, ["a"])
    assert apply(before, delta) == now


@pytest.mark.parametrize(("first", "second"), [(1, True), (1, 1.0), (None, [])])
def test_values_that_json_writes_differently_differ(first: Any, second: Any) -> None:
    assert difference({"a": first}, {"a": second}).changed == {"a": second}


def test_a_delta_is_read_back_from_json() -> None:
    delta = Delta({"a": None}, ["b"])
    assert read_delta(json.loads(json.dumps(delta.to_json()))) == delta


@pytest.mark.parametrize("values", [{"changed": []}, {"changed": {}, "gone": "a"}, {"other": 1}, 3])
def test_values_of_another_form_are_no_delta(values: Any) -> None:
    with pytest.raises(TypeError):
        read_delta(values)


def test_a_history_has_the_table_at_every_step() -> None:
    tables: list[dict[str, Any]] = [{"a": 1}, {"a": 1, "b": None}, {"b": 2}, {"a": 3, "b": 2}]
    history: History[Any] = History()
    before: dict[str, Any] = {}
    for step, table in enumerate(tables):
        history.add(step, difference(before, table))
        before = table
    assert [history.at(step) for step in range(4)] == tables
    assert (history.find("a", 1), history.find("a", 2), history.find("b", 1)) == ((0, 1), None, (1, None))
    assert history.newest == tables[-1]


def test_an_order_is_read_back_whatever_is_inserted_removed_or_moved() -> None:
    draw = random.Random(0)
    names = [f"n{k}" for k in range(9)]
    for _ in range(300):
        before, now = (draw.sample(names, draw.randint(0, 9)) for _ in range(2))
        assert read_order(before, json.loads(json.dumps(order_to_json(before, now))), set(now)) == now


def test_an_order_that_only_grows_is_written_as_what_is_inserted() -> None:
    values = json.loads(json.dumps(order_to_json(["a", "c"], ["x", "a", "b", "c", "d", "e"])))
    assert values == {"inserted": [[None, ["x"]], ["a", ["b"]], ["c", ["d", "e"]]]}
