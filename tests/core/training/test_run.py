"""A whole run: its folder, its guarantees, and resuming it."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import sidetune_core
from sidetune_core import api
from sidetune_core.config.kinds import ENV
from sidetune_core.config.registry import find, load
from sidetune_core.config.resolve import resolve
from sidetune_core.config.spec_file import read_spec
from sidetune_core.errors import Diverged, FitError, Interrupted, RunError, SidetuneError
from sidetune_core.results.summary import read_results
from sidetune_core.storage import checkpoint
from sidetune_core.storage.run_folder import RunFolder
from sidetune_core.training.steps import StageTraining

TRAIN = {"steps": 6, "batch": 8, "precision": "fp32"}


@pytest.fixture
def spec(image_archive: Path) -> sidetune_core.RunSpec:
    return make_spec(image_archive)


def make_spec(archive: Path, learner: str = "sidetune", seed: int = 0, **train: Any) -> sidetune_core.RunSpec:
    env = {"name": "images", "archive": archive, "classes_per_task": 2}
    side = {"name": "fcn4", "weights": "none"} if learner == "sidetune" else None
    return sidetune_core.RunSpec(
        base={"name": "resnet20", "weights": "none"},
        side=side,
        learner=learner,
        env=env,
        train={**TRAIN, **train},
        seed=seed,
    )


def final(run: sidetune_core.Run) -> bytes:
    path = checkpoint.latest(run.folder.checkpoints)
    assert path is not None
    return path.read_bytes()


def test_a_run_leaves_every_file_that_its_folder_promises(
    spec: sidetune_core.RunSpec, tmp_path: Path
) -> None:
    sidetune_core.run(spec, tmp_path / "run")
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert names >= {
        "run.json",
        "status",
        "metrics.jsonl",
        "eval.jsonl",
        "moved.jsonl",
        "checkpoints",
        "tb",
        "log.txt",
        "report.md",
    }
    assert (tmp_path / "run" / "status").read_text() == "done\n"


def test_run_json_names_the_distribution_of_every_plugin(spec: sidetune_core.RunSpec, tmp_path: Path) -> None:
    about = sidetune_core.run(spec, tmp_path / "run").folder.read_json("run.json")
    assert set(about["plugins"]) == {"base", "side", "merger", "learner", "env"}
    assert about["plugins"]["learner"]["distribution"] == "sidetune"


def test_side_tuning_gives_old_tasks_the_same_numbers_bit_for_bit(
    spec: sidetune_core.RunSpec, tmp_path: Path
) -> None:
    results = sidetune_core.run(spec, tmp_path / "run").results
    assert len(results.rows) == 2
    assert results.rows[1][0] == results.rows[0][0]


def test_side_tuning_leaves_every_tensor_and_buffer_of_the_base_as_it_was(
    spec: sidetune_core.RunSpec, tmp_path: Path
) -> None:
    folder = sidetune_core.run(spec, tmp_path / "run").folder
    moved = [name for line in folder.lines("moved.jsonl") for name in line["moved"]]
    assert moved
    assert not [name for name in moved if name.startswith("base.")]


def test_what_a_later_task_moves_belongs_to_it(spec: sidetune_core.RunSpec, tmp_path: Path) -> None:
    last = sidetune_core.run(spec, tmp_path / "run").folder.lines("moved.jsonl")[-1]
    assert all(".t1." in name for name in last["moved"])


def test_fine_tuning_moves_the_base_and_its_batch_norm_statistics(
    image_archive: Path, tmp_path: Path
) -> None:
    folder = sidetune_core.run(make_spec(image_archive, "finetune"), tmp_path / "run").folder
    moved = folder.lines("moved.jsonl")[0]["moved"]
    assert {"base.conv1.weight", "base.bn1.running_mean"} <= set(moved)


def test_the_untrained_row_has_a_figure_for_every_task(spec: sidetune_core.RunSpec, tmp_path: Path) -> None:
    initial = sidetune_core.run(spec, tmp_path / "run").results.initial
    assert all(figure is not None and 0 <= figure <= 1 for figure in initial)


def test_the_same_spec_gives_the_same_bytes(spec: sidetune_core.RunSpec, tmp_path: Path) -> None:
    first, second = (sidetune_core.run(spec, tmp_path / name) for name in ("a", "b"))
    assert first.results == second.results
    assert final(first) == final(second)


def test_another_seed_gives_other_weights(image_archive: Path, tmp_path: Path) -> None:
    first, second = (
        sidetune_core.run(make_spec(image_archive, seed=seed), tmp_path / str(seed)) for seed in (0, 1)
    )
    assert final(first) != final(second)


def test_the_run_json_is_a_spec_that_gives_the_same_run(spec: sidetune_core.RunSpec, tmp_path: Path) -> None:
    first = sidetune_core.run(spec, tmp_path / "a")
    again = sidetune_core.run(read_spec(tmp_path / "a" / "run.json"), tmp_path / "b")
    assert final(first) == final(again)


def test_the_feature_store_changes_no_bit_of_the_results(image_archive: Path, tmp_path: Path) -> None:
    with_store, without = (
        sidetune_core.run(make_spec(image_archive, store=store), tmp_path / store)
        for store in ("memory", "off")
    )
    assert with_store.results == without.results
    assert final(with_store) == final(without)


def test_the_store_on_disk_is_used_by_the_next_run(image_archive: Path, tmp_path: Path) -> None:
    first, second = (
        sidetune_core.run(
            make_spec(image_archive, store="disk", store_dir=tmp_path / "store"), tmp_path / name
        )
        for name in ("a", "b")
    )
    assert len(list((tmp_path / "store").iterdir())) == 1
    assert final(first) == final(second)


def test_a_run_that_was_cut_off_ends_with_the_same_bytes(spec: sidetune_core.RunSpec, tmp_path: Path) -> None:
    whole = sidetune_core.run(spec, tmp_path / "whole")
    cut = tmp_path / "cut"
    shutil.copytree(tmp_path / "whole", cut)
    for path in (cut / "checkpoints").glob("after-002.*"):
        path.unlink()
    resumed = sidetune_core.resume(cut)
    assert final(resumed) == final(whole)
    assert resumed.results == whole.results
    assert (cut / "eval.jsonl").read_text() == (tmp_path / "whole" / "eval.jsonl").read_text()
    assert (cut / "metrics.jsonl").read_text() == (tmp_path / "whole" / "metrics.jsonl").read_text()
    assert (cut / "moved.jsonl").read_text() == (tmp_path / "whole" / "moved.jsonl").read_text()


def test_a_run_that_was_cut_off_before_its_first_checkpoint_begins_again(
    spec: sidetune_core.RunSpec, tmp_path: Path
) -> None:
    whole = sidetune_core.run(spec, tmp_path / "whole")
    cut = tmp_path / "cut"
    shutil.copytree(tmp_path / "whole", cut)
    for path in (cut / "checkpoints").iterdir():
        path.unlink()
    assert final(sidetune_core.resume(cut)) == final(whole)
    assert (cut / "eval.jsonl").read_text() == (tmp_path / "whole" / "eval.jsonl").read_text()


def test_a_checkpoint_whose_writing_was_cut_off_is_passed_over(
    spec: sidetune_core.RunSpec, tmp_path: Path
) -> None:
    whole = sidetune_core.run(spec, tmp_path / "run")
    (tmp_path / "run" / "checkpoints" / "after-002.json").unlink()
    assert final(sidetune_core.resume(tmp_path / "run")) == final(whole)


def test_ctrl_c_keeps_the_finished_task_and_names_the_folder(
    spec: sidetune_core.RunSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = StageTraining.run

    def stop_at_second(training: StageTraining, trainable: Any) -> int:
        if training.stage.last.id == "t1":
            raise KeyboardInterrupt
        return train(training, trainable)

    with monkeypatch.context() as patch:
        patch.setattr(StageTraining, "run", stop_at_second)
        with pytest.raises(Interrupted) as stop:
            sidetune_core.run(spec, tmp_path / "cut")
    assert stop.value.folder == tmp_path / "cut"
    assert (tmp_path / "cut" / "status").read_text() == "interrupted\n"
    assert final(sidetune_core.resume(tmp_path / "cut")) == final(sidetune_core.run(spec, tmp_path / "whole"))


def test_a_loss_that_diverges_stops_the_run_and_says_where(image_archive: Path, tmp_path: Path) -> None:
    with pytest.raises(Diverged, match=r"at step \d+ of task t0"):
        sidetune_core.run(make_spec(image_archive, lr=1e30, optimizer="sgd", clip=None), tmp_path / "run")
    assert re.match(r"diverged: the loss is \S+ at step \d of task t0", RunFolder(tmp_path / "run").status)


@pytest.fixture
def diverged(
    spec: sidetune_core.RunSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> sidetune_core.Run:
    """A run whose outputs for the second task are not finite in evaluation."""
    predict = api.Heads.predict

    def broken(self: api.Heads, encoding: torch.Tensor, task_id: str, inputs: Any) -> torch.Tensor:
        output = predict(self, encoding, task_id, inputs)
        return output if torch.is_grad_enabled() or task_id != "t1" else output * float("nan")

    monkeypatch.setattr(api.Heads, "predict", broken)
    return sidetune_core.run(spec, tmp_path / "run")


def test_a_run_with_outputs_that_are_not_finite_ends_as_diverged(diverged: sidetune_core.Run) -> None:
    assert re.fullmatch(
        r"diverged: t1, untrained, split test: outputs of (\d+) of \1 examples are not finite, and 2 more",
        diverged.folder.status,
    )
    assert diverged.folder.finished
    assert diverged.results.rows[1][0] is not None
    assert diverged.results.rows[1][1] is None


def test_a_diverged_run_that_is_finished_ends_at_once_when_resumed(diverged: sidetune_core.Run) -> None:
    files = [diverged.folder.path / name for name in ("eval.jsonl", "metrics.jsonl", "moved.jsonl")]
    before, status = [path.read_bytes() for path in files], diverged.folder.status
    resumed = sidetune_core.resume(diverged.folder.path)
    assert resumed.folder.status == status
    assert [path.read_bytes() for path in files] == before


def test_a_run_whose_loss_diverged_is_repeated_from_its_checkpoint(
    image_archive: Path, tmp_path: Path
) -> None:
    spec = make_spec(image_archive, lr=1e30, optimizer="sgd", clip=None)
    for attempt in (sidetune_core.run, lambda _, path: sidetune_core.resume(path)):
        with pytest.raises(Diverged, match="of task t0"):
            attempt(spec, tmp_path / "run")
    assert not RunFolder(tmp_path / "run").finished


def test_divergence_in_a_later_task_keeps_the_checkpoint_before_it(
    spec: sidetune_core.RunSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loss = api.ClassTask.loss

    def broken(self: api.ClassTask, output: torch.Tensor, batch: api.Batch) -> torch.Tensor:
        losses = loss(self, output, batch)
        return losses * float("nan") if self.id == "t1" and torch.is_grad_enabled() else losses

    monkeypatch.setattr(api.ClassTask, "loss", broken)
    with pytest.raises(Diverged, match=r"nan at step 1 of task t1.*after-001\.safetensors"):
        sidetune_core.run(spec, tmp_path / "run")
    assert (
        checkpoint.latest(tmp_path / "run" / "checkpoints")
        == tmp_path / "run" / "checkpoints" / "after-001.safetensors"
    )


def test_the_gradient_is_clipped_at_every_step(image_archive: Path, tmp_path: Path) -> None:
    options = {"optimizer": "sgd", "momentum": 0.0, "lr": 1.0, "clip": 1e-3, "steps": 8}
    run = sidetune_core.run(make_spec(image_archive, "features", **options), tmp_path / "run")
    untrained = sidetune_core.run(
        make_spec(image_archive, "features", **{**options, "steps": 0}), tmp_path / "untrained"
    )
    after, before = (
        checkpoint.read(one.folder.checkpoints / "after-001.safetensors").state for one in (run, untrained)
    )
    moved = torch.cat(
        [(after[key] - before[key]).flatten() for key in after if key.startswith("heads")]
    ).norm()
    assert 0 < moved <= 8 * 1e-3 * 1.001  # each of 8 steps is at most lr * clip long


def test_curves_can_be_read_from_tensorboard(spec: sidetune_core.RunSpec, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    sidetune_core.run(spec, tmp_path / "run")
    events = EventAccumulator(str(tmp_path / "run" / "tb"))
    events.Reload()
    assert {"t0/loss", "t1/loss", "t0/merger.base", "R/t0", "R/t1"} <= set(events.Tags()["scalars"])


def test_predict_gives_the_scores_that_were_evaluated(
    spec: sidetune_core.RunSpec, image_archive: Path, tmp_path: Path
) -> None:
    import numpy as np

    run = sidetune_core.run(spec, tmp_path / "run")
    with np.load(image_archive) as archive:
        mine = archive["y_test"] < 2
        images, labels = archive["x_test"][mine], torch.from_numpy(archive["y_test"][mine])
    scores = run.predict({"image": torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255}, "t0")
    assert scores.shape == (len(labels), 2)
    assert float((scores.argmax(1) == labels).float().mean()) == run.results.rows[-1][0]


def test_predicting_for_a_task_that_is_not_there_names_those_that_are(
    spec: sidetune_core.RunSpec, tmp_path: Path
) -> None:
    run = sidetune_core.run(spec, tmp_path / "run")
    with pytest.raises(SidetuneError, match="no task 't9' in this run; it has t0, t1"):
        run.predict({"image": torch.zeros(1, 3, 32, 32)}, "t9")


def test_a_learner_that_passes_on_an_unknown_task_is_explained(
    spec: sidetune_core.RunSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = sidetune_core.run(spec, tmp_path / "run")
    monkeypatch.setattr(type(run.learner), "predict", lambda self, inputs, task_id: self(inputs, task_id))
    with pytest.raises(FitError, match="needs the task of the examples: pass one of t0, t1"):
        run.predict({"image": torch.zeros(1, 3, 32, 32)})


def test_a_folder_with_something_in_it_is_left_alone(spec: sidetune_core.RunSpec, tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("mine")
    with pytest.raises(RunError, match="is not empty: choose another --out"):
        sidetune_core.run(spec, tmp_path)
    assert [path.name for path in tmp_path.iterdir() if path.suffix != ".npz"] == ["precious"]


def test_a_folder_that_cannot_be_made_is_refused_before_data_is_read(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match="is a file"):
        sidetune_core.run(make_spec(tmp_path / "absent.npz"), tmp_path / "file" / "run")


def test_a_folder_without_permission_is_refused(
    spec: sidetune_core.RunSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.access", lambda *_: False)  # the tests may run as root, whom no permission stops
    with pytest.raises(RunError, match="no permission to write"):
        sidetune_core.run(spec, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_bad_data_leaves_no_run_folder(tmp_path: Path) -> None:
    with pytest.raises(api.DataError):
        sidetune_core.run(make_spec(tmp_path / "absent.npz"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_resuming_what_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="holds no run"):
        sidetune_core.resume(tmp_path)


def test_evaluations_of_the_validation_split_are_kept_apart(image_archive: Path, tmp_path: Path) -> None:
    env = {"name": "images", "archive": image_archive, "classes_per_task": 2, "val_fraction": 0.2}
    spec = sidetune_core.RunSpec(
        base={"name": "resnet20", "weights": "none"}, learner="features", env=env, train=TRAIN
    )
    folder = sidetune_core.run(spec, tmp_path / "run").folder
    assert {line["split"] for line in folder.lines("eval.jsonl")} == {"val", "test"}
    assert read_results(folder, "val").rows[-1] != ()


def test_two_accumulated_batches_are_one_of_twice_the_size(image_archive: Path, tmp_path: Path) -> None:
    whole = sidetune_core.run(make_spec(image_archive, "features", batch=8, store="off"), tmp_path / "whole")
    halves = sidetune_core.run(
        make_spec(image_archive, "features", batch=4, accumulate=2, store="off"), tmp_path / "halves"
    )
    assert halves.folder.lines("metrics.jsonl")[0]["loss"] == pytest.approx(
        whole.folder.lines("metrics.jsonl")[0]["loss"], rel=1e-4
    )
    for name, value in whole.learner.state_dict().items():
        torch.testing.assert_close(halves.learner.state_dict()[name], value, rtol=1e-3, atol=1e-5)


def test_an_epoch_counts_examples_and_not_accumulated_batches(image_archive: Path, tmp_path: Path) -> None:
    run = sidetune_core.run(
        make_spec(image_archive, "features", batch=4, accumulate=5, epochs=2.0), tmp_path / "run"
    )
    assert run.folder.lines("metrics.jsonl")[-1]["step"] == 4  # of 20 examples each, 40 in a task, twice


def test_what_a_task_leaves_besides_figures_is_in_the_folder(
    image_archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        api.ClassTask, "documents", lambda task: {"note.txt": f"about {task.title}"}, raising=False
    )
    sidetune_core.run(make_spec(image_archive, "features", steps=1), tmp_path / "run")
    found = {
        str(path.relative_to(tmp_path / "run")): path.read_text()
        for path in (tmp_path / "run" / "documents").rglob("*.txt")
    }
    assert found == {
        "documents/t0-test/note.txt": "about blue, green",
        "documents/t1-test/note.txt": "about red, white",
    }


def test_every_line_of_the_curves_names_task_step_and_rate(
    spec: sidetune_core.RunSpec, tmp_path: Path
) -> None:
    sidetune_core.run(spec, tmp_path / "run")
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [(line["task"], line["step"]) for line in lines] == [("t0", 6), ("t1", 6)]
    assert all(line["lr"] == 1e-3 for line in lines)


def test_a_shared_base_goes_on_learning_in_every_task(image_archive: Path, tmp_path: Path) -> None:
    folder = sidetune_core.run(make_spec(image_archive, "finetune"), tmp_path / "run").folder
    for line in folder.lines("moved.jsonl"):
        assert "base.conv1.weight" in line["moved"]


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Gives the second task of env 'images' another metric."""
    env = load(find(ENV, "images"))
    tasks = env.tasks

    def change(**attributes: Any) -> None:
        def changed(self: Any) -> Any:
            first, second = tasks(self)
            for task, values in ((first, {}), (second, attributes)):
                for name, value in values.items():
                    setattr(task, name, value)
            return [first, second]

        monkeypatch.setattr(env, "tasks", changed)

    return change


def test_each_task_can_have_a_metric_of_its_own(
    spec: sidetune_core.RunSpec, measured: Callable[..., None], tmp_path: Path
) -> None:
    measured(metric="loss")
    done = sidetune_core.run(spec, tmp_path / "run")
    assert done.results.metric == "result"
    last = [line["figures"] for line in done.folder.lines("eval.jsonl") if line["after"] == 1]
    assert done.results.rows[1] == (last[0]["accuracy"], last[1]["loss"])


def test_progress_tells_a_mean_only_of_figures_of_one_unit(
    spec: sidetune_core.RunSpec,
    measured: Callable[..., None],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    sidetune_core.run(spec, tmp_path / "run", quiet=False)
    assert "mean over tasks so far" in capsys.readouterr().err
    measured(metric="loss")
    sidetune_core.run(spec, tmp_path / "other", quiet=False)
    assert "mean over tasks" not in capsys.readouterr().err


def test_metrics_that_rise_and_fall_are_not_mixed(
    spec: sidetune_core.RunSpec, measured: Callable[..., None], tmp_path: Path
) -> None:
    measured(metric="loss", higher_is_better=False)
    with pytest.raises(RunError, match="env 'images' mixes metrics where higher is better"):
        sidetune_core.run(spec, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_an_env_that_changes_the_current_folder_does_not_move_the_run(
    spec: sidetune_core.RunSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    resolved = resolve(spec)
    cls = resolved.components["env"].cls
    tasks, init = cls.tasks, cls.__init__

    def elsewhere(self: Any, *arguments: Any) -> None:
        init(self, *arguments)
        os.chdir(tmp_path / "elsewhere")

    monkeypatch.setattr(cls, "__init__", elsewhere)
    monkeypatch.setattr(cls, "tasks", lambda self: (os.chdir(tmp_path / "elsewhere"), tasks(self))[1])
    sidetune_core.run(resolved, "run")
    assert (tmp_path / "run" / "report.md").is_file()


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (
            ["t0", "t0"],
            "env 'images' gives a task the names 't0' and 't0', which are the same; each needs its own",
        ),
        (["t0", "../t1"], "env 'images' gives a task the name '../t1', which is no file name"),
    ],
)
def test_ids_of_tasks_that_cannot_name_files_are_refused(
    ids: list[str], message: str, spec: sidetune_core.RunSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolved = resolve(spec)
    cls = resolved.components["env"].cls
    tasks = cls.tasks

    def renamed(self: Any) -> Any:
        found = tasks(self)
        for task, name in zip(found, ids, strict=True):
            task.id = name
        return found

    monkeypatch.setattr(cls, "tasks", renamed)
    with pytest.raises(SidetuneError) as caught:
        sidetune_core.run(resolved, tmp_path / "run")
    assert str(caught.value).startswith(message)
    assert not (tmp_path / "run").exists()
