"""Spaces in plain values, and back."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from sidetune_plugins.envs.gymnasium.space_values import describe_space, make_space

SPACES = [
    spaces.Box(-1.0, 1.0, (2, 3)),
    spaces.Box(np.array([-np.inf, 0.0]), np.array([1.5, np.inf]), dtype=np.float64),
    spaces.Box(0, 255, (4, 4, 3), np.uint8),
    spaces.Discrete(3, start=-1),
    spaces.MultiDiscrete([2, 4]),
    spaces.MultiDiscrete([2, 4], start=[1, -2]),
    spaces.MultiBinary(4),
    spaces.MultiBinary((2, 2)),
]


@pytest.mark.parametrize("space", SPACES, ids=str)
def test_a_space_survives_json(space: spaces.Space[Any]) -> None:
    assert make_space(json.loads(json.dumps(describe_space(space, bounds=True), allow_nan=False))) == space


def test_text_has_no_description() -> None:
    assert describe_space(spaces.Text(5)) is None


@pytest.mark.parametrize(
    "values",
    [
        {"type": "graph"},
        {"type": "box", "shape": [2**40], "dtype": "uint8"},
        {"type": "box", "shape": [2], "dtype": "object"},
        {"type": "box", "shape": [2], "dtype": "float32", "low": ["a", "b"], "high": 1},
        {"type": "discrete", "n": 0, "start": 0},
        {"type": "multidiscrete", "nvec": [2**40], "start": [0], "dtype": "int64"},
        {"type": "multibinary", "shape": "wide"},
    ],
)
def test_what_is_no_description_is_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="space|float"):
        make_space(values)
