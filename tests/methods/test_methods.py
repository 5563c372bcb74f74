"""Methods of the literature against the learner interface: each passes the conformance kit, ends with the
same weights under accumulation, in two processes and after a resume, and does what its paper says.
"""

from __future__ import annotations

import functools
import importlib
import json
import os
from collections.abc import Callable, Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import attrs
import pytest
import torch
from torch import Tensor
from torch.nn import functional

import sidetune_core
from sidetune_core.api import Batch, Components, Order, Phase, TrainingStep, mean_loss
from sidetune_core.interfaces import training
from sidetune_core.interfaces.training import PhaseSteps
from sidetune_core.storage import checkpoint
from sidetune_core.testing import check_plugin
from sidetune_core.training import run as training_run
from sidetune_core.training.run import Run

Reference = Callable[[str], Run]
RunProcesses = Callable[..., list[dict[str, Any]]]
posix = pytest.mark.skipif(os.name != "posix", reason="forks, and sends signals")

HERE = Path(__file__).parent
STEPS = 6
"""Steps of each of two tasks; an epoch has two and a half."""


@attrs.frozen
class Method:
    """A learner, and what it is run with."""

    learner: str
    options: dict[str, Any] = attrs.field(factory=dict)
    base: str = "plain:Conv"
    env: str = "plain:Images"

    def spec(self, **train: Any) -> dict[str, Any]:
        """A run of two tasks. SGD, since Adam makes steps of one size of gradients that are
        nothing but rounding.
        """
        options = {"steps": STEPS, "batch_size": 8, "lr": 0.1, "optimizer": "sgd", "weight_decay": 0.01}
        return {
            "base": self.base,
            "learner": {"name": self.learner, **self.options},
            "env": self.env,
            "train": {**options, **train},
            "device": {"precision": "fp32"},
            "seed": 3,
        }


METHODS = {
    "gem": Method("gem:GEM", {"memory": 12}),
    "hat": Method("hat:HAT", {"width": 12}),
    "gpm": Method("gpm:GPM", {"examples": 12}),
    "prompts": Method("prompts:Prompts", {"pool": 4}),
    "prompts-tokens": Method("prompts:Prompts", {"pool": 4}, "plain:Reader", "plain:Sentences"),
    "derpp": Method("derpp:DERpp", {"memory": 20}),
    "maml": Method("maml:MAML", {"examples": 12}),
    "maml-first-order": Method("maml:MAML", {"examples": 12, "first_order": True}),
}
each = pytest.mark.parametrize("name", METHODS)


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """The methods are found by the names of their modules."""
    monkeypatch.chdir(HERE)
    monkeypatch.syspath_prepend(str(HERE))
    monkeypatch.setattr(training_run, "_git_state", lambda: None)


def run(spec: dict[str, Any], folder: Path) -> Run:
    return sidetune_core.run(sidetune_core.RunSpec(**spec), folder)


def weights(folder: Path, tasks: int = 2) -> dict[str, Tensor]:
    """All tensors of a learner after some tasks of a run."""
    return checkpoint.read(folder / "checkpoints" / f"after-00{tasks}.safetensors").state


def make(name: str, **options: Any) -> Any:
    """A new learner on the small base."""
    plain, method = importlib.import_module("plain"), METHODS[name]
    module, _, attribute = method.learner.partition(":")
    cls, inputs = getattr(importlib.import_module(module), attribute), plain.Images.inputs
    components = Components(inputs, lambda pretrained=True: plain.Conv(plain.Config(), inputs))
    return cls(cls.Config(**{**method.options, **options}), components)


def images() -> list[Any]:
    """The tasks of images."""
    plain = importlib.import_module("plain")
    return list(plain.Images(plain.Config(), 0).tasks())


def draw(task: Any, size: int = 8, seed: int = 0) -> Iterator[Batch]:
    """Training batches."""
    batches: Iterator[Batch] = task.train(None, Order(seed, size))
    return batches


def everything(task: Any) -> Batch:
    """All 20 training examples."""
    return next(draw(task, 20))


def a_step(number: int = 0, total: int = STEPS, size: int = 8) -> TrainingStep:
    return TrainingStep(number, total, 0, PhaseSteps(Phase(), 0, total), size)


@pytest.mark.parametrize("learner", sorted({method.learner for method in METHODS.values()}))
def test_a_method_passes_the_conformance_kit(learner: str) -> None:
    failed = [finding for finding in check_plugin("learner", learner) if not finding.passed]
    assert [(finding.check, finding.message) for finding in failed] == []


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Reference:
    """An ordinary run of a method, by its name."""

    @functools.cache
    def make(name: str) -> Run:
        return run(METHODS[name].spec(), tmp_path_factory.mktemp(name) / "run")

    return make


def assert_close(folder: Path, expected: Run, rtol: float = 1e-4, atol: float = 1e-5) -> None:
    torch.testing.assert_close(weights(folder), weights(expected.folder.path), rtol=rtol, atol=atol)


@each
def test_two_micro_batches_are_one_batch_of_twice_the_size(
    name: str, reference: Reference, tmp_path: Path
) -> None:
    halves = run(METHODS[name].spec(batch_size=4, accumulate=2), tmp_path / "run")
    assert_close(halves.folder.path, reference(name))


@posix
@each
def test_two_processes_give_the_weights_of_one(
    name: str, reference: Reference, server: RunProcesses, tmp_path: Path
) -> None:
    answers = server(2, tmp_path / "run", METHODS[name].spec())
    assert [answer["status"] for answer in answers] == [0, 0], answers
    assert_close(tmp_path / "run", reference(name))


@posix
@each
def test_a_run_that_is_resumed_within_its_second_task_ends_with_the_same_bits(
    name: str, reference: Reference, server: RunProcesses, tmp_path: Path
) -> None:
    (stopped,) = server(1, tmp_path / "run", METHODS[name].spec(), harm="SIGTERM", rank=0, at=STEPS + 3)
    assert stopped["status"] == 143
    (resumed,) = server(1, tmp_path / "run")
    assert (resumed["status"], len(resumed["ids"])) == (0, STEPS - 4), resumed
    assert_close(tmp_path / "run", reference(name), rtol=0, atol=0)


@pytest.mark.parametrize("seed", range(8))
def test_gem_takes_the_nearest_gradient_that_keeps_to_all_constraints(seed: int) -> None:
    """Compared with the nearest of the projections onto every face of the feasible cone."""
    generator = torch.Generator().manual_seed(seed)
    gradient, rows = (torch.randn(*shape, generator=generator) for shape in ((12,), (3, 12)))
    found = importlib.import_module("gem").project(gradient, rows)
    assert (rows @ found).min() > -1e-5
    candidates = []
    for count in range(4):
        for active in combinations(rows.double(), count):
            face = torch.stack(active) if active else rows.double()[:0]
            candidate = gradient.double() - face.T @ torch.linalg.pinv(face.T) @ gradient.double()
            if (rows.double() @ candidate).min() > -1e-9:
                candidates.append(candidate)
    nearest = min(candidates, key=lambda candidate: float((candidate - gradient).norm()))
    torch.testing.assert_close(found, nearest.float(), rtol=1e-4, atol=1e-5)


def test_gem_changes_gradients_that_would_increase_the_loss_on_the_memory() -> None:
    learner, (first, second) = make("gem"), images()
    learner.start(first)
    learner.finish(first, draw(first))
    learner.start(second)
    weights = list(learner.base.parameters())
    loss = mean_loss(first, learner(learner.stored("t0").inputs, "t0"), learner.stored("t0"))
    against = torch.autograd.grad(loss, weights)
    for weight, gradient in zip(weights, against, strict=True):
        weight.grad = -gradient  # exactly what GEM must not allow
    learner.after_backward(second, a_step())
    assert max(float(weight.grad.abs().max()) for weight in weights if weight.grad is not None) < 1e-6


def test_hat_keeps_the_outputs_of_a_task_bit_for_bit_under_weight_decay(tmp_path: Path) -> None:
    run_, task = run(METHODS["hat"].spec(weight_decay=0.1, optimizer="adamw"), tmp_path / "run"), images()[0]
    folder, before = run_.folder.path, make("hat")
    before.start(task)
    before.load_state_dict(weights(folder, 1))
    inputs = everything(task).inputs
    assert torch.equal(before.eval()(inputs, "t0"), run_.learner(inputs, "t0"))
    first, second = weights(folder, 1), weights(folder, 2)
    assert not torch.equal(first["layers.0.weight"], second["layers.0.weight"])
    assert first["used"].any()


def test_hat_anneals_in_each_epoch_and_is_hard_in_evaluation() -> None:
    learner, task = make("hat"), images()[0]
    scales = [learner._scale(task, a_step(number, size=4)) for number in range(10)]  # two epochs of five
    expected = [1 / 400 + (400 - 1 / 400) * number / 4 for number in range(5)]
    assert scales == pytest.approx(expected * 2)


def test_gpm_keeps_the_outputs_of_earlier_examples() -> None:
    learner, (first, second) = make("gpm", threshold=1.0, examples=8), images()
    learner.start(first)
    learner.finish(first, draw(first))
    earlier = next(draw(first)).inputs
    before, weight = learner(earlier, "t0").detach(), learner.base.last.weight.detach().clone()
    members = training.members(learner.start(second))
    optimizer = torch.optim.Adam([member for member in members if isinstance(member, torch.nn.Parameter)])
    for number, batch in zip(range(3), draw(second), strict=False):
        optimizer.zero_grad()
        learner.losses(batch, second, a_step(number))["loss"].backward()
        learner.after_backward(second, a_step(number))
        optimizer.step()
        learner.after_step(second, a_step(number))
    assert (learner.base.last.weight - weight).abs().max() > 1e-4
    torch.testing.assert_close(learner(earlier, "t0"), before, rtol=1e-5, atol=1e-6)


def test_gpm_keeps_the_fewest_directions_with_a_fraction_of_the_energy() -> None:
    columns = torch.randn(6, 40, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    energies = torch.linalg.svdvals(columns).square()
    fraction = float((energies[:3].sum() + energies[3] / 2) / energies.sum())
    directions = importlib.import_module("gpm").directions
    new = directions(columns @ columns.T, torch.zeros(6, 6, dtype=torch.float64), fraction)
    u = torch.linalg.svd(columns).U[:, :4]
    torch.testing.assert_close(new @ new.T, u @ u.T)
    assert directions(columns @ columns.T, new @ new.T, fraction).shape == (6, 0)


def test_prompts_do_not_depend_on_the_task(reference: Reference) -> None:
    run_ = reference("prompts")
    inputs = everything(images()[1]).inputs
    with torch.no_grad():
        apart = [run_.learner(inputs, task.id) for task in run_.tasks]
        assert torch.equal(run_.learner.predict(inputs, None), torch.cat(apart, 1))


def test_prompts_are_those_of_the_nearest_keys() -> None:
    learner, inputs = make("prompts"), everything(images()[0]).inputs
    queries = learner.base(inputs).encoding
    _, chosen = learner._match(inputs)
    for query, numbers in zip(queries.detach(), chosen, strict=True):
        similarities = [
            float(functional.cosine_similarity(query, key, dim=0)) for key in learner.keys.detach()
        ]
        nearest = sorted(range(4), key=lambda number: -similarities[number])[:2]
        assert numbers.tolist() == nearest


def test_derpp_stores_a_sample_of_all_tasks_with_the_logits_of_their_time(tmp_path: Path) -> None:
    run_ = run(METHODS["derpp"].spec(lr=1e-30), tmp_path / "run")
    learner: Any = run_.learner
    owners = learner.memory["task"]
    assert set(owners.tolist()) == {0, 1}
    with torch.no_grad():
        for number, task in enumerate(run_.tasks):
            mine = owners == number
            outputs = learner({"image": learner.memory["inputs/image"][mine]}, task.id)
            torch.testing.assert_close(learner.memory[f"logits/{task.id}"][mine], outputs)
    lines = [json.loads(line) for line in (run_.folder.path / "metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["logits"] == pytest.approx(0, abs=1e-12)
    assert lines[-1]["replay"] > 0


@pytest.mark.parametrize("first_order", [False, True])
def test_maml_differentiates_through_the_inner_step(first_order: bool) -> None:
    """Compared with finite differences, with the inner gradient held fixed for the first order. The losses of
    tasks are in float32, so the differences are coarse.
    """
    learner, task = make("maml", first_order=first_order, inner_lr=0.5), images()[0]
    learner.start(task)
    batch, weights = next(draw(task)), dict(learner.layer.named_parameters())
    gradients = torch.autograd.grad(learner.losses(batch, task, a_step())["query"], weights.values())

    def loss(change: dict[str, Tensor]) -> float:
        shifted = {
            name: (weight.detach() + change[name]).requires_grad_() for name, weight in weights.items()
        }
        total = 0.0
        for episode in (batch.rows(slice(4)), batch.rows(slice(4, 8))):
            adapted = learner._step(episode.rows(slice(2)), task, weights if first_order else shifted)
            if first_order:
                adapted = {name: weight + change[name] for name, weight in adapted.items()}
            total += float(learner._loss(episode.rows(slice(2, 4)), task, adapted).detach()) / 2
        return total

    for seed in range(3):
        torch.manual_seed(seed)
        direction = {name: torch.randn_like(weight) / 10 for name, weight in weights.items()}
        slope = sum(float((g * d).sum()) for g, d in zip(gradients, direction.values(), strict=True))
        ahead, behind = (loss({name: s * d for name, d in direction.items()}) for s in (1e-3, -1e-3))
        assert slope == pytest.approx((ahead - behind) / 2e-3, rel=0.01, abs=5e-4)
