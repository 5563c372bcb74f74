"""The identity of a run as plain values."""

from __future__ import annotations

from pathlib import Path

import pytest

from sidetune_core.config.identity import Identity, read_identity

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
