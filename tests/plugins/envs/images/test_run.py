"""Photos of customers, from their folders to predictions and to one more customer."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import sidetune_core
from sidetune_core.cli.main import main, main_run

from .conftest import write_image

SMALL = (
    "--base",
    "resnet20",
    "--base.weights",
    "none",
    "--train.steps",
    "2",
    "--device.name",
    "cpu",
    "--quiet",
)


@pytest.fixture(scope="module")
def run(customers: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run on the customers' photos without the corrupt file."""
    folder = tmp_path_factory.mktemp("runs") / "customers"
    argv = ["--env", "images", "--env.root", str(customers), "--env.on-error", "skip", *SMALL]
    assert main_run([*argv, "--out", str(folder)]) == 0
    return folder


def test_a_corrupt_file_is_named_before_anything_is_trained(
    customers: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["--env", "images", "--env.root", str(customers), *SMALL, "--out", str(tmp_path / "run")]
    assert main_run(argv) == 2
    assert (
        "1 of 66 files cannot be read: acme/class 0/bad.jpg (cannot identify image file); leave them out "
        "with --env.on-error skip"
    ) in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "run").exists()


def test_each_customer_is_a_task_with_its_own_classes(run: Path) -> None:
    about = json.loads((run / "run.json").read_text())
    assert [(task["id"], task["title"]) for task in about["tasks"]] == [
        ("Bolt-Co", "Bolt & Co."),
        ("acme", "acme"),
        ("Capek", "Čapek"),
    ]


def test_a_file_is_predicted_as_it_was_evaluated(run: Path, customers: Path) -> None:
    """The photo is rotated by its EXIF data; the task's own preprocessing gives the same probabilities."""
    prediction = sidetune_core.load(run).predict(
        str(customers / "Bolt & Co." / "class 0" / "0.jpg"), "Bolt-Co"
    )
    assert set(prediction.probabilities) == {"class 0", "class 1"}
    (task,) = sidetune_core.evaluate(run, tasks=["Bolt-Co"])
    assert task.same_data
    assert task.equals_recorded


def test_another_customer_is_added_to_the_run(run: Path, tmp_path: Path) -> None:
    for name in ("x", "y"):
        for index in range(3):
            write_image(tmp_path / "new" / "delta" / name / f"{index}.png", "red" if name == "x" else "blue")
    argv = ["--extend", str(run), "--out", str(tmp_path / "more"), "--env", "images"]
    assert main_run([*argv, "--env.root", str(tmp_path / "new"), "--quiet"]) == 0
    assert main(["verify", str(tmp_path / "more")]) == 0
    tasks = json.loads((tmp_path / "more" / "run.json").read_text())["tasks"]
    assert [task["id"] for task in tasks] == ["Bolt-Co", "acme", "Capek", "delta"]


def test_a_run_resumes_to_the_same_bytes(customers: Path, tmp_path: Path) -> None:
    """With augmentation and balanced sampling: a run of two tasks, and one that was cut after the first."""
    argv = ["--env", "images", "--env.root", str(customers), "--env.on-error", "skip", "--env.num-tasks", "2"]
    argv += ["--env.augment", "resized-crop-color", "--env.sampling", "balanced", *SMALL]
    assert main_run([*argv, "--out", str(tmp_path / "run")]) == 0
    expected = (tmp_path / "run" / "eval.jsonl").read_text()
    for path in (tmp_path / "run" / "checkpoints").glob("after-002*"):
        path.unlink()
    assert main_run(["--resume", str(tmp_path / "run"), "--quiet"]) == 0
    assert (tmp_path / "run" / "checkpoints" / "after-002.json").exists()
    assert (tmp_path / "run" / "eval.jsonl").read_text() == expected
