"""Learners without gradients: the nearest class mean, and streaming discriminant analysis."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from sidetune_plugins.learners._one_pass import one_pass
from sklearn.covariance import EmpiricalCovariance
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.neighbors import NearestCentroid
from torch import Tensor

import sidetune_core
from sidetune_core.api import Base, Features, FitError, Inputs, OptionError, Order, Outputs

BATCH = 7
"""Does not divide the 20 training examples of a task."""


def finished(world: Any, name: str, **options: Any) -> Any:
    """A learner after the three tasks."""
    learner = world.learner(name, side=False, merger=None, **options)
    for task in world.tasks:
        assert world.start(learner, task) == []
        learner.finish(task, task.train(None, Order(1, BATCH)))
    return learner


def training_set(world: Any, learner: Any) -> tuple[Tensor, Tensor]:
    """Encodings (n, C) of all training examples, and their classes, counted through all tasks."""
    encodings, labels = [], []
    for number, task in enumerate(world.tasks):
        batch = next(task.train(None, Order(0, 20)))
        assert len(set(batch.ids.tolist())) == 20
        encodings.append(learner.encode(batch.inputs))
        labels.append(batch.targets + 2 * number)
    return torch.cat(encodings).double().detach(), torch.cat(labels)


X = torch.randn(50, 6, generator=torch.Generator().manual_seed(3))


def test_ncm_predicts_as_the_nearest_centroid_of_scikit_learn(world: Any) -> None:
    learner = finished(world, "ncm")
    encodings, labels = training_set(world, learner)
    reference = NearestCentroid().fit(encodings.numpy(), labels.numpy())
    torch.testing.assert_close(
        torch.cat([*learner.means._tensors().values()]).double(), torch.from_numpy(reference.centroids_)
    )
    logits = learner.predict({"x": X}, None)
    assert logits.shape == (50, 6)
    expected = reference.predict(learner.encode({"x": X}).double().numpy())
    assert logits.argmax(1).tolist() == expected.tolist()
    distances = torch.cdist(learner.encode({"x": X}).double(), torch.from_numpy(reference.centroids_))
    torch.testing.assert_close(-logits.double(), distances.square(), rtol=1e-4, atol=1e-5)


def test_ncm_can_compare_angles(world: Any) -> None:
    learner = finished(world, "ncm", distance="cosine")
    encoding, means = learner.encode({"x": X}), learner.means["t1"]
    expected = (encoding @ means.T) / encoding.norm(dim=1)[:, None] / means.norm(dim=1)
    torch.testing.assert_close(learner.predict({"x": X}, "t1"), expected)


@pytest.mark.parametrize("shrinkage", [1e-4, 0.1])
def test_slda_is_the_discriminant_analysis_of_scikit_learn(world: Any, shrinkage: float) -> None:
    """With the same shrinkage towards the identity, and equal priors; up to a constant for each example."""

    class Shrunk(EmpiricalCovariance):
        def fit(self, X: Any, y: Any = None) -> Any:
            super().fit(X)
            self.covariance_ = (1 - shrinkage) * self.covariance_ + shrinkage * torch.eye(16).numpy()
            return self

    learner = finished(world, "slda", shrinkage=shrinkage)
    encodings, labels = training_set(world, learner)
    analysis = LinearDiscriminantAnalysis("lsqr", covariance_estimator=Shrunk(), priors=[1 / 6] * 6)
    analysis.fit(encodings.numpy(), labels.numpy())
    expected = torch.from_numpy(analysis.decision_function(learner.encode({"x": X}).double().numpy()))
    logits = learner.predict({"x": X}, None).double()
    centre = lambda values: values - values.mean(1, keepdim=True)  # noqa: E731
    torch.testing.assert_close(centre(logits), centre(expected), rtol=1e-3, atol=1e-3)
    own = torch.cat([learner.predict({"x": X}, task.id) for task in world.tasks], 1).double()
    torch.testing.assert_close(own, logits)


def test_slda_does_not_depend_on_the_size_of_batches(world: Any) -> None:
    learner, other = (world.learner("slda", side=False, merger=None) for _ in range(2))
    for size, each in ((1, learner), (20, other)):
        for task in world.tasks[:2]:
            world.start(each, task)
            each.finish(task, task.train(None, Order(size, size)))
    torch.testing.assert_close(learner.covariance, other.covariance)
    torch.testing.assert_close(learner.predict({"x": X}, None), other.predict({"x": X}, None))


def test_a_later_task_changes_nothing_of_an_earlier_one_in_ncm(world: Any) -> None:
    learner = world.learner("ncm", side=False, merger=None)
    first, second, _ = world.tasks
    world.start(learner, first)
    learner.finish(first, first.train(None, Order(1, BATCH)))
    before = {name: value.clone() for name, value in learner.state_dict().items()}
    world.start(learner, second)
    learner.finish(second, second.train(None, Order(1, BATCH)))
    now = learner.state_dict()
    assert all(torch.equal(now[name], value) for name, value in before.items())


def test_a_task_that_is_not_finished_is_not_predicted(world: Any) -> None:
    learner = world.learner("ncm", side=False, merger=None)
    first, second, _ = world.tasks
    world.start(learner, first)
    assert learner.predict({"x": X}, None).isfinite().all()
    learner.finish(first, first.train(None, Order(1, BATCH)))
    world.start(learner, second)
    logits = learner.predict({"x": X}, None)
    assert logits.isfinite().all()
    assert (logits.softmax(1)[:, 2:] < 1e-6).all()


def test_one_pass_has_each_example_once_in_any_order(world: Any) -> None:
    task = world.tasks[0]
    ids = [i for batch in one_pass(task, task.train(None, Order(2, BATCH))) for i in batch.ids.tolist()]
    assert sorted(ids) == sorted(next(task.train(None, Order(0, 20))).ids.tolist())


def test_one_pass_ends_where_a_sampler_leaves_examples_out(world: Any) -> None:
    task = world.tasks[0]
    batch = next(task.train(None, Order(2, BATCH)))
    assert [part.ids.tolist() for part in one_pass(task, iter([batch] * 9))] == [batch.ids.tolist()]


def test_one_pass_of_data_of_unknown_length_ends_with_a_batch_of_known_examples(
    world: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unknown(size: int) -> int:
        raise OptionError("unknown")

    task = world.tasks[0]
    monkeypatch.setattr(task, "steps_per_epoch", unknown)
    batches = [next(task.train(None, Order(seed, 20))) for seed in (1, 2)]
    assert [len(part.ids) for part in one_pass(task, iter(batches))] == [20]


class Sequence(Base):
    """(6,) to (3, 2), and the second half of every batch ends after one position."""

    def __init__(self, pretrained: bool = True) -> None:
        super().__init__()
        self.shape = (3, 2)

    def forward(self, inputs: Mapping[str, Tensor]) -> Features:
        return Features(inputs["x"].unflatten(1, (3, 2)))


def test_the_padding_of_a_sequence_does_not_count(world: Any) -> None:
    learner = world.learner("ncm", base=Sequence, side=False, merger=None)
    x = torch.tensor([[1.0, 2, 3, 4, 5, 6], [1, 2, 0, 0, 0, 0]])
    encoding = learner.encode(Inputs({"x": x}, lengths=torch.tensor([3, 1])))
    assert encoding.tolist() == [[3, 4], [1, 2]]


def test_a_task_without_classes_is_refused(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    learner = world.learner("ncm", side=False, merger=None)
    monkeypatch.setattr(world.tasks[0], "outputs", Outputs("regression", 2))
    with pytest.raises(FitError, match="learner 'ncm' needs tasks of classification .* task 't0' does not"):
        learner.start(world.tasks[0])


def test_a_run_without_task_ids_forgets_nothing_where_they_are_given(chosen: Any, tmp_path: Path) -> None:
    spec = sidetune_core.RunSpec(
        base=chosen.base,
        learner="ncm",  # type: ignore[arg-type]
        env={"name": "digits", "num_tasks": 2},  # type: ignore[arg-type]
        scenario="class",
    )
    lines = sidetune_core.run(spec, tmp_path / "run", quiet=True).folder.lines("eval.jsonl")
    before, after = (
        next(line["figures"] for line in lines if (line["after"], line["task"]) == (number, "t0"))
        for number in (0, 1)
    )
    assert before["accuracy"] == before["accuracy_task_aware"] == after["accuracy_task_aware"] > 0.6
    assert 0.5 < after["accuracy"] <= after["accuracy_task_aware"]
