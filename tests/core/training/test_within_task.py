"""Evaluations within a task, early stopping, the best weights on val, and the single pass."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import sidetune_core
from sidetune_core.api import BufferDict, Learner, OptionError, Phase, Task, Trainable, TrainingStep
from sidetune_core.config.option_tables import TrainOptions
from sidetune_core.results.summary import summarise
from sidetune_core.seeding import seeded
from sidetune_core.storage.run_folder import RunFolder
from sidetune_core.storage.within import read_within
from sidetune_core.supervised.classification import ClassTask, Examples
from sidetune_core.system.signals import StopRequested
from sidetune_core.testing import sample
from sidetune_core.testing.state import changed, snapshot
from sidetune_core.training.within_task import check_val

from .conftest import Plain, Training

SIZES = {"train": 24, "val": 16, "test": 12}


def make_tasks(count: int = 2, splits: Sequence[str] = ("train", "val", "test")) -> list[Task]:
    """Tasks of two classes, of brighter and darker images."""
    inputs, labels = {}, {}
    for number, split in enumerate(splits):
        classes = torch.arange(SIZES[split]) % (2 * count)
        noise = sample.values(range(1000 * number, 1000 * number + SIZES[split]), sample.INPUTS["image"])
        inputs[split], labels[split] = noise + classes[:, None, None, None], classes
    examples = Examples(inputs, labels)
    return [
        ClassTask(f"t{task}", "a task", examples, (2 * task, 2 * task + 1), transform=lambda images: images)
        for task in range(count)
    ]


class Random(Plain):
    """Has dropout and batch norm, and draws random numbers when it predicts."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.layer = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Dropout(0.3))  # type: ignore[assignment]

    def predict(self, inputs: Mapping[str, Tensor], task_id: str | None) -> Tensor:
        np.random.rand()
        random.random()
        assert not any(module.training for module in self.modules())
        return super().predict(inputs, task_id) + 0 * torch.rand(1)


class Spoiled(Plain):
    """Is spoiled after step 5 of every task, and stores what it has seen."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.memory = BufferDict()

    def start(self, task: Task) -> Trainable:
        return [*super().start(task), self.memory]

    def after_step(self, task: Task, step: TrainingStep) -> None:
        self.memory[f"{task.id}-{step.number}"] = torch.tensor(float(step.number))
        if step.number == 5:
            self.layer.weight.zero_()


def lines(training: Training, name: str = "run") -> Any:
    return read_within(RunFolder(training.path / name))


def test_evaluations_within_a_task_change_no_bit_of_the_training(training: Training) -> None:
    without, having = training.make(Random), training.make(Random)
    plain = training.learn(without, "plain", make_tasks())
    assert training.learn(having, "having", make_tasks(), eval_every=1, eval_examples=3) == plain
    assert not changed(snapshot(without), snapshot(having))
    for name in ("eval.jsonl", "moved.jsonl"):
        assert (training.path / "plain" / name).read_text() == (training.path / "having" / name).read_text()
    assert not (training.path / "plain" / "within.jsonl").exists()


def test_tasks_seen_so_far_are_evaluated_at_the_start_every_n_steps_and_at_the_end(
    training: Training,
) -> None:
    training.learn(training.make(Plain), "run", make_tasks(), eval_every=3, eval_split="test", steps=7)
    found = lines(training).evaluations
    assert [(one["stage"], one["step"], one["task"]) for one in found] == [
        *(("t0", step, "t0") for step in (0, 3, 6, 7)),
        *(("t1", step, task) for step in (0, 3, 6, 7) for task in ("t0", "t1")),
    ]
    last = {(one["stage"], one["task"]): one["metrics"] for one in found if one["step"] == 7}
    recorded = RunFolder(training.path / "run").lines("eval.jsonl")
    rows = {
        (f"t{one['after']}", one["task"]): one["figures"] for one in recorded if one.get("split") == "test"
    }
    assert last == {key: rows[key] for key in last}


def test_an_evaluation_of_some_examples_has_the_same_ones_each_time() -> None:
    task = make_tasks(1)[0]
    assert isinstance(task, ClassTask)
    first, second = ([batch.ids.tolist() for batch in task.batches("val", 5)] for _ in range(2))
    assert first == second
    assert len(first[0]) == len(set(first[0])) == 5
    assert [len(batch.ids) for batch in task.batches("val", 99)] == [len(task.labels("val"))]


def test_a_task_whose_value_does_not_rise_is_stopped(training: Training) -> None:
    options: dict[str, Any] = {"lr": 0.0, "eval_every": 2, "steps": 10, "eval_split": "val"}
    curve = training.learn(training.make(Plain), "run", make_tasks(), patience=2, **options)
    first, second = lines(training).selections
    assert (first["steps"], first["planned"], first["best_step"], first["stopped"]) == (6, 10, 2, True)
    assert (second["stage"], second["steps"], second["restored"]) == ("t1", 6, False)
    assert [line["step"] for line in curve] == [6, 6]  # the losses so far are written


def test_the_best_weights_are_those_of_a_training_that_ended_there(training: Training) -> None:
    best = training.make(Spoiled)
    training.learn(best, "best", make_tasks(1), steps=8, eval_every=1, select="best")
    (selection,) = lines(training, "best").selections
    assert (selection["restored"], selection["stopped"]) == (True, False)
    assert selection["best_step"] <= 5
    short = training.make(Spoiled)
    training.learn(short, "short", make_tasks(1), steps=selection["best_step"])
    assert not changed(snapshot(short), snapshot(best))
    *_, last = lines(training, "best").evaluations
    assert (last["restored"], last["metrics"]["accuracy"]) == (True, selection["value"])


@pytest.mark.parametrize("after", [3, 11])
def test_a_stopped_run_resumes_to_the_same_selection(training: Training, after: int) -> None:
    options: dict[str, Any] = {"steps": 8, "eval_every": 2, "select": "best", "patience": 2, "epochs": None}
    whole = training.make(Spoiled)
    training.learn(whole, "whole", make_tasks(), **options)
    with pytest.raises(StopRequested):
        training.learn(training.make(Spoiled), "cut", make_tasks(), stop_after=after, **options)
    resumed = training.make(Spoiled)
    training.learn(resumed, "cut", make_tasks(), **options)
    assert not changed(snapshot(whole), snapshot(resumed))
    for name in ("within.jsonl", "metrics.jsonl", "eval.jsonl", "moved.jsonl"):
        assert (training.path / "whole" / name).read_text() == (training.path / "cut" / name).read_text()


class TwoPhases(Plain):
    """Trains in two halves."""

    started: str = ""

    def phases(self, task: Task) -> Sequence[Phase]:
        return [Phase("first", 0.5), Phase("second", 0.5)]

    def start_phase(self, task: Task, phase: Phase) -> Trainable | None:
        self.started += f"{task.id} "
        return None


def test_a_phase_that_is_stopped_is_followed_by_the_next(training: Training) -> None:
    learner = training.make(TwoPhases)
    training.learn(learner, "run", make_tasks(), lr=0.0, steps=20, eval_every=2, patience=1)
    found = [(one["stage"], one["phase"], one["steps"]) for one in lines(training).selections]
    assert found == [("t0", "first", 4), ("t0", "second", 4), ("t1", "first", 4), ("t1", "second", 4)]
    assert isinstance(learner, TwoPhases)
    assert learner.started == "t0 t1 "


def test_without_an_interval_the_tasks_of_the_stage_are_evaluated_after_every_epoch(
    training: Training,
) -> None:
    training.learn(training.make(Plain), "run", make_tasks(), steps=None, epochs=2, patience=5, batch_size=4)
    assert [(one["stage"], one["task"], one["step"]) for one in lines(training).evaluations] == [
        ("t0", "t0", 3),
        ("t0", "t0", 6),
        ("t1", "t1", 3),
        ("t1", "t1", 6),
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"patience": 3}, "--train.patience 3 decides on split val, which 2 of 2 tasks do not have"),
        ({"select": "best"}, "(t0, t1): pass --env.val-fraction 0.1"),
        ({"select": "best", "eval_split": "test"}, "leave out --train.eval-split test"),
    ],
)
def test_selection_without_val_is_refused(options: Mapping[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=re.escape(message)):
        check_val(make_tasks(splits=("train", "test")), TrainOptions(**options), has_fraction=True)


def test_jointly_trained_tasks_of_several_units_are_not_selected_by_their_mean(training: Training) -> None:
    class Joint(Plain):
        joint = True

    tasks = make_tasks()
    tasks[1].metric = "loss"
    with pytest.raises(OptionError, match="no value decides"):
        training.learn(training.make(Joint), "run", tasks, patience=2)


@pytest.mark.parametrize(("size", "drawn", "distinct"), [(4, 12, 12), (8, 16, 12), (10, 10, 10)])
def test_an_epoch_says_how_many_examples_it_drew_and_how_many_of_them_are_distinct(
    training: Training, size: int, drawn: int, distinct: int
) -> None:
    tasks = make_tasks()  # 12 training examples each
    with pytest.raises(StopRequested):
        training.learn(training.make(Plain), "run", tasks, stop_after=1, epochs=1, batch_size=size)
    training.learn(training.make(Plain), "run", tasks, epochs=1, batch_size=size)
    assert [{**one} for one in lines(training).passes] == [
        {"kind": "pass", "stage": id, "task": id, "examples": 12, "drawn": drawn, "distinct": distinct}
        for id in ("t0", "t1")
    ]


def test_more_than_one_epoch_counts_no_passes(training: Training) -> None:
    learner: Learner = training.make(Plain)
    training.learn(learner, "run", make_tasks(), epochs=2)
    assert lines(training).passes == ()


def test_a_run_without_task_ids_is_evaluated_within_tasks_as_between_them(tmp_path: Path) -> None:
    with seeded(0, "network"):
        network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 8), nn.ReLU(), nn.Linear(8, 8))
    run = sidetune_core.run(
        base={"module": network, "input": "image"},
        learner="finetune",
        tasks=make_tasks(),
        scenario="class",
        out=tmp_path / "run",
        train={"steps": 4, "batch_size": 8, "eval_every": 2, "eval_split": "test", "select": "last"},
        device={"name": "cpu", "precision": "fp32"},
    )
    recorded = {
        (line["after"], line["task"]): line["figures"]
        for line in run.folder.lines("eval.jsonl")
        if line.get("split") == "test"
    }
    last = [line for line in read_within(run.folder).evaluations if line["step"] == 4]
    assert len(last) == 3
    for line in last:
        assert line["metrics"] == recorded[line["trained"], line["task"]]
    summary = summarise(run.folder)
    assert summary.curves is not None
    assert summary.stored == {"weights": 4 * sum(p.numel() for p in run.learner.parameters())} | {
        "exemplars": 0,
        "statistics": 0,
    }
    resolved = run.folder.read_json("run.json")["resolved"]["train"]
    assert "select" not in resolved  # set to its default, as in a spec of an earlier version
    assert resolved["eval_every"] == 2
