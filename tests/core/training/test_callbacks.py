"""Callbacks get records of what happens, and change nothing."""

from __future__ import annotations

import random
import re
import sys
import types
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sidetune_core import Callback, RowRecord, RunSpec, StepRecord, resume, run

SPEC = RunSpec(
    base={"name": "resnet20", "weights": "none"},
    learner="finetune",
    env={"name": "digits", "num_tasks": 2},
    train={"steps": 2, "batch_size": 8},
    device={"name": "cpu", "threads": 1, "precision": "fp32"},
)
PAGE = Path(__file__).parents[3] / "docs" / "interpreting-results.md"


class Noting(Callback):
    """Keeps the records, and draws random numbers."""

    def __init__(self) -> None:
        self.records: list[StepRecord | RowRecord] = []
        self.last_rows: list[Sequence[float | None]] = []

    def on_step(self, record: StepRecord) -> None:
        self.records.append(record)
        torch.rand(3), np.random.rand(), random.random()

    def on_row(self, record: RowRecord) -> None:
        self.records.append(record)
        self.last_rows.append(record.results.rows[-1])
        torch.manual_seed(7)


class Failing(Callback):
    calls = 0

    def on_step(self, record: StepRecord) -> None:
        self.calls += 1
        raise ConnectionError("no network")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Noting, Failing]:
    """A run without callbacks, the same with two, and these."""
    folder = tmp_path_factory.mktemp("runs")
    noting, failing = Noting(), Failing()
    run(SPEC, folder / "without")
    run(SPEC, folder / "with", callbacks=[failing, noting])
    return folder / "without", folder / "with", noting, failing


def test_a_run_with_callbacks_has_the_same_bytes(runs: tuple[Path, Path, Noting, Failing]) -> None:
    without, with_callbacks, *_ = runs
    names = [path.relative_to(without) for path in without.rglob("*") if path.is_file()]
    compared = [name for name in names if name.suffix in (".jsonl", ".safetensors")]
    compared = [name for name in compared if name.name != "seconds.jsonl"]
    assert len(compared) > 6
    for name in compared:
        assert (without / name).read_bytes() == (with_callbacks / name).read_bytes(), name


def test_records_have_task_step_loss_rate_and_rows_have_r(runs: tuple[Path, Path, Noting, Failing]) -> None:
    _, folder, noting, _ = runs
    steps = [record for record in noting.records if isinstance(record, StepRecord)]
    rows = [record for record in noting.records if isinstance(record, RowRecord)]
    assert [(record.task, record.step) for record in steps] == [("t0", 2), ("t1", 2)]
    assert all(record.run == folder and record.lr == 1e-3 for record in steps)
    assert all(record.loss == record.metrics["mean_loss"] for record in steps)
    assert [(record.task, record.row) for record in rows] == [("t0", 0), ("t1", 1)]
    assert [row[: index + 1] for index, row in enumerate(noting.last_rows)] == [*rows[0].results.trained]


def test_a_callback_that_fails_is_reported_and_not_called_again(
    runs: tuple[Path, Path, Noting, Failing],
) -> None:
    _, folder, _, failing = runs
    assert failing.calls == 1
    assert (
        "callback Failing failed and is not called again: ConnectionError" in (folder / "log.txt").read_text()
    )


def test_a_finished_run_calls_nothing_when_it_is_resumed(runs: tuple[Path, Path, Noting, Failing]) -> None:
    noting = Noting()
    resume(runs[0], callbacks=[noting])
    assert noting.records == []


@pytest.mark.parametrize(("module", "name"), [("wandb", "WandB"), ("mlflow", "MLflow")])
def test_the_examples_of_the_documentation_log_what_their_libraries_take(
    module: str, name: str, runs: tuple[Path, Path, Noting, Failing], monkeypatch: pytest.MonkeyPatch
) -> None:
    logged: list[Any] = []
    stub = types.ModuleType(module)
    stub.log = lambda values: logged.append(values)  # type: ignore[attr-defined]
    stub.log_metric = lambda key, value, step: logged.append({key: value})  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module, stub)
    match = re.search(rf'```python title="{module}_callback.py"\n(.*?)```', PAGE.read_text(), re.DOTALL)
    assert match is not None
    namespace: dict[str, Any] = {}
    exec(match[1], namespace)
    callback = namespace[name]()
    for record in runs[2].records:
        (callback.on_step if isinstance(record, StepRecord) else callback.on_row)(record)
    keys = {key for values in logged for key in values}
    assert {"R/t0", "R/t1"} <= keys
    assert keys & {"t0/mean_loss", "loss/t0"}
