"""Bias correction (BiC)."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping

import attrs
import torch
from torch import Tensor, nn
from torch.nn import functional

from sidetune_core.api import (
    Batch,
    BufferDict,
    Components,
    FitError,
    Heads,
    Learner,
    Task,
    Trainable,
    TrainingStep,
    at_least,
    at_most,
    more_than,
    option,
)

from ._examples import INPUT, first_distinct, full_length, inputs_of, select
from .icarl import CHUNK, herd, interleave

RIDGE = 1e-3
"""Weight of ``((alpha - 1)**2 + beta**2) / 2``, with which the correction is finite for any examples."""


class BiC(Learner):
    """Distillation and exemplars, then a linear correction of the logits of the new classes on held-out
    examples (Wu et al., Large Scale Incremental Learning, CVPR 2019).

    - First stage: over the examples of the task and the exemplars together, with n old and m new classes,
      ``lambda L_d + (1 - lambda) L_c`` with ``lambda = n / (n + m)``. ``L_c`` is the cross-entropy of a
      softmax over all classes; ``L_d = -sum_k p'_k log p_k`` over the old ones, with p' of the corrected
      logits of the network before the task and p of the present ones, both divided by the temperature (eq. 1
      to 3). Each step uses one exemplar for each example of its batch, weighted by the numbers of exemplars
      and of training examples.
    - Second stage: the logits of the new classes become ``alpha o + beta`` (eq. 4), where the two numbers
      minimise the cross-entropy over all classes on held-out examples (eq. 5), as many of each class. The
      paper trains them by gradient descent; it is a convex problem in two variables, and `finish` solves it.
      Each task keeps its own; those of the first are 1 and 0.
    - Exemplars: `exemplars` in total, as many of each class, of which the fraction `held_out` is only for the
      second stage: at least one of each class. They are the first examples of a class that training comes
      across, and have no part in its loss. The others are chosen by herding, as in iCaRL.

    Without a task id, a prediction has the logits of the classes of all tasks; with one, those of its own.
    Outputs of the network before the task come from a copy of it. Exemplars are stored as the network saw
    them, augmentation included.

    Raises:
        FitError: a task is not a classification of known size, or there are not two exemplars for each class.
    """

    @attrs.frozen
    class Config:
        """Options of `BiC`."""

        exemplars: int = option(2000, "stored examples of all classes together", at_least(2))
        held_out: float = option(
            0.1, "fraction of the exemplars that is only for the correction", more_than(0), at_most(0.5)
        )
        temperature: float = option(2.0, "temperature of the distillation (T in the paper)", more_than(0))
        candidates: int = option(
            10_000, "largest number of a task's examples among which exemplars are chosen", at_least(1)
        )
        norm: bool = option(
            True, "standardise the encoding before the head (8 groups of channels, no parameters)"
        )

    scenarios = frozenset({"task", "class"})

    def __init__(self, config: Config, components: Components) -> None:
        super().__init__()
        self.base = components.base()
        self.heads = Heads(self.base.shape, config.norm)
        self.corrections = BufferDict()
        """By task id, (alpha, beta); 1 and 0 for tasks without them, such as the first."""
        self.exemplars = BufferDict()
        """Columns ``label``, counted through the classes of all tasks, ``held_out``, ``rank``, from 0 in each
        class and part, and inputs."""
        self.held_out = BufferDict()
        """``id`` and ``target`` of the examples of the task that are held out."""
        self.teacher: nn.ModuleDict | None = None
        self._config, self._shapes = config, components.inputs
        self._sizes: dict[str, int] = {}
        """Number of classes of each task."""
        self._drawn = torch.empty(0, dtype=torch.int64)
        """A row of the exemplars for each example of the step."""

    def start(self, task: Task) -> Trainable:
        size = task.outputs.size
        if task.outputs.kind != "logits" or size is None:
            raise FitError("learner 'bic' needs tasks of classification that declare their classes")
        self.teacher = None
        if self.heads:
            parts = {"base": self.base, "heads": self.heads, "corrections": self.corrections}
            self.teacher = copy.deepcopy(nn.ModuleDict(parts))
        self._sizes[task.id] = size
        if self._config.exemplars < 2 * self._classes():
            raise FitError(
                f"learner 'bic' needs two exemplars for each of {self._classes()} classes: "
                f"--learner.exemplars {2 * self._classes()}"
            )
        self.heads.add_task(task)
        self.held_out.replace({"id": torch.empty(0).long(), "target": torch.empty(0).long()})
        return [self.base, self.heads, self.held_out]

    def forward(self, inputs: Mapping[str, Tensor], task_id: str) -> Tensor:
        logits = self.heads.predict(self.base(inputs).encoding, task_id).float()
        return _corrected(logits, self.corrections, task_id)

    def predict(self, inputs: Mapping[str, Tensor], task_id: str | None) -> Tensor:
        return self._logits(self, inputs) if task_id is None else self(inputs, task_id)

    def losses(self, batch: Batch, task: Task, step: TrainingStep) -> dict[str, Tensor]:
        if batch.targets.ndim != 1 or batch.targets.is_floating_point():
            raise FitError("learner 'bic' needs a class for each example")
        own, old = self._sizes[task.id], self._classes() - self._sizes[task.id]
        self._hold_out(step.gather(batch.ids), step.gather(batch.targets), task)
        kept = ~torch.isin(batch.ids, self.held_out["id"].cpu()).to(batch.targets.device)
        groups, labels = [full_length(batch.inputs, self._shapes)], [batch.targets + old]
        counts = [kept.float()]
        sizes = [task.steps_per_epoch(1)]
        if self.exemplars:
            stored = (self.exemplars["held_out"] == 0).nonzero()[:, 0]
            if step.micro_batch == 0:
                self._drawn = torch.randint(len(stored), (step.batch_size,))
            columns = select(self.exemplars, stored[self._drawn[step.rows].to(stored.device)])
            groups.append(inputs_of(columns))
            labels.append(columns["label"])
            counts.append(torch.ones_like(counts[0]))
            sizes.append(len(stored))
        rows = {name: interleave([group[name] for group in groups]) for name in groups[0]}
        # the mean over all examples that are not held out, of which a batch has a random sample
        total = sum(sizes) - min(self._quota(task) * own, sizes[0] - 1)
        weights = interleave([count * size / total for count, size in zip(counts, sizes, strict=True)])
        logits = self._logits(self, rows)
        terms = functional.cross_entropy(logits, interleave(labels), reduction="none")
        fraction = old / (old + own)  # lambda
        losses = {"loss": (1 - fraction) * (weights * terms).sum() / len(kept)}
        if self.teacher is not None:
            with torch.no_grad():
                targets = self._logits(self.teacher, rows) / self._config.temperature
            present = logits[:, :old] / self._config.temperature
            terms = functional.cross_entropy(present, targets.softmax(1), reduction="none")
            losses["distillation"] = fraction * (weights * terms).sum() / len(kept)
        return losses

    def finish(self, task: Task, batches: Iterator[Batch]) -> None:
        count = min(self._config.candidates, task.steps_per_epoch(1))
        candidates = first_distinct(batches, count, self._shapes)
        is_held_out = torch.isin(candidates["id"].cpu(), self.held_out["id"].cpu())
        is_held_out = is_held_out.to(candidates["target"].device)
        limits = self._limits()
        kept = []
        if self.exemplars:
            limit = torch.tensor(limits).to(self.exemplars["rank"])[self.exemplars["held_out"].long()]
            kept.append(select(self.exemplars, self.exemplars["rank"] < limit))
        inputs = {name: candidates[name] for name in candidates if name.startswith(INPUT)}
        first = self._classes() - self._sizes[task.id]
        for label in range(self._sizes[task.id]):
            for part, limit_of_part in enumerate(limits):
                mine = (candidates["target"] == label) & (is_held_out == bool(part))
                rows = mine.nonzero()[:, 0]
                chosen = rows[:limit_of_part]
                if not part and len(rows):
                    chosen = rows[herd(self._unit_features(select(inputs, rows)), limit_of_part)]
                columns = select(inputs, chosen)
                columns["label"] = torch.full_like(chosen, first + label)
                columns["held_out"] = torch.full_like(chosen, part)
                columns["rank"] = torch.arange(len(chosen)).to(chosen)
                kept.append(columns)
        self.exemplars.replace({name: torch.cat([columns[name] for columns in kept]) for name in kept[0]})
        if self.teacher is not None:
            self._correct(task)

    def _correct(self, task: Task) -> None:
        """The second stage."""
        held_out = select(self.exemplars, self.exemplars["held_out"] == 1)
        if not len(held_out["label"]):
            return
        with torch.no_grad():
            parts = [self._logits(self, inputs) for inputs in _chunks(inputs_of(held_out))]
        logits = torch.cat(parts)
        old = logits.shape[1] - self._sizes[task.id]
        correction = fit_correction(logits[:, :old], logits[:, old:], held_out["label"])
        self.corrections[task.id] = correction.float()

    def _classes(self) -> int:
        return sum(self._sizes.values())

    def _limits(self) -> tuple[int, int]:
        """Exemplars of each class, without and with those that are held out."""
        count = self._config.exemplars // self._classes()
        held_out = max(1, round(self._config.held_out * count))
        return count - held_out, held_out

    def _quota(self, task: Task) -> int:
        """Examples of each class to hold out: no more than the fraction of a class of mean size."""
        examples = task.steps_per_epoch(1) / self._sizes[task.id]
        return min(self._limits()[1], max(1, round(self._config.held_out * examples)))

    def _hold_out(self, ids: Tensor, targets: Tensor, task: Task) -> None:
        """Hold out the first examples of each class of the task."""
        size, quota = self._sizes[task.id], self._quota(task)
        known, labels = (self.held_out[name].tolist() for name in ("id", "target"))
        if len(known) == quota * size:
            return
        before = len(known)
        for example_id, label in zip(ids.tolist(), targets.tolist(), strict=True):
            if labels.count(label) < quota and example_id not in known:
                known.append(example_id)
                labels.append(label)
        if len(known) > before:
            device = self.held_out["id"].device
            values = {"id": known, "target": labels}
            self.held_out.replace({name: torch.tensor(own, device=device) for name, own in values.items()})

    def _logits(self, network: nn.Module, inputs: Mapping[str, Tensor]) -> Tensor:
        """The corrected logits of all classes of a network, this or the teacher, in float32: (B, classes)."""
        base, heads, corrections = (network.get_submodule(name) for name in ("base", "heads", "corrections"))
        assert isinstance(heads, Heads)
        assert isinstance(corrections, BufferDict)
        encoding = base(full_length(inputs, self._shapes)).encoding
        logits = {task_id: heads.predict(encoding, task_id).float() for task_id in heads}
        return torch.cat([_corrected(own, corrections, task_id) for task_id, own in logits.items()], 1)

    def _unit_features(self, columns: Mapping[str, Tensor]) -> Tensor:
        """The encodings (n, C), averaged over positions, of length 1."""
        with torch.no_grad():
            encodings = [self.base(inputs).encoding.float() for inputs in _chunks(inputs_of(columns))]
        features = torch.cat(encodings)
        if features.ndim > 2:
            features = features.mean((2, 3)) if features.ndim == 4 else features.mean(1)
        return functional.normalize(features, dim=1)


def fit_correction(old: Tensor, new: Tensor, labels: Tensor) -> Tensor:
    """The numbers (alpha, beta) that minimise the cross-entropy of ``[old, alpha new + beta]`` (eq. 5).

    Args:
        old: logits (n, old classes).
        new: logits (n, new classes).
        labels: (n,), counted through old and new classes.
    """
    old, new = old.double(), new.double()
    correction = torch.tensor([1.0, 0.0], dtype=torch.float64, device=old.device, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [correction],
        max_iter=200,
        tolerance_grad=1e-10,
        tolerance_change=1e-14,
        line_search_fn="strong_wolfe",
    )

    def loss() -> Tensor:
        optimizer.zero_grad()
        ridge = (correction[0] - 1).square() + correction[1].square()
        logits = torch.cat([old, correction[0] * new + correction[1]], 1)
        value = functional.cross_entropy(logits, labels) + RIDGE / 2 * ridge
        value.backward()  # type: ignore[no-untyped-call]
        return value

    with torch.enable_grad():
        optimizer.step(loss)  # type: ignore[no-untyped-call]
    return correction.detach()


def _corrected(logits: Tensor, corrections: BufferDict, task_id: str) -> Tensor:
    """``alpha o + beta`` with the numbers of a task."""
    if task_id not in corrections:
        return logits
    correction = corrections[task_id]
    return correction[0] * logits + correction[1]


def _chunks(inputs: Mapping[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    """The inputs, a number of examples at a time."""
    for chunk in zip(*(torch.split(values, CHUNK) for values in inputs.values()), strict=True):
        yield dict(zip(inputs, chunk, strict=True))
