"""Ids of tasks from names of folders."""

from __future__ import annotations

import importlib

import pytest

from sidetune_core.config import kinds, registry

registry.load(registry.find(kinds.ENV, "images"))
task_ids = importlib.import_module("sidetune_plugins.envs.images.task_ids").task_ids


@pytest.mark.parametrize(
    ("name", "id"),
    [
        ("acme", "acme"),
        ("bolt & co", "bolt-co"),
        ("Čapek", "Capek"),
        ("v1.2_final", "v1-2-final"),
        ("--", "task"),
        ("日本", "task"),
        ("x" * 99, "x" * 48),
    ],
)
def test_an_id_has_letters_digits_and_hyphens(name: str, id: str) -> None:
    assert task_ids([name]) == [id]


def test_ids_are_unique_without_regard_to_case() -> None:
    assert task_ids(["Acme", "acme", "acme 2", "ACME"]) == ["Acme", "acme-2", "acme-2-2", "ACME-3"]
