"""The identity of a run as plain values."""

from __future__ import annotations

from pathlib import Path

import attrs
import pytest

from sidetune_core.config.identity import Identity, condition_changes, read_identity, spec_changes

IDENTITY = Identity(
    spec={"learner": {"name": "sidetune/ewc", "options": {"coef": 1.0}}, "train": {"lr": 0.001}},
    data="0a1b",
    tasks=[{"id": "t0", "title": "0-4", "metric": "accuracy"}],
    higher_is_better=True,
    plugins={"learner": {"name": "sidetune/ewc", "version": "0.1.0", "source": "ab"}},
    versions={"torch": "2.11.0"},
    threads=1,
    processes=1,
    machine="cpu, fp32, channels last",
)


def test_an_identity_is_read_back() -> None:
    assert read_identity(IDENTITY.to_json()) == IDENTITY


def test_a_checkpoint_of_an_earlier_version_has_no_identity() -> None:
    assert read_identity(None) is None


def test_values_of_another_form_are_refused() -> None:
    with pytest.raises(TypeError):
        read_identity({"spec": {}})


def test_values_that_json_does_not_have_become_text() -> None:
    identity = Identity(**{**IDENTITY.to_json(), "spec": {"path": Path("data")}})
    assert identity.to_json()["spec"] == {"path": "data"}


def test_changes_of_a_spec_are_named_as_options_are() -> None:
    other = {"learner": {"name": "sidetune/ewc", "options": {"coef": 2.0}}, "train": {"lr": 0.001}}
    assert spec_changes(IDENTITY.spec, other) == ["learner.coef 1.0 → 2.0"]


def test_device_and_cache_are_no_changes_of_a_spec() -> None:
    before, now = ({"device": {"name": name}, "cache": {"mode": name}} for name in ("a", "b"))
    assert spec_changes(before, now) == []


def test_control_characters_of_a_value_are_escaped() -> None:
    assert spec_changes({"env": "a"}, {"env": "\x1b[2J"}) == ["env 'a' → '\\x1b[2J'"]


def test_changed_conditions_are_named() -> None:
    other = attrs.evolve(IDENTITY, versions={"torch": "2.12.0"}, threads=2, machine="cuda")
    assert condition_changes(IDENTITY, other) == [
        "torch 2.11.0 → 2.12.0",
        "threads 1 → 2",
        "machine 'cpu, fp32, channels last' → 'cuda'",
    ]


def test_unknown_conditions_are_not_compared() -> None:
    unknown = attrs.evolve(IDENTITY, versions={}, threads=0, processes=0, machine="")
    assert condition_changes(unknown, IDENTITY) == []
