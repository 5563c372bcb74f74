"""Classification tasks over tensors in memory."""

from __future__ import annotations

from itertools import islice

import pytest
import torch
from torch import Tensor

from sidetune_core.errors import DataError
from sidetune_core.interfaces.inputs import Inputs
from sidetune_core.interfaces.tasks import Batch, Order
from sidetune_core.supervised.classification import ClassTask, Examples
from sidetune_core.supervised.task import EVALUATION_BATCH


def examples_of(train: int = 60, val: int = 12, test: int = 18, classes: int = 6) -> Examples:
    """Examples whose three values are the example's id, so that inputs identify their example."""
    sizes = {"train": train, "val": val, "test": test}
    ids = torch.arange(sum(sizes.values())).split(list(sizes.values()))  # type: ignore[no-untyped-call]
    return Examples(
        {split: rows[:, None].expand(-1, 3).clone() for split, rows in zip(sizes, ids, strict=True)},
        {split: torch.arange(size) % classes for split, size in sizes.items()},
    )


def task_of(
    classes: tuple[int, ...] = (0, 1),
    *,
    id: str = "t0",
    augmented: bool = False,
    examples: Examples | None = None,
) -> ClassTask:
    def jitter(stored: Tensor, generator: torch.Generator) -> Tensor:
        return stored + torch.rand(stored.shape, generator=generator) / 2

    return ClassTask(
        id,
        "some",
        examples or examples_of(),
        classes,
        transform=Tensor.float,
        augment=jitter if augmented else None,
    )


def predict(_: Inputs) -> Tensor:
    raise AssertionError("a classification task does not act")


def draw(task: ClassTask, batches: int, seed: int = 0, first_step: int = 0) -> list[Batch]:
    return list(islice(task.train(predict, Order(seed, 8, first_step)), batches))


def equal(first: Batch, second: Batch) -> bool:
    return (
        torch.equal(first.ids, second.ids)
        and torch.equal(first.inputs["image"], second.inputs["image"])
        and torch.equal(first.targets, second.targets)
    )


@pytest.mark.parametrize("augmented", [False, True])
def test_batches_are_a_function_of_seed_and_step(augmented: bool) -> None:
    first = draw(task_of(augmented=augmented), 5)
    torch.rand(7)  # the global generator has no effect
    again = draw(task_of(augmented=augmented), 5)
    assert all(map(equal, first, again))


@pytest.mark.parametrize("augmented", [False, True])
@pytest.mark.parametrize("step", [1, 2, 3, 7])
def test_beginning_at_a_step_equals_skipping_the_ones_before(step: int, augmented: bool) -> None:
    task = task_of(augmented=augmented)
    assert all(map(equal, draw(task, 4, first_step=step), draw(task, step + 4)[step:]))


def test_another_seed_gives_another_order() -> None:
    assert not equal(draw(task_of(), 1, seed=0)[0], draw(task_of(), 1, seed=1)[0])


def test_tasks_of_one_stream_are_shuffled_independently() -> None:
    (first,), (second,) = draw(task_of(id="t0"), 1), draw(task_of(id="t1"), 1)
    assert not torch.equal(first.ids, second.ids)


def test_augmentation_differs_from_step_to_step() -> None:
    def jitter(stored: Tensor, generator: torch.Generator) -> Tensor:
        return stored + torch.rand(stored.shape, generator=generator)

    examples = examples_of(train=2, classes=2, val=2, test=2)
    task = ClassTask("t0", "a pair", examples, (0, 1), transform=Tensor.float, augment=jitter)
    first, second = draw(task, 2)
    assert not torch.equal(first.inputs["image"].sort(0)[0], second.inputs["image"].sort(0)[0])


def test_every_epoch_has_every_example_of_the_task_once() -> None:
    ids = torch.cat([batch.ids for batch in draw(task_of((0, 1)), 5)])  # two epochs of 20 examples
    expected = [id for id in range(60) if id % 6 in (0, 1)]
    assert sorted(ids[:20].tolist()) == sorted(ids[20:].tolist()) == expected


def test_an_epoch_has_as_many_batches_as_the_examples_fill() -> None:
    assert task_of((0, 1)).steps_per_epoch(8) == round(20 / 8)


def test_an_epoch_has_at_least_one_batch() -> None:
    assert task_of((0, 1)).steps_per_epoch(1000) == 1


def test_ids_are_unique_over_all_splits() -> None:
    task = task_of((0, 1, 2, 3, 4, 5))
    seen = {split: seen_ids(task, split) for split in ("val", "test")}
    seen["train"] = sorted(torch.cat([batch.ids for batch in draw(task, 15)]).unique().tolist())  # type: ignore[no-untyped-call]
    assert seen == {"train": list(range(60)), "val": list(range(60, 72)), "test": list(range(72, 90))}


def test_an_id_means_the_same_example_in_every_task() -> None:
    for classes in ((0, 1), (1, 0), (5, 1, 3)):
        for batch in draw(task_of(classes, id=f"t{len(classes)}"), 5):
            assert torch.equal(batch.inputs["image"], batch.ids[:, None].expand(-1, 3).float())


def test_inputs_that_do_not_change_have_ids() -> None:
    (batch,) = draw(task_of(), 1)
    assert batch.inputs.ids is not None
    assert torch.equal(batch.inputs.ids, batch.ids)


def test_augmented_inputs_have_no_ids() -> None:
    (batch,) = draw(task_of(augmented=True), 1)
    assert batch.inputs.ids is None
    assert len(batch.ids) == 8


def test_evaluation_is_not_augmented() -> None:
    task = task_of(augmented=True)
    assert seen_ids(task, "test") == [id for id in range(72, 90) if id % 6 in (0, 1)]


def test_labels_are_renumbered_in_the_order_of_the_classes() -> None:
    for batch in draw(task_of((4, 2)), 3):
        assert torch.equal(batch.targets, (batch.ids % 6 == 2).long())  # class 4 is 0, class 2 is 1


def test_the_loss_is_one_for_each_example_and_equals_torchs() -> None:
    (batch,) = draw(task_of((0, 1, 2)), 1)
    output = torch.randn(8, 3, generator=torch.Generator().manual_seed(0))
    loss = task_of((0, 1, 2)).loss(output, batch)
    by_hand = -output.double().softmax(1)[torch.arange(8), batch.targets].log()
    assert loss.shape == (8,)
    torch.testing.assert_close(loss.double(), by_hand, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(loss.mean(), torch.nn.functional.cross_entropy(output, batch.targets))


def test_the_loss_of_a_half_precision_output_is_computed_in_float32() -> None:
    (batch,) = draw(task_of((0, 1, 2)), 1)
    assert task_of((0, 1, 2)).loss(torch.zeros(8, 3, dtype=torch.bfloat16), batch).dtype == torch.float32


def test_evaluation_equals_a_count_by_hand() -> None:
    task = task_of((0, 1, 2))  # test ids 72 to 89, of which nine are of class 0, 1 or 2

    def predict_class_one(inputs: Inputs) -> Tensor:
        output = torch.zeros(len(inputs["image"]), 3)
        output[:, 1] = torch.tensor(2.0).log()  # probabilities 1/4, 1/2, 1/4
        return output

    metrics = task.evaluate(predict_class_one, "test")
    assert metrics["accuracy"] == pytest.approx(3 / 9)
    assert metrics["loss"] == pytest.approx(
        float((3 * torch.tensor(2.0).log() + 6 * torch.tensor(4.0).log()) / 9)
    )


def test_evaluation_reads_every_example_of_a_large_split_once() -> None:
    task = task_of((0, 1), examples=examples_of(test=2 * EVALUATION_BATCH + 2, classes=2))
    assert len(seen_ids(task, "test")) == 2 * EVALUATION_BATCH + 2


def test_it_evaluates_on_every_split_except_the_training_split() -> None:
    assert task_of().splits == ("val", "test")


def test_input_shapes_are_those_after_the_transform() -> None:
    task = ClassTask(
        "t0",
        "some",
        examples_of(),
        (0, 1),
        input="signal",
        transform=lambda stored: stored.float()[:, None, :2],
    )
    assert task.inputs == {"signal": (1, 2)}


def test_classes_that_a_split_lacks_are_an_error() -> None:
    with pytest.raises(DataError, match=r"task 't0' \(some\).*split 'train'"):
        task_of((17,))


def test_a_fingerprint_changes_with_one_value() -> None:
    changed = examples_of()
    changed.inputs["test"][3, 1] += 1
    assert (
        changed.fingerprint("float")
        != examples_of().fingerprint("float")
        == examples_of().fingerprint("float")
    )


def test_a_fingerprint_changes_with_the_transform() -> None:
    assert examples_of().fingerprint("float") != examples_of().fingerprint("divide by 255")


def seen_ids(task: ClassTask, split: str) -> list[int]:
    """Ids of the inputs of `predict` in an evaluation, which equal the values of the inputs."""
    seen: list[int] = []

    def record_ids(inputs: Inputs) -> Tensor:
        assert inputs.ids is not None
        assert torch.equal(inputs["image"][:, 0].long(), inputs.ids)
        seen.extend(inputs.ids.tolist())
        return torch.zeros(len(inputs["image"]), 9)

    task.evaluate(record_ids, split)
    return sorted(seen)
