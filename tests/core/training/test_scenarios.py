"""Runs in the scenarios domain and class: R against numpy, a plain loop, resume, and what is refused."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import sidetune_core
from sidetune_core import api
from sidetune_core.api import ClassTask, Examples, Order
from sidetune_core.seeding import derive_seed, seeded
from sidetune_core.storage.evaluations import read_evaluations

RULES = ("max-softmax", "energy", "entropy", "nearest-mean")
STEPS, LR = 12, 0.05


def make_tasks(count: int = 3, sizes: tuple[int, ...] = (2, 2, 2)) -> list[ClassTask]:
    """Tasks on points near the mean of their class."""
    generator = torch.Generator().manual_seed(0)
    total = sum(sizes)
    means = 2 * torch.randn(total, 6, generator=generator)
    labels = {"train": torch.arange(20 * total) % total, "test": torch.arange(10 * total) % total}
    examples = Examples(
        {split: means[y] + torch.randn(len(y), 6, generator=generator) for split, y in labels.items()}, labels
    )
    edges = np.cumsum([0, *sizes])
    return [
        ClassTask(
            f"t{k}", f"task {k}", examples, range(edges[k], edges[k + 1]), input="x", transform=Tensor.float
        )
        for k in range(count)
    ]


def network() -> nn.Sequential:
    """(6,) to (8,), and a classifier, which base 'module' leaves out; with weights of its own seed."""
    with seeded(0, "network"):
        return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8))


def train(folder: Path, learner: Any, scenario: str, tasks: Any = None, **how: Any) -> Any:
    return sidetune_core.run(
        base={"module": network(), "input": "x"},
        learner=learner,
        tasks=tasks or make_tasks(),
        scenario=scenario,
        out=folder,
        train={"steps": STEPS, "batch_size": 10, "lr": LR, "optimizer": "sgd", "momentum": 0.0},
        device={"name": "cpu", "precision": "fp32"},
        **how,
    )


def sidetuned(rule: str = "max-softmax") -> dict[str, Any]:
    return {"side": "mlp", "learner": {"name": "sidetune", "task_inference": rule}}


def figures(run: Any) -> dict[tuple[int, str], dict[str, float]]:
    """The metrics on the test split by row and task."""
    lines = read_evaluations(run.folder).lines
    return {(line["after"], line["task"]): line["figures"] for line in lines if line["split"] == "test"}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("scenarios")


@pytest.fixture(scope="module")
def finetuned(folders: Path) -> Any:
    return train(folders / "finetune", "finetune", "class")


def predictions(run: Any, split: str = "test") -> Iterator[tuple[int, Tensor, Tensor]]:
    """The number of each task, its labels among all classes, and the logits without a task id."""
    for number, task in enumerate(run.tasks):
        batches = list(task.batches(split))
        inputs = torch.cat([batch.inputs["x"] for batch in batches])
        targets = torch.cat([batch.targets for batch in batches])
        yield number, targets + 2 * number, run.predict({"x": inputs})


# R


def test_r_is_the_accuracy_among_the_classes_of_all_tasks(finetuned: Any) -> None:
    for number, labels, logits in predictions(finetuned):
        assert logits.shape == (20, 6)
        metrics = figures(finetuned)[2, f"t{number}"]
        assert metrics["accuracy"] == float((logits.argmax(1) == labels).double().mean())
        own = logits[:, 2 * number : 2 * number + 2].argmax(1) + 2 * number
        assert metrics["accuracy_task_aware"] == float((own == labels).double().mean())
        assert finetuned.results.rows[2][number] == metrics["accuracy"]


@pytest.mark.parametrize("rule", RULES)
def test_the_predictions_of_side_tuning_follow_the_rule(rule: str, folders: Path) -> None:
    run = train(folders / rule, scenario="class", merger="alpha", **sidetuned(rule))
    base = network()[:2]
    train_batches = {task.id: list(task.batches("train")) for task in run.tasks}
    for number, labels, logits in predictions(run):
        inputs = torch.cat([batch.inputs["x"] for batch in run.tasks[number].batches("test")])
        scores, classes = [], []
        for other, task in enumerate(run.tasks):
            z = run.predict({"x": inputs}, task.id).double()
            p = z.softmax(1)
            if rule == "nearest-mean":
                stored = torch.cat([batch.inputs["x"] for batch in train_batches[task.id]])
                targets = torch.cat([batch.targets for batch in train_batches[task.id]])
                means = torch.stack([base(stored[targets == c]).mean(0) for c in range(2)])
                scores.append(-torch.cdist(base(inputs), means).square().amin(1).double())
            else:
                rules = {"max-softmax": p.amax(1), "energy": z.logsumexp(1), "entropy": (p * p.log()).sum(1)}
                scores.append(rules[rule])
            classes.append(z.argmax(1) + 2 * other)
        inferred = torch.stack(scores, 1).argmax(1)
        expected = torch.stack(classes, 1)[torch.arange(20), inferred]
        assert torch.equal(logits.argmax(1), expected)
        accuracy = float((expected == labels).double().mean())
        assert figures(run)[2, f"t{number}"]["accuracy"] == accuracy


def test_the_confusion_between_tasks_is_a_document(finetuned: Any) -> None:
    for number, _, logits in predictions(finetuned):
        path = finetuned.folder.path / "documents" / f"t{number}-test" / "task_confusion.csv"
        header, *rows = csv.reader(path.read_text().splitlines())
        counts = torch.bincount(logits.argmax(1) // 2, minlength=3).tolist()
        assert header == ["true", "predicted", "count"]
        assert rows == [[f"t{number}", f"t{other}", str(count)] for other, count in enumerate(counts)]


def test_earlier_tasks_are_evaluated_after_every_task(finetuned: Any) -> None:
    assert {(row, f"t{task}") for row in range(3) for task in range(row + 1)} <= figures(finetuned).keys()
    assert not read_evaluations(finetuned.folder).unchanged


def test_with_the_task_id_nothing_is_forgotten_by_side_tuning(folders: Path) -> None:
    run = train(folders / "certified", scenario="class", merger="alpha", **sidetuned())
    aware = [
        [figures(run)[row, f"t{task}"]["accuracy_task_aware"] for row in range(task, 3)] for task in (0, 1)
    ]
    assert all(len(set(column)) == 1 for column in aware)
    certificate = json.loads((run.folder.path / "certificate.json").read_text())
    assert {task["verdict"] for task in certificate["tasks"]} == {"zero by construction"}
    assert sidetune_core.verify(run.folder.path).problems == []


# Training


def test_class_incremental_fine_tuning_is_a_plain_loop_with_a_growing_head(finetuned: Any) -> None:
    base, tasks = network()[:2], make_tasks()
    weight, bias = torch.empty(0, 8), torch.empty(0)
    for number, task in enumerate(tasks):
        with seeded(0, "start", task.id):
            new = nn.Linear(8, 2)
        weight = torch.cat([weight, new.weight.detach()]).requires_grad_()
        bias = torch.cat([bias, new.bias.detach()]).requires_grad_()
        optimizer = torch.optim.SGD([*base.parameters(), weight, bias], lr=LR)
        batches = task.train(lambda inputs: inputs["x"], Order(derive_seed(0, "train"), 10))
        for _, batch in zip(range(STEPS), batches, strict=False):
            logits = functional.linear(api.normalise(base(batch.inputs["x"])), weight, bias)
            loss = functional.cross_entropy(logits, batch.targets + 2 * number)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_([*base.parameters(), weight, bias], 1.0)
            optimizer.step()
        weight, bias = weight.detach(), bias.detach()
    heads = finetuned.learner.heads
    assert torch.allclose(torch.cat([heads[f"t{k}"].linear.weight for k in range(3)]), weight, atol=1e-6)
    assert torch.allclose(torch.cat([heads[f"t{k}"].linear.bias for k in range(3)]), bias, atol=1e-6)
