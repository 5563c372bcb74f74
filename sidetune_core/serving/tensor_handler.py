"""The handler of tasks whose env offers none: it takes the network's inputs as arrays or tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sidetune_core.errors import InputError
from sidetune_core.interfaces.handlers import Prediction, Preprocessed, TaskHandler
from sidetune_core.interfaces.inputs import Inputs, Shape
from sidetune_core.interfaces.predictions import (
    MapPrediction,
    ValuesPrediction,
    class_predictions,
    label_predictions,
    output_names,
)

IMAGE = "image"
"""The input that is an image (C, H, W) in [0, 1] in all envs."""


class TensorHandler(TaskHandler):
    """Takes arrays and tensors of the shapes of the task's inputs, by name, or alone if there is one input.

    An ``image`` (C, H, W) is float in [0, 1] or uint8; other inputs are finite numbers. With a further axis
    at their front they are several examples.
    """

    def is_batch(self, value: object) -> bool:
        if isinstance(value, Mapping):
            name, shape = next(iter(self.card.inputs.items()))
            return name in value and np.ndim(value[name]) == len(shape) + 1
        if isinstance(value, np.ndarray | Tensor):
            return len(self.card.inputs) == 1 and value.ndim == len(self._only_shape()) + 1
        return super().is_batch(value)

    def preprocess(self, values: Sequence[Any]) -> Preprocessed:
        examples = [self._by_name(value) for value in values]
        tensors = {
            name: torch.stack([_as_input(example[name], name, shape) for example in examples])
            for name, shape in self.card.inputs.items()
        }
        return Preprocessed(Inputs(tensors), len(examples))

    def postprocess(self, output: Tensor, examples: Preprocessed) -> Sequence[Prediction]:
        outputs = self.card.outputs
        if output.ndim == 4:
            return [MapPrediction(values.numpy(), names=outputs.names) for values in output.float()]
        if outputs.kind == "logits" and output.ndim == 2:
            return class_predictions(output, outputs.names)
        if outputs.is_binary and output.ndim == 2:
            return label_predictions(output, outputs.names)
        flat = output.float().flatten(1)
        names = output_names(flat.shape[1], outputs.names if output.ndim == 2 else ())
        return [ValuesPrediction(dict(zip(names, row, strict=True))) for row in flat.tolist()]

    def transform(self) -> nn.Module:
        return UnitImages(list(self.card.inputs).index(IMAGE)) if self._has_image() else nn.Identity()

    def _has_image(self) -> bool:
        return len(self.card.inputs.get(IMAGE, ())) == 3

    def _only_shape(self) -> Shape:
        (shape,) = self.card.inputs.values()
        return shape

    def _by_name(self, value: object) -> Mapping[str, Any]:
        """The inputs of an example.

        Raises:
            InputError: one is missing, or has no name where the task has several.
        """
        expected = ", ".join(f"'{name}' {shape}" for name, shape in self.card.inputs.items())
        if not isinstance(value, Mapping):
            if len(self.card.inputs) == 1:
                return dict.fromkeys(self.card.inputs, value)
            raise InputError(f"task '{self.card.id}' has several inputs: give them by name: {expected}")
        if value.keys() != self.card.inputs.keys():
            given = ", ".join(map(repr, value)) or "none"
            raise InputError(f"task '{self.card.id}' has the inputs {expected}; got {given}")
        return value


class UnitImages(nn.Module):
    """Images of bytes (B, C, H, W) to float in [0, 1]; leaves floats, and other inputs, as they are.

    Args:
        index: of the images among the inputs.
    """

    def __init__(self, index: int = 0) -> None:
        super().__init__()
        self.index = index

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """As many tensors as inputs."""
        image = inputs[self.index]
        unit = image.float() / 255 if image.dtype == torch.uint8 else image
        return (*inputs[: self.index], unit, *inputs[self.index + 1 :])


def _as_input(value: object, name: str, shape: Shape) -> Tensor:
    """A float32 tensor of an example's input.

    Raises:
        InputError: it is no array of numbers, has another shape, or values out of range.
    """
    tensor = _as_tensor(value, name, shape)
    if tuple(tensor.shape) != tuple(shape):
        raise InputError(f"input '{name}' has shape {tuple(tensor.shape)}, expected {tuple(shape)}")
    if name == IMAGE and len(shape) == 3:
        return _as_image(tensor, name)
    tensor = tensor.float()
    if not tensor.isfinite().all():
        raise InputError(f"input '{name}' has values that are NaN or infinite")
    return tensor


def _as_tensor(value: object, name: str, shape: Shape) -> Tensor:
    if isinstance(value, Tensor):
        tensor = value.detach().cpu()
    elif isinstance(value, np.ndarray | np.number | list | tuple | int | float):
        array = np.asarray(value)
        if array.dtype.kind not in "biuf" or array.dtype.itemsize > 8:
            raise InputError(f"input '{name}' is an array of {array.dtype}, expected numbers {tuple(shape)}")
        tensor = torch.from_numpy(np.ascontiguousarray(array).astype(_native(array.dtype), copy=True))
    else:
        raise InputError(
            f"input '{name}' is a {type(value).__name__}, expected an array or tensor {tuple(shape)}"
        )
    if tensor.is_complex() or tensor.layout != torch.strided or tensor.is_quantized:
        raise InputError(f"input '{name}' is a tensor of {tensor.dtype}, expected real numbers")
    return tensor


def _native(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The type in this computer's order of bytes."""
    return dtype.newbyteorder("=")


def _as_image(image: Tensor, name: str) -> Tensor:
    """An image of bytes, or of floats in [0, 1], as float32 in [0, 1].

    Raises:
        InputError: it has another type or range.
    """
    if image.dtype == torch.uint8:
        return image.float() / 255
    if not image.is_floating_point():
        raise InputError(f"input '{name}' has type {_name(image)}: give uint8 in 0..255, or float in [0, 1]")
    if not image.isfinite().all():
        raise InputError(f"input '{name}' has values that are NaN or infinite")
    low, high = float(image.min()), float(image.max())
    if low < 0 or high > 1:
        raise InputError(
            f"input '{name}' has values from {low:.4g} to {high:.4g}, and images are float in [0, 1]: "
            "divide by 255, or give uint8"
        )
    return image.float()


def _name(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
