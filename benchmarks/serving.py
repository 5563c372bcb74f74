"""Serving many tasks: one base with a side for each task, against a whole network for each task.

    python benchmarks/serving.py [--base resnet18] [--size 224] [--tasks 20] [--batch 1] [--repeats 5]
    [--precision fp32]

All weights are random, since their values do not affect speed. Each variant predicts every task for the same
images, classes and probabilities included:

- ``sides``: learner sidetune, ``Model.predict(images, tasks="all")``; base 'resnet18' has sides 'ladder',
  base 'resnet44' has sides 'fcn4'.
- ``fine-tuned``: a copy of the base with its head for each task.
- ``LoRA, merged``: the same with a product of rank 8 added to each weight of the base's layers, as LoRA is
  merged for serving.
- ``LoRA, switched``: one copy of the base, to which the products of a task are added before its forward pass,
  and from which they are subtracted afterwards.

Printed for each: milliseconds per image for all tasks (median over the repeats, which alternate between the
variants), megabytes of weights in memory, and both relative to ``sides``.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from sidetune_core import RunSpec
from sidetune_core.api import Base, ClassHead, Outputs, TaskCard, class_predictions, normalise
from sidetune_core.assembly.build import build_learner, start_task
from sidetune_core.assembly.cards import CardStream, CardTask
from sidetune_core.config.resolve import ResolvedRun, resolve
from sidetune_core.serving.model import Model
from sidetune_core.serving.source import Trained
from sidetune_core.system import device

CLASSES = 10
RANK = 8
BASES: Mapping[str, Mapping[str, Any]] = {
    "resnet18": {
        "base": {"name": "torchvision", "model": "resnet18", "weights": "none"},
        "side": {"name": "ladder"},
    },
    "resnet44": {
        "base": {"name": "resnet44", "weights": "none"},
        "side": {"name": "fcn4", "weights": "none"},
    },
}

Predict = Callable[[Tensor], object]


def main() -> None:
    """Time every variant and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--base", choices=BASES, default="resnet18")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--tasks", type=int, default=20)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    options = parser.parse_args()
    spec = {**BASES[options.base], "device": {"precision": options.precision}}
    model = make_model(resolve(RunSpec(env="digits", **spec)), options.tasks, options.size)
    learner = model._tasks["t0"].learner
    base = learner.bases[0].base
    copies = fine_tuned(base, options.tasks)
    merged = [merge(copy.deepcopy(network)) for network in copies]
    switched = Switched(copy.deepcopy(copies[0][0]), [network[1] for network in copies])
    variants: dict[str, tuple[Predict, Iterable[nn.Module]]] = {
        "sides": (lambda images: model.predict(images, tasks="all"), [learner.learner]),
        "fine-tuned": (lambda images: predict_each(copies, images), copies),
        "LoRA, merged": (lambda images: predict_each(merged, images), merged),
        "LoRA, switched": (switched, [switched.network, *switched.heads, switched.factors]),
    }
    images = torch.rand(options.batch, 3, options.size, options.size)
    with torch.no_grad(), learner.machine.autocast():
        times = measure({name: predict for name, (predict, _) in variants.items()}, images, options.repeats)
    print(f"{options.base}, {options.size} x {options.size}, {options.tasks} tasks, batch {options.batch}")
    print(f"{learner.machine}, {torch.get_num_threads()} thread(s), torch {torch.__version__}")
    print(f"{'':<16}{'ms / image':>12}{'ratio':>8}{'MB':>10}{'ratio':>8}")
    sizes = {name: megabytes(modules) for name, (_, modules) in variants.items()}
    for name, seconds in times.items():
        milliseconds = 1000 * seconds / options.batch
        print(
            f"{name:<16}{milliseconds:12.1f}{seconds / times['sides']:8.2f}"
            f"{sizes[name]:10.1f}{sizes[name] / sizes['sides']:8.2f}"
        )


def make_model(resolved: ResolvedRun, count: int, size: int) -> Model:
    """A model with tasks that were started and not trained."""
    cards = {
        f"t{index}": TaskCard(
            f"t{index}",
            f"task {index}",
            resolved.components["env"].choice,
            {"image": (3, size, size)},
            Outputs.of_classes(CLASSES),
            "accuracy",
            head="linear",
        )
        for index in range(count)
    }
    tasks = [CardTask(card) for card in cards.values()]
    learner = build_learner(resolved, CardStream(tasks))
    for task in tasks:
        start_task(learner, task, resolved.seed, device.choose(resolved.device))
    model = Model()
    model.add_trained(Trained(resolved, cards, learner.state_dict(), {}, "the benchmark", tuple(cards)))
    return model


def fine_tuned(base: Base, count: int) -> list[nn.ModuleList]:
    """For each task a copy of the base and a head."""
    copies = []
    for _ in range(count):
        network = copy.deepcopy(base).eval()
        copies.append(nn.ModuleList([network, ClassHead(base.shape, CLASSES)]).requires_grad_(False))
    return copies


def predict_each(networks: Iterable[nn.ModuleList], images: Tensor) -> list[object]:
    """Predictions of each network."""
    return [predict_one(network, head, images) for network, head in networks]


def predict_one(network: nn.Module, head: nn.Module, images: Tensor) -> object:
    """Predictions of a base with a head."""
    return class_predictions(head(normalise(network({"image": images}).encoding)).float())


def layers(network: nn.Module) -> list[nn.Module]:
    """The layers that LoRA adapts."""
    return [module for module in network.modules() if isinstance(module, nn.Conv2d | nn.Linear)]


def factors(layer: nn.Module) -> nn.ParameterList:
    """Random factors (out, rank) and (rank, in) of a layer."""
    assert isinstance(layer.weight, Tensor)
    rows, columns = layer.weight.shape[0], layer.weight[0].numel()
    small = [0.01 * torch.randn(rows, RANK), 0.01 * torch.randn(RANK, columns)]
    return nn.ParameterList(small).requires_grad_(False)


def add_product(layer: nn.Module, pair: nn.ParameterList, sign: float) -> None:
    """Add the product of two factors to the weight of a layer, or subtract it."""
    assert isinstance(layer.weight, Tensor)
    layer.weight.add_((pair[0] @ pair[1]).view(layer.weight.shape), alpha=sign)


def merge(network: nn.ModuleList) -> nn.ModuleList:
    """The network with factors merged into its base."""
    for layer in layers(network[0]):
        add_product(layer, factors(layer), 1)
    return network


class Switched:
    """One base, to which the factors of a task are added for its forward pass."""

    def __init__(self, network: nn.Module, heads: list[nn.Module]) -> None:
        self.network, self.heads, self._layers = network, heads, layers(network)
        self.factors = nn.ModuleList(nn.ModuleList(map(factors, self._layers)) for _ in heads)

    def __call__(self, images: Tensor) -> list[object]:
        predictions = []
        for head, pairs in zip(self.heads, self.factors, strict=True):
            with self._switched_to(pairs):
                predictions.append(predict_one(self.network, head, images))
        return predictions

    @contextmanager
    def _switched_to(self, pairs: Any) -> Any:
        for layer, pair in zip(self._layers, pairs, strict=True):
            add_product(layer, pair, 1)
        yield
        for layer, pair in zip(self._layers, pairs, strict=True):
            add_product(layer, pair, -1)


def measure(variants: Mapping[str, Predict], images: Tensor, repeats: int) -> dict[str, float]:
    """The median seconds of each variant, after one call to warm up."""
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for repeat in range(repeats + 1):
        for name, predict in variants.items():
            began = time.perf_counter()
            predict(images)
            if repeat:
                seconds[name].append(time.perf_counter() - began)
    return {name: statistics.median(values) for name, values in seconds.items()}


def megabytes(modules: Iterable[nn.Module]) -> float:
    """The size of all parameters and buffers, each tensor once."""
    tensors = {
        tensor.data_ptr(): tensor.numel() * tensor.element_size()
        for module in modules
        for tensor in (*module.parameters(), *module.buffers())
    }
    return sum(tensors.values()) / 1e6


if __name__ == "__main__":
    main()
