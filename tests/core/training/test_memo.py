"""Which tasks a row of R measures; that R is the same as when all are measured; and the sample that checks
it."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import sidetune_core
from sidetune_core.certificate.certificate_file import read_certificate
from sidetune_core.certificate.verdicts import OUTSIDE
from sidetune_core.certificate.verify import verify
from sidetune_core.results.summary import read_results
from sidetune_core.storage.evaluations import read_evaluations
from sidetune_core.storage.run_folder import RunFolder
from sidetune_core.system.threads import Threads
from sidetune_core.training import run as training_run
from sidetune_core.training import unchanged

TINY = Path(__file__).parent / "kills"
TASKS = 5
MakeRun = Callable[..., RunFolder]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Makes runs of five tasks of two classes, each once."""
    folder = tmp_path_factory.mktemp("made")
    write_archive(folder / "images.npz")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.syspath_prepend(str(TINY))
        patch.setattr(training_run, "git_state", lambda: None)

        def make(learner: str, evaluate: str = "changed") -> RunFolder:
            path = folder / f"{learner.replace(':', '-')}-{evaluate}"
            if not path.exists():
                sidetune_core.run(make_spec(learner, evaluate), path)
            return RunFolder(path)

        yield make


def write_archive(path: Path) -> None:
    random = np.random.default_rng(0)
    arrays: dict[str, Any] = {}
    for split, each in (("train", 6), ("test", 6)):
        labels = np.tile(np.arange(2 * TASKS), each)
        noise = random.integers(0, 60, (len(labels), 8, 8, 3))
        images = (noise + 15 * labels[:, None, None, None]).astype(np.uint8)
        images[8 * TASKS :, 0, 0] = 255  # all but the first eight of each task, for `routed`
        arrays[f"x_{split}"] = images
        arrays[f"y_{split}"] = labels
    np.savez(path, **arrays)


def make_spec(learner: str, evaluate: str = "changed") -> sidetune_core.RunSpec:
    parts: dict[str, Any] = {"side": None}
    if learner in ("sidetune", "independent"):
        parts["side"] = "tiny:TinySide"
    if learner == "sidetune":
        parts["merger"] = "alpha"
    return sidetune_core.RunSpec(
        base="routed:RoutedBase" if learner == "routed:TrainsBase" else "tiny:TinyBase",
        learner={"name": learner, "examples": 6} if learner == "ewc" else learner,
        env={"name": "images", "archive": "images.npz", "classes_per_task": 2, "image_size": 8},
        train={"steps": 2, "batch_size": 5, "evaluate": evaluate},
        device={"name": "cpu", "precision": "fp32"},
        **parts,
    )


def measured(folder: RunFolder) -> list[list[str]]:
    """The tasks that were evaluated after each task, of those trained by then."""
    ids = [task["id"] for task in folder.read_json("run.json")["tasks"]]
    rows: list[list[str]] = [[] for _ in ids]
    for line in read_evaluations(folder).lines:
        if line["split"] == "test" and line["task"] in ids[: line["after"] + 1]:
            rows[line["after"]].append(line["task"])
    return rows


def everything(last: int = TASKS) -> list[list[str]]:
    return [[f"t{k}" for k in range(row + 1)] for row in range(last)]


def comparable(folder: RunFolder) -> str:
    """The report, without its name, what it costs, and how many values were measured."""
    report = (folder.path / "report.md").read_text(encoding="utf-8")
    report = re.sub(r"\d+ of \d+ values of earlier tasks in R are .* measured\.\n\n", "", report)
    return report[report.index("## Results") : report.index("## Cost")]


def cells(folder: RunFolder) -> Any:
    """All values of R on the test split."""
    ids = [task["id"] for task in folder.read_json("run.json")["tasks"]]
    return read_evaluations(folder).rows(ids, "test", lambda line: line["figures"])


@pytest.mark.parametrize("learner", ["sidetune", "features", "independent"])
def test_where_nothing_old_changes_the_new_task_and_a_sample_are_evaluated(
    learner: str, made: MakeRun
) -> None:
    rows = measured(made(learner))
    assert [len(row) for row in rows] == [1, 2, 2, 2, 2]
    assert [row[-1] for row in rows] == ["t0", "t1", "t2", "t3", "t4"]


@pytest.mark.parametrize("learner", ["finetune", "ewc", "lwf"])
def test_tasks_that_read_what_was_trained_are_all_evaluated(learner: str, made: MakeRun) -> None:
    assert measured(made(learner)) == everything()


@pytest.mark.parametrize("learner", ["Drifts", "Samples", "Compares", "Counts"])
def test_a_learner_whose_outputs_are_not_reproducible_is_evaluated_on_all_tasks(
    learner: str, made: MakeRun
) -> None:
    assert measured(made(f"unstable:{learner}")) == everything()


@pytest.mark.parametrize(
    "learner",
    [
        *("sidetune", "features", "independent", "lwf", "ewc"),
        *("unstable:Drifts", "unstable:Compares", "unstable:Counts"),
        *("routed:TrainsLearner", "routed:TrainsBase"),
    ],
)
def test_results_are_those_of_a_run_that_evaluates_every_task(learner: str, made: MakeRun) -> None:
    changed, all_tasks = made(learner), made(learner, "all")
    assert measured(all_tasks) == everything()
    assert cells(changed) == cells(all_tasks)
    assert read_results(changed) == read_results(all_tasks)
    assert comparable(changed) == comparable(all_tasks)
    records = [read_certificate(folder) for folder in (changed, all_tasks)]
    assert records[0] is not None
    assert records[1] is not None
    assert records[0].tasks == records[1].tasks


def test_the_report_says_how_many_values_were_not_measured(made: MakeRun) -> None:
    report = (made("sidetune").path / "report.md").read_text(encoding="utf-8")
    assert "\n6 of 10 values of earlier tasks in R are those of the row before, because nothing" in report


def test_a_run_with_values_of_the_row_before_is_verified(made: MakeRun) -> None:
    folder = made("sidetune")
    assert verify(folder, trust_local_code=True).problems == ()
    certificate = read_certificate(folder)
    assert certificate is not None
    assert "in each such row one of these tasks was evaluated all the same" in certificate.statement.lower()


def test_a_sample_with_other_values_is_reported_and_all_tasks_are_evaluated_from_then_on(
    made: MakeRun,
) -> None:
    folder = made("unstable:Hides")
    rows = measured(folder)
    assert [len(row) for row in rows[:3]] == [1, 2, 2]
    assert rows[3:] == everything()[3:]
    log = (folder.path / "log.txt").read_text(encoding="utf-8")
    assert re.search(r"warning: task t\d was evaluated once more after task 4, and has loss .* in place", log)
    assert "Hides or the task keeps state outside of parameters and buffers" in log
    certificate = read_certificate(folder)
    assert certificate is not None
    assert OUTSIDE in {record.probes.cause for record in certificate.tasks}
    assert verify(folder, trust_local_code=True).problems == ()


@pytest.mark.parametrize("learner", ["routed:TrainsLearner", "routed:TrainsBase"])
def test_a_tensor_that_only_other_inputs_than_the_probes_read_counts_as_read(
    learner: str, made: MakeRun
) -> None:
    folder = made(learner)
    rows = measured(folder)
    assert [len(row) for row in rows] == [1, 2, 3, 4, 4]
    assert {"t0", "t1"} <= set(rows[4])  # what changed decides on what else they read
    certificate = read_certificate(folder)
    assert certificate is not None
    first = certificate.tasks[0]
    expert = ["experts.1.bias", "experts.1.weight"]
    assert sorted(first.read_in_evaluation) == (expert if learner == "routed:TrainsLearner" else [])
    assert not first.read_in_evaluation.keys() & first.tensors.keys()
    assert verify(folder, trust_local_code=True).problems == ()


def test_only_records_with_such_a_tensor_name_it(made: MakeRun) -> None:
    for name in ("certificate.json", "certificate.jsonl"):
        text = (made("sidetune").path / name).read_text(encoding="utf-8")
        assert '"read_in_evaluation":' not in text


def interrupted(path: Path, monkeypatch: pytest.MonkeyPatch, after: int) -> None:
    """A run that was interrupted after a number of tasks."""
    from sidetune_core.training import loop

    train_stage = loop.train_stage

    def stop(learner: Any, stage: Any, seen: Sequence[Any], *arguments: Any) -> Any:
        if len(seen) > after:
            raise KeyboardInterrupt
        return train_stage(learner, stage, seen, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "train_stage", stop)
        with pytest.raises(KeyboardInterrupt):
            sidetune_core.run(make_spec("sidetune"), path)


def test_a_resumed_run_evaluates_the_tasks_of_one_that_was_not_interrupted(
    made: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = made("sidetune").path
    interrupted(tmp_path / "cut", monkeypatch, 3)
    sidetune_core.resume(tmp_path / "cut", trust_local_code=True)
    assert (tmp_path / "cut" / "eval.jsonl").read_bytes() == (whole / "eval.jsonl").read_bytes()


def test_under_other_conditions_all_tasks_are_evaluated_once_and_then_carried_over(
    made: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupted(tmp_path / "cut", monkeypatch, 2)
    monkeypatch.setattr(unchanged, "processor", lambda: "another one")
    sidetune_core.resume(tmp_path / "cut", trust_local_code=True)
    assert [len(row) for row in measured(RunFolder(tmp_path / "cut"))] == [1, 2, 3, 2, 2]


def test_after_a_change_of_threads_all_tasks_are_evaluated_once_and_then_carried_over(
    made: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def look(threads: Threads, task: str, step: int) -> bool:
        if (task, step) != ("t2", 1):
            return False
        threads._set(threads.number % 2 + 1)
        return True

    monkeypatch.setattr(Threads, "look", look)
    sidetune_core.run(make_spec("sidetune"), tmp_path / "run")
    folder = RunFolder(tmp_path / "run")
    assert [len(row) for row in measured(folder)] == [1, 2, 3, 2, 2]
    assert verify(folder, trust_local_code=True).problems == ()


def test_values_that_are_said_to_be_unchanged_although_training_changed_them_are_named(
    made: MakeRun, tmp_path: Path
) -> None:
    folder = RunFolder(Path(shutil.copytree(made("routed:TrainsLearner").path, tmp_path / "run")))
    path = folder.path / "eval.jsonl"
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    kept = [line for line in lines if (line.get("after"), line.get("task")) != (2, "t0")]
    position = 1 + max(index for index, line in enumerate(kept) if line["after"] == 2)
    kept.insert(position, {"after": 2, "unchanged": True})
    path.write_text("".join(f"{json.dumps(line)}\n" for line in kept), encoding="utf-8")
    problems = verify(folder, trust_local_code=True).problems
    named = [problem for problem in problems if "row 2 of R were carried over from row 1" in problem]
    assert any("t0" in problem and "experts.1" in problem for problem in named), problems


def test_a_value_that_no_row_has_is_missing(made: MakeRun, tmp_path: Path) -> None:
    folder = RunFolder(Path(shutil.copytree(made("features").path, tmp_path / "run")))
    path = folder.path / "eval.jsonl"
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    kept = [line for line in lines if line != {"after": 2, "unchanged": True}]
    path.write_text("".join(f"{json.dumps(line)}\n" for line in kept), encoding="utf-8")
    problems = verify(folder, trust_local_code=True).problems
    assert any("eval.jsonl is not what it was" in problem for problem in problems)
    assert any("measured is" in problem for problem in problems)
