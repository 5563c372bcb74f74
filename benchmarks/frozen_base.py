"""Ways to compute a frozen base, tried on resnet44 at 32 pixels: time of an image, and error of the encoding.

    python benchmarks/frozen_base.py [--repeats 9] [--compile] [--quick]

The first variant is what runs do: norms folded into convolutions at each call, bf16 autocast, channels last,
batches of 64. All variants take turns in one thread; printed are the median processor time of an image, its
ratio to the first variant as a median of paired ratios with quartiles, and the largest difference of the
encoding from that in fp32, relative to the largest encoding. ``compiled`` (with ``--compile``) also has the
processor time of compiling.
"""

from __future__ import annotations

import argparse
import copy
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
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


def main() -> None:
    """Time every variant and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--compile", action="store_true", help="with torch.compile, which takes a minute")
    parser.add_argument("--quick", action="store_true", help="one repeat")
    options = parser.parse_args()
    torch.set_num_threads(1)
    component = resolve(RunSpec(base="resnet44")).components["base"]
    base: Base = component.cls(component.config, {"image": (3, 32, 32)})
    base.eval().requires_grad_(False).to(memory_format=torch.channels_last)
    images = torch.rand(128, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    variants = _variants(base)
    with torch.no_grad():
        if options.compile:
            began = time.process_time()
            compiled = torch.compile(_autocast(lambda x: base({"image": x}).encoding))
            for size in (64, 128):
                compiled(_last(images[:size]))
            variants["compiled"] = (64, compiled)
            print(f"compiling took {time.process_time() - began:.1f} s of processor time")
        _time(variants, images, base, 1 if options.quick else options.repeats)


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
    code, example = sys.modules[type(base).__module__], _last(torch.rand(64, 3, 32, 32))

    def without_norms(encode: Encode) -> Encode:
        def encode_without(images: Tensor) -> Tensor:
            with mock.patch.object(code, "_convolve", lambda conv, norm, x: conv(x)):
                return encode(images)

        return encode_without

    with mock.patch.object(code, "_convolve", lambda conv, norm, x: conv(x)):
        encoder = _Encoder(fused).eval()
        traced = torch.jit.trace(encoder, example, check_trace=False)  # type: ignore[no-untyped-call]
    frozen = torch.jit.freeze(traced)
    first = copy.deepcopy(base).to(memory_format=torch.contiguous_format)
    return {
        "bf16, as in a run": (64, _autocast(as_in_a_run)),
        "fp32": (64, as_in_a_run),
        "bf16, batches of 32": (32, _autocast(as_in_a_run)),
        "bf16, batches of 128": (128, _autocast(as_in_a_run)),
        "bf16, channels first": (64, _autocast(lambda x: first({"image": x.contiguous()}).encoding)),
        "bf16, norms folded once": (64, without_norms(_autocast(lambda x: fused({"image": x}).encoding))),
        "bf16 weights, folded once": (64, without_norms(lambda x: half({"image": x.bfloat16()}).encoding)),
        "bf16, ReLU within convolutions": (64, _autocast(_with_operators(base, add=False))),
        "bf16, sum and ReLU within them": (64, _autocast(_with_operators(base, add=True))),
        "fp32, frozen graph (oneDNN)": (64, lambda x: frozen(x)),
    }


class _Encoder(nn.Module):
    def __init__(self, base: Base) -> None:
        super().__init__()
        self.base = base

    def forward(self, images: Tensor) -> Tensor:
        return self.base({"image": images}).encoding


def _with_operators(base: Base, add: bool) -> Encode:
    """The encoding by the oneDNN operators of PyTorch's compiler, which apply the ReLU to what they write;
    with `add`, they add the shortcut before it. The sum is then rounded to bf16 once, not twice."""
    operators = torch.ops.mkldnn

    def convolve(conv: nn.Conv2d, norm: nn.BatchNorm2d, x: Tensor, shortcut: Tensor | None = None) -> Tensor:
        assert norm.running_mean is not None
        assert norm.running_var is not None
        scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
        weight, bias = conv.weight * scale.view(-1, 1, 1, 1), norm.bias - norm.running_mean * scale
        x, *layer = (tensor.bfloat16() for tensor in (x, weight, bias))  # no autocast of these operators
        shape = (conv.padding, conv.stride, conv.dilation, conv.groups)
        output: Tensor
        if shortcut is None:
            output = operators._convolution_pointwise(x, *layer, *shape, "relu", [], "")
        else:
            output = operators._convolution_pointwise_.binary(
                shortcut, x, *layer, *shape, "add", 1.0, "relu", [], ""
            )
        return output

    def encode(images: Tensor) -> Tensor:
        net: Any = base
        x = convolve(net.conv1, net.bn1, (images - net.mean) / net.std)
        for block in (*net.layer1, *net.layer2, *net.layer3):
            hidden = convolve(block.conv1, block.bn1, x)
            if block.stride > 1 or block.padding:
                x = x[:, :, :: block.stride, :: block.stride]
                x = functional.pad(x, (0, 0, 0, 0, block.padding, block.padding))
            if add:
                x = convolve(block.conv2, block.bn2, hidden, x)
            else:
                residual = sys.modules[type(base).__module__]._convolve(block.conv2, block.bn2, hidden)
                x = functional.relu(residual.add_(x), inplace=True)
        return x.mean((2, 3))

    return encode


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


def _last(images: Tensor) -> Tensor:
    return images.contiguous(memory_format=torch.channels_last)


if __name__ == "__main__":
    main()
