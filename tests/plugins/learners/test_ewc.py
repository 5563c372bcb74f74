"""EWC: Fisher estimators against closed forms and loops, the penalty, and fine-tuning as the limit."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import sidetune_core
from sidetune_core.api import (
    Base,
    Batch,
    ClassTask,
    Components,
    Examples,
    Features,
    FitError,
    LoadedExamples,
    MultiLabel,
    Order,
    Request,
    Shape,
    Source,
    SupervisedTask,
)
from sidetune_core.config.kinds import LEARNER
from sidetune_core.config.registry import find, load
from sidetune_core.storage import checkpoint
from sidetune_core.testing import check_plugin

ESTIMATORS = ["exact", "sample", "empirical", "batched", "legacy"]
SHARED = ("base.", "side.", "merger.")
ALL = 1000
"""More examples than any task here has."""


class DoubleTask(ClassTask):
    """A classification whose loss stays in float64."""

    def loss(self, output: Tensor, batch: Batch) -> Tensor:
        return functional.cross_entropy(output, batch.targets, reduction="none")


class BareTask(DoubleTask):
    """The encoding is the output, so that all weights are shared ones."""

    def make_head(self, shape: Shape) -> nn.Module:
        return nn.Identity()


class Labelled(Source):
    """42 examples of three labels that depend on ``x`` (6,)."""

    shapes = {"x": (6,)}

    def __init__(self, first_id: int) -> None:
        generator = torch.Generator().manual_seed(first_id)
        self.x = torch.randn(42, 6, generator=generator, dtype=torch.float64)
        self._first_id = first_id

    def __len__(self) -> int:
        return len(self.x)

    def ids(self, rows: Tensor) -> Tensor:
        return rows + self._first_id

    def targets(self) -> Tensor:
        return (self.x[:, :3] > 0.3).double()

    def read(self, requests: Iterable[Request]) -> Iterator[LoadedExamples]:
        for request in requests:
            yield LoadedExamples(request, {"x": self.x[request.rows]}, self.targets()[request.rows])


class LabelTask(SupervisedTask):
    """The encoding is the output."""

    def __init__(self) -> None:
        sources = {"train": Labelled(0), "test": Labelled(100)}
        super().__init__("t0", "labels", sources, MultiLabel(3))

    def make_head(self, shape: Shape) -> nn.Module:
        return nn.Identity()


class LinearBase(Base):
    """The logits of a softmax regression on (6,)."""

    def __init__(self) -> None:
        super().__init__()
        self.shape = (3,)
        self.linear = nn.Linear(6, 3)

    def forward(self, inputs: Mapping[str, Tensor]) -> Features:
        return Features(self.linear(inputs["x"]))


def examples(count: int = 42) -> Examples:
    generator = torch.Generator().manual_seed(0)
    x = {
        split: torch.randn(count, 6, generator=generator, dtype=torch.float64) for split in ("train", "test")
    }
    return Examples(x, {split: torch.arange(count) % 6 for split in x})


def tasks(count: int = 42, kind: type[ClassTask] = DoubleTask, classes: int = 3) -> list[ClassTask]:
    split = [list(range(first, first + classes)) for first in range(0, 6, classes)]
    return [
        kind(f"t{k}", f"task {k}", examples(count), labels, input="x", transform=torch.Tensor.double)
        for k, labels in enumerate(split)
    ]


def softmax_regression(**options: Any) -> Any:
    cls = load(find(LEARNER, "ewc"))
    torch.manual_seed(0)
    return cls(cls.Config(norm=False, **options), Components({"x": (6,)}, LinearBase)).double()


def nonlinear(world: Any, **options: Any) -> Any:
    """Base, side and merger in float64, with batch norms whose statistics are not the trivial ones."""
    learner = world.learner("ewc", **options).double()
    torch.manual_seed(0)
    for module in learner.modules():
        if isinstance(module, nn.BatchNorm1d):
            nn.init.uniform_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.uniform_(module.weight)
    return learner


def batches(task: ClassTask, size: int) -> Any:
    return task.train(lambda _: torch.empty(0), Order(5, size))


def start(world: Any, learner: Any, task: ClassTask) -> None:
    world.start(learner, task)
    learner.double()  # the new head


def finish(world: Any, learner: Any, task: ClassTask, size: int = 8) -> Any:
    """Finish a task without training it."""
    start(world, learner, task)
    learner.requires_grad_(False).eval()
    learner.finish(task, batches(task, size))
    return learner.pull


def shared(learner: Any) -> dict[str, nn.Parameter]:
    return {name: weight for name, weight in learner.named_parameters() if name.startswith(SHARED)}


def flat(tensors: Any) -> Tensor:
    return torch.cat([tensor.detach().flatten() for tensor in tensors])


def squared_gradient(learner: Any, task: ClassTask, x: Tensor, labels: Tensor) -> Tensor:
    """Of the mean loss, by plain backpropagation."""
    learner.requires_grad_(True)
    loss = functional.cross_entropy(learner({"x": x}, task.id), labels)
    gradients = torch.autograd.grad(loss, list(shared(learner).values()))
    learner.requires_grad_(False)
    return flat(gradients).square()


def all_of(task: ClassTask) -> tuple[Tensor, Tensor]:
    """Every training example once."""
    (batch,) = first(task, 1, task.size("train"))
    return batch.inputs["x"], batch.targets


def first(task: ClassTask, count: int, size: int) -> list[Batch]:
    stream = batches(task, size)
    return [next(stream) for _ in range(count)]


def by_loop(learner: Any, task: ClassTask, how: str, x: Tensor, y: Tensor) -> Tensor:
    total = torch.zeros(())
    for example, label in zip(x.split(1), y.split(1), strict=True):
        if how == "empirical":
            total = total + squared_gradient(learner, task, example, label)
        else:
            probabilities = learner({"x": example}, task.id).softmax(1)[0]
            total = total + sum(
                probability * squared_gradient(learner, task, example, torch.tensor([label]))
                for label, probability in enumerate(probabilities)
            )
    return total / len(x)


# Estimators


@pytest.mark.parametrize("size", [1, 8, 50])
def test_the_exact_fisher_of_softmax_regression_is_its_closed_form(size: int, world: Any) -> None:
    """The Fisher of ``softmax(W x + b)`` is the mean of ``(diag(p) - p p^T) kron (x, 1)(x, 1)^T``."""
    learner, (task, *_) = softmax_regression(examples=ALL), tasks(kind=BareTask)
    fisher = finish(world, learner, task, size).fisher
    x, _ = all_of(task)
    p = learner({"x": x}, "t0").softmax(1)
    rows = [
        torch.kron(torch.diag(p_i) - torch.outer(p_i, p_i), torch.outer(x_i, x_i))
        for p_i, x_i in zip(p, x, strict=True)
    ]
    weight = torch.stack(rows).mean(0).diag()
    bias = (p * (1 - p)).mean(0)
    assert len(x) == 21
    torch.testing.assert_close(fisher, torch.cat([weight, bias]), rtol=1e-12, atol=0)


@pytest.mark.parametrize("how", ["exact", "empirical"])
def test_the_fisher_of_base_side_and_merger_is_that_of_a_loop_over_examples(how: str, world: Any) -> None:
    learner, (task, *_) = nonlinear(world, fisher=how, examples=ALL), tasks()
    fisher = finish(world, learner, task).fisher
    torch.testing.assert_close(fisher, by_loop(learner, task, how, *all_of(task)), rtol=1e-9, atol=1e-15)


def test_the_sampled_fisher_is_the_exact_one_in_expectation(world: Any) -> None:
    learner, (task, *_) = (
        softmax_regression(fisher="sample", examples=ALL, anchors="online", decay=0.0),
        tasks(kind=BareTask),
    )
    draws = torch.stack([finish(world, learner, task, 21).fisher for _ in range(300)])
    exact = by_loop(learner, task, "exact", *all_of(task))
    error = (draws.mean(0) - exact) / (draws.std(0) / len(draws) ** 0.5)
    assert error.abs().max() < 4
    assert draws.std(0).min() > 0


@pytest.mark.parametrize("size", [8, 50])
def test_the_exact_fisher_of_independent_labels_is_its_closed_form(size: int, world: Any) -> None:
    """The Fisher of ``sigmoid(W x + b)`` is the mean of ``diag(p (1 - p)) kron (x, 1)(x, 1)^T``."""
    learner, task = softmax_regression(examples=ALL), LabelTask()
    fisher = finish(world, learner, task, size).fisher
    x = Labelled(0).x
    variance = learner({"x": x}, "t0").sigmoid()
    variance = variance * (1 - variance)
    weight = (variance[:, :, None] * x.square()[:, None]).mean(0).flatten()
    torch.testing.assert_close(fisher, torch.cat([weight, variance.mean(0)]), rtol=1e-12, atol=0)


def test_the_sampled_fisher_of_labels_is_the_exact_one_in_expectation(world: Any) -> None:
    exact = finish(world, softmax_regression(examples=ALL), LabelTask(), 42).fisher
    learner = softmax_regression(fisher="sample", examples=ALL, anchors="online", decay=0.0)
    draws = torch.stack([finish(world, learner, LabelTask(), 42).fisher for _ in range(200)])
    error = (draws.mean(0) - exact) / (draws.std(0) / len(draws) ** 0.5)
    assert error.abs().max() < 4


def test_the_empirical_fisher_of_labels_is_that_of_their_joint_likelihood(world: Any) -> None:
    learner, task = softmax_regression(fisher="empirical", examples=ALL), LabelTask()
    fisher = finish(world, learner, task).fisher
    x, y = Labelled(0).x, Labelled(0).targets()
    residual = learner({"x": x}, "t0").sigmoid() - y
    weight = (residual[:, :, None] * x[:, None]).square().mean(0).flatten()
    expected = torch.cat([weight, residual.square().mean(0)])
    torch.testing.assert_close(fisher, expected, rtol=1e-5, atol=1e-9)  # the loss is in float32


@pytest.mark.parametrize("how", ["exact", "empirical"])
def test_class_weights_do_not_change_the_fisher(how: str, world: Any) -> None:
    fishers = []
    for weights in ("none", "balanced"):
        task = ClassTask(
            "t0", "0 to 2", examples(44), [0, 1, 2], input="x", transform=Tensor.double, class_weights=weights
        )
        assert (task.objective.weights is None) == (weights == "none")
        fishers.append(finish(world, nonlinear(world, fisher=how), task).fisher)
    assert torch.equal(*fishers)


def test_the_batched_fisher_is_the_mean_over_batches_of_the_squared_mean_gradient(world: Any) -> None:
    learner, (task, *_) = nonlinear(world, fisher="batched", examples=17), tasks()
    fisher = finish(world, learner, task).fisher
    squares = [
        squared_gradient(learner, task, batch.inputs["x"], batch.targets) for batch in first(task, 2, 8)
    ]
    torch.testing.assert_close(fisher, torch.stack(squares).mean(0), rtol=1e-9, atol=1e-15)


def test_the_legacy_fisher_is_the_batched_one_over_a_whole_pass(world: Any) -> None:
    learner, (task, *_) = nonlinear(world, fisher="legacy", examples=1), tasks()
    fisher = finish(world, learner, task, 5).fisher
    squares = [
        squared_gradient(learner, task, batch.inputs["x"], batch.targets) for batch in first(task, 4, 5)
    ]  # 21 examples
    torch.testing.assert_close(fisher, torch.stack(squares).mean(0), rtol=1e-9, atol=1e-15)


def test_at_most_the_configured_examples_are_used(world: Any) -> None:
    learner, (task, *_) = nonlinear(world, fisher="empirical", examples=11), tasks()
    fisher = finish(world, learner, task).fisher
    stream = first(task, 2, 8)
    x = torch.cat([batch.inputs["x"] for batch in stream])[:11]
    y = torch.cat([batch.targets for batch in stream])[:11]
    torch.testing.assert_close(fisher, by_loop(learner, task, "empirical", x, y), rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize("how", ["exact", "empirical"])
def test_gradients_of_few_examples_at_a_time_give_the_same_fisher(
    how: str, world: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = finish(world, nonlinear(world, fisher=how), tasks()[0]).fisher
    monkeypatch.setattr("sidetune_plugins.learners.ewc.fisher.MAX_GRADIENT_ELEMENTS", 1)
    single = finish(world, nonlinear(world, fisher=how), tasks()[0]).fisher
    torch.testing.assert_close(single, whole, rtol=1e-9, atol=1e-15)


class Network(LinearBase):
    """Layers of several kinds, one used twice and one whose input is overwritten, on (6,)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(1, 4, 3, stride=2, padding=1)
        self.norm = nn.GroupNorm(2, 4)
        self.twice = nn.Linear(3, 3)
        self.scale = nn.Linear(12, 6)

    def forward(self, inputs: Mapping[str, Tensor]) -> Features:
        maps = functional.relu(self.norm(self.conv(inputs["x"][:, None])), inplace=True)
        maps = self.twice(self.twice(maps).tanh())
        return Features(self.linear(self.scale(maps.flatten(1))))


class Maps(LinearBase):
    """Convolutions with batch norms: two pairs of one use, one whose norm is not the only reader of its maps
    if `branches`, and one norm without a convolution.
    """

    branches = False

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 4, (2, 3), stride=(1, 2), padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.second = nn.Conv2d(4, 4, 3, padding=2, dilation=2, bias=False)
        self.other = nn.BatchNorm2d(4)
        self.alone = nn.BatchNorm2d(4)
        self.scale = nn.Linear(4, 6)
        for norm in (self.norm, self.other, self.alone):
            nn.init.normal_(norm.weight)
            nn.init.normal_(norm.running_mean)
            nn.init.uniform_(norm.running_var, 0.5, 2)

    def forward(self, inputs: Mapping[str, Tensor]) -> Features:
        maps = functional.relu(self.norm(self.first(inputs["x"].view(-1, 1, 2, 3))), inplace=True)
        hidden = self.second(maps)
        maps = self.alone(self.other(hidden) + (hidden if self.branches else maps))
        return Features(self.linear(self.scale(maps.tanh().mean((2, 3)))))


class Branches(Maps):
    branches = True


class Tied(LinearBase):
    """A weight that is used outside of its layer too."""

    def forward(self, inputs: Mapping[str, Tensor]) -> Features:
        hidden = self.linear(inputs["x"])
        return Features(self.linear(functional.linear(hidden, self.linear.weight.mT).tanh()))


class Listed(LinearBase):
    """A layer that returns a list."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = Pair(6, 3)

    def forward(self, inputs: Mapping[str, Tensor]) -> Features:
        return Features(self.linear(inputs["x"])[0])


class Pair(nn.Linear):
    def forward(self, input: Tensor) -> Any:
        return [super().forward(input), input]


def on(base: type[LinearBase], how: str) -> Any:
    cls = load(find(LEARNER, "ewc"))
    torch.manual_seed(0)
    config = cls.Config(norm=False, fisher=how, examples=ALL)
    return cls(config, Components({"x": (6,)}, lambda pretrained=True: base())).double()


@pytest.mark.parametrize(
    ("base", "how"),
    [(Network, "exact"), (Network, "empirical"), (Maps, "exact"), (Branches, "empirical")],
)
def test_layers_of_any_kind_give_the_gradients_of_a_loop(
    base: type[LinearBase], how: str, world: Any, recwarn: pytest.WarningsRecorder
) -> None:
    learner, (task, *_) = on(base, how), tasks(kind=BareTask)
    fisher = finish(world, learner, task).fisher
    torch.testing.assert_close(fisher, by_loop(learner, task, how, *all_of(task)), rtol=1e-9, atol=1e-15)
    assert not [warning for warning in recwarn if "example by example" in str(warning.message)]


@pytest.mark.parametrize(
    ("base", "reason"),
    [
        (Tied, "its layers give other gradients"),
        (Listed, "Pair takes or returns something else than tensors"),
    ],
)
def test_networks_whose_layers_do_not_give_the_gradients_are_said_and_looped_over(
    base: type[LinearBase], reason: str, world: Any
) -> None:
    learner, (task, *_) = on(base, "exact"), tasks(kind=BareTask)
    with pytest.warns(UserWarning, match=f"example by example: {reason}") as warned:
        fisher = finish(world, learner, task).fisher
    assert len(warned) == 1
    torch.testing.assert_close(fisher, by_loop(learner, task, "exact", *all_of(task)), rtol=1e-9, atol=1e-15)


class Regression(DoubleTask):
    """Real-valued targets."""

    def loss(self, output: Tensor, batch: Batch) -> Tensor:
        return (output - batch.targets).square().sum(1)

    def train(self, predict: Any, order: Order) -> Any:
        for batch in super().train(predict, order):
            yield Batch(batch.ids, batch.inputs, batch.inputs["x"][:, :3])


class Smoothed(DoubleTask):
    """A loss that is not a negative log-likelihood."""

    def loss(self, output: Tensor, batch: Batch) -> Tensor:
        return functional.cross_entropy(output, batch.targets, reduction="none", label_smoothing=0.5)


@pytest.mark.parametrize("how", ["exact", "sample"])
def test_an_expectation_over_classes_is_refused_where_there_are_none(how: str, world: Any) -> None:
    learner, (task, *_) = nonlinear(world, fisher=how), tasks(kind=Regression)
    with pytest.raises(
        FitError, match=r"targets \(8, 3\) of torch.float64. Use --learner.fisher 'empirical' or 'batched'"
    ):
        finish(world, learner, task)


def test_it_is_refused_at_the_first_step_of_training(world: Any) -> None:
    learner, (task, *_) = nonlinear(world), tasks(kind=Regression)
    start(world, learner, task)
    with pytest.raises(FitError):
        world.losses(learner, first(task, 1, 8)[0], task)


def test_a_loss_that_is_no_log_likelihood_is_refused(world: Any) -> None:
    with pytest.raises(FitError, match="other than the cross-entropy"):
        finish(world, nonlinear(world), tasks(kind=Smoothed)[0])


def test_other_tasks_than_classification_have_the_other_fishers(world: Any) -> None:
    learner, (task, *_) = nonlinear(world, fisher="empirical"), tasks(kind=Regression)
    assert finish(world, learner, task).fisher.sum() > 0


@pytest.mark.parametrize("how", ESTIMATORS)
def test_finishing_a_task_changes_only_the_penalty(how: str, world: Any, snapshot: Any) -> None:
    learner, (task, *_) = nonlinear(world, fisher=how), tasks()
    start(world, learner, task)
    learner.requires_grad_(False).eval()
    before = snapshot(learner)
    learner.finish(task, batches(task, 8))
    after = learner.state_dict()
    assert {key for key in before if not torch.equal(before[key], after[key])} == {
        "pull.fisher",
        "pull.anchor",
    }


# The penalty


def perturb(learner: Any, seed: int) -> None:
    """Change the shared weights, as training would."""
    torch.manual_seed(seed)
    for weight in shared(learner).values():
        weight.data += 0.1 * torch.randn_like(weight)


def two_tasks(world: Any, learner: Any, how: str) -> tuple[list[Tensor], list[Tensor]]:
    """Finish two tasks at different weights; return their Fishers, computed by loops, and the weights."""
    fishers, weights = [], []
    for seed, task in enumerate(tasks()):
        finish(world, learner, task, 5)
        if how == "legacy":
            squares = [
                squared_gradient(learner, task, batch.inputs["x"], batch.targets)
                for batch in first(task, 4, 5)
            ]
            fishers.append(torch.stack(squares).mean(0))
        else:
            fishers.append(by_loop(learner, task, how, *all_of(task)))
        weights.append(flat(shared(learner).values()))
        perturb(learner, seed)
    return fishers, weights


def pull(world: Any, learner: Any) -> Tensor:
    """The penalty, in a step of the first task."""
    task, *_ = tasks()
    value: Tensor = world.losses(learner, first(task, 1, 8)[0], task)["pull"]
    return value


def penalty_value(world: Any, learner: Any) -> float:
    return float(pull(world, learner).detach())


def distance(learner: Any, fisher: Tensor, anchor: Tensor) -> float:
    return float((fisher * (flat(shared(learner).values()) - anchor) ** 2).sum())


def test_the_first_task_has_no_penalty(world: Any) -> None:
    learner, (task, *_) = nonlinear(world), tasks()
    start(world, learner, task)
    assert "pull" not in world.losses(learner, first(task, 1, 8)[0], task)


def test_the_second_task_is_pulled_to_the_weights_after_the_first(world: Any) -> None:
    learner, (task, other) = nonlinear(world, coef=3.0, examples=ALL), tasks()
    finish(world, learner, task)
    fisher, anchor = by_loop(learner, task, "exact", *all_of(task)), flat(shared(learner).values())
    start(world, learner, other)
    assert penalty_value(world, learner) == 0
    perturb(learner, 0)
    assert penalty_value(world, learner) == pytest.approx(3 * distance(learner, fisher, anchor), rel=1e-9)


def test_per_task_sums_the_pulls_of_all_tasks(world: Any) -> None:
    learner = nonlinear(world, coef=1.0, fisher="empirical", examples=ALL)
    fishers, weights = two_tasks(world, learner, "empirical")
    expected = sum(distance(learner, fisher, anchor) for fisher, anchor in zip(fishers, weights, strict=True))
    assert penalty_value(world, learner) == pytest.approx(expected, rel=1e-9)


def test_a_weight_without_fisher_information_has_no_penalty(world: Any) -> None:
    learner = nonlinear(world)
    pull = learner.pull
    pull.add(torch.ones_like(pull.anchor), torch.zeros_like(pull.anchor))
    pull.add(2 * torch.ones_like(pull.anchor), torch.zeros_like(pull.anchor))
    assert pull(torch.full_like(pull.anchor, 5.0)) == 0


def test_online_pulls_to_the_latest_weights_only(world: Any) -> None:
    learner = nonlinear(world, coef=1.0, fisher="empirical", examples=ALL, anchors="online", decay=0.75)
    (old, new), (_, latest) = two_tasks(world, learner, "empirical")
    assert penalty_value(world, learner) == pytest.approx(
        distance(learner, 0.75 * old + new, latest), rel=1e-9
    )


def test_legacy_applies_one_running_mean_as_often_as_there_are_tasks(world: Any) -> None:
    learner = nonlinear(world, coef=1.0, fisher="legacy", stream_length=3)
    (fisher, new_fisher), (anchor, new_anchor) = two_tasks(world, learner, "legacy")
    for _ in range(3):  # the loss objects of three tasks update the same tensors
        anchor = anchor * (2 - 1) / 2 + new_anchor / 2
        fisher = fisher * (2 - 1) / 2 + new_fisher / 2
    assert penalty_value(world, learner) == pytest.approx(distance(learner, fisher, anchor), rel=1e-9)


def test_legacy_with_ten_tasks_has_mostly_the_last_weights_as_its_anchor(world: Any) -> None:
    learner = nonlinear(world, fisher="legacy", stream_length=10)
    _, (old, new) = two_tasks(world, learner, "legacy")
    torch.testing.assert_close(
        (learner.pull.anchor - old) / (new - old), torch.full_like(old, 1 - 0.5**10), rtol=1e-6, atol=0
    )


def test_legacy_has_the_length_of_the_stream_by_default(world: Any) -> None:
    learner = nonlinear(world, fisher="legacy")
    learner.stream_length = 10  # as the loop sets it
    _, (old, new) = two_tasks(world, learner, "legacy")
    torch.testing.assert_close(
        (learner.pull.anchor - old) / (new - old), torch.full_like(old, 1 - 0.5**10), rtol=1e-6, atol=0
    )


def test_the_default_coefficient_has_the_scale_of_the_estimator(world: Any) -> None:
    """Where gradients are independent and their mean is zero, as here with labels at random."""
    task, size, fishers = tasks(count=4200, kind=BareTask)[0], 16, {}
    for how in ("empirical", "batched"):
        learner = softmax_regression(fisher=how, examples=4200)
        for parameter in learner.base.parameters():
            nn.init.zeros_(parameter)
        fishers[how] = finish(world, learner, task, size).fisher.sum()
    assert float(fishers["empirical"] / fishers["batched"]) == pytest.approx(size, rel=0.15)
    default = {how: softmax_regression(fisher=how)._coef for how in ESTIMATORS}
    assert default["legacy"] == default["batched"] == 1e4
    assert default["exact"] == default["sample"] == default["empirical"] == 1e4 / 128


def test_heads_are_never_pulled(world: Any) -> None:
    learner = nonlinear(world)
    for task in tasks():
        finish(world, learner, task)
    start(world, learner, tasks(classes=2)[2])
    perturb(learner, 0)
    learner.requires_grad_(True)
    pull(world, learner).backward()  # type: ignore[no-untyped-call]
    assert {
        name.startswith("heads.") for name, weight in learner.named_parameters() if weight.grad is None
    } == {True}
    assert {
        name.startswith(SHARED) for name, weight in learner.named_parameters() if weight.grad is not None
    } == {True}
    assert len(learner.pull.fisher) == sum(weight.numel() for weight in shared(learner).values())


def test_batch_norms_of_the_tasks_are_not_pulled(world: Any) -> None:
    learner = nonlinear(world, batchnorm="per-task", examples=ALL)
    for task in tasks():
        finish(world, learner, task)
    learner.requires_grad_(True)
    pull(world, learner).backward()  # type: ignore[no-untyped-call]
    assert all(weight.grad is None for weight in learner.norms.parameters())


# Whole runs

TRAIN = {"steps": 6, "batch": 8, "precision": "fp32"}


def run(archive: Path, out: Path, **learner: Any) -> sidetune_core.Run:
    components = {
        slot: {"name": name, "weights": "none"} for slot, name in (("base", "resnet20"), ("side", "fcn4"))
    }
    env = {"name": "images", "archive": archive, "classes_per_task": 2}
    return sidetune_core.run(sidetune_core.RunSpec(**components, learner=learner, env=env, train=TRAIN), out)


@pytest.mark.parametrize("how", ["exact", "legacy"])
def test_ewc_with_coef_0_equals_fine_tuning_bit_for_bit(
    how: str, image_archive: Path, tmp_path: Path
) -> None:
    tuned = run(image_archive, tmp_path / "finetune", name="finetune")
    ewc = run(image_archive, tmp_path / "ewc", name="ewc", coef=0, fisher=how, examples=8)
    state = ewc.learner.state_dict()
    assert ewc.results.rows == tuned.results.rows
    assert all(torch.equal(value, state[key]) for key, value in tuned.learner.state_dict().items())
    assert state["pull.fisher"].sum() > 0


def test_a_strong_pull_keeps_the_weights_nearer_to_those_of_the_first_task(
    image_archive: Path, tmp_path: Path
) -> None:
    def drift(coef: float) -> float:
        done = run(
            image_archive, tmp_path / f"{coef}", name="ewc", coef=coef, fisher="empirical", examples=16
        )
        after = checkpoint.read(done.folder.checkpoints / "after-001.safetensors").state
        weights = flat(shared(done.learner).values())
        return float((after["pull.fisher"] * (weights - after["pull.anchor"]).square()).sum())

    assert drift(1e4) < drift(0) / 2


@pytest.mark.parametrize(
    "options",
    [{"fisher": "sample"}, {"fisher": "batched", "anchors": "online", "decay": 0.9}, {"fisher": "legacy"}],
    ids=str,
)
def test_ewc_conforms_and_resumes_with_other_options_than_the_defaults(options: dict[str, Any]) -> None:
    assert [
        finding for finding in check_plugin("learner", "sidetune/ewc", options) if not finding.passed
    ] == []
