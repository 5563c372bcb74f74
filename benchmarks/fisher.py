"""Time of EWC's exact Fisher: layer by layer, compared with a vmap of gradients over examples and classes.

    python benchmarks/fisher.py                       # resnet44, 64 images, 2 and 10 classes, 3 repeats
    python benchmarks/fisher.py --quick               # resnet20, 8 images, once

Measures the processor time of the estimate for the packaged weights of a CIFAR ResNet with a linear head, on
random images: what a task of digits (2 classes) or iCIFAR (10 classes) computes after its last step. Both
ways are timed in turns in one process; the first turn is not counted. The former way takes a gradient for
each pair of an example and a class, 25 of them at a time for resnet44. It also prints the largest difference
of the two estimates, relative to the largest element, and the peak of resident memory.

The target is a median ratio of at least 5 with two classes.
"""

from __future__ import annotations

import argparse
import platform
import resource
import statistics
import subprocess
import time
from datetime import date
from importlib import import_module
from itertools import repeat
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn import functional

from sidetune_core.api import Batch, ClassTask, Components, Examples, Inputs
from sidetune_core.config.kinds import BASE, LEARNER
from sidetune_core.config.registry import find, load

SHAPE = (3, 32, 32)
MAX_GRADIENT_ELEMENTS = 2**24
"""Of the former way."""


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--base", default="resnet44", help="a CIFAR ResNet")
    parser.add_argument("--examples", type=int, default=64)
    parser.add_argument("--classes", type=int, nargs="+", default=[2, 10])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="resnet20, 8 examples, 2 classes, once")
    given = parser.parse_args()
    if given.quick:
        given.base, given.examples, given.classes, given.repeats = "resnet20", 8, [2], 1
    print(f"{platform.processor() or platform.machine()}, {date.today()}, commit {commit()}")
    print(
        f"torch {torch.__version__}, {torch.get_num_threads()} threads; {given.base}, {given.examples} images"
    )
    print("\nclasses   vmap s   layers s   ratio (range)          difference")
    for classes in given.classes:
        print(measured(given.base, given.examples, classes, given.repeats))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"\npeak resident memory {peak:,.0f} MB")


def measured(base: str, count: int, classes: int, repeats: int) -> str:
    """A row of the table."""
    learner, task, batch = subject(base, count, classes)
    module = import_module(type(learner).__module__.rpartition(".")[0] + ".fisher")
    weights = {name: weight for name, weight in learner.named_parameters() if name.startswith("base.")}
    now = module.Fisher(learner, task, weights)
    times: list[tuple[float, float]] = []
    for _ in range(repeats + 1):
        began = time.process_time()
        before = by_vmap(learner, task, weights, batch, classes)
        between = time.process_time()
        after = now.estimate("exact", repeat(batch), count)
        times.append((between - began, time.process_time() - between))
    former, present = (statistics.median(column) for column in zip(*times[1:], strict=True))
    ratios = sorted(first / second for first, second in times[1:])
    difference = float((before - after).abs().max() / before.abs().max())
    shown = f"{statistics.median(ratios):.1f} ({ratios[0]:.1f} to {ratios[-1]:.1f})"
    return f"{classes:7d}  {former:7.2f}  {present:9.2f}   {shown:22s} {difference:.1e}"


def subject(base: str, count: int, classes: int) -> tuple[Any, ClassTask, Batch]:
    """EWC after the start of a task, the task, and a batch of all of its examples."""
    network = load(find(BASE, base))
    learner_class = load(find(LEARNER, "ewc"))
    torch.manual_seed(0)
    components = Components(
        {"image": SHAPE}, lambda pretrained=True: network(network.Config(), {"image": SHAPE})
    )
    learner = learner_class(learner_class.Config(), components)
    images, labels = torch.rand(count, *SHAPE), torch.arange(count) % classes
    examples = Examples({"train": images, "test": images}, {"train": labels, "test": labels})
    task = ClassTask("t0", "random images", examples, list(range(classes)), transform=torch.Tensor.float)
    learner.start(task)
    learner.requires_grad_(False).eval()
    return learner, task, Batch(torch.arange(count), Inputs({"image": images}), labels)


def by_vmap(
    learner: nn.Module, task: ClassTask, weights: dict[str, Tensor], batch: Batch, classes: int
) -> Tensor:
    """The exact Fisher (P,) as it was computed before."""
    with torch.no_grad():
        probabilities = learner(batch.inputs, task.id).softmax(1).flatten()
    rows = torch.arange(len(batch.targets)).repeat_interleave(classes)
    labels = torch.arange(classes).repeat(len(batch.targets))
    total = torch.zeros(sum(weight.numel() for weight in weights.values()))
    size = max(1, min(len(batch.targets), MAX_GRADIENT_ELEMENTS // len(total)))
    values = {name: weight.detach() for name, weight in weights.items()}

    def square(image: Tensor, label: Tensor) -> Tensor:
        def loss(values: dict[str, Tensor]) -> Tensor:
            output = functional_call(learner, values, ({"image": image}, task.id))
            return functional.cross_entropy(output, label)

        gradients = grad(loss)(values)
        return torch.cat([gradient.flatten() for gradient in gradients.values()]).square()

    for chunk in torch.split(torch.arange(len(rows)), size):
        squares = vmap(square)(batch.inputs["image"][rows[chunk]].unsqueeze(1), labels[chunk].unsqueeze(1))
        total += probabilities[chunk] @ squares
    return total / len(batch.targets)


def commit() -> str:
    """Of the checkout; 'unknown' outside of one."""
    done = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    )
    return done.stdout.strip() or "unknown"


if __name__ == "__main__":
    main()
