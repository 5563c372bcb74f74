"""Whatever the files of a run folder contain, `sidetune report` prints a report or a readable error."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidetune_core.errors import RunError
from sidetune_core.results.compare_methods import compare_methods
from sidetune_core.results.compare_runs import compare_runs
from sidetune_core.results.grouping import group_runs
from sidetune_core.results.matrix import matrix_table
from sidetune_core.results.metrics import FURTHER, MAIN
from sidetune_core.results.report import changed_lines, metrics_lines, run_report
from sidetune_core.results.summary import summarise
from sidetune_core.storage.run_folder import open_run

RESOLVED = {
    "base": {"name": "sidetune/resnet20", "options": {"weights": "none"}},
    "learner": {"name": "sidetune/ewc", "options": {"coef": 10.0}},
    "env": {"name": "sidetune/digits", "options": {}},
    "train": {"lr": 1e-3},
    "seed": 0,
}
GOOD: dict[str, Any] = {
    "run.json": {
        "asked": {"learner": {"name": "ewc"}},
        "resolved": RESOLVED,
        "composition": "digits · resnet20 · ewc · seed 0",
        "plugins": {"learner": {"distribution": "sidetune 0.1", "class": "a:B"}},
        "tasks": [{"id": "t0", "title": "0 to 1"}, {"id": "t1", "title": "2 to 3"}],
        "metric": "accuracy",
        "higher_is_better": True,
    },
    "eval.jsonl": [
        {
            "after": after,
            "task": task,
            "split": "test",
            "figures": {"accuracy": 0.5 + 0.1 * after, "loss": 0.3},
        }
        for after in (-1, 0, 1)
        for task in ("t0", "t1")
    ],
    "moved.jsonl": [{"task": "t0", "moved": ["base.w", "heads.t0.b"], "kept": ["x"]}],
    "parameters.jsonl": [{"task": "t0", "trainable": 5, "all": 10}],
    "seconds.jsonl": [{"seconds": 1.5}],
}


def write(folder: Path, files: dict[str, Any]) -> None:
    for name in GOOD:
        (folder / name).unlink(missing_ok=True)
    for name, value in files.items():
        lines = value if name.endswith(".jsonl") and isinstance(value, list) else [value]
        (folder / name).write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


def report(folder: Path) -> str:
    """Everything that is printed about a run."""
    summary = summarise(open_run(folder))
    methods = group_runs([summary, summary])
    texts = [
        matrix_table(summary.results),
        *metrics_lines(summary.results, MAIN + FURTHER),
        *changed_lines(summary),
        run_report(summary),
        compare_runs([summary, summary]),
        compare_runs([summary], "csv"),
        compare_methods(methods),
    ]
    return "\n".join(texts)


def test_a_good_folder_is_reported(tmp_path: Path) -> None:
    write(tmp_path, GOOD)
    assert "60.0" in report(tmp_path)


@given(data=st.data())
def test_spoilt_values(data: st.DataObject, tmp_path: Path, spoil_values: Any, answer: Any) -> None:
    name = data.draw(st.sampled_from(list(GOOD)))
    write(tmp_path, GOOD | {name: data.draw(spoil_values(GOOD[name]))})
    answer(lambda: report(tmp_path))


@given(data=st.data())
def test_spoilt_bytes(data: st.DataObject, tmp_path: Path, spoil_bytes: Any, answer: Any) -> None:
    write(tmp_path, GOOD)
    (tmp_path / "status").write_bytes(data.draw(st.sampled_from([b"done\n", b"\xff\xfe", b""])))
    path = tmp_path / data.draw(st.sampled_from(list(GOOD)))
    path.write_bytes(data.draw(spoil_bytes(path.read_bytes())))
    answer(lambda: report(tmp_path))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("eval.jsonl", [{"after": 10**12, "task": "t0", "split": "test", "figures": {"accuracy": 0.5}}]),
        ("eval.jsonl", [{"after": 0, "task": "t0", "split": "test", "figures": {"accuracy": "high"}}]),
        ("eval.jsonl", [{"after": 0, "task": "t0", "split": "test", "figures": {"accuracy": 10**400}}]),
        ("eval.jsonl", [5]),
        ("run.json", {**GOOD["run.json"], "metric": ["accuracy"]}),
        ("run.json", {**GOOD["run.json"], "tasks": "t0"}),
        ("run.json", {**GOOD["run.json"], "resolved": {}}),
        ("run.json", {**GOOD["run.json"], "resolved": {"learner": {"name": "ewc", "options": 5}}}),
    ],
)
def test_damage_is_a_run_error(name: str, value: Any, tmp_path: Path) -> None:
    write(tmp_path, GOOD | {name: value})
    with pytest.raises(RunError):
        report(tmp_path)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("moved.jsonl", [{"task": "t0", "moved": 5, "kept": []}]),
        ("parameters.jsonl", [{"task": "t0", "trainable": "many", "all": None}]),
        ("seconds.jsonl", [{"seconds": "long"}]),
        ("seconds.jsonl", [{"seconds": 10**400}]),
    ],
)
def test_damage_of_what_is_not_r_is_left_out(name: str, value: Any, tmp_path: Path) -> None:
    write(tmp_path, GOOD | {name: value})
    (line,) = summarise(open_run(tmp_path)).left_out
    assert line.startswith(f"{name} is damaged")
    assert "60.0" in report(tmp_path)


@pytest.mark.parametrize("name", GOOD)
def test_deeply_nested_files_are_handled(name: str, tmp_path: Path, answer: Any) -> None:
    write(tmp_path, GOOD)
    (tmp_path / name).write_text('{"tasks":' * 100_000, encoding="utf-8")
    answer(lambda: report(tmp_path))
