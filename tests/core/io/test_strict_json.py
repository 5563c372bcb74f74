"""JSON without NaN and infinity."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import pytest

from sidetune_core.io import strict_json

ROOT = Path(__file__).parents[3] / "sidetune_core"

INTERNAL = {
    "certificate/accounts.py",
    "config/history.py",
    "config/identity.py",
    "config/nested_env.py",
    "config/options.py",
    "config/resolve.py",
    "demonstrations/imported.py",
    "demonstrations/record.py",
    "distributed/process_group.py",
    "hashing.py",
    "results/grouping.py",
    "serving/adapter_folder.py",
    "serving/base_weights.py",
    "serving/model.py",
    "serving/model_card.py",
    "serving/network.py",
    "storage/ahead.py",
    "storage/chain.py",
    "storage/chain_file.py",
    "storage/deltas.py",
    "storage/weights.py",
    "io/strict_json.py",
    "sweeps/best_spec.py",
    "sweeps/grid.py",
    "sweeps/runner.py",
}
"""Modules that use `json.dumps` for hashes, keys, copies, messages between processes, and quoted text in
other formats."""


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_number_that_is_not_finite_is_null(value: float) -> None:
    values = {"a": [1.5, value, (value,)], "b": {"c": value}}
    assert json.loads(strict_json.dumps(values)) == {"a": [1.5, None, [None]], "b": {"c": None}}


def test_finite_values_are_written_as_python_writes_them() -> None:
    values = {"a": [1, 0.1, "NaN", None, True], "b": Path("x")}
    assert strict_json.dumps(values, 2, str) == json.dumps(values, indent=2, default=str)


def test_constants_of_earlier_versions_are_gaps() -> None:
    assert strict_json.loads('[NaN, Infinity, -Infinity, 1.5, "NaN"]') == [None, None, None, 1.5, "NaN"]


def test_files_are_written_by_this_module_only() -> None:
    modules = {
        path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in ROOT.rglob("*.py")
    }
    writing = {name for name, text in modules.items() if re.search(r"\bjson(_format)?\.dumps?\(", text)}
    assert {name for name in writing if not name.startswith("testing/")} <= INTERNAL
