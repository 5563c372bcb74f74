"""Searches of options: trials measure split val only, are resumed, and the best spec trains on everything."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import attrs
import pytest

from sidetune_core.cli.main import main, main_run
from sidetune_core.config.resolve import resolve
from sidetune_core.config.spec_file import read_spec
from sidetune_core.errors import Interrupted, LedgerError, OptionError, RunError
from sidetune_core.interfaces.tasks import Batch, Order, Predict
from sidetune_core.results.metrics import average_accuracy
from sidetune_core.results.summary import read_results
from sidetune_core.storage.atomic import write_text
from sidetune_core.storage.run_folder import RunFolder
from sidetune_core.supervised.task import SupervisedTask
from sidetune_core.sweeps.executors import never
from sidetune_core.sweeps.search_record import record_search, without_folders
from sidetune_core.sweeps.space import plan_space
from sidetune_core.sweeps.study import JOURNAL, Pruner, Sampler, Study
from sidetune_core.sweeps.tuner import FILE, Outcome, Search, read_search, tune
from sidetune_core.sweeps.tuning_report import report_search
from sidetune_core.training import run as training_run
from sidetune_core.training.run import run

pytest.importorskip("optuna")


@attrs.define
class Here:
    """Executes trials in this process, one at a time, and remembers their arguments."""

    begun: list[list[str]] = attrs.field(factory=list)
    workers: int = 1
    threads: int = 1

    def execute(self, words: Sequence[str], output: Path, should_stop: Callable[[], bool] = never) -> int:
        self.begun.append(list(words))
        with output.open("a") as file, contextlib.redirect_stdout(file), contextlib.redirect_stderr(file):
            return main_run(words)

    def stop(self, number: int) -> None:
        raise AssertionError("nobody has asked for that")


@pytest.fixture
def words(image_archive: Path) -> list[str]:
    """The options of a small run, without ranges."""
    env = ["--env", "images", "--env.archive", str(image_archive), "--env.classes-per-task", "2"]
    train = ["--train.steps", "2", "--train.batch-size", "8", "--device.precision", "fp32"]
    return [*env, "--env.val-fraction", "0.5", "--base", "conv", "--learner", "finetune", *train]


def make(words: Sequence[str], sampler: Sampler = "grid", pruner: Pruner = "none") -> Search:
    return Search(plan_space(words, 2), sampler, pruner, 0, tuple(words))


def carry_out(
    search: Search, out: Path, executor: object, trials: int = 9, lines: list[str] | None = None
) -> Outcome:
    info = (lines if lines is not None else []).append
    return tune(search, out, trials, executor, 0, None, info)  # type: ignore[arg-type]


def test_a_grid_finds_what_runs_with_these_options_measure_on_val(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    splits: list[str] = []
    evaluate = SupervisedTask.evaluate

    def watched(task: SupervisedTask, predict: Predict, split: str = "test") -> dict[str, float]:
        splits.append(split)
        return evaluate(task, predict, split)

    monkeypatch.setattr(SupervisedTask, "evaluate", watched)
    out, executor, lines = tmp_path / "search", Here(), list[str]()
    search = make([*words, "--train.lr", "1e-4,1e-1,1e30", "--train.grad-clip", "None"])
    outcome = carry_out(search, out, executor, 9, lines)
    assert set(splits) == {"val"}  # the test split is never evaluated
    assert outcome.note == "all 3 points of the ranges are tried"
    assert [trial.params["train.lr"] for trial in outcome.trials] == ["1e-4", "1e-1", "1e30"]
    low, high, infinite = outcome.trials
    assert (low.state, high.state, infinite.state, infinite.value) == ("done", "done", "diverged", None)
    assert infinite.reason
    assert lines[-1].startswith("diverged trial-002 [3/9]: ")

    spec = attrs.evolve(resolve(read_spec(out / "runs" / "trial-000" / "run.json")).to_spec())
    whole = run(spec, tmp_path / "whole").folder
    assert low.value == average_accuracy(read_results(whole, "val"))

    again = Here()
    assert carry_out(search, out, again).trials == outcome.trials  # a finished trial is not repeated
    assert not again.begun
    report = report_search(out)
    best = max((low, high), key=lambda trial: (trial.value or 0, -trial.number))
    rows = report.partition("trial  ")[2].splitlines()[1:]
    assert rows[0].startswith(f"{best.number:03d}")
    assert "Importance of options: · (2 finished trials; it takes 4)" in report
    path = out / "best.json"  # grad-clip is None, which TOML has not
    assert f"sidetune-run --spec {path}" in report
    asked = read_spec(path)
    assert asked.env is not None
    assert "val_fraction" not in asked.env.options
    assert asked.train == {
        "steps": 2,
        "batch_size": 8,
        "lr": float(str(best.params["train.lr"])),
        "grad_clip": None,
    }


def test_the_best_spec_trains_on_all_tasks_and_examples(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "search"
    index = words.index("--train.steps")
    ranged = [*words[: index + 1], "2..3", *words[index + 2 :]]
    search = Search(plan_space(ranged, 1), "random", "none", 0, tuple(ranged))
    carry_out(search, out, Here(), 1)
    assert main(["tune", "--report", str(out)]) == 0
    command = capsys.readouterr().out.partition("sidetune-run ")[2].splitlines()[0].split()
    assert main_run([*command, "--out", str(tmp_path / "best"), "--quiet"]) == 0
    about = RunFolder(tmp_path / "best").read_json("run.json")
    assert (len(about["tasks"]), about["resolved"]["env"]["options"]["val_fraction"]) == (2, 0)
    assert not {"measure", "first_tasks"} & about.keys()


def test_a_search_that_was_killed_is_resumed_with_its_trial(words: list[str], tmp_path: Path) -> None:
    out = tmp_path / "search"
    search = make([*words, "--train.lr", "1e-3..1e-2:log"], "random")
    out.mkdir()
    study = Study(out, search.space, "random", "none", 0)
    begun = study.next_trial()
    study._study.enqueue_trial({"train.lr": 0.005})  # killed before the next one had begun
    assert begun is not None
    with (out / JOURNAL).open("ab") as file:
        file.write(b'{"op_code": 4, "trial')  # killed while it wrote
    (out / f"{JOURNAL}.lock").symlink_to(out / "gone")
    (out / "runs" / "trial-000").mkdir(parents=True)
    (out / "runs" / "trial-000" / "lock").write_text("")
    executor = Here()
    outcome = carry_out(search, out, executor, 2)
    assert [trial.state for trial in outcome.trials] == ["done", "done"]
    assert outcome.trials[0].params == begun.params
    assert outcome.trials[1].params == {"train.lr": 0.005}
    assert executor.begun[0][-8:-2] == [
        *("--train.lr", repr(begun.params["train.lr"])),
        *("--first-tasks", "2", "--measure", "val"),
    ]


@attrs.define
class Forked:
    """Executes each trial in a fork; the second one interrupts the search while it trains, as Ctrl-C does."""

    flag: Path
    """Made once the trials are asked to stop."""
    workers: int = 1
    threads: int = 1
    _pids: list[int] = attrs.field(factory=list)

    def execute(self, words: Sequence[str], output: Path, should_stop: Callable[[], bool] = never) -> int:
        train, parent = SupervisedTask.train, os.getpid()

        def interrupting(task: SupervisedTask, predict: Predict, order: Order) -> Iterator[Batch]:
            for step, batch in enumerate(train(task, predict, order)):
                if step == 1:
                    os.kill(parent, signal.SIGINT)
                    while not self.flag.exists():
                        time.sleep(0.01)
                yield batch

        pid = os.fork()
        if not pid:
            if self._pids:
                SupervisedTask.train = interrupting  # type: ignore[method-assign]
            with output.open("a") as file, contextlib.redirect_stdout(file), contextlib.redirect_stderr(file):
                status = main_run(words)
            os._exit(status)
        self._pids.append(pid)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    def stop(self, number: int) -> None:
        os.kill(self._pids[-1], number)
        self.flag.touch()


@pytest.mark.skipif(os.name != "posix", reason="forks, and sends signals")
def test_an_interrupted_search_resumes_its_trial_and_ends_as_one_that_was_not(
    words: list[str], tmp_path: Path
) -> None:
    search = make([*words, "--train.lr", "1e-3..1e-1:log"], "tpe")
    whole = carry_out(search, tmp_path / "whole", Here(), 3)
    with pytest.raises(Interrupted):
        carry_out(search, tmp_path / "cut", Forked(tmp_path / "flag"), 3)
    study = Study(tmp_path / "cut", search.space, "tpe", "none", 0)
    assert [trial.state for trial in study.trials] == ["done", "running"]
    resumed = Here()
    outcome = carry_out(search, tmp_path / "cut", resumed, 3)
    assert [words[0] == "--resume" for words in resumed.begun] == [True, False]
    assert [attrs.evolve(trial, seconds=None) for trial in outcome.trials] == [
        attrs.evolve(trial, seconds=None) for trial in whole.trials
    ]


def test_the_record_of_a_search_is_what_the_protocol_says_and_binds_a_claim(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    state = {"commit": "c" * 40, "changed": False}
    monkeypatch.setattr(training_run, "git_state", lambda: dict(state))
    search = make([*words, "--train.lr", "1e-4,1e-1,1e30"], "random")
    out, ledger = tmp_path / "search", tmp_path / "ledger"
    trials = carry_out(search, out, Here(), 3).trials
    file = ledger / "searches" / "conv.json"
    assert main(["tune", "--report", str(out), "--record", str(file)]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(file)
    recorded = json.loads(file.read_text())
    assert recorded["argv"] == [without_folders(word) for word in search.argv]
    assert (recorded["sampler"], recorded["sampler_seed"], recorded["seed"]) == ("random", 0, [0])
    assert (recorded["first_tasks"], recorded["split"], recorded["metric"]) == (2, "val", "accuracy")
    assert recorded["commits"] == ["c" * 40]
    assert [(one["state"], one["value"], one["params"]) for one in recorded["trials"]] == [
        (trial.state, trial.value, dict(trial.params)) for trial in trials
    ]
    best = recorded["trials"][recorded["best"]]

    def claim(lr: str) -> None:
        command = f"sidetune-run --train.lr {lr} --learner finetune"
        lines = ['table = "T"', 'method = "m"', f'command = "{command}"', "seeds = [0]", "tolerance = 0.1"]
        (ledger / "conv.toml").write_text("\n".join([*lines, 'search = "conv"']))

    claim(best["params"]["train.lr"])
    assert main(["ledger", "--ledger", str(ledger)]) == 0
    assert "No recorded runs: m" in capsys.readouterr().out
    claim("0.7")
    assert main(["ledger", "--ledger", str(ledger)]) != 0
    chosen = best["params"]["train.lr"]
    assert f"--train.lr {chosen} was chosen, the command has 0.7" in capsys.readouterr().err

    about = out / "runs" / "trial-000" / "run.json"
    about.write_text(about.read_text().replace('"changed": false', '"changed": true'))
    with pytest.raises(LedgerError, match="was made by uncommitted code"):
        record_search(out, file)


def test_trials_that_cannot_run_end_the_search_and_give_their_reason(
    words: list[str], tmp_path: Path
) -> None:
    out = tmp_path / "search"
    search = make([*words, "--train.lr", "1e-3..1e-2:log"], "random")
    (tmp_path / "images.npz").unlink()
    outcome = carry_out(search, out, Here(), 9)
    assert [trial.state for trial in outcome.trials] == ["failed"] * 3
    assert all("images.npz" in trial.reason and trial.value is None for trial in outcome.trials)
    assert "ended after 3 failed trials" in outcome.note
    with pytest.raises(LedgerError, match="no trial of .* is done"):
        record_search(out, tmp_path / "search.json")


@pytest.mark.parametrize(
    ("typed", "recorded"),
    [
        ("/data/cifar100.npz", "cifar100.npz"),
        ("--env.root=~/photos", "--env.root=photos"),
        ("photos/cats", "photos/cats"),
        ("--train.lr=1e-4..1e-2", "--train.lr=1e-4..1e-2"),
    ],
)
def test_a_record_names_data_without_the_folders_of_this_machine(typed: str, recorded: str) -> None:
    assert without_folders(typed) == recorded


def test_another_search_in_the_folder_is_refused(words: list[str], tmp_path: Path) -> None:
    search = make([*words, "--train.lr", "1e-3,1e-2"])
    write_text(tmp_path / FILE, json.dumps(search.to_json()))
    assert read_search(tmp_path) == search
    with pytest.raises(RunError, match="holds another search \\(--sampler-seed is 0 there\\)"):
        carry_out(attrs.evolve(search, seed=1), tmp_path, Here())
    with pytest.raises(RunError, match="holds another search \\(its options are: .*1e-3,1e-2\\)"):
        carry_out(attrs.evolve(search, argv=("--train.lr", "1e-4,1e-2")), tmp_path, Here())


def test_a_trial_in_the_worse_half_is_stopped_after_its_task(words: list[str], tmp_path: Path) -> None:
    out = tmp_path / "search"

    @attrs.define
    class Worse(Here):
        """The second trial has trained one task of two, badly, and waits until it is stopped."""

        def execute(self, words: Sequence[str], output: Path, should_stop: Callable[[], bool] = never) -> int:
            if not self.begun:
                return Here.execute(self, words, output, should_stop)
            self.begun.append(list(words))
            folder = out / "runs" / "trial-001"
            shutil.copytree(out / "runs" / "trial-000", folder)
            (folder / "report.md").unlink()
            lines = [json.loads(line) for line in (folder / "eval.jsonl").read_text().splitlines()]
            kept = [{**line, "figures": {"accuracy": 0.0}} for line in lines if line["after"] < 1]
            (folder / "eval.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in kept))
            output.write_text("")
            while not should_stop():
                pass
            return 128 + 15

    outcome = carry_out(make([*words, "--train.lr", "1e-3,1e-2"], pruner="halving"), out, Worse(), 2)
    first, second = outcome.trials
    assert (first.state, second.state, second.value, dict(second.after)) == ("done", "pruned", None, {1: 0.0})
    assert len(first.after) == 2


@pytest.mark.parametrize(
    ("ranges", "message"),
    [
        ([], "nothing is searched"),
        (["--train.lrr", "1..2"], "lrr"),
        (["--learnr", "a,b"], "sidetune tune does not know '--learnr'. Did you mean '--learner'?"),
        (["--train.lr", "1e-3,-1"], "lr must be at least 0, not -1.0"),
        (["--seed", "0..2"], "the trials of a search have one seed"),
        (["--scenario", "task,class"], "trials are compared in one scenario"),
        (["--side", "1..2"], "a component is chosen by its name"),
    ],
)
def test_options_that_cannot_be_searched_are_refused(
    words: list[str], ranges: list[str], message: str
) -> None:
    with pytest.raises(OptionError, match=message):
        plan_space([*words, *ranges], 1)


def test_components_are_searched_with_the_options_that_they_have(
    image_archive: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    env = ["--env", "images", "--env.archive", str(image_archive), "--env.classes-per-task", "2"]
    options = ["--learner.coef", "1..100:log", "--learner.norm", "true,false", "--train.lr", "1e-3"]
    words = [*env, "--base", "conv", "--learner", "ewc,finetune", *options]
    space = plan_space(words, None)
    assert space.notes[0].startswith("--env.val-fraction 0.1 holds out a tenth of the training examples")
    assert space.notes[1:] == ("--learner.coef is left out of runs that do not use it: finetune",)
    assert [tuple(one.searched) for one in space.combinations] == [
        ("learner.coef", "learner.norm"),
        ("learner.norm",),
    ]
    params = {"learner": "finetune", "learner.norm": "false"}
    assert space.words(params)[-7:] == [
        *("--learner", "finetune", "--learner.no-norm", "--train.lr", "1e-3"),
        *("--env.val-fraction", "0.1"),
    ]
    assert main(["tune", "--dry-run", "--", *words]) == 0
    assert "  --learner.coef 1.0..100.0:log" in capsys.readouterr().out
