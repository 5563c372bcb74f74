"""Faults of envs are named, by the check that finds them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

import attrs
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from sidetune_core.api import (
    Batch,
    ClassHead,
    Inputs,
    Order,
    Outputs,
    Predict,
    Shape,
    Task,
    TaskStream,
    shuffled,
)
from sidetune_core.testing.env import check_env

SIZES = {"train": 64, "test": 37}


@attrs.frozen
class Config:
    """Options."""

    shift: float = 0.0


class Bright(Task):
    """Whether an image is bright."""

    splits = ("test",)

    def __init__(self, number: int, shift: float = 0.0) -> None:
        self.id, self.title, self.inputs = f"t{number}", f"task {number}", {"image": (3, 8, 8)}
        generator = torch.Generator().manual_seed(number)
        self.images = {
            split: torch.rand(size, 3, 8, 8, generator=generator) + shift for split, size in SIZES.items()
        }
        self.labels = {split: (image.mean((1, 2, 3)) > 0.5).long() for split, image in self.images.items()}

    def make_head(self, shape: Shape) -> nn.Module:
        return ClassHead(shape, 2)

    def steps_per_epoch(self, batch_size: int) -> int:
        return max(1, round(SIZES["train"] / batch_size))

    def batch(self, split: str, rows: Tensor) -> Batch:
        ids = rows + (1000 if split == "test" else 0)
        return Batch(ids, Inputs({"image": self.images[split][rows]}, ids), self.labels[split][rows])

    def train(self, predict: Predict, order: Order) -> Iterator[Batch]:
        for rows in shuffled(SIZES["train"], order, self.id):
            yield self.batch("train", rows)

    def loss(self, output: Tensor, batch: Batch) -> Tensor:
        return functional.cross_entropy(output, batch.targets, reduction="none")

    def rows(self, split: str) -> Tensor:
        return torch.arange(SIZES[split])

    def evaluate(self, predict: Predict, split: str = "test") -> dict[str, float]:
        hits = 0
        for rows in self.rows(split).split(16):
            batch = self.batch(split, rows)
            hits += int((predict(batch.inputs).cpu().argmax(1) == batch.targets).sum())
        return {"accuracy": hits / len(self.rows(split))}


def env_of(task: type[Task], **members: Any) -> type[TaskStream]:
    """An env of two tasks of a class."""

    class Env(TaskStream):
        Config = Config

        def __init__(self, config: Config, seed: int) -> None:
            self.inputs, self.shift = {"image": (3, 8, 8)}, config.shift

        def tasks(self) -> list[Task]:
            return [task(number, self.shift) for number in range(2)]  # type: ignore[call-arg]

    for name, member in members.items():
        setattr(Env, name, member)
    return Env


def failures(env: type[TaskStream]) -> dict[str, str]:
    """Messages of the checks that fail."""
    return {finding.check: finding.message for finding in check_env(env, Config()) if not finding.passed}


def test_a_sound_env_has_no_fault() -> None:
    assert failures(env_of(Bright)) == {}


def test_ids_may_be_any_whole_numbers_and_shared_by_tasks() -> None:
    class Hashed(Bright):
        def batch(self, split: str, rows: Tensor) -> Batch:
            batch = super().batch(split, rows)
            ids = batch.ids * 2**33 - 2**34
            return Batch(ids, Inputs(batch.inputs.tensors, ids), batch.targets)

    assert failures(env_of(Hashed)) == {}


def test_classes_without_examples_may_be_declared() -> None:
    class Declared(Bright):
        outputs = Outputs("logits", 3)

        def make_head(self, shape: Shape) -> nn.Module:
            return ClassHead(shape, 3)

    assert failures(env_of(Declared)) == {}


class Ending(Bright):
    def train(self, predict: Predict, order: Order) -> Iterator[Batch]:
        return (self.batch("train", rows) for rows in torch.arange(64).split(16))


class Blind(Bright):
    def __init__(self, number: int, shift: float) -> None:
        super().__init__(number, shift)
        self.images["train"][3] = torch.nan


class Bytes(Bright):
    def __init__(self, number: int, shift: float) -> None:
        super().__init__(number, shift)
        self.images = {split: 255 * image for split, image in self.images.items()}


class Flat(Bright):
    def make_head(self, shape: Shape) -> nn.Module:
        return nn.Linear(shape[0], 2)


class Off(Bright):
    def __init__(self, number: int, shift: float) -> None:
        super().__init__(number, shift)
        self.labels["train"][40] = 2


class Labels(Bright):
    outputs = Outputs("binary", 2)


class OffInTest(Bright):
    def __init__(self, number: int, shift: float) -> None:
        super().__init__(number, shift)
        self.labels["test"][4] = 5


class Normed(Bright):
    def loss(self, output: Tensor, batch: Batch) -> Tensor:
        losses = super().loss(output, batch)
        return losses / losses.detach().max()


class InPlace(Bright):
    def loss(self, output: Tensor, batch: Batch) -> Tensor:
        return super().loss(output.mul_(2), batch)


class Remembering(Bright):
    count = 0

    def train(self, predict: Predict, order: Order) -> Iterator[Batch]:
        for batch in super().train(predict, order):
            self.count += 1
            yield Batch(batch.ids, Inputs({"image": batch.inputs["image"] / self.count}), batch.targets)


class Fixed(Bright):
    def train(self, predict: Predict, order: Order) -> Iterator[Batch]:
        return super().train(predict, Order(0, order.batch_size, order.first_step))


class Placed(Bright):
    def train(self, predict: Predict, order: Order) -> Iterator[Batch]:
        for batch in super().train(predict, order):
            yield Batch(torch.arange(len(batch.ids)), Inputs(batch.inputs.tensors), batch.targets)


class Short(Bright):
    def steps_per_epoch(self, batch_size: int) -> int:
        return 1


class Dropping(Bright):
    def rows(self, split: str) -> Tensor:
        return torch.arange(32)


class Totals(Bright):
    hits = seen = 0

    def evaluate(self, predict: Predict, split: str = "test") -> dict[str, float]:
        self.hits += round(37 * super().evaluate(predict, split)["accuracy"])
        self.seen += 37
        return {"accuracy": self.hits / self.seen}


class Leaking(Bright):
    def __init__(self, number: int, shift: float) -> None:
        super().__init__(number, shift)
        self.images["test"], self.labels["test"] = self.images["train"][:37], self.labels["train"][:37]


class Fading(Bright):
    def evaluate(self, predict: Predict, split: str = "test") -> dict[str, float]:
        self.images[split] *= 0.9
        predict(Inputs({"image": self.images[split]}))
        return {"accuracy": 0.5}


class OnDevice(Bright):
    def evaluate(self, predict: Predict, split: str = "test") -> dict[str, float]:
        batch = self.batch(split, self.rows(split))
        return {"accuracy": float((predict(batch.inputs).argmax(1) == batch.targets).float().mean())}


class Down(Bright):
    higher_is_better = False


class Splits(Bright):
    splits = ("test", "val")


class Pathy(Bright):
    def documents(self) -> Mapping[str, str]:
        return {"../x": ""}


class Recording(Bright):
    def record(self) -> Mapping[str, Any]:
        return {"x": torch.ones(2)}


class Stateful(Bright):
    def state(self) -> Mapping[str, Any]:
        return {"x": 1}

    def set_state(self, state: Mapping[str, Any]) -> None:
        _ = state["y"]


FAULTS: Mapping[type[Task], tuple[str, str]] = {
    Ending: ("training_never_ends", "ends after 4 batches"),
    Blind: ("inputs_are_finite", "example 3 is infinite or NaN"),
    Bytes: ("inputs_are_float32", "scale them to [0, 1]"),
    Flat: ("heads_fit_or_refuse", "encodings (8, 4, 4) raises"),
    Off: ("labels_are_those_of_the_head", "example 40 has label 2"),
    Labels: (
        "labels_are_those_of_the_head",
        "targets have shape (16,), and the outputs, one for each label,",
    ),
    OffInTest: ("test_labels_are_those_of_the_head", "2.7 % of the examples of split 'test'"),
    Normed: ("losses_are_independent", "depends on the others"),
    InPlace: ("loss_changes_nothing", "changes the output in place"),
    Remembering: ("order_is_the_same_twice", "return it from state()"),
    Fixed: ("order_depends_on_the_seed", "one order for all seeds"),
    Placed: ("examples_have_one_label", "let Batch.ids name the examples"),
    Short: ("epochs_have_every_example_once", "steps_per_epoch(16) is 1"),
    Dropping: ("evaluation_is_complete", "32 of the 37 examples"),
    Totals: ("evaluation_is_the_same_twice", "start from zero at every call"),
    Leaking: ("training_examples_are_not_tested", "37 of 37 inputs"),
    Fading: ("evaluation_keeps_its_inputs", "make a new tensor"),
    OnDevice: ("tensors_follow_the_device", "compare data with output.cpu()"),
    Down: ("metric_has_its_direction", "set it to True"),
    Splits: ("splits_can_be_evaluated", "split 'val' raises KeyError"),
    Pathy: ("documents_can_be_written", "'../x' names a file"),
    Recording: ("training_metrics_are_finite_numbers", "return finite floats"),
    Stateful: ("state_survives_a_round_trip", "raises KeyError: 'y'"),
}


@pytest.mark.parametrize("task", FAULTS, ids=lambda task: task.__name__.lower())
def test_a_fault_of_a_task_is_the_only_finding(task: type[Task]) -> None:
    check, part = FAULTS[task]
    failed = failures(env_of(task))
    assert failed.keys() == {check}
    assert part in failed[check]


def test_a_constant_fingerprint_of_other_data() -> None:
    failed = failures(env_of(Bright, fingerprint=lambda self: "v1"))
    assert "with option shift = 0.1" in failed["other_data_has_another_fingerprint"]


def test_other_tasks_at_a_second_call() -> None:
    @cache
    def calls(env: TaskStream) -> list[int]:
        return []

    def tasks(self: TaskStream) -> list[Task]:
        calls(self).append(1)
        return [Bright(number + len(calls(self))) for number in range(2)]

    assert failures(env_of(Bright, tasks=tasks)).keys() == {"tasks_are_the_same_again"}


def test_an_error_in_close() -> None:
    def close(self: TaskStream) -> None:
        raise RuntimeError("already closed")

    assert "already closed" in failures(env_of(Bright, close=close))["env_closes"]
