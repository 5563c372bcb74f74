"""Checks of envs: evaluation, and what a task reports besides its loss."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing

import torch
from torch import Tensor

from sidetune_core.interfaces.capabilities import (
    HasDocuments,
    HasTrainingMetrics,
    HasVisualisations,
)
from sidetune_core.interfaces.inputs import Inputs
from sidetune_core.interfaces.tasks import Batch, Order, Task
from sidetune_core.testing.device import PretendedGpu
from sidetune_core.testing.env_training import inputs_with_ids_never_change
from sidetune_core.testing.findings import SEED, Broken, Make, Skipped, described, requires
from sidetune_core.testing.stream import BATCH, Rows, Stream, acts, batches, epoch_steps, network

HIGHER_IS_BETTER = ("accuracy", "f1", "exact", "iou", "psnr", "return", "reward", "score", "spl", "success")
LOWER_IS_BETTER = ("error", "loss", "mae", "mse", "perplexity", "rmse")
MOST_CLASSES = 20
"""Largest number of classes of which each is predicted for all examples."""
FEWEST_LEAKED = 8
"""Equal inputs of training and test that are no coincidence."""


@requires("heads_fit_or_refuse", "inputs_are_finite")
def splits_can_be_evaluated(make: Make[Stream]) -> None:
    """'test' is a split, and `evaluate` accepts all splits."""
    stream = make()
    for task in stream.tasks:
        if "test" not in task.splits:
            raise Broken(
                f"task '{task.id}' has splits {', '.join(task.splits)}; add 'test', on which R is measured"
            )
        for split in task.splits:
            try:
                stream.evaluated(task, split)
            except Exception as error:  # plugins may raise anything
                raise Broken(
                    f"task '{task.id}': evaluate() of split '{split}' {described(error)}; "
                    "evaluate every split that `splits` names"
                ) from error


@requires("splits_can_be_evaluated")
def evaluation_gives_the_metric(make: Make[Stream]) -> None:
    """`evaluate` returns finite metrics with the declared one for every split, within its range."""
    stream = make()
    for task in stream.tasks:
        for split in task.splits:
            metrics = stream.evaluated(task, split).metrics
            if task.metric not in metrics:
                raise Broken(
                    f"task '{task.id}': evaluate() returns {', '.join(metrics)}; "
                    f"add the metric '{task.metric}'"
                )
            if wrong := _not_finite(metrics):
                raise Broken(f"task '{task.id}': evaluate() returns {wrong}; return finite floats")
            for name, value in metrics.items():
                if re.search("accuracy|success", name) and not 0 <= value <= 100:
                    raise Broken(
                        f"task '{task.id}': evaluate() returns {name} {value:g}; "
                        "return a fraction in [0, 1], or a percentage"
                    )


def metric_has_its_direction(make: Make[Stream]) -> None:
    """`higher_is_better` suits the metric's name."""
    for task in make().tasks:
        words = set(re.split(r"[^a-z0-9]+", task.metric.lower()))
        for names, higher in ((HIGHER_IS_BETTER, True), (LOWER_IS_BETTER, False)):
            if words & set(names) and not words & {"neg", "negative"} and task.higher_is_better != higher:
                raise Broken(
                    f"task '{task.id}': higher_is_better is {task.higher_is_better} for the metric "
                    f"'{task.metric}'; set it to {higher}"
                )


@requires("evaluation_gives_the_metric", "global_random_state_is_unchanged", "evaluation_keeps_its_inputs")
def evaluation_is_the_same_twice(make: Make[Stream]) -> None:
    """`evaluate` depends on the predictions only, not on earlier calls."""
    stream = make()
    for task in stream.tasks:
        first = stream.evaluated(task, "test").metrics
        task.evaluate(network(task, change=_other), "test")
        again = task.evaluate(network(task), "test")
        if any(not math.isclose(value, again[name], rel_tol=1e-5) for name, value in first.items()):
            raise Broken(
                f"task '{task.id}': evaluate() returns {_shown(first)}, and {_shown(again)} for the same "
                "predictions after another evaluation; start from zero at every call"
            )


def _other(output: Tensor) -> Tensor:
    """Other predictions: of another class, also where all outputs are equal."""
    axis = min(1, output.ndim - 1)
    width = output.shape[axis]
    steps = torch.linspace(0, 1, width).view([-1 if k == axis else 1 for k in range(output.ndim)])
    return output.roll(1, axis) + 3 * steps


@requires("splits_can_be_evaluated")
def evaluation_keeps_its_inputs(make: Make[Stream]) -> None:
    """`evaluate` does not change inputs that it has handed over: learners and certificates keep some."""
    for task in make().tasks:
        seen: list[tuple[Inputs, dict[str, Tensor]]] = []

        def keep(inputs: Inputs, seen: list[tuple[Inputs, dict[str, Tensor]]] = seen) -> None:
            if len(seen) < 4:
                seen.append((inputs, {name: value.clone() for name, value in inputs.items()}))

        task.evaluate(network(task, seen=keep), "test")
        task.evaluate(network(task), "test")
        for inputs, before in seen:
            for name, value in before.items():
                if not torch.equal(inputs[name].nan_to_num(), value.nan_to_num()):
                    raise Broken(
                        f"task '{task.id}': evaluate() changes input '{name}' in place after handing it "
                        "over; make a new tensor for every call"
                    )


@requires("evaluation_gives_the_metric")
def evaluation_is_complete(make: Make[Stream]) -> None:
    """`evaluate` does not leave out the last examples of a split, which do not fill a batch."""
    stream = make()
    for task in stream.tasks:
        for split in task.splits:
            sizes = stream.evaluated(task, split).sizes
            total = sum(sizes)
            if len(set(sizes)) != 1:
                continue
            for length in _lengths(task, split, depth=3):
                if total < length < total + sizes[0]:
                    raise Broken(
                        f"task '{task.id}': evaluate() uses {total} of the {length} examples of split "
                        f"'{split}'; evaluate the last, smaller batch too"
                    )


def _lengths(owner: object, split: str, depth: int) -> Iterator[int]:
    """Lengths of what an object holds under the name of a split."""
    for value in list(getattr(owner, "__dict__", {}).values()):
        if isinstance(value, Mapping):
            held = value.get(split)
            if isinstance(held, Tensor) and held.ndim or isinstance(held, list | tuple):
                yield len(held)
        elif depth and hasattr(value, "__dict__") and not isinstance(value, type | torch.nn.Module):
            yield from _lengths(value, split, depth - 1)


@requires("evaluation_is_the_same_twice", "labels_are_those_of_the_head")
def test_labels_are_those_of_the_head(make: Make[Stream]) -> None:
    """Each test example is right for one of the classes: the accuracies of constant predictions sum to 1."""
    for task in make().tasks:
        batch = next(batches(task))
        output = network(task)(batch.inputs)
        one_label = batch.targets.ndim == 1 and not batch.targets.is_floating_point()
        if task.metric != "accuracy" or output.ndim != 2 or not one_label or output.shape[1] > MOST_CLASSES:
            continue
        accuracies = [
            task.evaluate(network(task, change=_always(label)), "test")["accuracy"]
            for label in range(output.shape[1])
        ]
        total = sum(accuracies)
        lacking = 1 - total / (1 if total <= 1.0001 else 100)
        if 1e-4 < lacking < 1 and len(set(accuracies)) > 1:
            raise Broken(
                f"task '{task.id}': {100 * lacking:.3g} % of the examples of split 'test' are wrong for "
                f"every output of the head; their labels are not 0 to {output.shape[1] - 1}"
            )


def _always(label: int) -> Callable[[Tensor], Tensor]:
    def change(output: Tensor) -> Tensor:
        return torch.nn.functional.one_hot(torch.full((len(output),), label), output.shape[1]).float()

    return change


@requires("splits_can_be_evaluated", "batches_are_complete")
def training_examples_are_not_tested(make: Make[Stream]) -> None:
    """No training example of any task is in a split of `evaluate`, by its id or by its inputs."""
    stream = make()
    of_all = {digest for task in stream.tasks if not acts(task) for digest in stream.trained(task).digests}
    for task in stream.tasks:
        trained = stream.trained(task)
        inputs = dict(zip(trained.ids, trained.digests, strict=True))
        for split in task.splits:
            if split == "train":
                continue
            tested = stream.evaluated(task, split)
            by_id = dict(tested.by_id())
            if shared := sorted(inputs.keys() & by_id.keys()):
                example = shared[0]
                remedy = (
                    "train on other examples"
                    if inputs[example] == by_id[example]
                    else "give the examples of each split ids of their own"
                )
                raise Broken(
                    f"task '{task.id}': {len(shared)} training ids, such as {example}, "
                    f"are in split '{split}'; {remedy}"
                )
            _check_inputs(task, split, tested, trained, of_all)


def _check_inputs(task: Task, split: str, tested: Rows, trained: Rows, of_all: set[bytes]) -> None:
    """Training inputs are not tested under other ids. Of a large task only a part has been read."""
    distinct = set(tested.digests)
    part = min(1.0, len(trained.digests) / (BATCH * epoch_steps(task)))
    leaked = len(distinct & of_all)
    if leaked >= FEWEST_LEAKED and leaked > 0.5 * part * len(distinct):
        raise Broken(
            f"task '{task.id}': {leaked} of {len(distinct)} inputs of split '{split}' are training inputs "
            "too, under other ids or without; test on other examples"
        )


@requires("loss_is_one_number_per_example")
def training_metrics_are_finite_numbers(make: Make[Stream]) -> None:
    """`record` returns finite floats, which can be logged."""
    for task in make().tasks:
        if not isinstance(task, HasTrainingMetrics):
            continue
        predict = network(task)
        batch = next(iter(task.train(predict, Order(SEED, BATCH))))
        task.loss(predict(batch.inputs), batch)
        if wrong := _not_finite(task.record()):
            raise Broken(f"task '{task.id}': record() returns {wrong}; return finite floats")


@requires("splits_can_be_evaluated")
def documents_can_be_written(make: Make[Stream]) -> None:
    """`documents` returns texts by file name."""
    for task in make().tasks:
        if not isinstance(task, HasDocuments):
            continue
        task.evaluate(network(task), "test")
        for name, text in task.documents().items():
            if not re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9._-]*", name):
                raise Broken(
                    f"task '{task.id}': document '{name}' names a file: use letters, digits, '.', '-' and '_'"
                )
            if not isinstance(text, str):
                raise Broken(
                    f"task '{task.id}': document '{name}' is a {type(text).__name__}; return a text "
                    "(json.dumps makes one)"
                )


def experts_act(make: Make[Stream]) -> None:
    """Every expert that a rollout task lists returns an action of shape (1, width), or None."""
    for task in make().tasks:
        if getattr(task, "experts", ()):
            _check_experts(task)


def _check_experts(task: Task) -> None:
    from sidetune_core.rl.rollout_task import RolloutTask  # only envs with rollout tasks need it

    if not isinstance(task, RolloutTask):
        return
    for name in task.experts:
        expert = task.expert(name)
        with closing(task.make_vector_env(1)) as vector_env:
            observations = vector_env.reset(SEED)
            expert.begin(vector_env, SEED)
            action = expert.act(observations)
        if action is not None and tuple(action.shape) != (1, task.policy.width):
            raise Broken(
                f"task '{task.id}': its expert '{name}' returns an action of shape {tuple(action.shape)}; "
                f"return (1, {task.policy.width}), or None"
            )


@requires("heads_fit_or_refuse", "inputs_are_finite")
def visualisations_are_images(make: Make[Stream]) -> None:
    """Visualisations, if any, are (3, H, W) in [0, 1], with names of letters, digits and ``-``."""
    for task in make().tasks:
        if not isinstance(task, HasVisualisations):
            continue
        for name, image in task.visualisations(network(task)).items():
            if not re.fullmatch(r"[A-Za-z0-9-]+", name):
                raise Broken(f"task '{task.id}': image '{name}' names a file: use letters, digits and '-'")
            if image.ndim != 3 or len(image) != 3 or not ((image >= 0) & (image <= 1)).all():
                raise Broken(
                    f"task '{task.id}': image '{name}' is {tuple(image.shape)}; make it (3, H, W) in [0, 1]"
                )


@requires("loss_is_one_number_per_example", "splits_can_be_evaluated")
def tensors_follow_the_device(make: Make[Stream]) -> None:
    """With outputs and batches on a GPU (pretended) losses and evaluations work."""
    for task in make().tasks:
        with PretendedGpu() as gpu:
            predict = network(task, change=gpu.copy)
            batch = next(iter(task.train(predict, Order(SEED, BATCH))))
            there = Batch(batch.ids, gpu.move_inputs(batch.inputs), gpu.move(batch.targets.clone()))
            try:
                task.loss(predict(batch.inputs), there)
                task.evaluate(predict, "test")
                if isinstance(task, HasVisualisations):
                    task.visualisations(predict)
            except Broken as error:
                raise Broken(f"task '{task.id}': {error}; compare data with output.cpu()") from None
            except Exception as error:  # other checks report what a plugin raises
                raise Skipped(f"task '{task.id}' cannot be observed: {described(error)}") from error


def _not_finite(metrics: Mapping[str, object]) -> dict[str, object]:
    return {
        name: value
        for name, value in metrics.items()
        if not isinstance(value, float) or not math.isfinite(value)
    }


def _shown(metrics: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in metrics.items())


CHECKS = (
    splits_can_be_evaluated,
    evaluation_keeps_its_inputs,
    evaluation_gives_the_metric,
    metric_has_its_direction,
    evaluation_is_the_same_twice,
    evaluation_is_complete,
    test_labels_are_those_of_the_head,
    training_examples_are_not_tested,
    inputs_with_ids_never_change,
    training_metrics_are_finite_numbers,
    documents_can_be_written,
    experts_act,
    visualisations_are_images,
    tensors_follow_the_device,
)
