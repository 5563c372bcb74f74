"""Records of data, and how two of them differ."""

from __future__ import annotations

from collections.abc import Mapping

import attrs
import pytest

from sidetune_core.config import data_record
from sidetune_core.config.data_record import (
    DataRecord,
    RecordedPart,
    data_change,
    make_record,
    part_changes,
    read_records,
    shorten_changes,
    summarised,
)

PARTS = {
    "acme/train/cat": RecordedPart(12, "a"),
    "acme/train/dog": RecordedPart(3, "b"),
    "acme/test/cat": RecordedPart(2, "c"),
    "bravo/train/cat": RecordedPart(5, "d"),
    "bravo/train/emu": RecordedPart(4, "e"),
}


def record(parts: Mapping[str, RecordedPart] = PARTS) -> DataRecord:
    return make_record(0, "env 'images'", "print", "", parts)


def changes(parts: Mapping[str, RecordedPart]) -> list[str]:
    return list(part_changes(record(), record(parts)))


def test_a_record_is_read_back() -> None:
    assert read_records({"records": [record().to_json()]}) == [record()]


@pytest.mark.parametrize("damaged", [None, 3, {"parts": {}}, {**record().to_json(), "parts": {"a": 1}}])
def test_a_damaged_record_is_left_out(damaged: object) -> None:
    assert read_records({"records": [damaged, record().to_json()]}) == [record()]
    assert read_records({"records": damaged}) == []


def test_numbers_and_contents_that_changed_are_named() -> None:
    parts = {**PARTS, "acme/train/cat": RecordedPart(13, "x"), "acme/test/cat": RecordedPart(2, "x")}
    assert changes(parts) == ["acme/train/cat 12 → 13 examples", "acme/test/cat: other content"]


def test_a_class_that_came_or_went_is_named() -> None:
    parts = {**PARTS, "acme/train/emu": RecordedPart(1, "x")}
    del parts["acme/train/dog"]
    assert changes(parts) == ["acme/train/dog (3 examples) is gone", "acme/train/emu (1 example) is new"]


def test_a_task_or_a_split_that_came_or_went_is_one_change() -> None:
    parts = {name: part for name, part in PARTS.items() if not name.startswith("bravo/")}
    parts |= {f"acme/val/{name}": RecordedPart(2, "x") for name in ("cat", "dog")}
    assert changes(parts) == ["bravo (9 examples) is gone", "acme/val (4 examples) is new"]


def test_equal_parts_of_other_data_are_said_to_be_equal() -> None:
    now = attrs.evolve(record(), fingerprint="other")
    assert str(data_change("env 'images'", record(), now)) == (
        "the data of env 'images': the same parts, in another order or otherwise processed"
    )


def test_without_parts_only_the_env_is_named() -> None:
    for pair in ((None, record()), (record(), None), (record({}), record())):
        assert str(data_change("env 'images'", *pair)) == "the data of env 'images'"


def test_a_message_names_the_first_changes_and_counts_the_others() -> None:
    assert shorten_changes(["a", "b"]) == "a, b"
    assert shorten_changes(list("abcdef")) == "a, b, c, d, e, and 1 more part"
    assert shorten_changes(list("abcdefgh")).endswith(", and 3 more parts")


def test_many_parts_are_recorded_by_split_or_by_task(monkeypatch: pytest.MonkeyPatch) -> None:
    for limit, depth in ((5, 0), (4, 2), (3, 2), (2, 1)):
        monkeypatch.setattr(data_record, "MAX_PARTS", limit)
        made = record()
        assert made.depth == depth
        assert made.parts == summarised(PARTS, depth)
        assert len(made.parts) <= limit
        assert sum(part.count for part in made.parts.values()) == 26
    monkeypatch.setattr(data_record, "MAX_PARTS", 1)
    assert record().parts == {}


def test_records_of_different_depth_are_compared_at_the_coarser_one(monkeypatch: pytest.MonkeyPatch) -> None:
    full = record()
    monkeypatch.setattr(data_record, "MAX_PARTS", 3)
    short = record()
    assert list(part_changes(full, short)) == list(part_changes(short, full)) == []
    changed = record({**PARTS, "bravo/train/cat": RecordedPart(5, "x")})
    assert list(part_changes(full, changed)) == ["bravo/train: other content"]
    monkeypatch.setattr(data_record, "MAX_PARTS", 2)
    assert list(part_changes(record(), full)) == []


def test_the_order_of_parts_does_not_matter() -> None:
    backwards = dict(reversed(PARTS.items()))
    assert changes(backwards) == []
    assert summarised(backwards, 1) == summarised(PARTS, 1)
