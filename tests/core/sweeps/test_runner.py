"""Many runs: what is done is passed over, what was stopped or killed goes on, what fails is named."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import attrs
import pytest

from sidetune_core.cli.main import main, main_run
from sidetune_core.config.resolve import resolve
from sidetune_core.config.spec import RunSpec
from sidetune_core.errors import OptionError, RunError, SidetuneError
from sidetune_core.storage.lock import locked
from sidetune_core.sweeps import executors
from sidetune_core.sweeps.executors import LocalProcesses, RayTasks, visible_gpus
from sidetune_core.sweeps.grid import PlannedRun, planned
from sidetune_core.sweeps.runner import SweptRun, carry_out, sweep
from sidetune_core.system.processors import available

pytestmark = pytest.mark.skipif(os.name != "posix", reason="sends signals")

Plan = Callable[..., list[PlannedRun]]


@attrs.define
class Here:
    """Carries out runs in this process, one at once, and remembers their words. `answers` come first, instead
    of runs."""

    answers: list[int] = attrs.field(factory=list)
    begun: list[list[str]] = attrs.field(factory=list)
    workers: int = 1
    threads: int = 1

    def execute(self, words: Sequence[str], output: Path) -> int:
        self.begun.append(list(words))
        if self.answers:
            return self.answers.pop(0)
        with output.open("a") as file, contextlib.redirect_stdout(file), contextlib.redirect_stderr(file):
            return main_run(words)

    def stop(self, number: int) -> None:
        raise AssertionError("nobody has asked for that")


@pytest.fixture
def spec(image_archive: Path) -> RunSpec:
    env = {"name": "images", "archive": str(image_archive), "classes_per_task": 2}
    base = {"name": "resnet20", "weights": "none"}
    return RunSpec(
        base=base, learner="features", env=env, train={"steps": 2, "batch": 8, "precision": "fp32"}
    )


@pytest.fixture
def plan(spec: RunSpec) -> Plan:
    """Runs of the small spec, one for each seed."""
    return lambda *seeds, **train: [
        planned(f"seed-{seed}", resolve(attrs.evolve(spec, seed=seed, train={**spec.train, **train})))
        for seed in seeds
    ]


def statuses(swept: Sequence[SweptRun]) -> list[str]:
    return [one.status for one in swept]


def test_runs_that_are_done_are_passed_over_and_others_join_them(plan: Plan, tmp_path: Path) -> None:
    executor, said = Here(), list[str]()
    assert statuses(carry_out(plan(0), tmp_path, executor, 2, None, said.append)) == ["done"]
    assert statuses(carry_out(plan(0, 1), tmp_path, executor, 2, "5", said.append)) == ["done", "done"]
    folders = [tmp_path / "runs" / f"seed-{seed}" for seed in (0, 1)]
    specs = [tmp_path / "specs" / f"seed-{seed}.json" for seed in (0, 1)]
    assert executor.begun == [
        ["--spec", str(specs[0]), "--out", str(folders[0]), "--trust-spec"],
        ["--spec", str(specs[1]), "--out", str(folders[1]), "--trust-spec", "--save-every", "5"],
    ]
    assert "2 runs: 1 done, 0 to resume, 1 new" in said
    assert said[-1].startswith("done     seed-1 [2/2]: average accuracy ")
    assert "task 1/2" in (tmp_path / "output" / "seed-1.txt").read_text()
    assert list(json.loads((tmp_path / "sweep.json").read_text())["runs"]) == ["seed-0", "seed-1"]


def test_a_run_that_was_stopped_goes_on(plan: Plan, tmp_path: Path) -> None:
    executor = Here()
    carry_out(plan(0), tmp_path, executor, 2, None, print)
    (tmp_path / "runs" / "seed-0" / "status").write_text("interrupted\n")
    assert statuses(carry_out(plan(0), tmp_path, executor, 2, None, print)) == ["done"]
    assert executor.begun[1] == ["--resume", str(tmp_path / "runs" / "seed-0"), "--trust-spec"]


def test_a_run_that_was_killed_before_its_report_is_resumed(plan: Plan, tmp_path: Path) -> None:
    carry_out(plan(0), tmp_path, Here(), 2, None, print)
    report = tmp_path / "runs" / "seed-0" / "report.md"
    report.unlink()
    carry_out(plan(0), tmp_path, Here(), 2, None, print)
    assert report.is_file()


def test_what_a_process_leaves_that_was_killed_at_its_start_is_begun_anew(plan: Plan, tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "seed-0"
    (folder / "checkpoints").mkdir(parents=True)
    for name in ("lock", "lock.json", ".run.json.0123abcd"):
        (folder / name).write_text("")
    assert statuses(carry_out(plan(0), tmp_path, Here(), 2, None, print)) == ["done"]


def test_the_folder_of_such_a_process_may_be_a_link(plan: Plan, tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "disk" / "lock").write_text("")
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "seed-0").symlink_to(tmp_path / "disk")
    assert statuses(carry_out(plan(0), tmp_path, Here(), 2, None, print)) == ["done"]
    assert (tmp_path / "disk" / "run.json").is_file()


def test_the_folder_of_such_a_process_that_is_alive_is_left_alone(plan: Plan, tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "seed-0"
    folder.mkdir(parents=True)
    with locked(folder):
        (swept,) = carry_out(plan(0), tmp_path, Here(), 2, None, print)
        assert (folder / "lock.json").is_file()
    assert (swept.status, "is in use by another process" in swept.reason) == ("failed", True)


def test_a_folder_with_another_run_is_refused_before_anything_is_run(plan: Plan, tmp_path: Path) -> None:
    executor = Here()
    carry_out(plan(1), tmp_path, executor, 2, None, print)
    with pytest.raises(
        RunError,
        match=r"seed-1 holds another run \(train.lr is 0.001 there, 0.5 was requested\)",
    ):
        carry_out(plan(0, 1, lr=0.5), tmp_path, executor, 2, None, print)
    assert len(executor.begun) == 1


def test_a_folder_with_something_else_is_refused(plan: Plan, tmp_path: Path) -> None:
    (tmp_path / "runs" / "seed-0").mkdir(parents=True)
    (tmp_path / "runs" / "seed-0" / "thesis.tex").write_text("")
    with pytest.raises(RunError, match="holds thesis.tex"):
        carry_out(plan(0), tmp_path, Here(), 2, None, print)


def test_a_sweep_that_another_process_is_at_work_on_is_refused(plan: Plan, tmp_path: Path) -> None:
    with locked(tmp_path), pytest.raises(RunError, match="is in use by process"):
        carry_out(plan(0), tmp_path, Here(), 2, None, print)


def test_a_run_that_is_killed_again_and_again_is_named_and_others_go_on(plan: Plan, tmp_path: Path) -> None:
    executor, said = Here(answers=[-signal.SIGKILL, -signal.SIGKILL]), list[str]()
    first, second = carry_out(plan(0, 1), tmp_path, executor, 1, None, said.append)
    assert (first.status, second.status) == ("failed", "done")
    assert first.reason == f"killed by SIGKILL, 2 times; see {tmp_path / 'output' / 'seed-0.txt'}"
    assert "killed   seed-0: killed by SIGKILL; retry 1 of 1" in said


def test_a_loss_that_diverges_is_not_tried_again(plan: Plan, spec: RunSpec, tmp_path: Path) -> None:
    executor, train = Here(), {**spec.train, "steps": 4, "lr": 1e30, "optimizer": "sgd", "clip": None}
    bad = planned("bad", resolve(attrs.evolve(spec, learner="scratch", train=train)))
    first, second = carry_out([bad, *plan(1)], tmp_path, executor, 2, None, print)
    assert (first.status, second.status, len(executor.begun)) == ("diverged", "done", 2)
    assert "of task t0" in first.reason


def test_a_diverged_run_is_listed_by_the_next_sweep_and_not_repeated(plan: Plan, tmp_path: Path) -> None:
    executor, said = Here(), list[str]()
    carry_out(plan(0), tmp_path, executor, 2, None, print)
    (tmp_path / "runs" / "seed-0" / "status").write_text("diverged: t0: outputs are not finite\n")
    (again,) = carry_out(plan(0), tmp_path, executor, 2, None, said.append)
    assert (again.status, again.reason, len(executor.begun)) == ("diverged", "t0: outputs are not finite", 1)
    assert "1 run: 0 done, 1 diverged, 0 to resume, 0 new" in said


def test_a_spec_that_does_not_hold_is_told_before_anything_is_written(spec: RunSpec, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="uses no merger"):
        sweep({"good": spec, "bad": attrs.evolve(spec, merger="alpha")}, tmp_path / "out")
    with pytest.raises(OptionError, match="'../x' is not a valid folder name"):
        sweep({"../x": spec}, tmp_path / "out")
    assert not (tmp_path / "out").exists()


KILLED_ONCE = """
import os, signal
from pathlib import Path
from sidetune_core.config import registry
from sidetune_core.config.kinds import LEARNER

class KilledOnce(registry.load(registry.find(LEARNER, "features"))):
    def finish(self, task, data):
        if task.id == "t0" and not Path("killed").exists():
            Path("killed").touch()
            os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_worker_that_is_killed_is_replaced_by_one_that_goes_on(
    spec: RunSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "killed_once.py").write_text(KILLED_ONCE)
    monkeypatch.chdir(tmp_path)
    (swept,) = sweep(
        {"once": attrs.evolve(spec, learner="killed_once:KilledOnce")}, "out", workers=1, quiet=False
    )
    assert (swept.status, swept.folder) == ("done", Path("out/runs/once"))
    said = [line.partition(":")[0] for line in capfd.readouterr().err.splitlines()[1:]]
    assert said == ["start    once", "killed   once", "resume   once", "done     once [1/1]"]
    assert "No forgetting was measured" in (swept.folder / "report.md").read_text()


def test_a_dry_run_shows_how_far_the_runs_are_and_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["--learner", "features,ewc", "--dry-run", "--out", "swept", "--seed", "3..4"]
    assert main(["sweep", *words]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["state", "run", "composition"]
    assert [line.split()[:2] for line in lines[1:3]] == [
        ["new", "learner-features_seed-3"],
        ["new", "learner-features_seed-4"],
    ]
    assert main(["sweep", "--json", *words]) == 0
    assert [run["spec"]["seed"] for run in json.loads(capsys.readouterr().out)["runs"]] == [3, 4, 3, 4]
    assert list(tmp_path.iterdir()) == []


WITHOUT_TORCH = """
import sys
from sidetune_core.cli.main import main
status = main(["sweep", *sys.argv[1:]])
sys.exit("torch was imported" if "torch" in sys.modules else status)
"""


def test_the_sweeping_process_compares_what_is_done_and_imports_no_torch(
    plan: Plan, spec: RunSpec, tmp_path: Path
) -> None:
    (tmp_path / "base.json").write_text(json.dumps(spec.to_json()))
    carry_out(plan(0, 1), tmp_path / "out", Here(), 2, None, print)
    words = ["--spec", str(tmp_path / "base.json"), "--seed", "0..1", "--out", str(tmp_path / "out")]
    done = subprocess.run([sys.executable, "-c", WITHOUT_TORCH, *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "2 runs: 2 done" in done.stderr
    first = next(line for line in done.stdout.splitlines() if line.startswith("features"))
    assert first.split()[:2] == ["features", "2"]


def test_a_mistake_in_a_grid_exits_with_status_2_and_writes_nothing(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["sweep", "--learner", "ewx", "--out", str(tmp_path / "out")]) == 2
    assert "no learner named 'ewx'. Did you mean 'ewc'?" in capfd.readouterr().err
    assert not (tmp_path / "out").exists()


def test_ctrl_c_lets_the_runs_save_their_state_and_says_how_to_go_on(spec: RunSpec, tmp_path: Path) -> None:
    (tmp_path / "base.json").write_text(json.dumps(spec.to_json()))
    words = [
        "sweep",
        "--spec",
        "base.json",
        "--train.steps",
        "100000",
        "--seed",
        "0,1",
        "--workers",
        "1",
        "--out",
        "out",
    ]
    code = "import sys; from sidetune_core.cli.main import main; sys.exit(main())"
    with subprocess.Popen(
        [sys.executable, "-c", code, *words], cwd=tmp_path, stderr=subprocess.PIPE, text=True
    ) as process:
        while (
            not (tmp_path / "out" / "runs" / "seed-0" / "metrics.jsonl").is_file() and process.poll() is None
        ):
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate()
    assert process.returncode == 130
    assert (tmp_path / "out" / "runs" / "seed-0" / "status").read_text() == "interrupted\n"
    assert not (tmp_path / "out" / "runs" / "seed-1").exists()
    assert said.endswith(
        "Interrupted. Resume with: sidetune sweep --spec base.json --train.steps 100000 --seed 0,1 "
        "--out out --workers 1\n"
    )


def test_gpus_are_those_that_are_visible_and_each_worker_has_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2, GPU-8f")
    assert visible_gpus() == ["2", "GPU-8f"]
    executor = LocalProcesses()
    assert executor.workers == 2
    shown = "import os; print(os.environ['CUDA_VISIBLE_DEVICES'], os.environ['OMP_NUM_THREADS'])"
    monkeypatch.setattr(executors, "command", lambda words: [sys.executable, "-c", shown])
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert [executor.execute([], tmp_path / "output.txt") for _ in range(3)] == [0, 0, 0]
    assert (tmp_path / "output.txt").read_text() == "2 3\nGPU-8f 3\n2 3\n"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert visible_gpus() == []


def test_the_runs_of_a_sweep_share_the_processors(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    shown = "from sidetune_core.system.processors import available; print(available())"
    monkeypatch.setattr(executors, "command", lambda words: [sys.executable, "-c", shown])
    monkeypatch.setattr(executors, "available", lambda: 12)
    executor = LocalProcesses(3)
    assert executor.threads == 4
    monkeypatch.undo()
    whole = available()
    monkeypatch.setattr(executors, "command", lambda words: [sys.executable, "-c", shown])
    LocalProcesses(whole).execute([], tmp_path / "output.txt")
    assert (tmp_path / "output.txt").read_text() == "1\n"


def test_without_ray_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(SidetuneError, match=r"pip install 'sidetune\[ray\]'"):
        RayTasks()


def test_a_sweep_on_ray(spec: RunSpec, tmp_path: Path) -> None:
    ray = pytest.importorskip("ray")
    try:
        (swept,) = sweep({"one": spec}, tmp_path, workers=1, executor="ray")
    finally:
        ray.shutdown()
    assert swept == SweptRun("one", tmp_path / "runs" / "one", "done")


def test_a_single_run_can_be_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    waiting = [sys.executable, "-c", "import time; time.sleep(600)"]
    monkeypatch.setattr(executors, "command", lambda argv: waiting)
    assert LocalProcesses(1).execute([], tmp_path / "output", lambda: True) == -signal.SIGTERM
