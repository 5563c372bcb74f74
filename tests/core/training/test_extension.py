"""Tasks are added to a finished run: results, certificate, ids, data that is gone, and refusals."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import Tensor

import sidetune_core
from sidetune_core import hashing
from sidetune_core.certificate import verify as certificates
from sidetune_core.cli.main import main, main_run
from sidetune_core.errors import Diverged, FitError, OptionError, RunError, WriteError
from sidetune_core.results.grouping import group_runs
from sidetune_core.results.report import changed_lines
from sidetune_core.results.summary import summarise
from sidetune_core.storage import checkpoint
from sidetune_core.storage.evaluations import read_evaluations
from sidetune_core.storage.lock import locked
from sidetune_core.storage.run_folder import RunFolder
from sidetune_core.training import run as training_run
from sidetune_core.training import unchanged

TINY = Path(__file__).parent / "kills"
Capture = pytest.CaptureFixture[str]
MakeRun = Callable[..., Path]


def write_archive(path: Path, seed: int = 0, size: int = 8) -> Path:
    """Six classes of images, 10 to train on and 4 to test on of each."""
    random = np.random.default_rng(seed)
    arrays: dict[str, Any] = {}
    for split, each in (("train", 10), ("test", 4)):
        labels = np.tile(np.arange(6), each)
        noise = random.integers(0, 60, (len(labels), size, size, 3))
        arrays[f"x_{split}"] = (noise + 30 * labels[:, None, None, None]).astype(np.uint8)
        arrays[f"y_{split}"] = labels
    np.savez(path, **arrays)
    return path


def env(archive: str = "images.npz", tasks: int | None = None, size: int = 8) -> dict[str, Any]:
    return {
        "name": "images",
        "archive": archive,
        "classes_per_task": 2,
        "image_size": size,
        "num_tasks": tasks,
    }


def make_spec(learner: str = "sidetune", tasks: int | None = 2, seed: int = 0) -> sidetune_core.RunSpec:
    parts: dict[str, Any] = (
        {"side": "tiny:TinySide", "merger": "alpha"} if learner == "sidetune" else {"side": None}
    )
    return sidetune_core.RunSpec(
        base="tiny:TinyBase",
        learner=learner,
        env=env(tasks=tasks),
        train={"steps": 3, "batch_size": 5},
        device={"name": "cpu", "precision": "fp32"},
        seed=seed,
        **parts,
    )


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MakeRun]:
    """Makes each run once, in a folder of its own next to its data."""
    folder = tmp_path_factory.mktemp("made")
    write_archive(folder / "images.npz")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.syspath_prepend(str(TINY))
        patch.setattr(training_run, "git_state", lambda: None)

        def make(learner: str = "sidetune", tasks: int | None = 2) -> Path:
            path = folder / f"{learner.replace(':', '-')}-{tasks}"
            if not path.exists():
                with pytest.MonkeyPatch.context() as inner:
                    inner.chdir(folder)
                    sidetune_core.run(make_spec(learner, tasks), path)
            return path

        yield make


@pytest.fixture
def make(made: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MakeRun:
    """Copies of runs, next to their data in the current folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(TINY))

    def copied(learner: str = "sidetune", tasks: int | None = 2) -> Path:
        path = made(learner, tasks)
        shutil.copy(path.parent / "images.npz", tmp_path)
        shutil.copytree(path, tmp_path / path.name)
        about = read(tmp_path / path.name) | {"folder": str(tmp_path)}  # as if it had begun here
        (tmp_path / path.name / "run.json").write_text(json.dumps(about), encoding="utf-8")
        return Path(path.name)

    return copied


def extend(run: Path, tasks: tuple[str, ...] = ("t2",), **options: Any) -> sidetune_core.Run:
    chosen = options.pop("env", None) or env()
    return sidetune_core.extend(run, chosen, tasks=tasks, trust_local_code=True, **options)


def read(folder: Path) -> dict[str, Any]:
    about: dict[str, Any] = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    return about


def cells(folder: Path) -> dict[tuple[Any, ...], Any]:
    evaluations, ids = read_evaluations(RunFolder(folder)), [task["id"] for task in read(folder)["tasks"]]
    return {
        (row, task, split): metrics
        for split in ("val", "test")
        for row, values in evaluations.rows(ids, split, lambda line: line["figures"]).items()
        for task, metrics in zip(ids, values, strict=True)
        if metrics is not None
    }


def carried(folder: Path) -> list[tuple[int, str]]:
    """Row and task of the values that were not measured."""
    lines = read_evaluations(RunFolder(folder)).lines
    measured = {(line["after"], line["task"]) for line in lines}
    return sorted({(row, task) for row, task, _ in cells(folder)} - measured)


def tensors(folder: Path) -> dict[str, str]:
    latest = checkpoint.find(folder / "checkpoints", pytest.fail)
    assert latest is not None
    return hashing.digests({key: value for key, value in latest.state.items() if isinstance(value, Tensor)})


def content(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name not in ("lock", "lock.json")
    }


@pytest.mark.parametrize("learner", ["sidetune", "features", "finetune", "lwf", "stored:Replays"])
def test_an_extended_run_has_the_results_and_tensors_of_a_run_in_one_go(learner: str, make: MakeRun) -> None:
    one_go, run = make(learner, 3), make(learner, 2)
    extend(run)
    assert cells(run) == cells(one_go)
    assert tensors(run) == tensors(one_go)
    assert (run / "status").read_text() == "done\n"


@pytest.mark.parametrize("learner", ["sidetune", "features"])
def test_values_of_tasks_that_read_nothing_new_are_carried_over(learner: str, make: MakeRun) -> None:
    run = make(learner)
    extend(run)
    assert carried(run) == [(2, "t0"), (2, "t1")]


def test_tasks_that_read_what_was_trained_are_evaluated_once_more(make: MakeRun) -> None:
    run = make("finetune")
    extend(run)
    assert carried(run) == []


def test_of_two_extensions_the_second_carries_over_what_was_measured_first(make: MakeRun) -> None:
    one_go, run = make(tasks=3), make(tasks=1)
    extend(run, ("t1",))
    extend(run, ("t2",))
    assert cells(run) == cells(one_go)
    assert tensors(run) == tensors(one_go)
    assert carried(run) == [(1, "t0"), (2, "t0"), (2, "t1")]


def test_two_tasks_in_one_extension_are_those_of_a_run_in_one_go(make: MakeRun) -> None:
    one_go, run = make(tasks=3), make(tasks=1)
    extend(run, ("t1", "t2"))
    assert cells(run) == cells(one_go)
    assert (1, "t0") in carried(run)


def test_ids_that_the_run_has_count_on_and_titles_stay(make: MakeRun) -> None:
    run = make()
    finished = extend(run, ())
    assert [task.id for task in finished.tasks] == ["t0", "t1", "t2", "t3", "t4"]
    assert [task["title"] for task in read(run)["tasks"]][2:] == [
        "class 0, class 1",
        "class 2, class 3",
        "class 4, class 5",
    ]
    assert read(run)["extensions"][0]["tasks"] == {"t2": "t0", "t3": "t1", "t4": "t2"}


def test_the_order_of_examples_follows_the_new_id(make: MakeRun) -> None:
    run = make()
    extend(run, ("t0",))
    lines = {line["task"]: line["mean_loss"] for line in RunFolder(run).lines("metrics.jsonl")}
    assert lines["t2"] != lines["t0"]


def test_cards_of_added_tasks_have_their_env_and_data(make: MakeRun) -> None:
    run = make()
    write_archive(Path("other.npz"), seed=1)
    extend(run, ("t0",), env=env("other.npz"))
    first, added = (json.loads((run / "tasks" / f"{id}.json").read_text()) for id in ("t0", "t2"))
    assert first["data"] == read(run)["data"]
    assert added["data"] == read(run)["extensions"][0]["data"] != first["data"]


def test_options_are_those_of_the_run_unless_they_are_set(make: MakeRun) -> None:
    run = make()
    extend(run, train={"steps": 1})
    assert read(run)["extensions"][0]["train"] == {**read(run)["resolved"]["train"], "steps": 1}


def test_earlier_data_may_be_gone_where_nothing_that_tasks_read_changes(make: MakeRun) -> None:
    run = make()
    Path("images.npz").unlink()
    write_archive(Path("other.npz"), seed=1)
    extend(run, env=env("other.npz"))
    assert carried(run) == [(2, "t0"), (2, "t1")]


@pytest.mark.parametrize("learner", ["finetune", "stored:Counts"])
def test_without_the_data_that_is_needed_nothing_is_trained_or_written(learner: str, make: MakeRun) -> None:
    run = make(learner)
    Path("images.npz").unlink()
    write_archive(Path("other.npz"), seed=1)
    before = content(run)
    with pytest.raises(RunError, match=r"the data of env 'images' cannot be read"):
        extend(run, env=env("other.npz"))
    assert content(run) == before


def test_a_refusal_says_what_training_would_change(make: MakeRun) -> None:
    run = make("finetune", 1)
    Path("images.npz").unlink()
    write_archive(Path("other.npz"), seed=1)
    with pytest.raises(RunError, match=r"t0 must be evaluated once more .* training t1 changes base\."):
        extend(run, ("t0",), env=env("other.npz"))


def test_earlier_data_that_is_needed_has_to_be_the_same(make: MakeRun) -> None:
    run = make("finetune")
    write_archive(Path("images.npz"), seed=1)
    write_archive(Path("other.npz"), seed=2)
    before = content(run)
    with pytest.raises(RunError, match=r"was made with other data: t0/train/class 0: other content, "):
        extend(run, env=env("other.npz"))
    assert content(run) == before


def test_other_data_is_accepted_and_recorded(make: MakeRun) -> None:
    run = make("finetune")
    write_archive(Path("images.npz"), seed=1)
    extend(run, allow_changed=["data"])
    assert read(run)["segments"][0]["task"] == "t2"
    assert certificates.verify(RunFolder(run), trust_local_code=True).problems == ()


@pytest.mark.parametrize("learner", ["stored:Counts", "stored:Sizes", "stored:Replays"])
def test_a_learner_that_needs_the_data_of_earlier_tasks_gets_it(learner: str, make: MakeRun) -> None:
    one_go, run = make(learner, 3), make(learner, 2)
    extend(run)
    assert cells(run) == cells(one_go)
    assert tensors(run) == tensors(one_go)


def test_a_change_that_nobody_foresaw_is_noticed_and_the_data_is_read(make: MakeRun) -> None:
    one_go, run = make("stored:Drifts", 2), make("stored:Drifts", 1)
    extend(run, ("t1",))
    assert cells(run) == cells(one_go)
    assert carried(run) == []


def test_a_change_that_nobody_foresaw_without_data_can_be_resumed_when_it_is_back(make: MakeRun) -> None:
    one_go, run = make("stored:Drifts", 2), make("stored:Drifts", 1)
    shutil.copy("images.npz", "other.npz")
    Path("images.npz").unlink()
    with pytest.raises(RunError, match="t0 must be evaluated once more, since training changed base"):
        extend(run, ("t1",), env=env("other.npz"))
    assert (run / "status").read_text().startswith("failed: ")
    shutil.copy("other.npz", "images.npz")
    sidetune_core.resume(run, trust_local_code=True)
    assert cells(run) == cells(one_go)
    assert tensors(run) == tensors(one_go)


def test_a_change_that_nobody_foresaw_on_changed_data_names_what_changed(make: MakeRun) -> None:
    run = make("stored:Drifts", 1)
    shutil.copy("images.npz", "other.npz")
    write_archive(Path("images.npz"), seed=1)
    with pytest.raises(RunError, match=r"not what they were trained on \(t0/train/class 0: other content, "):
        extend(run, ("t1",), env=env("other.npz"))


def test_on_another_processor_earlier_tasks_are_evaluated_once_more(
    make: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make()
    monkeypatch.setattr(unchanged, "processor", lambda: "another one")
    extend(run)
    assert carried(run) == []


def test_without_a_certificate_earlier_tasks_are_evaluated_once_more(make: MakeRun) -> None:
    one_go, run = make(tasks=3), make(tasks=2)
    for name in ("certificate.json", "certificate.jsonl"):
        (run / name).unlink()
    extend(run)
    assert cells(run) == cells(one_go)
    assert carried(run) == []


def test_a_run_without_cards_is_extended_with_the_data_of_its_env(make: MakeRun) -> None:
    one_go, run = make(tasks=3), make(tasks=2)
    shutil.rmtree(run / "tasks")
    extend(run)
    assert cells(run) == cells(one_go)
    assert sorted(path.name for path in (run / "tasks").iterdir()) == ["t0.json", "t1.json", "t2.json"]


def test_the_certificate_goes_on_and_is_verified(make: MakeRun, capsys: Capture) -> None:
    run = make()
    extend(run)
    found = certificates.verify(RunFolder(run), trust_local_code=True)
    assert found.problems == ()
    assert found.certificate.trained == ["t0", "t1", "t2"]
    assert found.certificate.verdict == "zero by construction"
    assert main(["verify", str(run), "--trust-local-code"]) == 0
    assert "the run noted: from task t2 on, added by --extend: t2 of env 'images'" in capsys.readouterr().out


def rewrite(run: Path, change: Callable[[list[dict[str, Any]]], list[dict[str, Any]]]) -> list[str]:
    """Change the lines of ``eval.jsonl``; returns what verify finds."""
    path = run / "eval.jsonl"
    lines = change([json.loads(line) for line in path.read_text().splitlines()])
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return list(certificates.verify(RunFolder(run), trust_local_code=True).problems)


def tamper(run: Path, key: str, value: Any) -> list[str]:
    """Set a key of the value that an earlier version carried over for t0."""

    def former(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
        carried = [
            {**line, "after": 2, "unchanged_since": 1}
            for line in lines
            if line["after"] == 1 and line["task"] in ("t0", "t1")
        ]
        carried[0][key] = value
        return [*(line for line in lines if line.get("unchanged") is not True), *carried]

    return rewrite(run, former)


def test_a_value_that_is_not_the_one_it_was_carried_over_from_is_found(make: MakeRun) -> None:
    run = make()
    extend(run)
    problems = tamper(run, "figures", {"accuracy": 1.5, "loss": 0.0})
    assert any("is not that of row 1, from which it was carried over" in problem for problem in problems)


def test_a_value_carried_over_from_a_row_before_its_training_is_found(make: MakeRun) -> None:
    run = make()
    extend(run)
    problems = tamper(run, "unchanged_since", 2)
    assert any("cannot have been carried over from row 2" in problem for problem in problems)


def test_a_mark_on_a_value_whose_tensors_were_trained_is_found(make: MakeRun) -> None:
    run = make("finetune")
    extend(run)
    problems = rewrite(
        run,
        lambda lines: [
            *(line for line in lines if (line["after"], line["task"]) != (2, "t0")),
            {"after": 2, "unchanged": True},
        ],
    )
    assert any("but training changed base." in problem for problem in problems)


def test_a_value_in_place_of_one_that_was_carried_over_is_found(make: MakeRun) -> None:
    run = make()
    extend(run)
    problems = rewrite(run, lambda lines: [*lines, {**lines[-2], "task": "t0", "figures": {"accuracy": 1.5}}])
    assert any("t0: measured is" in problem for problem in problems)


def test_an_extension_in_run_json_that_no_checkpoint_knows_is_found(make: MakeRun) -> None:
    run = make()
    extend(run)
    about = read(run)
    about["extensions"][0]["train"]["lr"] = 1.0
    (run / "run.json").write_text(json.dumps(about))
    problems = certificates.verify(RunFolder(run), trust_local_code=True).problems
    assert any("added tasks (extensions)" in problem for problem in problems)


def test_the_original_stays_untouched_where_a_copy_is_extended(make: MakeRun) -> None:
    run = make()
    before = content(run)
    for path in (*run.rglob("*"), run):
        path.chmod(path.stat().st_mode & 0o555)
    finished = extend(run, out="copies/third")
    assert content(run) == before
    assert finished.folder.path == Path("copies/third")
    assert len(finished.results.rows) == 3
    assert [path.name for path in Path("copies").iterdir()] == ["third"]


def test_a_copy_is_not_written_over_another_run(make: MakeRun) -> None:
    run, other = make(), make("features")
    with pytest.raises(RunError, match="is not empty"):
        extend(run, out=other)


def test_a_run_in_use_is_left_alone(make: MakeRun) -> None:
    run = make()
    with locked(run), pytest.raises(RunError, match="is in use"):
        extend(run)


def test_a_folder_that_cannot_be_written_is_left_alone(
    make: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make()
    before = content(run)

    def fail(*_: Any) -> None:
        raise WriteError("cannot write")

    monkeypatch.setattr(RunFolder, "set_status", fail)
    with pytest.raises(WriteError):
        extend(run)
    assert content(run) == before


def test_an_unfinished_run_is_to_be_resumed_first(make: MakeRun) -> None:
    run = make()
    for path in (run / "checkpoints").glob("after-002.*"):
        path.unlink()
    (run / "status").write_text("interrupted\n")
    with pytest.raises(RunError, match=r"1 of 2 tasks are trained.*sidetune-run --resume"):
        extend(run)


def test_a_diverged_run_is_not_extended(make: MakeRun) -> None:
    run = make()
    for path in (run / "checkpoints").glob("after-002.*"):
        path.unlink()
    (run / "status").write_text("diverged: the loss is nan\n")
    with pytest.raises(RunError, match="is not finished"):
        extend(run)


def test_joint_training_is_not_extended(make: MakeRun) -> None:
    run = make("joint")
    with pytest.raises(RunError, match="learner 'joint' trains all tasks at once"):
        extend(run)


def test_inputs_of_another_shape_are_refused_with_both_named(make: MakeRun) -> None:
    run = make()
    write_archive(Path("large.npz"), size=16)
    with pytest.raises(FitError, match=r"image \(3, 8, 8\) and env 'images' image \(3, 16, 16\)"):
        extend(run, env=env("large.npz", size=16))


def test_a_metric_of_the_other_direction_is_refused(make: MakeRun, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make()
    monkeypatch.setattr("sidetune_core.interfaces.tasks.Task.higher_is_better", False)
    with pytest.raises(FitError, match="in the run higher is better, and in env 'images' it is not"):
        extend(run)


def test_tasks_of_another_metric_are_added(make: MakeRun, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make()
    monkeypatch.setattr("sidetune_core.interfaces.tasks.Task.metric", "loss")
    extend(run)
    assert read(run)["metric"] == "result"
    assert [task["metric"] for task in read(run)["tasks"]] == ["accuracy", "accuracy", "loss"]
    assert certificates.verify(RunFolder(run), trust_local_code=True).problems == ()


def test_a_task_that_the_env_has_not_is_refused_with_those_that_it_has(make: MakeRun) -> None:
    with pytest.raises(OptionError, match=r"no task 't9'.* t0 \(class 0, class 1\), t1"):
        extend(make(), ("t9",))


def test_an_env_without_tasks_adds_none(make: MakeRun, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make()
    monkeypatch.setattr("sidetune_plugins.envs.images.env.Images.tasks", lambda self: [])
    with pytest.raises(RunError, match="has no tasks, so there is none to add"):
        extend(run, ())


def test_the_state_of_earlier_tasks_stays_in_checkpoints(make: MakeRun) -> None:
    run = make()
    latest = checkpoint.find(run / "checkpoints", pytest.fail)
    assert latest is not None
    learner = sidetune_core.resume(run, trust_local_code=True).learner
    checkpoint.save(
        run / "checkpoints", learner, latest.done, latest.marks, {"t0": {"mean": [1.5]}}, latest.identity
    )
    extend(run)
    newest = checkpoint.find(run / "checkpoints", pytest.fail)
    assert newest is not None
    assert newest.tasks == {"t0": {"mean": [1.5]}}


def test_reports_tell_what_was_added_and_carried_over(make: MakeRun) -> None:
    run = make()
    extend(run, ("t0",), train={"steps": 1})
    summary = summarise(RunFolder(run))
    assert summary.extensions == (
        "from task t2 on, added by --extend: t2 of env 'images' (t0 there), train.steps 3 → 1",
    )
    assert summary.unchanged == (
        "2 of 3 values of earlier tasks in R are those of the row before, because nothing that these tasks "
        "read had changed; the others were measured"
    )
    assert summary.unchanged in changed_lines(summary)
    report = (run / "report.md").read_text()
    assert f"\n{summary.unchanged}.\n" in report
    assert "- Extended: from task t2 on" in report


def test_an_extended_run_is_another_method_than_the_run_it_was(make: MakeRun) -> None:
    run = make()
    shutil.copytree(run, "before")
    extend(run)
    methods = group_runs([summarise(RunFolder(Path(name))) for name in ("before", run.name)])
    assert [len(method.runs) for method in methods] == [1, 1]
    assert "extended" in methods[1].name


def test_the_spec_of_an_extended_run_is_that_of_its_first_stream(make: MakeRun, capsys: Capture) -> None:
    run = make()
    extend(run)
    words = ["--spec", str(run / "run.json"), "--out", "again", "--trust-local-code"]
    assert main_run([*words, "--quiet"]) == 0
    assert "the spec is that of a run to which t2 were added" in capsys.readouterr().err
    assert [task["id"] for task in read(Path("again"))["tasks"]] == ["t0", "t1"]


def test_a_resumed_extension_of_a_finished_run_changes_nothing(make: MakeRun) -> None:
    run = make()
    extend(run)
    before = cells(run)
    sidetune_core.resume(run, trust_local_code=True)
    assert cells(run) == before


def command(run: Path, *words: str) -> list[str]:
    return [
        "--extend",
        str(run),
        "--trust-local-code",
        "--env",
        "images",
        "--env.archive",
        "images.npz",
        *words,
    ]


OPTIONS = ("--env.classes-per-task", "2", "--env.image-size", "8")


def test_the_command_adds_tasks_and_prints_their_ids(make: MakeRun, capsys: Capture) -> None:
    run = make()
    assert main_run(command(run, *OPTIONS, "--tasks", "t0", "t2", "--train.steps", "1")) == 0
    printed = capsys.readouterr()
    assert "added by --extend: t2, t3 of env 'images' (t0, t2 there)" in printed.err
    assert "trainable parameters a task with its head" in printed.err
    assert "extended: from task t2 on" in printed.out
    assert [task["id"] for task in read(run)["tasks"]] == ["t0", "t1", "t2", "t3"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--learner", "ewc"], "which has learner 'sidetune'; leave out --learner ewc"),
        (["--learner.norm"], "leave out --learner.norm"),
        (["--seed", "1"], "leave out --seed"),
        (["--resume", "elsewhere"], "or --resume elsewhere"),
    ],
)
def test_what_an_extension_has_from_its_run_cannot_be_typed(
    words: list[str], said: str, make: MakeRun, capsys: Capture
) -> None:
    run = make()
    assert main_run(command(run, *OPTIONS, *words)) == 2
    assert said in capsys.readouterr().err


def test_an_extension_needs_an_env(make: MakeRun, capsys: Capture) -> None:
    assert main_run(["--extend", str(make()), "--trust-local-code"]) == 2
    assert "name the env whose tasks are added" in capsys.readouterr().err


def test_a_folder_without_a_run_is_not_extended(capsys: Capture) -> None:
    assert main_run(["--extend", "nowhere", "--env", "digits"]) == 2
    assert "nowhere holds no run" in capsys.readouterr().err


def test_tasks_without_extend_are_refused(capsys: Capture) -> None:
    assert main_run(["--tasks", "t0"]) == 2
    assert "--tasks goes with --extend" in capsys.readouterr().err


def diverge(run: Path) -> None:
    with pytest.raises(Diverged):
        extend(run, train={"lr": 1e30, "optimizer": "sgd", "grad_clip": None, "steps": 40})
    assert (run / "status").read_text().startswith("diverged")


def test_an_extension_that_diverged_is_replaced_by_the_next(make: MakeRun) -> None:
    one_go, run = make(tasks=3), make()
    diverge(run)
    extend(run)
    assert cells(run) == cells(one_go)
    assert len(read(run)["extensions"]) == 1
    assert certificates.verify(RunFolder(run), trust_local_code=True).problems == ()


def test_an_extension_of_other_tasks_leaves_nothing_of_one_that_diverged(make: MakeRun) -> None:
    run = make()
    diverge(run)
    extend(run, ("t0", "t1"))
    assert [task["title"] for task in read(run)["tasks"]][2:] == ["class 0, class 1", "class 2, class 3"]
    assert certificates.verify(RunFolder(run), trust_local_code=True).problems == ()
