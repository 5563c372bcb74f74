"""A run is resumed with another spec, other data, or under other conditions."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest
import torch

import sidetune_core
from sidetune_core.cli.main import main, main_run
from sidetune_core.config.identity import Identity
from sidetune_core.storage import checkpoint
from sidetune_core.system import threads
from sidetune_core.system.processors import Reading
from sidetune_core.training import job

TINY = Path(__file__).parent / "kills"
Capture = pytest.CaptureFixture[str]


def write_archive(path: Path, seed: int = 0, fewer: int | None = None) -> None:
    """Four classes of 8 x 8 images, 10 to train on and 4 to test on of each; one less of the class `fewer`
    to train on."""
    random = np.random.default_rng(seed)
    arrays: dict[str, Any] = {}
    for split, each in (("train", 10), ("test", 4)):
        labels = np.tile(np.arange(4), each)
        noise = random.integers(0, 60, (len(labels), 8, 8, 3))
        arrays[f"x_{split}"] = (noise + 60 * labels[:, None, None, None]).astype(np.uint8)
        arrays[f"y_{split}"] = labels
    if fewer is not None:
        kept = np.arange(len(arrays["y_train"])) != fewer  # the first one of its class
        arrays |= {name: values[kept] for name, values in arrays.items() if name.endswith("train")}
    np.savez(path, **arrays)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A finished run of two tasks, next to its data."""
    folder = tmp_path_factory.mktemp("whole")
    write_archive(folder / "images.npz")
    env = {"name": "images", "archive": "images.npz", "classes_per_task": 2, "image_size": 8}
    spec = sidetune_core.RunSpec(
        base="tiny:TinyBase",
        side="tiny:TinySide",
        merger="alpha",
        learner="sidetune",
        env=env,
        train={"steps": 2, "batch_size": 5},
        device={"name": "cpu", "precision": "fp32"},
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.syspath_prepend(str(TINY))
        sidetune_core.run(spec, folder / "run")
        yield folder


@pytest.fixture
def run(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same run, killed in its second task, next to its data in the current folder."""
    shutil.copytree(whole, tmp_path / "killed")
    monkeypatch.chdir(tmp_path / "killed")
    monkeypatch.syspath_prepend(str(TINY))
    for path in Path("run/checkpoints").glob("after-002.*"):
        path.unlink()
    Path("run/status").write_text("running\n")
    return Path("run")


def read(folder: Path) -> dict[str, Any]:
    about: dict[str, Any] = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    return about


def edit(folder: Path, lr: float) -> None:
    """Set the learning rate in ``run.json``."""
    about = read(folder)
    about["resolved"]["train"]["lr"] = lr
    (folder / "run.json").write_text(json.dumps(about), encoding="utf-8")


def resume(folder: Path, *options: str) -> int:
    return main_run(["--resume", str(folder), "--quiet", "--trust-local-code", *options])


def test_an_unchanged_run_begins_no_segment(run: Path, capsys: Capture) -> None:
    assert resume(run) == 0
    assert "segments" not in read(run)
    assert capsys.readouterr().err == ""


def test_a_changed_spec_is_refused_with_what_changed(run: Path, capsys: Capture) -> None:
    edit(run, lr=0.5)
    assert resume(run) == 2
    assert capsys.readouterr().err == (
        "error: the spec in run/run.json is not that of the latest checkpoint, train.lr 0.001 → 0.5: restore "
        "it, or resume it with the changed spec: "
        "sidetune-run --resume run --trust-local-code --allow-changed spec\n"
    )


def test_an_option_whose_default_is_another_one_is_a_changed_spec(run: Path, capsys: Capture) -> None:
    about = read(run)
    del about["resolved"]["train"]["batch_size"]
    (run / "run.json").write_text(json.dumps(about), encoding="utf-8")
    assert resume(run) == 2
    assert "train.batch_size 5 → 128" in capsys.readouterr().err


def test_a_changed_component_is_a_changed_spec(run: Path, capsys: Capture) -> None:
    about = read(run)
    about["resolved"]["merger"] = {"name": "sidetune/sum", "options": {}}
    (run / "run.json").write_text(json.dumps(about), encoding="utf-8")
    assert resume(run) == 2
    assert "merger.name 'sidetune/alpha' → 'sidetune/sum'" in capsys.readouterr().err


def test_another_cache_is_no_changed_spec(run: Path) -> None:
    about = read(run)
    about["resolved"]["cache"]["limit"] = 1.0
    (run / "run.json").write_text(json.dumps(about), encoding="utf-8")
    assert resume(run) == 0


def test_an_accepted_spec_is_recorded_and_reported(run: Path, capsys: Capture) -> None:
    edit(run, lr=0.5)
    assert resume(run, "--allow-changed", "spec") == 0
    assert "from task t1 on: spec train.lr 0.001 → 0.5" in capsys.readouterr().err
    (segment,) = read(run)["segments"]
    assert (segment["task"], segment["step"]) == ("t1", 0)
    assert segment["accepted"] == ["spec train.lr 0.001 → 0.5"]
    assert main(["report", str(run)]) == 0
    assert "changed: from task t1 on, spec train.lr 0.001 → 0.5" in capsys.readouterr().out


def test_checkpoints_after_an_accepted_change_have_the_new_spec(run: Path) -> None:
    edit(run, lr=0.5)
    resume(run, "--allow-changed", "spec")
    identity = checkpoint.read(run / "checkpoints" / "after-002.safetensors").identity
    assert identity is not None
    assert identity.spec["train"]["lr"] == 0.5


def test_what_was_accepted_stays_accepted_if_the_run_is_killed_at_once(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    edit(run, lr=0.5)
    resume_and_kill(run, monkeypatch)
    assert resume(run) == 0
    assert len(read(run)["segments"]) == 1


def test_a_segment_that_left_no_checkpoint_is_removed(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    edit(run, lr=0.5)
    resume_and_kill(run, monkeypatch)
    edit(run, lr=0.001)
    assert resume(run) == 0
    assert read(run)["segments"] == []


def test_changed_data_is_refused_with_what_changed(run: Path, capsys: Capture) -> None:
    write_archive(Path("images.npz"), fewer=2)
    assert resume(run) == 2
    assert capsys.readouterr().err == (
        "error: run was made with other data: t1/train/class 2 10 → 9 examples: restore it, or resume it "
        "with the changed data: sidetune-run --resume run --trust-local-code --allow-changed-data\n"
    )


def test_changed_content_is_named_by_part(run: Path, capsys: Capture) -> None:
    write_archive(Path("images.npz"), seed=1)
    assert resume(run) == 2
    message = capsys.readouterr().err
    assert "other data: t0/train/class 0: other content, t0/train/class 1: other content, " in message
    assert ", and 3 more parts: restore it" in message


def test_changed_data_of_a_run_without_a_record_is_refused(run: Path, capsys: Capture) -> None:
    (run / "data.json").unlink()
    write_archive(Path("images.npz"), seed=1)
    assert resume(run) == 2
    assert "run was made with other data, the data of env 'images': restore it" in capsys.readouterr().err


@pytest.mark.parametrize("options", [("--allow-changed", "data"), ("--allow-changed-data",)])
def test_accepted_data_is_recorded_with_what_changed(run: Path, options: tuple[str, ...]) -> None:
    write_archive(Path("images.npz"), fewer=2)
    assert resume(run, *options) == 0
    about = read(run)
    (segment,) = about["segments"]
    assert segment["accepted"] == ["the data of env 'images': t1/train/class 2 10 → 9 examples"]
    assert segment["data"] != about["data"]
    assert main(["verify", str(run), "--trust-local-code"]) == 0


def test_what_is_accepted_is_added_to_what_was(run: Path, capsys: Capture) -> None:
    edit(run, lr=0.5)
    write_archive(Path("images.npz"), seed=1)
    assert resume(run, "--allow-changed", "spec") == 2
    assert "--allow-changed spec data" in capsys.readouterr().err


@pytest.mark.parametrize("words", [("spec", "data"), ("spec,data",)], ids=["spaces", "commas"])
def test_several_changes_are_accepted(run: Path, words: tuple[str, ...]) -> None:
    edit(run, lr=0.5)
    write_archive(Path("images.npz"), seed=1)
    assert resume(run, "--allow-changed", *words) == 0


def test_only_known_changes_can_be_accepted(run: Path, capsys: Capture) -> None:
    assert resume(run, "--allow-changed", "everything") == 2
    assert "--allow-changed takes spec, data, plugins, not 'everything'" in capsys.readouterr().err


def test_a_finished_run_of_another_spec_is_refused(whole: Path, tmp_path: Path, capsys: Capture) -> None:
    shutil.copytree(whole / "run", tmp_path / "run")
    edit(tmp_path / "run", lr=0.5)
    assert resume(tmp_path / "run") == 2
    assert "other options (resolved) than the latest checkpoint" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"higher_is_better": False}, "other direction of the metric (higher_is_better) than"),
        ({"metric": "loss"}, "the metric 'loss', which is not that of its tasks"),
        ({"threads": 64}, "other threads than"),
        ({"best": 0.99}, "keys that no run writes: best"),
    ],
)
def test_a_run_whose_facts_were_edited_is_refused(
    values: dict[str, Any], words: str, run: Path, capsys: Capture
) -> None:
    (run / "run.json").write_text(json.dumps(read(run) | values))
    assert resume(run) == 2
    assert words in capsys.readouterr().err


@pytest.mark.parametrize(("table", "values"), [("train", {"lr": 0.5}), ("cache", {"mode": "off"})])
def test_a_run_that_went_on_with_an_accepted_spec_is_consistent(
    table: str, values: dict[str, Any], run: Path, capsys: Capture
) -> None:
    about = read(run)
    about["resolved"][table] |= values
    (run / "run.json").write_text(json.dumps(about))
    assert resume(run, "--allow-changed", "spec") == 0
    capsys.readouterr()
    assert main(["verify", str(run), "--trust-local-code"]) == 0, capsys.readouterr().out


def test_other_versions_are_reported_and_recorded(
    run: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = torch.__version__.partition("+")[0]
    monkeypatch.setattr(job, "_versions", lambda tasks: {"torch": "99.0"})
    assert resume(run) == 0
    message = capsys.readouterr().err
    assert f"from task t1 on: torch {now}" in message
    assert "→ 99.0" in message
    assert message.count("\n") == 1
    assert read(run)["segments"][0]["versions"]["torch"] == "99.0"
    assert (
        "torch" in (run / "report.md").read_text(encoding="utf-8").partition("- Changed: from task t1 on")[2]
    )


def test_the_number_of_threads_of_the_run_is_restored(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(threads, "available", lambda: 64)
    recorded, other = read(run)["threads"], torch.get_num_threads() + 1
    before = torch.get_num_threads()
    torch.set_num_threads(other)
    try:
        sidetune_core.resume(run, trust_local_code=True)
        assert torch.get_num_threads() == other
    finally:
        torch.set_num_threads(before)
    identity = checkpoint.read(run / "checkpoints" / "after-002.safetensors").identity
    assert identity is not None
    assert identity.threads == recorded
    assert "segments" not in read(run)


def test_threads_that_the_user_has_set_are_reported(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        assert resume(run) == 0
    finally:
        torch.set_num_threads(before)
    line = f"from task t1 on: threads {before} → 3; results may differ by rounding"
    assert line in capsys.readouterr().err
    assert line in (run / "log.txt").read_text(encoding="utf-8")


def test_a_run_whose_threads_changed_is_recorded_verified_repeated_and_resumed(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.chdir(whole)
    monkeypatch.syspath_prepend(str(TINY))
    for name, value in {"SAMPLE": 0.0, "LOOK_EVERY": 0.0, "LOOKS_TO_RISE": 2}.items():
        monkeypatch.setattr(threads, name, value)
    monkeypatch.setattr(threads, "available", lambda: 2)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    idle = (0, 2, 2, 2, 2, 4, 6)  # seconds without work of two processors, after each second
    readings = (Reading(at, 2, seconds, 2 * at, 0) for at, seconds in enumerate(idle))
    monkeypatch.setattr(threads, "take_reading", lambda: next(readings, None))
    first, second = tmp_path / "first", tmp_path / "second"
    trusting = ["--quiet", "--trust-local-code"]
    spec = tmp_path / "spec.json"
    spec.write_text(json.dumps(read(Path("run"))["resolved"]))
    try:
        assert main_run(["--spec", str(spec), "--out", str(first), *trusting]) == 0
        assert "spec_changes" not in read(first)
        assert main_run(["--spec", str(first / "run.json"), "--out", str(second), *trusting]) == 0
    finally:
        torch.set_num_threads(before)
    for folder in (first, second):
        about = read(folder)
        changes = [(one["task"], one["step"], one["threads"]) for one in about["segments"]]
        assert (about["threads"], changes) == (2, [("t0", 1, 1), ("t1", 1, 2)])
        for count, number in ((1, 1), (2, 2)):
            identity = checkpoint.read(folder / "checkpoints" / f"after-00{count}.safetensors").identity
            assert identity is not None
            assert identity.threads == number
        assert "from task t0, step 1 on: 1 thread" in (folder / "log.txt").read_text(encoding="utf-8")
        assert "from task t0, step 1 on, threads 2 → 1" in (folder / "report.md").read_text(encoding="utf-8")
        capsys.readouterr()
        assert main(["verify", str(folder), "--trust-local-code"]) == 0, capsys.readouterr().out
    for name in ("after-001.safetensors", "after-002.safetensors"):
        assert (first / "checkpoints" / name).read_bytes() == (second / "checkpoints" / name).read_bytes()
    for path in (second / "checkpoints").glob("after-002.*"):
        path.unlink()
    assert resume(second) == 0
    assert [(one["task"], one["threads"]) for one in read(second)["segments"]] == [("t0", 1)]
    assert main(["verify", str(second), "--trust-local-code"]) == 0


def test_the_same_spec_under_other_conditions_is_reported(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.setattr(job, "_versions", lambda tasks: {"torch": "99.0"})
    assert main_run(["--spec", "run/run.json", "--out", "again", "--quiet", "--trust-local-code"]) == 0
    message = capsys.readouterr().err
    assert "other conditions than in the spec: torch" in message
    assert message.count("\n") == 1


def test_another_run_of_a_spec_under_other_conditions_is_not_reported(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.setattr(job, "_versions", lambda tasks: {"torch": "99.0"})
    assert (
        main_run(["--spec", "run/run.json", "--seed", "1", "--out", "again", "--quiet", "--trust-local-code"])
        == 0
    )
    assert capsys.readouterr().err == ""


def test_an_env_without_a_fingerprint_is_named(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sidetune_core.interfaces.tasks.TaskStream.data_fingerprint", lambda self: "")
    assert resume(run) == 0
    assert "env 'images' has no fingerprint of its data" in (run / "log.txt").read_text(encoding="utf-8")


def test_other_titles_of_tasks_are_other_data(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    made = job.make_identity

    def renamed(*args: Any) -> Identity:
        identity = made(*args)
        return attrs.evolve(identity, tasks=[{**task, "title": "cats"} for task in identity.tasks])

    monkeypatch.setattr(job, "make_identity", renamed)
    assert resume(run) == 2
    assert "title of task t0 'class 0, class 1' → 'cats'" in capsys.readouterr().err


def resume_and_kill(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Resume with another spec, and end before the first step."""

    def end(*args: object) -> None:
        raise OSError("killed")

    with monkeypatch.context() as patch:
        patch.setattr("sidetune_core.training.train.learn", end)
        with pytest.raises(OSError, match="killed"):
            sidetune_core.resume(run, allow_changed=["spec"], trust_local_code=True)
