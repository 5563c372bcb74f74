"""Ways to compute a frozen base, tried on resnet44 at 32 pixels: time of an image, and error of the encoding.

    python benchmarks/frozen_base.py [--repeats 9] [--compile] [--int8 cifar100.npz] [--quick]

The first variant is what runs do: norms folded into convolutions at each call, ReLUs within them, bf16
autocast, channels last, batches of 64. All variants take turns in one thread; printed are the median
processor time of an image, its ratio to the first variant as a median of paired ratios with quartiles, and
the largest difference of the encoding from that in fp32, relative to the largest encoding. ``--compile`` adds
variants by torch.compile, with the processor time of compiling.

``--int8`` adds variants in int8, calibrated on 512 training images of iCIFAR's first task; all variants then
get test images instead of noise. ``pip install torchao`` and ``--compile`` add torchao's. Then heads for the
first three tasks of iCIFAR are trained on encodings in fp32, in bf16 and in int8 (see `encoding_heads`):
printed are the mean accuracy over tasks and three seeds, and its difference from fp32 with the smallest and
the largest of the nine.
"""

from __future__ import annotations

import argparse
import copy
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval

from sidetune_core.config.resolve import resolve
from sidetune_core.config.spec import RunSpec
from sidetune_core.interfaces.networks import Base
from sidetune_core.system.device import processor

Encode = Callable[[Tensor], Tensor]
COMPILED, TORCHAO = "bf16, compiled", "int8, torchao, compiled"
CALIBRATION, TASKS, SEEDS = 512, 3, (0, 1, 2)


def main() -> None:
    """Time every variant and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--compile", action="store_true", help="with torch.compile, which takes a minute")
    parser.add_argument(
        "--int8", type=Path, metavar="ARCHIVE", help="with int8: CIFAR-100 as .npz (x_train, y_train, ...)"
    )
    parser.add_argument("--quick", action="store_true", help="one repeat")
    options = parser.parse_args()
    torch.set_num_threads(1)
    sys.path.insert(0, str(Path(__file__).parents[1]))  # this script's folder is on the path, not its parent
    from benchmarks import encoding_heads

    component = resolve(RunSpec(base="resnet44")).components["base"]
    base: Base = component.cls(component.config, {"image": (3, 32, 32)})
    base.eval().requires_grad_(False).to(memory_format=torch.channels_last)
    images = torch.rand(128, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    variants = _variants(base)
    with torch.no_grad():
        if options.int8:
            train, test = encoding_heads.read(options.int8, TASKS)
            images = test.images[:128].float() / 255
            own = (train.labels < 10).nonzero()[:CALIBRATION, 0]
            quantised = _quantised(base, train.images[own].float() / 255, options.compile)
            variants |= quantised
        if options.compile:
            variants[COMPILED] = (64, torch.compile(_autocast(lambda x: base({"image": x}).encoding)))
        with _own_compiler_cache():
            for name in sorted(variants.keys() & {COMPILED, TORCHAO}):
                began = _processor_time()
                variants[name][1](_last(images[:64]))
                print(f"{name}: compiling took {_processor_time() - began:.1f} s of processor time")
            _time(variants, images, base, 1 if options.quick else options.repeats)
    if options.int8:
        encoders = {name: variants[name][1] for name in ("fp32", next(iter(variants)), *quantised)}
        rows = {
            name: encoding_heads.accuracies(encode, train, test, SEEDS) for name, encode in encoders.items()
        }
        print(f"{'heads on encodings in':<34}{'accuracy %':>11}{'from fp32':>11}{'range':>15}")
        for name, row in rows.items():
            change = 100 * (row - rows["fp32"])
            print(
                f"{name:<34}{100 * row.mean():>11.2f}{change.mean():>+11.2f}"
                f"{change.min():>+8.2f}{change.max():>+7.2f}"
            )


def _time(variants: dict[str, tuple[int, Encode]], images: Tensor, base: Base, repeats: int) -> None:
    exact = base({"image": _last(images)}).encoding
    times: dict[str, list[float]] = {name: [] for name in variants}
    errors = {}
    for repeat in range(-1, repeats):
        for name, (size, encode) in variants.items():
            batches = [_last(batch) for batch in torch.split(images, size)]
            began = time.process_time()
            outputs = [encode(batch).float() for batch in batches]
            if repeat >= 0:
                times[name].append(1e3 * (time.process_time() - began) / len(images))
            errors[name] = float((torch.cat(outputs) - exact).abs().max() / exact.abs().max())
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    )
    print(
        f"{processor()}, {os.cpu_count()} processors, 1 thread, torch {torch.__version__}, "
        f"commit {commit.stdout.strip()}, {time.strftime('%Y-%m-%d')}; medians of {repeats}"
    )
    print(f"{'variant':<34}{'ms/image':>9}{'ratio':>7}{'quartiles':>13}{'error':>9}")
    first = next(iter(times.values()))
    for name, values in times.items():
        ratios = sorted(value / one for value, one in zip(values, first, strict=True))
        low, high = ratios[len(ratios) // 4], ratios[-1 - len(ratios) // 4]
        print(
            f"{name:<34}{statistics.median(values):>9.3f}{statistics.median(ratios):>7.2f}"
            f"{low:>7.2f}{high:>6.2f}{errors[name]:>9.4f}"
        )


def _variants(base: Base) -> dict[str, tuple[int, Encode]]:
    """Batch size and encoding by name."""

    def as_in_a_run(images: Tensor) -> Tensor:
        return base({"image": images}).encoding

    fused = _fused(base)
    half = copy.deepcopy(fused).bfloat16()
    traced = torch.jit.trace(  # type: ignore[no-untyped-call]
        _Encoder(fused).eval(), _last(torch.rand(64, 3, 32, 32)), check_trace=False
    )
    frozen = torch.jit.freeze(traced)
    first = copy.deepcopy(base).to(memory_format=torch.contiguous_format)
    return {
        "bf16, as in a run": (64, _autocast(as_in_a_run)),
        "fp32": (64, as_in_a_run),
        "bf16, batches of 32": (32, _autocast(as_in_a_run)),
        "bf16, batches of 128": (128, _autocast(as_in_a_run)),
        "bf16, channels first": (64, _autocast(lambda x: first({"image": x.contiguous()}).encoding)),
        "bf16, norms folded once": (64, _autocast(_Encoder(fused))),
        "bf16 weights, folded once": (64, lambda x: _Encoder(half)(x.bfloat16())),
        "bf16, sums within convolutions": (64, _autocast(_with_sums(base))),
        "fp32, sums within convolutions": (64, _with_sums(base)),
        "fp32, frozen graph (oneDNN)": (64, lambda x: frozen(x)),
    }


def _quantised(base: Base, calibration: Tensor, compiled: bool) -> dict[str, tuple[int, Encode]]:
    """The variants in int8 whose libraries are installed."""
    from benchmarks import int8_base

    net = _fused(base)
    encoder = _Encoder(net).eval()
    quantised = {"int8, oneDNN's operators": (64, int8_base.by_operators(net, calibration))}
    if compiled and find_spec("torchao"):
        quantised[TORCHAO] = (64, int8_base.by_torchao(encoder, calibration))
    if find_spec("onnxruntime"):
        quantised["int8, onnxruntime"] = (64, int8_base.by_onnxruntime(encoder, calibration))
    return quantised


class _Encoder(nn.Module):
    """The encoding of a base whose norms are folded into its convolutions."""

    def __init__(self, base: Base) -> None:
        super().__init__()
        self.base = base

    def forward(self, images: Tensor) -> Tensor:
        code = sys.modules[type(self.base).__module__]

        def convolve_relu(conv: nn.Conv2d, _: nn.Module, x: Tensor) -> Tensor:
            if not code._can_apply_relu(x):  # as when a graph is traced, exported or compiled
                return functional.relu(conv(x))
            return _pointwise(x, conv.weight, conv.bias, conv)

        with (
            mock.patch.object(code, "_convolve", lambda conv, norm, x: conv(x)),
            mock.patch.object(code, "_convolve_relu", convolve_relu),
        ):
            return self.base({"image": images}).encoding


def _with_sums(base: Base) -> Encode:
    """The encoding where oneDNN also adds the shortcut to what a convolution writes, and applies the ReLU.

    The sum overwrites the shortcut, which the first block must not do: its shortcut is the tap of the stem.
    In bf16 the sum is rounded once, not twice.
    """
    code = sys.modules[type(base).__module__]

    def encode(images: Tensor) -> Tensor:
        net: Any = base
        taps = [code._convolve_relu(net.conv1, net.bn1, (images - net.mean) / net.std)]
        for stage in (net.layer1, net.layer2, net.layer3):
            x = taps[-1]
            for block in stage:
                if x is taps[0]:
                    x = block(x)
                    continue
                hidden, shortcut = code._convolve_relu(block.conv1, block.bn1, x), x
                if not block.keeps_shape:  # a copy, not the tap of the stage before
                    shortcut = x[:, :, :: block.stride, :: block.stride]
                    shortcut = _last(functional.pad(shortcut, (0, 0, 0, 0, block.padding, block.padding)))
                weight, bias = code._fold(block.conv2, block.bn2)
                x = _pointwise(hidden, weight, bias, block.conv2, shortcut)
            taps.append(x)
        encoding: Tensor = taps[-1].mean((2, 3))
        return encoding

    return encode


def _pointwise(
    x: Tensor, weight: Tensor, bias: Tensor | None, conv: nn.Conv2d, shortcut: Tensor | None = None
) -> Tensor:
    """A convolution with its ReLU by oneDNN, which first adds the result to the shortcut, in place."""
    if torch.is_autocast_enabled("cpu"):  # which does not know the operator
        dtype = torch.get_autocast_dtype("cpu")
        x, weight, bias = x.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)
    shape = (conv.padding, conv.stride, conv.dilation, conv.groups)
    output: Tensor
    if shortcut is None:
        output = torch.ops.mkldnn._convolution_pointwise(x, weight, bias, *shape, "relu", [], "")
    else:
        output = torch.ops.mkldnn._convolution_pointwise_.binary(
            shortcut, x, weight, bias, *shape, "add", 1.0, "relu", [], ""
        )
    return output


def _fused(base: Base) -> Base:
    """A copy with the norms folded into the convolutions."""
    fused = copy.deepcopy(base)
    for block in [module for module in fused.modules() if hasattr(module, "bn1")]:
        for number in (1, 2):
            if hasattr(block, f"bn{number}"):
                conv = fuse_conv_bn_eval(getattr(block, f"conv{number}"), getattr(block, f"bn{number}"))
                setattr(block, f"conv{number}", conv)
                setattr(block, f"bn{number}", nn.Identity())
    return fused.requires_grad_(False).to(memory_format=torch.channels_last)


def _autocast(encode: Encode) -> Encode:
    def encode_in_bf16(images: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return encode(images)

    return encode_in_bf16


@contextmanager
def _own_compiler_cache() -> Iterator[None]:
    """Compile again, in one process whose time can be measured."""
    from torch._inductor import config, utils

    with utils.fresh_cache(), mock.patch.object(config, "compile_threads", 1):
        yield


def _processor_time() -> float:
    """Of this process and its children that have ended, such as C++ compilers."""
    return sum(os.times()[:4])


def _last(images: Tensor) -> Tensor:
    return images.contiguous(memory_format=torch.channels_last)


if __name__ == "__main__":
    main()
