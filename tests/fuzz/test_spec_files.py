"""Whatever a spec file holds, `read_spec` and `resolve` answer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidetune_core.config.resolve import resolve
from sidetune_core.config.spec_file import read_spec
from sidetune_core.errors import OptionError

GOOD = {
    "base": {"name": "resnet20", "options": {"weights": "none"}},
    "side": None,
    "merger": {"name": "alpha", "options": {}},
    "learner": {"name": "ewc", "coef": 10.0},
    "env": {"name": "icifar", "options": {"archive": "x.npz", "tasks": 3}},
    "train": {"lr": 1e-3, "steps": 10, "epochs": None},
    "cache": {"dir": "x"},
    "device": {"name": "cpu", "channels-last": None},
    "seed": 1,
}
TOML = """
seed = 1
learner = "ewc"
[env]
name = "icifar"
tasks = 3
[train]
lr = 1e-3
when = 2020-01-01
"""


@given(data=st.data())
def test_a_spoilt_json_spec(data: st.DataObject, tmp_path: Path, spoil_values: Any, answer: Any) -> None:
    path = tmp_path / "spec.json"
    values = data.draw(spoil_values(data.draw(st.sampled_from([GOOD, {"resolved": GOOD}]))))
    path.write_text(json.dumps(values), encoding="utf-8")
    spec = answer(lambda: read_spec(path))
    if spec is not None and "os:path" not in json.dumps(values):
        answer(lambda: resolve(spec))


@given(data=st.data())
def test_anything_that_json_can_hold(data: st.DataObject, tmp_path: Path, plain: Any, answer: Any) -> None:
    path = tmp_path / "spec.json"
    slots = st.fixed_dictionaries({}, optional=dict.fromkeys(GOOD, plain))
    path.write_text(json.dumps(data.draw(slots | plain)), encoding="utf-8")
    answer(lambda: read_spec(path))


@pytest.mark.parametrize(("name", "good"), [("spec.json", json.dumps(GOOD)), ("spec.toml", TOML)])
def test_spoilt_text(name: str, good: str, tmp_path: Path, spoil_bytes: Any, answer: Any) -> None:
    path = tmp_path / name

    @given(raw=spoil_bytes(good.encode()) | st.binary(max_size=60))
    def check(raw: bytes) -> None:
        path.write_bytes(raw)
        answer(lambda: read_spec(path))

    check()


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("deep.json", "[" * 100_000),
        ("deep.toml", "a = " + "[" * 100_000),
        ("digits.json", '{"seed": ' + "9" * 100_000 + "}"),
        ("digits.toml", "seed = " + "9" * 100_000),
        ("options.json", '{"learner": {"name": "ewc", "options": 5}}'),
        ("options.toml", 'learner = {name = "ewc", options = ["coef"]}'),
    ],
)
def test_cases_that_are_told(name: str, text: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(OptionError):
        read_spec(tmp_path / name)
