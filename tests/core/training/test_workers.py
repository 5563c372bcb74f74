"""Independent tasks trained side by side in worker processes: the same bytes as one after another."""

from __future__ import annotations

import json
import multiprocessing
import os
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest

import sidetune_core
from sidetune_core.cli.main import main_run
from sidetune_core.errors import Diverged, Interrupted, OptionError, PluginError, RunError
from sidetune_core.storage.ahead import ahead_path
from sidetune_core.storage.run_folder import RunFolder
from sidetune_core.training import run as training_run
from sidetune_core.training.workers.handover import read_handover

pytestmark = pytest.mark.skipif(os.name != "posix", reason="forks")

TINY = Path(__file__).parent / "kills"


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(TINY)
    monkeypatch.syspath_prepend(str(TINY))
    monkeypatch.setattr(training_run, "git_state", lambda: None)


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight classes of 8 x 8 images."""
    path = tmp_path_factory.mktemp("data") / "images.npz"
    generator = np.random.default_rng(0)
    arrays: dict[str, Any] = {}
    for split, each in (("train", 11), ("test", 5)):
        labels = np.tile(np.arange(8), each)
        images = generator.integers(0, 60, (len(labels), 8, 8, 3)) + 20 * labels[:, None, None, None]
        arrays |= {f"x_{split}": images.astype(np.uint8), f"y_{split}": labels}
    np.savez(path, **arrays)
    return path


@pytest.fixture(scope="module")
def make_spec(archive: Path) -> Any:
    def make(learner: Any = "sidetune", cache: str = "memory", **train: Any) -> sidetune_core.RunSpec:
        env = {"name": "images", "archive": str(archive), "image_size": 8, "classes_per_task": 2}
        has_side = learner not in ("features", "faulty:Faulty", "ewc")
        return sidetune_core.RunSpec(
            base="tiny:TinyBase",
            side="tiny:TinySide" if has_side else None,
            merger="alpha" if has_side else None,
            learner=learner,
            env=env,
            train={"steps": 8, "batch_size": 5, **train},
            cache={"mode": cache},
            device={"precision": "fp32"},
            seed=3,
        )

    return make


def files(folder: Path) -> dict[str, bytes]:
    """What has to be the same."""
    names = ("eval.jsonl", "metrics.jsonl", "moved.jsonl", "parameters.jsonl", "certificate.json")
    found = {name: (folder / name).read_bytes() for name in names}
    for sub in ("checkpoints", "probes", "tasks", "documents"):
        found |= {str(path.relative_to(folder)): path.read_bytes() for path in (folder / sub).rglob("*.*")}
    return found


def test_two_workers_leave_the_files_of_one_process(make_spec: Any, tmp_path: Path) -> None:
    sidetune_core.run(make_spec(), tmp_path / "one")
    sidetune_core.run(make_spec(), tmp_path / "two", workers=2)
    assert files(tmp_path / "two") == files(tmp_path / "one")


def test_tasks_that_begin_with_another_are_trained_side_by_side_once_that_one_is_trained(
    make_spec: Any, tmp_path: Path
) -> None:
    spec = make_spec(steps=3, start_from="t0")
    with pytest.raises(
        OptionError, match="'t0' at the same time as they; train one after another: --workers 1"
    ):
        sidetune_core.run(spec, tmp_path / "two", workers=2)
    assert not (tmp_path / "two").exists()

    class Stop(sidetune_core.Callback):
        def on_row(self, record: Any) -> None:
            raise KeyboardInterrupt

    sidetune_core.run(spec, tmp_path / "one")
    with pytest.raises(KeyboardInterrupt):
        sidetune_core.run(spec, tmp_path / "two", callbacks=[Stop()])
    sidetune_core.resume(tmp_path / "two", workers=2, trust_local_code=True)
    assert files(tmp_path / "two") == files(tmp_path / "one")


def no_processes_left() -> bool:
    return not multiprocessing.active_children()


def test_more_workers_than_tasks_and_a_cache_on_disk_change_nothing(make_spec: Any, tmp_path: Path) -> None:
    spec = make_spec("features", steps=2)
    sidetune_core.run(spec, tmp_path / "one")
    for name in ("cold", "warm"):
        on_disk = attrs.evolve(spec, cache={"mode": "disk", "dir": tmp_path / "features"})
        sidetune_core.run(on_disk, tmp_path / name, workers=7)
        rows = [RunFolder(tmp_path / folder).lines("eval.jsonl") for folder in ("one", name)]
        assert rows[0] == rows[1]
    assert no_processes_left()


@pytest.fixture(scope="module")
def whole(make_spec: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of a run of learner Faulty that nothing has stopped."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(TINY)
        patch.syspath_prepend(str(TINY))
        patch.setattr(training_run, "git_state", lambda: None)
        sidetune_core.run(make_spec("faulty:Faulty"), folder)
    return files(folder)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_stopped_run_is_resumed_with_any_number_of_workers(
    workers: int,
    whole: dict[str, bytes],
    make_spec: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    spec = make_spec("faulty:Faulty")
    monkeypatch.setenv("FAULT", "stopped")
    monkeypatch.setenv("MAIN", str(os.getpid()))
    with pytest.raises(Interrupted):
        sidetune_core.run(spec, tmp_path / "cut", workers=2)
    assert no_processes_left()
    saved = read_handover(ahead_path(tmp_path / "cut" / "checkpoints", 2))
    assert saved.mid_task is not None
    assert saved.mid_task.step >= 3
    monkeypatch.delenv("FAULT")
    sidetune_core.resume(tmp_path / "cut", trust_local_code=True, workers=workers)
    assert files(tmp_path / "cut") == whole


def test_an_error_of_a_worker_is_that_of_the_run_after_the_tasks_before_it(
    make_spec: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = make_spec("faulty:Faulty")
    monkeypatch.setenv("FAULT", "diverges")
    messages = []
    for name, workers in (("one", 1), ("two", 2)):
        with pytest.raises(Diverged) as caught:
            sidetune_core.run(spec, tmp_path / name, workers=workers)
        messages.append(str(caught.value).replace(name, "RUN"))
        assert RunFolder(tmp_path / name).boundaries == {1}
        assert "diverged: the loss is nan" in (tmp_path / name / "status").read_text()
    assert messages[0] == messages[1]
    monkeypatch.setenv("FAULT", "raises")
    with pytest.raises(ValueError, match="no such luck") as raised:
        sidetune_core.run(spec, tmp_path / "raised", workers=2)
    assert "in the worker process of t1" in "".join(raised.value.__notes__)
    assert no_processes_left()


def test_a_killed_worker_is_reported_and_the_run_can_be_resumed(
    make_spec: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = make_spec("faulty:Faulty")
    monkeypatch.setenv("FAULT", "killed")
    with pytest.raises(RunError, match=r"trained task t1, was killed by SIGKILL.*--resume .* --workers 1"):
        sidetune_core.run(spec, tmp_path / "cut", workers=2)
    assert no_processes_left()
    monkeypatch.delenv("FAULT")
    sidetune_core.resume(tmp_path / "cut", trust_local_code=True)
    assert RunFolder(tmp_path / "cut").finished


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (
            "reads",
            r"task t1 reads 2 tensors of earlier tasks, layers.t0.bias.*independent_tasks is True",
        ),
        (
            "changes",
            r"training t1 has changed 1 tensors that it does not own, base.*without --workers",
        ),
    ],
)
def test_tasks_that_are_not_as_independent_as_declared_are_an_error(
    fault: str, message: str, make_spec: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAULT", fault)
    with pytest.raises(PluginError, match=message):
        sidetune_core.run(make_spec("faulty:Faulty", steps=2), tmp_path / "run", workers=2)


def test_what_cannot_be_trained_side_by_side_is_said_before_the_run_begins(
    make_spec: Any, tmp_path: Path
) -> None:
    cases = [
        ("ewc", 2, r"--workers 2 trains tasks side by side, and those of .*'ewc' depend on each other"),
        ({"name": "sidetune", "dense": True}, 2, "depend on each other; leave it out"),
        ("sidetune", 0, "--workers takes a number of processes"),
        ("sidetune", "two", "or ray, not 'two'"),
    ]
    for learner, workers, message in cases:
        with pytest.raises(OptionError, match=message):
            sidetune_core.run(make_spec(learner), tmp_path / "run", workers=workers)
    assert not (tmp_path / "run").exists()


def test_the_option_reaches_the_run_and_the_resumed_one(make_spec: Any, tmp_path: Path, capfd: Any) -> None:
    (tmp_path / "spec.json").write_text(json.dumps(make_spec("features", steps=2).to_json(), default=str))
    argv = ["--spec", str(tmp_path / "spec.json"), "--out", str(tmp_path / "run"), "--trust-local-code"]
    assert main_run([*argv, "--workers", "2"]) == 0
    assert "4 tasks on 2 workers" in capfd.readouterr().err
    assert json.loads((tmp_path / "run" / "run.json").read_text())["workers"] == 2
    assert main_run(["--resume", str(tmp_path / "run"), "--trust-local-code", "--workers", "x"]) == 2
    assert main_run(["--extend", str(tmp_path / "run"), "--env", "digits", "--workers", "2"]) == 2
    assert "one after another; leave out --workers 2" in capfd.readouterr().err


@pytest.mark.skipif(find_spec("ray") is None, reason="needs ray")
def test_workers_of_ray_leave_the_files_of_one_process(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray

    spec = sidetune_core.RunSpec(
        base={"name": "resnet44", "weights": "none"},
        learner="features",
        env={"name": "images", "archive": str(archive), "image_size": 8, "classes_per_task": 2},
        train={"steps": 4, "batch_size": 5},
        device={"precision": "fp32"},
    )
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    sidetune_core.run(spec, tmp_path / "one")
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        sidetune_core.run(spec, tmp_path / "ray", workers="ray")
    finally:
        ray.shutdown()
    assert files(tmp_path / "ray") == files(tmp_path / "one")


def test_a_damaged_file_of_a_worker_is_named_and_its_task_is_trained_once_more(
    make_spec: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    spec = make_spec("faulty:Faulty")
    monkeypatch.setenv("FAULT", "killed")
    with pytest.raises(RunError):
        sidetune_core.run(spec, tmp_path / "cut", workers=2, save_every="2")
    path = ahead_path(tmp_path / "cut" / "checkpoints", 2)
    path.write_bytes(path.read_bytes()[:-8])
    monkeypatch.delenv("FAULT")
    sidetune_core.resume(tmp_path / "cut", trust_local_code=True, workers=1)
    assert f"{path} is damaged" in capfd.readouterr().err
    assert RunFolder(tmp_path / "cut").finished
    assert not path.exists()
