from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tarfile
import threading
from pathlib import Path

import pytest
import torch

from sidetune_core import load, resume
from sidetune_core.errors import RunError
from sidetune_core.serving.source import read_run
from sidetune_core.storage.checkpoint import boundary
from sidetune_core.storage.run_folder import RunFolder

FORMER = Path(__file__).parents[2] / "former_runs" / "archives"


@pytest.fixture
def copied_run(digits_run: Path, tmp_path: Path) -> Path:
    """A copy that a test may change."""
    return Path(shutil.copytree(digits_run, tmp_path / "run"))


def checkpoint_of(run: Path, count: int) -> Path:
    return boundary(run / "checkpoints", count)


def remove_checkpoint(run: Path, count: int) -> None:
    for suffix in (".safetensors", ".json"):
        checkpoint_of(run, count).with_suffix(suffix).unlink()


def test_a_run_has_all_tasks_in_order(digits_run: Path) -> None:
    trained = read_run(RunFolder(digits_run))
    assert (trained.tasks, tuple(trained.cards)) == (("t0", "t1"), ("t0", "t1"))


def test_an_unfinished_run_has_the_tasks_that_it_has_finished(copied_run: Path) -> None:
    remove_checkpoint(copied_run, 2)
    assert load(copied_run).tasks == ("t0",)


def test_a_run_that_has_finished_no_task_is_refused(copied_run: Path) -> None:
    for count in (1, 2):
        remove_checkpoint(copied_run, count)
    with pytest.raises(RunError, match="has finished no task, so there is nothing to load yet"):
        load(copied_run)


def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(
    copied_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sidetune_core.serving.source.PAUSE", 0.0)
    path = checkpoint_of(copied_run, 2)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.warns(UserWarning, match=r"after-001.* is used instead of a newer one: .*after-002"):
        assert load(copied_run).tasks == ("t0",)


def test_a_run_without_a_readable_checkpoint_is_refused(
    copied_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sidetune_core.serving.source.PAUSE", 0.0)
    for count in (1, 2):
        checkpoint_of(copied_run, count).write_bytes(b"")
    with pytest.raises(RunError, match="no checkpoint of .* can be read: "):
        load(copied_run)


def test_a_checkpoint_that_is_being_replaced_is_read_again(copied_run: Path) -> None:
    path = checkpoint_of(copied_run, 2)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    timer = threading.Timer(0.3, lambda: path.write_bytes(content))
    timer.start()
    assert load(copied_run).tasks == ("t0", "t1")


def test_a_run_of_an_earlier_version_has_the_cards_of_its_classification_tasks(
    copied_run: Path, digits_run: Path
) -> None:
    shutil.rmtree(copied_run / "tasks")
    former, present = load(copied_run), load(digits_run)
    assert former.cards["t1"].title == present.cards["t1"].title
    image = torch.full((3, 32, 32), 0.5)
    assert former.predict(image, "t1").probability == present.predict(image, "t1").probability


def test_other_tasks_of_an_earlier_version_need_their_data_once(copied_run: Path) -> None:
    shutil.rmtree(copied_run / "tasks")
    for name in ("certificate.json", "certificate.jsonl"):
        (copied_run / name).unlink()
    with pytest.raises(RunError, match=r"without cards of its tasks.*nothing is trained again: sidetune-run"):
        load(copied_run)
    resume(copied_run)
    assert load(copied_run).tasks == ("t0", "t1")


TRAIN = """
import sys, sidetune_core
env, base = {"name": "digits", "num_tasks": 3}, {"name": "resnet20", "weights": "none"}
spec = sidetune_core.RunSpec(base=base, env=env, train={"steps": 4, "batch_size": 8})
sidetune_core.run(spec, sys.argv[1], save_every="1")
"""


def test_a_run_is_loaded_while_it_trains(tmp_path: Path) -> None:
    folder, seen, refusals = tmp_path / "run", set(), []
    with subprocess.Popen([sys.executable, "-c", TRAIN, str(folder)]) as process:
        while process.poll() is None:
            try:
                model = load(folder)
            except RunError as error:
                refusals.append(str(error))
                continue
            predictions = model.predict(torch.full((3, 32, 32), 0.5), tasks="all")
            assert list(predictions) == ["t0", "t1", "t2"][: len(predictions)]
            seen.add(len(predictions))
    assert seen & {1, 2}
    assert all(re.search("holds no run|has finished no task", refusal) for refusal in refusals)
    assert load(folder).tasks == ("t0", "t1", "t2")


def test_a_card_that_was_edited_after_training_is_refused(copied_run: Path) -> None:
    path = copied_run / "tasks" / "t1.json"
    path.write_text(path.read_text().replace('"2"', '"3"'))
    with pytest.raises(RunError, match=r"tasks/t1.json was changed after the task was trained"):
        load(copied_run)


def test_a_damaged_card_is_named(copied_run: Path) -> None:
    (copied_run / "tasks" / "t0.json").write_text("{}")
    with pytest.raises(RunError, match=r"t0.json is damaged"):
        load(copied_run)


@pytest.mark.parametrize("env", ["images", "digits"])
@pytest.mark.parametrize("which", ["done", "killed"])
def test_former_runs_of_classification_are_loaded(env: str, which: str, tmp_path: Path) -> None:
    with tarfile.open(FORMER / f"{env}.tar.xz") as archive:
        archive.extractall(tmp_path, filter="data")
    model = load(tmp_path / "runs" / env / which)
    shape = next(iter(model.cards[model.tasks[0]].inputs.values()))
    predictions = model.predict(torch.full(shape, 0.5), tasks="all")
    assert all(0 < prediction.probability <= 1 for prediction in predictions.values())
