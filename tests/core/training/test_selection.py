"""Runs that select options: R on split 'val' of the first tasks, and no other split is evaluated."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from sidetune_core.certificate.verify import verify
from sidetune_core.cli.main import main, main_run
from sidetune_core.config.selection import Selection, read_selection
from sidetune_core.config.spec import RunSpec
from sidetune_core.errors import OptionError, RunError
from sidetune_core.interfaces.tasks import Predict
from sidetune_core.results.grouping import group_runs
from sidetune_core.results.summary import summarise
from sidetune_core.storage.run_folder import RunFolder
from sidetune_core.supervised.task import SupervisedTask
from sidetune_core.training.resume import resume
from sidetune_core.training.run import run

MakeSpec = Callable[..., RunSpec]


@pytest.fixture
def make_spec(image_archive: Path) -> MakeSpec:
    def make(**env: object) -> RunSpec:
        options = {"name": "images", "archive": str(image_archive), "classes_per_task": 2, **env}
        base = {"name": "conv"}
        return RunSpec(base=base, learner="finetune", env=options, train={"steps": 2, "batch_size": 8})

    return make


@pytest.fixture
def splits(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """The task and the split of every evaluation."""
    asked: list[tuple[str, str]] = []
    evaluate = SupervisedTask.evaluate

    def watched(task: SupervisedTask, predict: Predict, split: str = "test") -> dict[str, float]:
        asked.append((task.id, split))
        return evaluate(task, predict, split)

    monkeypatch.setattr(SupervisedTask, "evaluate", watched)
    return asked


def test_the_test_split_is_not_evaluated_even_after_a_resumption(
    make_spec: MakeSpec, tmp_path: Path, splits: list[tuple[str, str]]
) -> None:
    folder = tmp_path / "run"
    finished = run(make_spec(val_fraction=0.5), folder, measure="val", first_tasks=1)
    (folder / "status").write_text("interrupted\n")
    for name in ("after-001.safetensors", "after-001.json"):
        (folder / "checkpoints" / name).unlink(missing_ok=True)
    resumed = resume(folder)
    assert {split for _, split in splits} == {"val"}
    assert finished.results == resumed.results
    assert (resumed.results.tasks, len(resumed.results.rows)) == (("t0",), 1)
    lines = RunFolder(folder).lines("eval.jsonl")
    assert {line["split"] for line in lines if "split" in line} == {"val"}
    assert not (folder / "images").exists()
    assert not verify(RunFolder(folder)).problems


def test_r_is_what_a_run_that_evaluates_all_splits_measures_on_val(
    make_spec: MakeSpec, tmp_path: Path
) -> None:
    spec = make_spec(val_fraction=0.5)
    selecting = run(spec, tmp_path / "val", measure="val")
    whole = run(spec, tmp_path / "test")
    both = [line for line in whole.folder.lines("eval.jsonl") if line.get("split") == "val"]
    assert [line for line in selecting.folder.lines("eval.jsonl") if "split" in line] == both
    assert read_selection(whole.folder.read_json("run.json")) == Selection()
    assert not {"measure", "first_tasks"} & whole.folder.read_json("run.json").keys()
    summaries = [summarise(one.folder) for one in (selecting, whole)]
    assert [method.name for method in group_runs(summaries)] == [
        "finetune · selection R on split val",
        "finetune",
    ]


@pytest.mark.parametrize(
    ("env", "selection", "message"),
    [
        ({}, {"measure": "val"}, "hold out a part of the training examples with --env.val-fraction 0.1"),
        ({}, {"first_tasks": 3}, "pass at most --first-tasks 2"),
        ({}, {"first_tasks": 0}, "--first-tasks must be at least 1, not 0"),
        ({}, {"measure": "train"}, "--measure takes test or val, not 'train'"),
    ],
)
def test_what_cannot_be_selected_is_refused(
    make_spec: MakeSpec, tmp_path: Path, env: dict[str, float], selection: dict[str, object], message: str
) -> None:
    with pytest.raises(OptionError, match=message):
        run(make_spec(**env), tmp_path / "run", **selection)  # type: ignore[arg-type]
    assert not (tmp_path / "run").exists()


def test_such_a_run_takes_no_further_tasks(
    image_archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = str(tmp_path / "run")
    env = ["--env", "images", "--env.archive", str(image_archive), "--env.classes-per-task", "2"]
    words = [*env, "--base", "conv", "--learner", "features", "--train.steps", "1", "--out", folder]
    assert main_run([*words, "--first-tasks", "1", "--quiet"]) == 0
    assert main_run(["--extend", folder, *env]) == 2
    assert "takes no further tasks" in capsys.readouterr().err
    assert main(["report", folder]) == 0
    assert "R on split test of the first 1 task, to select options" in capsys.readouterr().out
    assert json.loads((tmp_path / "run" / "run.json").read_text())["first_tasks"] == 1


def test_a_damaged_selection_is_reported() -> None:
    with pytest.raises(RunError, match="its first_tasks is 'two'"):
        read_selection({"first_tasks": "two"})
