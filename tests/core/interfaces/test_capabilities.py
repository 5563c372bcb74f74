"""Capabilities are recognised by their members."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from sidetune_core import api
from sidetune_core.interfaces.capabilities import set_task_state, task_state, task_states, vocabulary_size
from sidetune_core.testing import sample


def test_a_task_of_classes_has_documents_only() -> None:
    task, _ = sample.tasks()
    assert isinstance(task, api.HasDocuments)
    capabilities = (
        api.HasState,
        api.HasTrainingMetrics,
        api.HasVisualisations,
        api.LosesState,
        api.HasVersions,
        api.ResumesAtSomeSteps,
    )
    assert not [capability.__name__ for capability in capabilities if isinstance(task, capability)]


def test_the_state_of_tasks_is_that_of_those_that_have_one(monkeypatch: pytest.MonkeyPatch) -> None:
    plain, counting = sample.tasks()
    state = {"seen": 3}
    monkeypatch.setattr(counting, "state", lambda: dict(state), raising=False)

    def set_state(values: Mapping[str, Any]) -> None:
        state.update(values)

    monkeypatch.setattr(counting, "set_state", set_state, raising=False)
    assert task_states([plain, counting]) == {"t1": {"seen": 3}}
    set_task_state(counting, {"seen": 5})
    set_task_state(plain, {"seen": 5})
    assert (task_state(plain), task_state(counting)) == ({}, {"seen": 5})


def test_only_a_base_of_tokens_has_a_vocabulary() -> None:
    assert vocabulary_size(sample.TinyBase((8,))) is None
    assert vocabulary_size(sample.TinyReader()) == sample.TOKENS


def test_a_base_can_be_truncated_if_it_says_how() -> None:
    assert isinstance(sample.TinyReader(), api.Truncatable)
    assert not isinstance(sample.TinyBase((8,)), api.Truncatable)
