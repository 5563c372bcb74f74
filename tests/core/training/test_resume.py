"""Going on with a run: signals, the lock, damage, and disks that cannot be written."""

from __future__ import annotations

import errno
import json
import math
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import attrs
import filelock
import pytest
import torch

import sidetune_core
from sidetune_core import api
from sidetune_core.cli.main import main_run
from sidetune_core.errors import Interrupted, RunError, WriteError
from sidetune_core.storage import atomic, checkpoint
from sidetune_core.storage.lock import locked
from sidetune_core.storage.run_files import LINES
from sidetune_core.storage.run_folder import RunFolder
from sidetune_core.system import device, signals
from sidetune_core.training import run as training_run
from sidetune_core.training import steps

TRAIN = {"steps": 4, "batch": 5, "precision": "fp32"}
TINY = Path(__file__).parent / "kills"


class Noted(api.Learner):
    """Trains a head, and keeps a diary that no buffer could hold."""

    @attrs.frozen
    class Config:
        """No options."""

    def __init__(self, config: Config, parts: api.Components) -> None:
        super().__init__()
        self.base, self.diary = parts.base(), {"sums": [torch.zeros(1)], "count": 0}
        self.heads = api.Heads(self.base.shape)

    def start(self, task: api.Task) -> list[Any]:
        return [self.heads.add_task(task)]

    def forward(self, inputs: Any, task_id: str) -> torch.Tensor:
        return self.heads.predict(self.base(inputs).encoding, task_id)

    def penalty(self, batch: api.Batch) -> dict[str, torch.Tensor]:
        count = len(self.diary["sums"])
        self.diary = {
            "sums": [*self.diary["sums"], batch.targets.sum() + self.diary["sums"][-1]],
            "count": count,
        }
        return {"last": self.diary["sums"][-1].detach().sum() / 100}

    def get_extra_state(self) -> Any:
        return self.diary

    def set_extra_state(self, state: Any) -> None:
        self.diary = state


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """The small parts of the tests with kills are found by name."""
    monkeypatch.chdir(TINY)
    monkeypatch.syspath_prepend(str(TINY))
    monkeypatch.setattr(training_run, "git_state", lambda: None)


@pytest.fixture
def spec(image_archive: Path) -> sidetune_core.RunSpec:
    env = {"name": "images", "archive": image_archive, "classes_per_task": 2, "image_size": 8}
    return sidetune_core.RunSpec(
        base="tiny:TinyBase", side="tiny:TinySide", merger="alpha", learner="sidetune", env=env, train=TRAIN
    )


@pytest.fixture
def whole(spec: sidetune_core.RunSpec, tmp_path: Path) -> Path:
    """A run without a break."""
    return sidetune_core.run(spec, tmp_path / "whole").folder.path


def same(folder: Path, whole: Path) -> None:
    """See that two run folders hold the same results, curves and checkpoints."""
    for name in ("eval.jsonl", "metrics.jsonl", "moved.jsonl", "parameters.jsonl"):
        assert (folder / name).read_bytes() == (whole / name).read_bytes()
    found, expected = (
        {path.name: path.read_bytes() for path in (one / "checkpoints").iterdir()} for one in (folder, whole)
    )
    assert found == expected


@attrs.define
class Moment:
    """Does something before forward pass number `at` of a run."""

    at: int
    action: Callable[[], object]

    def __call__(self, machine: device.Machine) -> Any:
        self.at -= 1
        if not self.at:
            self.action()
        return torch.autocast(machine.device.type, torch.bfloat16, enabled=machine.bf16)


@pytest.fixture
def before_pass(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Before forward pass `at`, do `predict`.

    Passes 1 and 2 evaluate before training, 3 to 6 train the first task, 7 evaluates it, 8 to 10 send its
    probes through, 11 evaluates the second, 12 to 15 train that, 16 and 17 evaluate both.
    """
    with monkeypatch.context() as patch:

        def arrange(at: int, predict: Callable[[], object]) -> None:
            moment = Moment(at, predict)
            patch.setattr(device.Machine, "autocast", lambda machine: moment(machine))

        yield arrange


def kill(number: int) -> Callable[[], None]:
    return lambda: os.kill(os.getpid(), number)


@pytest.mark.parametrize(
    ("at", "place", "saved_at_end", "number"),
    [
        *((1, "None", 0.0, number) for number in signals.SIGNALS),
        (4, "after step 2 of task t0", 0.0, signals.SIGNALS[0]),
        (7, "after task t0", 0.0, signals.SIGNALS[0]),
        (11, "after step 0 of task t1", 0.0, signals.SIGNALS[0]),
        (16, "after step 4 of task t1", 0.0, signals.SIGNALS[-1]),
        (16, "after task t0", math.inf, signals.SIGNALS[-1]),
    ],
)
def test_a_signal_leaves_a_state_that_is_gone_on_from(
    at: int,
    place: str,
    saved_at_end: float,
    number: int,
    spec: sidetune_core.RunSpec,
    whole: Path,
    tmp_path: Path,
    before_pass: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(steps, "SAVED_AT_END", saved_at_end)
    usual = [signal.getsignal(one) for one in signals.SIGNALS]
    before_pass(at, kill(number))
    with pytest.raises(Interrupted) as stop:
        sidetune_core.run(spec, tmp_path / "cut")
    assert (stop.value.number, stop.value.folder) == (number, tmp_path / "cut")
    assert [signal.getsignal(one) for one in signals.SIGNALS] == usual
    assert (tmp_path / "cut" / "status").read_text() == "interrupted\n"
    assert str(checkpoint.find(tmp_path / "cut" / "checkpoints", pytest.fail)) == place
    before_pass(0, lambda: None)
    sidetune_core.resume(tmp_path / "cut", trust_local_code=True)
    same(tmp_path / "cut", whole)


def test_what_a_checkpoint_follows_is_synced_to_disk_before_it(
    spec: sidetune_core.RunSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced, replace, unsynced = set[int](), os.replace, list[Path]()

    def look(source: Path, target: Path) -> None:
        replace(source, target)
        if target.name == "after-001.json":
            folder = target.parents[1]
            paths = [folder, *(path for name in LINES if (path := folder / name).exists())]
            paths += [path for name in ("documents", "probes") for path in (folder / name).rglob("*")]
            unsynced.extend(path for path in paths if path.stat().st_ino not in synced)

    monkeypatch.setattr(os, "fsync", lambda handle: synced.add(os.fstat(handle).st_ino))
    monkeypatch.setattr(os, "replace", look)
    sidetune_core.run(spec, tmp_path / "run")
    assert unsynced == []
    assert (tmp_path / "run" / "documents").is_dir()


def test_a_signal_between_two_batches_of_one_step_waits_for_its_end(
    spec: sidetune_core.RunSpec, tmp_path: Path, before_pass: Any
) -> None:
    twice = attrs.evolve(spec, train={**TRAIN, "accumulate": 2})
    whole = sidetune_core.run(twice, tmp_path / "whole").folder.path
    before_pass(6, kill(signal.SIGTERM))  # the second batch of step 2
    with pytest.raises(Interrupted):
        sidetune_core.run(twice, tmp_path / "cut")
    assert str(checkpoint.find(tmp_path / "cut" / "checkpoints", pytest.fail)) == "after step 2 of task t0"
    before_pass(0, lambda: None)
    sidetune_core.resume(tmp_path / "cut", trust_local_code=True)
    same(tmp_path / "cut", whole)


def test_the_command_that_goes_on_is_printed_and_works(
    spec: sidetune_core.RunSpec,
    whole: Path,
    tmp_path: Path,
    before_pass: Any,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "spec.json").write_text(json.dumps(spec.to_json()))
    folder = tmp_path / "my run"
    before_pass(5, kill(signal.SIGTERM))
    assert (
        main_run(
            [
                "--spec",
                str(tmp_path / "spec.json"),
                "--trust-local-code",
                "--out",
                str(folder),
                "--quiet",
                "--save-every",
                "none",
            ]
        )
        == 143
    )
    assert f"Resume with: sidetune-run --resume '{folder}' --trust-local-code\n" in capsys.readouterr().err
    before_pass(2, kill(signal.SIGINT))
    assert main_run(["--resume", str(folder), "--trust-local-code", "--quiet"]) == 130
    assert main_run(["--resume", str(folder), "--trust-local-code", "--quiet", "--save-every", "1"]) == 0
    same(folder, whole)


@pytest.fixture
def _heeding_ctrl_c() -> Iterator[None]:
    """SIGINT interrupts, as it does in a terminal; shells have it ignored by what they start in the
    background.
    """
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("_heeding_ctrl_c")
def test_a_second_signal_stops_at_once(spec: sidetune_core.RunSpec, tmp_path: Path, before_pass: Any) -> None:
    def twice() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        pytest.fail("the second signal was waited for")

    before_pass(4, twice)
    with pytest.raises(Interrupted):
        sidetune_core.run(spec, tmp_path / "cut")
    assert not (tmp_path / "cut" / "checkpoints" / checkpoint.MID_TASK).exists()


def test_a_process_that_is_killed_lets_go_of_the_folder(tmp_path: Path) -> None:
    code = (
        "import sys, time, pathlib; from sidetune_core.storage.lock import locked\n"
        "with locked(pathlib.Path(sys.argv[1])): print(1, flush=True); time.sleep(60)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, tmp_path], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        with (
            pytest.raises(RunError, match=rf"is in use by process {process.pid} on "),
            locked(tmp_path),
        ):
            pass
        folder = RunFolder(tmp_path)
        folder.set_status("running")
        assert folder.status == "running"
        process.kill()
    assert folder.status == "killed"
    with locked(tmp_path):
        pass


def test_a_run_that_is_being_worked_on_is_refused_with_status_2(
    whole: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with locked(whole):
        assert main_run(["--resume", str(whole), "--trust-local-code"]) == 2
    assert f"is in use by process {os.getpid()} on " in capsys.readouterr().err


def test_a_link_in_the_folder_is_refused_and_nothing_is_written(whole: Path, tmp_path: Path) -> None:
    foreign = tmp_path / "foreign"
    foreign.write_text("text")
    (whole / "eval.jsonl").unlink()
    (whole / "eval.jsonl").symlink_to(foreign)
    before = {path: path.stat().st_mtime_ns for path in whole.rglob("*")}
    with pytest.raises(RunError, match=r"eval.jsonl is a symbolic link"):
        sidetune_core.resume(whole)
    assert foreign.read_text() == "text"
    assert {path: path.stat().st_mtime_ns for path in whole.rglob("*")} == before | {
        whole / "eval.jsonl": foreign.stat().st_mtime_ns
    }


def test_a_run_folder_that_is_a_link_is_resumed(
    spec: sidetune_core.RunSpec, whole: Path, tmp_path: Path, before_pass: Any
) -> None:
    cut_off(spec, tmp_path / "cut", before_pass)
    (tmp_path / "link").symlink_to(tmp_path / "cut")
    sidetune_core.resume(tmp_path / "link", trust_local_code=True)
    same(tmp_path / "link", whole)


def test_the_state_within_a_task_that_a_kill_left_at_the_end_is_deleted(
    spec: sidetune_core.RunSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "delete_mid_task", lambda _: None)
        sidetune_core.run(spec, tmp_path / "run", save_every="4")
    left = tmp_path / "run" / "checkpoints" / checkpoint.MID_TASK
    assert left.exists()
    sidetune_core.resume(tmp_path / "run", trust_local_code=True)
    assert not left.exists()


def test_to_look_at_a_run_writes_nothing_in_its_folder(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.set_status("running")
    assert folder.status == "killed"
    assert [path.name for path in tmp_path.iterdir()] == ["status"]


def cut_off(spec: sidetune_core.RunSpec, folder: Path, before_pass: Any, at: int = 11) -> Path:
    """A run that was stopped in its second task; its checkpoints."""
    before_pass(at, kill(signal.SIGINT))
    with suppress(Interrupted):
        sidetune_core.run(spec, folder)
    before_pass(0, lambda: None)
    return folder / "checkpoints"


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) * 3 // 4] ^= 1
    path.write_bytes(data)


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


@pytest.mark.parametrize("harm", [flip, truncate, Path.unlink])
@pytest.mark.parametrize(
    "names",
    [
        ["within.safetensors"],
        ["within.safetensors", "after-001.safetensors"],
        ["within.safetensors", "after-001.json"],
    ],
    ids=["within", "and-tensors", "and-json"],
)
def test_damage_is_named_and_the_last_good_state_is_used(
    names: list[str],
    harm: Callable[[Path], None],
    spec: sidetune_core.RunSpec,
    whole: Path,
    tmp_path: Path,
    before_pass: Any,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = cut_off(spec, tmp_path / "cut", before_pass)
    for name in names:
        harm(folder / name)
    capsys.readouterr()
    sidetune_core.resume(tmp_path / "cut", trust_local_code=True)
    told = capsys.readouterr().err
    for name in names:
        assert (name in told) != (
            harm is Path.unlink and name == "within.safetensors"
        )  # one that is not there may never have been
    same(tmp_path / "cut", whole)


def test_lines_that_were_lost_are_named_and_the_run_goes_on(
    spec: sidetune_core.RunSpec,
    whole: Path,
    tmp_path: Path,
    before_pass: Any,
    capsys: pytest.CaptureFixture[str],
) -> None:
    cut_off(spec, tmp_path / "cut", before_pass)
    (tmp_path / "cut" / "metrics.jsonl").unlink()
    run = sidetune_core.resume(tmp_path / "cut", trust_local_code=True)
    assert f"{tmp_path / 'cut' / 'metrics.jsonl'} changed since the checkpoint" in capsys.readouterr().err
    assert (tmp_path / "cut" / "eval.jsonl").read_bytes() == (whole / "eval.jsonl").read_bytes()
    assert [line["task"] for line in run.folder.lines("metrics.jsonl")] == ["t1"]


@pytest.mark.parametrize("which", ["within.safetensors", "after-001.json", "metrics.jsonl"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS])
def test_a_disk_that_cannot_be_written_is_named_and_nothing_is_lost(
    which: str,
    number: int,
    spec: sidetune_core.RunSpec,
    whole: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with monkeypatch.context() as patch:

        def fail(original: Any, path: Path, *rest: Any, **more: Any) -> Any:
            if path.name == which:
                raise OSError(number, os.strerror(number))
            return original(path, *rest, **more)

        write, append = atomic.write_bytes, atomic.append_line
        for module in ("storage.atomic", "storage.weights"):
            patch.setattr(f"sidetune_core.{module}.write_bytes", lambda *args: fail(write, *args))
        patch.setattr("sidetune_core.storage.run_folder.append_line", lambda *args: fail(append, *args))
        with pytest.raises(
            WriteError,
            match=f"cannot write .*{os.strerror(number)}.*resume with: sidetune-run --resume",
        ) as error:
            sidetune_core.run(spec, tmp_path / "cut", save_every="1")
    assert str(tmp_path / "cut") in str(error.value)
    assert [path.name for path in (tmp_path / "cut").rglob(".*")] == []
    sidetune_core.resume(tmp_path / "cut", trust_local_code=True)
    same(tmp_path / "cut", whole)


def test_a_run_in_a_folder_that_is_read_only_is_left_as_it_is(
    whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {path: path.read_bytes() for path in whole.rglob("*") if path.is_file()}

    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(filelock.FileLock, "acquire", refuse)
    with pytest.raises(WriteError, match="cannot write .*lock: Read-only file system"):
        sidetune_core.resume(whole, trust_local_code=True)
    assert {path: path.read_bytes() for path in whole.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    ("every", "saved_at_end", "count"),
    [
        ("1", math.inf, 8),
        ("3", math.inf, 2),
        ("3", 0.0, 4),
        ("0", 0.0, 0),
        ("none", 0.0, 0),
        ("3600s", math.inf, 0),
        ("3600s", 0.0, 2),
    ],
)
def test_the_state_is_saved_as_often_as_is_asked_for_and_after_many_seconds_of_steps(
    every: str,
    saved_at_end: float,
    count: int,
    spec: sidetune_core.RunSpec,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(steps, "SAVED_AT_END", saved_at_end)
    saved = []
    save = checkpoint.save_mid_task
    monkeypatch.setattr(checkpoint, "save_mid_task", lambda *args: saved.append(save(*args)))
    sidetune_core.run(spec, tmp_path / "run", save_every=every)
    assert len(saved) == count


def test_a_state_that_diverged_is_not_saved(spec: sidetune_core.RunSpec, tmp_path: Path) -> None:
    train = {**TRAIN, "lr": 1e30, "optimizer": "sgd", "clip": None, "steps": 9}
    with pytest.raises(RunError, match=r"the loss is \w+ at step \d+ of task t0"):
        sidetune_core.run(attrs.evolve(spec, train=train), tmp_path / "run", save_every="1")
    found = checkpoint.find(tmp_path / "run" / "checkpoints", pytest.fail)
    assert found is not None
    assert found.mid_task is not None
    assert found.mid_task.step < 9


def test_extra_state_of_a_learner_is_restored_without_a_line_of_its_own(
    spec: sidetune_core.RunSpec, tmp_path: Path, before_pass: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "noted.py").write_text(f"import sys; Noted = sys.modules[{__name__!r}].Noted")
    monkeypatch.syspath_prepend(str(tmp_path))
    mine = attrs.evolve(spec, learner="noted:Noted", side=None, merger=None)
    whole = sidetune_core.run(mine, tmp_path / "whole")
    cut_off(mine, tmp_path / "cut", before_pass)
    resumed = sidetune_core.resume(tmp_path / "cut", trust_local_code=True)
    same(tmp_path / "cut", tmp_path / "whole")
    assert resumed.learner.diary == whole.learner.diary
    assert len(resumed.learner.diary["sums"]) == 9


def test_curves_are_drawn_once_however_often_a_run_was_stopped(
    spec: sidetune_core.RunSpec, tmp_path: Path, before_pass: Any
) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    cut_off(spec, tmp_path / "cut", before_pass)
    sidetune_core.resume(tmp_path / "cut", trust_local_code=True)
    sidetune_core.resume(tmp_path / "cut", trust_local_code=True)
    events = EventAccumulator(str(tmp_path / "cut" / "tb"))
    events.Reload()
    assert [point.step for point in events.Scalars("t0/loss")] == [4]
    assert [point.step for point in events.Scalars("R/t0")] == [0, 1]


def test_a_run_of_an_earlier_version_is_refused_and_left_alone(whole: Path, tmp_path: Path) -> None:
    old = shutil.copytree(whole, tmp_path / "old")
    for folder in (old, whole):
        (folder / "checkpoints" / "after-002.json").write_text(
            json.dumps({"done": ["t0", "t1"], "sha256": ""})
        )
    with pytest.raises(RunError, match="earlier version"):
        sidetune_core.resume(old, trust_local_code=True)
    assert (old / "status").read_text() == "done\n"
    same(old, whole)


def test_all_tasks_at_once_take_their_turns_from_where_they_were(
    spec: sidetune_core.RunSpec, tmp_path: Path, before_pass: Any
) -> None:
    joint = attrs.evolve(spec, learner="joint", train={**TRAIN, "steps": 3})
    sidetune_core.run(joint, tmp_path / "whole")
    for at in (4, 5, 6):
        assert "step" in str(
            checkpoint.find(cut_off(joint, tmp_path / f"cut{at}", before_pass, at), pytest.fail)
        )
        sidetune_core.resume(tmp_path / f"cut{at}", trust_local_code=True)
        same(tmp_path / f"cut{at}", tmp_path / "whole")


def test_saving_waits_for_seconds_as_well_as_for_steps(
    spec: sidetune_core.RunSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter(range(0, 10**6, 10))
    monkeypatch.setattr(
        steps, "time", attrs.make_class("Clock", {"monotonic": attrs.field()})(lambda: next(clock))
    )
    saved = []
    save = checkpoint.save_mid_task
    monkeypatch.setattr(checkpoint, "save_mid_task", lambda *args: saved.append(args[6].step) or save(*args))
    sidetune_core.run(spec, tmp_path / "run", save_every="20s")
    assert saved == [2, 4, 2, 4]
