"""Encodings of resnet44 in int8, by three implementations: variants of `frozen_base`.

All are static: a scale for each output channel of a weight, and for each map a scale that is chosen from
the maps of calibration images. Sums and ReLUs are part of the convolutions.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import torch
from torch import Tensor, nn
from torch.nn import functional

Encode = Callable[[Tensor], Tensor]
BATCH = 64


def by_operators(net: Any, calibration: Tensor) -> Encode:
    """By oneDNN's operators in PyTorch, called layer by layer.

    Args:
        net: a resnet44 with norms folded into convolutions.
        calibration: images (N, 3, H, W) in [0, 1].
    """
    peaks = _peaks(net, calibration)
    enter = next(peaks) / 127
    stem = _Convolution.of(net.conv1, enter, 128, next(peaks) / 255)
    pairs, scale = [], stem.out_scale
    for block in (*net.layer1, *net.layer2, *net.layer3):
        first = _Convolution.of(block.conv1, scale, 0, next(peaks) / 255)
        second = _Convolution.of(block.conv2, first.out_scale, 0, next(peaks) / 255)
        pairs.append((block, first, second, scale))
        scale = second.out_scale

    def encode(images: Tensor) -> Tensor:
        x = ((images - net.mean) / (net.std * enter)).round_().add_(128).clamp_(0, 255).to(torch.uint8)
        x = stem(x)
        for block, first, second, shortcut_scale in pairs:
            hidden = first(x)
            # The sum overwrites the shortcut; a tap would be another tensor, converted to floats before.
            x = second.added_to(_shortcut(block, x), shortcut_scale, hidden)
        return x.sum((2, 3)) * (scale / x[0, 0].numel())

    return encode


def by_torchao(encoder: nn.Module, calibration: Tensor) -> Encode:
    """By torchao's quantisation of an exported graph, and PyTorch's compiler; batches of `BATCH` images.

    Args:
        encoder: images (B, 3, H, W) to encodings, in fp32.
        calibration: images (N, 3, H, W) in [0, 1].
    """
    from torch._inductor import config
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
    from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer as x86

    batches = _batches(calibration)
    quantizer = x86.X86InductorQuantizer()
    quantizer.set_global(x86.get_default_x86_inductor_quantization_config())
    prepared = prepare_pt2e(torch.export.export(encoder, (batches[0],)).module(), quantizer)
    for batch in batches:
        prepared(batch)
    compiled: Encode = torch.compile(convert_pt2e(prepared))

    def encode(images: Tensor) -> Tensor:
        with config.patch(freezing=True):  # the operators need weights that are constants
            return compiled(images)

    return encode


def by_onnxruntime(encoder: nn.Module, calibration: Tensor) -> Encode:
    """By onnxruntime's quantisation of an ONNX graph; batches of `BATCH` images.

    Args:
        encoder: images (B, 3, H, W) to encodings, in fp32.
        calibration: images (N, 3, H, W) in [0, 1].
    """
    import onnxruntime
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static

    batches = [batch.contiguous() for batch in _batches(calibration)]

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._left = iter(batches)

        def get_next(self) -> dict[str, Any] | None:
            batch = next(self._left, None)
            return None if batch is None else {"images": batch.numpy()}

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    with tempfile.TemporaryDirectory() as folder:
        graph, quantised = (str(Path(folder, name)) for name in ("fp32.onnx", "int8.onnx"))
        torch.onnx.export(encoder, (batches[0],), graph, input_names=["images"], dynamo=True, verbose=False)
        quantize_static(
            graph,
            quantised,
            Reader(),
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
        session = onnxruntime.InferenceSession(quantised, options, providers=["CPUExecutionProvider"])
    return lambda images: torch.from_numpy(session.run(None, {"images": images.contiguous().numpy()})[0])


@attrs.frozen(eq=False)
class _Convolution:
    """A convolution of uint8 (B, c_in, H, W) to uint8 (B, c_out, H', W') and its ReLU."""

    in_scale: float
    in_zero: int
    weight: Tensor
    """In int8, in oneDNN's layout."""
    weight_scales: Tensor
    weight_zeros: Tensor
    bias: Tensor
    shape: tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...], int]
    """Stride, padding, dilation, groups."""
    out_scale: float

    @classmethod
    def of(cls, conv: nn.Conv2d, in_scale: float, in_zero: int, out_scale: float) -> _Convolution:
        """Weights are symmetric, with 127 as the largest of each output channel."""
        assert conv.bias is not None
        assert not isinstance(conv.padding, str)
        scales = conv.weight.abs().amax((1, 2, 3)) / 127
        weight = (conv.weight / scales.view(-1, 1, 1, 1)).round().to(torch.int8).contiguous()
        shape = (conv.stride, conv.padding, conv.dilation, conv.groups)
        packed = torch.ops.onednn.qconv_prepack(weight, scales, in_scale, in_zero, *shape)
        zeros = torch.zeros(len(scales), dtype=torch.int32)
        return cls(in_scale, in_zero, packed, scales, zeros, conv.bias, shape, out_scale)

    def __call__(self, x: Tensor) -> Tensor:
        output: Tensor = torch.ops.onednn.qconv2d_pointwise(
            *self._inputs(x), self.bias, *self.shape, self.out_scale, 0, torch.uint8, "relu", [], ""
        )
        return output

    def added_to(self, shortcut: Tensor, scale: float, x: Tensor) -> Tensor:
        """The ReLU of the sum, which overwrites the shortcut (B, c_out, H', W') in uint8 with that scale."""
        output: Tensor = torch.ops.onednn.qconv2d_pointwise.binary(
            *self._inputs(x),
            shortcut,
            self.bias,
            *self.shape,
            self.out_scale,
            0,
            torch.uint8,
            scale,
            0,
            "sum",
            1.0,
            "relu",
            [],
            "",
        )
        return output

    def _inputs(self, x: Tensor) -> tuple[Any, ...]:
        return x, self.in_scale, self.in_zero, self.weight, self.weight_scales, self.weight_zeros


def _peaks(net: Any, calibration: Tensor) -> Iterator[float]:
    """The largest absolute values of the input and of the maps after ReLUs, in the order of the layers."""
    by_batch = [[float(x.abs().max()) for x in _maps(net, batch)] for batch in _batches(calibration)]
    return iter([max(values) for values in zip(*by_batch, strict=True)])


def _maps(net: Any, images: Tensor) -> Iterator[Tensor]:
    x = (images - net.mean) / net.std
    yield x
    x = functional.relu(net.conv1(x))
    yield x
    for block in (*net.layer1, *net.layer2, *net.layer3):
        hidden = functional.relu(block.conv1(x))
        yield hidden
        x = functional.relu(block.conv2(hidden) + _shortcut(block, x))
        yield x


def _shortcut(block: Any, x: Tensor) -> Tensor:
    if block.stride > 1 or block.padding:
        x = x[:, :, :: block.stride, :: block.stride]
        x = functional.pad(x, (0, 0, 0, 0, block.padding, block.padding))
    return x.contiguous(memory_format=torch.channels_last)


def _batches(images: Tensor) -> list[Tensor]:
    return [batch.contiguous(memory_format=torch.channels_last) for batch in torch.split(images, BATCH)]
