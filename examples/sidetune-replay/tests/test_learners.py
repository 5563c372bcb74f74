"""The learners on tasks over random vectors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice

import pytest
import torch
from sidetune_replay._replay import full_length
from sidetune_replay.derpp import DERpp
from sidetune_replay.er import ER
from torch import Tensor, nn
from torch.nn import functional

from sidetune_core.api import (
    Base,
    Batch,
    ClassTask,
    Components,
    Examples,
    Features,
    Inputs,
    Order,
    Phase,
    Scenario,
    TrainingStep,
    normalise,
    seeded,
)
from sidetune_core.interfaces.training import PhaseSteps
from sidetune_core.testing import check_plugin

INPUTS = {"x": (6,)}


class Linear(Base):
    """(6,) to (16,)."""

    def __init__(self, pretrained: bool = True) -> None:
        super().__init__()
        self.shape = (16,)
        self.layer = nn.Linear(6, 16)

    def forward(self, inputs: Mapping[str, Tensor]) -> Features:
        return Features(self.layer(inputs["x"]).tanh())


def tasks() -> list[ClassTask]:
    """Three tasks of two classes separated by a line, a different line in each task."""
    generator = torch.Generator().manual_seed(0)
    x = {split: torch.randn(count, 6, generator=generator) for split, count in (("train", 120), ("test", 60))}
    lines = torch.randn(3, 6, generator=generator)
    labels = {}
    for split, values in x.items():
        task = torch.arange(len(values)) % 3
        labels[split] = 2 * task + ((values * lines[task]).sum(1) > 0)
    examples = Examples(x, labels)
    return [
        ClassTask(f"t{k}", f"line {k}", examples, [2 * k, 2 * k + 1], input="x", transform=torch.clone)
        for k in range(3)
    ]


def make(cls: type[ER] | type[DERpp], scenario: Scenario = "task", **options: float) -> ER | DERpp:
    with seeded(0, "build"):
        return cls(cls.Config(**options), Components(INPUTS, Linear, scenario=scenario))


def train(
    learner: ER | DERpp, task: ClassTask, steps: int, lr: float = 0.05
) -> Iterator[tuple[Batch, Tensor, dict[str, Tensor]]]:
    """Train on a task like the training loop; yields each batch, the output before its step, and its
    losses.
    """
    with seeded(0, "start", task.id):
        learner.start(task)
    optimizer = torch.optim.Adam(learner.parameters(), lr)
    phase = PhaseSteps(Phase(), 0, steps)
    with seeded(0, "train", task.id):
        batches = task.train(lambda inputs: learner(inputs, task.id), Order(0, 8))
        for number, batch in enumerate(islice(batches, steps)):
            step = TrainingStep(number, steps, 0, phase, batch_size=8, rows=slice(0, 8))
            with torch.no_grad():
                output = learner(batch.inputs, task.id)
            losses = learner.losses(batch, task, step)
            optimizer.zero_grad()
            sum(losses.values()).backward()
            optimizer.step()
            learner.after_step(task, step)
            yield batch, output, {name: value.detach() for name, value in losses.items()}


def stored(learner: ER | DERpp, task_id: str = "t0") -> dict[str, Tensor]:
    """The stored examples of a task by column."""
    _, columns = learner.memory.read(torch.arange(learner.memory.size))[task_id]
    return dict(columns)


def first_loss_after_all(learner: ER | DERpp) -> float:
    """The loss of the first of three tasks at the end."""
    stream = tasks()
    for task in stream:
        for _ in train(learner, task, 60):
            pass

    def predict(inputs: Mapping[str, Tensor]) -> Tensor:
        with torch.no_grad():
            return learner(inputs, "t0")

    return stream[0].evaluate(predict)["loss"]


@pytest.mark.parametrize("name", ["er", "derpp"])
def test_it_conforms(name: str) -> None:
    findings = check_plugin("learner", f"sidetune-replay/{name}")
    assert [finding for finding in findings if not finding.passed] == []


@pytest.mark.parametrize("cls", [ER, DERpp])
def test_it_forgets_less_than_without_replay(cls: type[ER] | type[DERpp]) -> None:
    without = first_loss_after_all(make(DERpp, alpha=0, beta=0))
    assert first_loss_after_all(make(cls, buffer=60)) < 0.7 * without


def test_the_first_step_has_nothing_to_replay_and_later_ones_have() -> None:
    losses = [sorted(losses) for _, _, losses in train(make(ER), tasks()[0], 3)]
    assert losses == [["loss"], ["loss", "replay"], ["loss", "replay"]]


def test_a_replayed_example_has_the_loss_and_the_head_of_its_own_task() -> None:
    """With as many examples in the buffer as in a batch, all of it is replayed at each step."""
    first, second, _ = tasks()
    learner = make(ER, buffer=8)
    for _ in train(learner, first, 4):
        pass
    with torch.no_grad():
        output = learner({"x": stored(learner)["input.x"]}, "t0")
        by_hand = functional.cross_entropy(output, stored(learner)["target"])
    _, _, losses = next(train(learner, second, 1))
    torch.testing.assert_close(losses["replay"], by_hand)


def test_in_the_scenario_class_examples_have_a_softmax_over_all_classes_so_far() -> None:
    first, second, _ = tasks()
    learner = make(DERpp, "class", buffer=8, alpha=2, beta=3)
    for _ in train(learner, first, 4):
        pass
    learner.start(second)
    batch = next(second.train(lambda inputs: inputs["x"], Order(0, 8)))
    step = TrainingStep(0, 1, 0, PhaseSteps(Phase(), 0, 1), batch_size=8, rows=slice(0, 8))
    losses = learner.losses(batch, second, step)
    own, replayed = (learner.base(one).encoding for one in (batch.inputs, {"x": stored(learner)["input.x"]}))
    for encoding, targets, name in (
        (own, batch.targets + 2, "loss"),
        (replayed, stored(learner)["target"], "replay"),
    ):
        logits = torch.cat([learner.heads[task](normalise(encoding)) for task in ("t0", "t1")], 1)
        weight = 3 if name == "replay" else 1
        torch.testing.assert_close(losses[name], weight * functional.cross_entropy(logits, targets))
    squares = (learner.heads["t0"](normalise(replayed)) - stored(learner)["output"]).square()
    torch.testing.assert_close(losses["mse"], 2 * squares.mean())  # the two classes of its time


def test_the_examples_of_a_batch_are_stored_after_its_step() -> None:
    learner, (task, *_) = make(ER), tasks()
    learner.start(task)
    step = TrainingStep(0, 1, 0, PhaseSteps(Phase(), 0, 1), batch_size=8, rows=slice(0, 8))
    batch = next(task.train(lambda inputs: inputs["x"], Order(0, 8)))
    learner.losses(batch, task, step)
    assert len(learner.memory) == 0
    learner.after_step(task, step)
    assert sorted(stored(learner)["id"].tolist()) == sorted(batch.ids.tolist())


def test_der_is_zero_while_the_network_is_unchanged_since_the_example_was_stored() -> None:
    for _, _, losses in islice(train(make(DERpp), tasks()[0], 4, lr=0.0), 1, None):
        torch.testing.assert_close(losses["mse"], torch.tensor(0.0), atol=1e-10, rtol=0)
        assert losses["replay"] > 0


def test_stored_outputs_are_those_of_the_step_in_which_the_example_was_stored() -> None:
    learner, outputs = make(DERpp, buffer=100), {}
    for batch, output, _ in train(learner, tasks()[0], 3):
        outputs |= {int(id): row for id, row in zip(batch.ids, output, strict=True)}
    columns = stored(learner)
    assert len(columns["id"]) == 24
    for id, row in zip(columns["id"], columns["output"], strict=True):
        torch.testing.assert_close(row, outputs[int(id)])


def test_der_pp_is_the_sum_of_its_weighted_terms() -> None:
    """The same draws with other weights give the same terms, scaled."""

    def terms(alpha: float, beta: float) -> dict[str, float]:
        learner = make(DERpp, alpha=alpha, beta=beta, buffer=8)
        for _ in train(learner, tasks()[0], 2, lr=0.0):
            pass
        with torch.no_grad():
            learner.base.layer.weight.add_(0.1)
        _, _, losses = next(train(learner, tasks()[1], 1, lr=0.0))
        return {name: value.item() for name, value in losses.items()}

    unweighted, weighted = terms(1, 1), terms(0.25, 3)
    assert unweighted["mse"] > 0
    expected = {"mse": 0.25 * unweighted["mse"], "replay": 3 * unweighted["replay"]}
    assert weighted == pytest.approx({"loss": unweighted["loss"], **expected})


def test_sequences_are_padded_to_their_declared_length() -> None:
    inputs = Inputs({"tokens": torch.ones(2, 3)}, lengths=torch.tensor([3, 2]))
    assert full_length(inputs, {"tokens": (5,)})["tokens"].tolist() == [[1, 1, 1, 0, 0]] * 2
