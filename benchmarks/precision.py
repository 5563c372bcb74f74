"""Where bfloat16 pays: passes forward and backward of sides and of whole networks, in fp32 and in bf16.

    python benchmarks/precision.py [--repeats 5] [--batches 8 32 128] [--only fcn4 resnet44] [--quick]

Each network is trained as in a run: parameters in fp32, weights and activations under autocast. The two
precisions take turns, step by step. Printed for each network and batch size: processor time of a step in fp32
and in bf16 (medians), their ratio (below 1, bf16 is faster) with its quartiles, and what the rule reads:
multiply-adds of an example, and multiply-adds for each value that convolutions and linear layers compute
(`intensity`). A base is also timed frozen, forward only, as side-tuning uses it.

The rule is that of `sidetune_core.system.precision`; the column `auto` has its choice. A choice that loses
more than 5 % is marked with an asterisk.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping

import attrs
import torch
from torch import Tensor

from sidetune_core.api import Features
from sidetune_core.config.resolve import resolve
from sidetune_core.config.spec import RunSpec
from sidetune_core.system.device import processor
from sidetune_core.system.precision import Cost, CostMeter

IMAGE, TEXT = "image", "text"
RANDOM = {"weights": "none"}


@attrs.frozen
class Subject:
    """A network to time: a side next to a frozen base, or the base itself.

    Attributes:
        title: as printed.
        base: name and options.
        side: name and options; None for the base.
        size: pixels of an image, tokens of a text, or numbers of a vector.
        kind: of input.
        frozen: time the base as side-tuning uses it.
        largest: batch size.
    """

    title: str
    base: Mapping[str, object]
    side: Mapping[str, object] | None = None
    size: int = 32
    kind: str = IMAGE
    frozen: bool = False
    largest: int = 128


RESNET44 = {"name": "resnet44", **RANDOM}
RESNET18 = {"name": "torchvision", "model": "resnet18", **RANDOM}
MINILM = {"name": "minilm", **RANDOM}
SUBJECTS = (
    Subject("fcn4", RESNET44, {"name": "fcn4", **RANDOM}),
    Subject("ladder 32", RESNET44, {"name": "ladder", "width": 32}),
    Subject("ladder 64", RESNET44, {"name": "ladder", "width": 64}),
    Subject("copy of resnet44", RESNET44, {"name": "copy"}),
    Subject("conv side, 32 px", {"name": "conv", **RANDOM}, {"name": "conv"}),
    Subject("mlp side", {"name": "mlp", **RANDOM}, {"name": "mlp"}, size=16, kind="vector"),
    Subject("mlp side, 512 wide", {"name": "mlp", **RANDOM}, {"name": "mlp", "width": 512}, 64, "vector"),
    Subject("fcn5 side", {"name": "taskonomy", **RANDOM}, {"name": "fcn5", **RANDOM}, 256, largest=8),
    Subject("ladder-text 48", MINILM, {"name": "ladder-text"}, 64, TEXT, largest=32),
    Subject("copy of 2 layers", MINILM, {"name": "encoder", "layers": 2}, 64, TEXT, largest=32),
    Subject("resnet44", RESNET44),
    Subject("conv base, 32 px", {"name": "conv", **RANDOM}),
    Subject("resnet18, 32 px", RESNET18),
    Subject("resnet18, 64 px", RESNET18, size=64, largest=32),
    Subject("minilm", MINILM, None, 64, TEXT, largest=32),
    Subject("resnet44, frozen", RESNET44, frozen=True),
    Subject("conv base, frozen", {"name": "conv", **RANDOM}, frozen=True),
    Subject("mlp base, frozen", {"name": "mlp", **RANDOM}, None, 16, "vector", True),
    Subject("resnet18, frozen", RESNET18, frozen=True),
    Subject("minilm, frozen", MINILM, None, 64, TEXT, True, largest=32),
)


def main() -> None:
    """Time every network and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=5, help="pairs of steps")
    parser.add_argument("--batches", type=int, nargs="+", default=[8, 32, 128])
    parser.add_argument("--only", nargs="+", default=[], help="words in the titles of networks")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="two networks, one pair of steps each")
    options = parser.parse_args()
    if options.quick:
        options.repeats, options.batches, options.only = 1, [8], ["fcn4", "mlp side"]
    torch.set_num_threads(options.threads)
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    )
    print(
        f"{processor()}, {os.cpu_count()} processors, {options.threads} threads, torch {torch.__version__}, "
        f"python {platform.python_version()}, commit {commit.stdout.strip()}, {time.strftime('%Y-%m-%d')}; "
        f"medians of {options.repeats}"
    )
    print(f"{'network':<21}{'batch':>6}{'fp32 ms':>9}{'bf16 ms':>9}{'ratio':>7}{'quartiles':>13}", end="")
    print(f"{'M madds':>9}{'intensity':>10}  auto")
    for subject in SUBJECTS:
        if options.only and not any(word in subject.title for word in options.only):
            continue
        for batch in options.batches:
            if batch <= subject.largest:
                print(_row(subject, batch, options.repeats), flush=True)


def _row(subject: Subject, batch: int, repeats: int) -> str:
    step, cost = _make(subject, batch)
    times: dict[bool, list[float]] = {False: [], True: []}
    for repeat in range(-1, repeats):
        for bf16 in (False, True):
            began = time.process_time()
            step(bf16)
            if repeat >= 0:
                times[bf16].append(1e3 * (time.process_time() - began))
    first, second = (statistics.median(times[bf16]) for bf16 in (False, True))
    ratios = sorted(b / a for a, b in zip(times[False], times[True], strict=True))
    low, high = ratios[len(ratios) // 4], ratios[-1 - len(ratios) // 4]
    chosen = cost.best_precision
    lost = (second / first if chosen == "bf16" else first / second) > 1.05
    return (
        f"{subject.title:<21}{batch:>6}{first:>9.2f}{second:>9.2f}{second / first:>7.2f}"
        f"{low:>7.2f}{high:>6.2f}{cost.madds / 1e6:>9.2f}{cost.intensity:>10.0f}  {chosen}{'*' * lost}"
    )


def _make(subject: Subject, batch: int) -> tuple[Callable[[bool], None], Cost]:
    """What takes a step in fp32 or bf16, and the cost of the network."""
    torch.manual_seed(0)
    spec = RunSpec(base=dict(subject.base), side=dict(subject.side) if subject.side else None)
    components = resolve(spec).components
    inputs, one = _inputs(subject, batch), _inputs(subject, 1)
    shapes = {name: tuple(value.shape[1:]) for name, value in inputs.items()}
    base = components["base"].cls(components["base"].config, shapes).eval()
    base.to(memory_format=torch.channels_last)
    network = base
    with torch.no_grad():
        features, feature = base(inputs), base(one)
    if subject.side is not None:
        network = components["side"].cls(components["side"].config, shapes, base)
        network.to(memory_format=torch.channels_last)
    network.eval()

    def encode(values: Mapping[str, Tensor], known: Features) -> Tensor:
        output = network(values) if subject.side is None else network(values, known)
        return output.encoding if isinstance(output, Features) else output

    def step(bf16: bool) -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            encoding = encode(inputs, features)
        if not subject.frozen:
            encoding.float().square().mean().backward()  # type: ignore[no-untyped-call]
            network.zero_grad()

    meter = CostMeter()
    with torch.no_grad(), meter.counting(network, subject.title):
        encode(one, feature)
    network.train(not subject.frozen).requires_grad_(not subject.frozen)
    return step, meter.cost


def _inputs(subject: Subject, batch: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    if subject.kind == TEXT:
        tokens = torch.randint(5, 1000, (batch, subject.size), generator=generator)
        return {"tokens": tokens, "mask": torch.ones_like(tokens)}
    if subject.kind == IMAGE:
        images = torch.rand(batch, 3, subject.size, subject.size, generator=generator)
        return {"image": images.contiguous(memory_format=torch.channels_last)}
    return {"vector": torch.rand(batch, subject.size, generator=generator)}


if __name__ == "__main__":
    main()
