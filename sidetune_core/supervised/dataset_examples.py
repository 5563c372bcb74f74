"""What a torch `Dataset` returns for an example, as input tensors by name and a target."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import attrs
import numpy as np
import torch
from torch import Tensor

from sidetune_core.errors import DataError, shorten

TARGET_KEYS = ("target", "targets", "label", "labels", "y")
"""Keys of the target in an example that is a dict; the first that it has counts."""

PILLOW_NOTE = "Pillow images are converted to RGB, float (3, H, W) in [0, 1]"
BYTES_NOTE = "images of bytes (uint8) are divided by 255"


class BadExample(Exception):
    """An example that cannot be used; the message says why, without its number."""


@attrs.frozen
class ExampleReader:
    """Converts what a dataset returns.

    Args:
        input: name of the input, where an example has one without a name.
        transform: applied to the inputs first.
        target_transform: applied to the target first.
        image_size: height and width to which the centre square of Pillow images is resized; None for images
            as they are.
    """

    input: str = "image"
    transform: Callable[[Any], Any] | None = None
    target_transform: Callable[[Any], Any] | None = None
    image_size: int | None = None

    def convert(self, item: Any) -> tuple[dict[str, Tensor], Any]:
        """Input tensors by name, and the target as it is.

        Raises:
            BadExample: it is no pair of inputs and target, or an input is no array of numbers.
        """
        inputs, target = _pair(item)
        if self.transform is not None:
            inputs = self.transform(inputs)
        if self.target_transform is not None:
            target = self.target_transform(target)
        if isinstance(inputs, Mapping):
            named = {str(name): value for name, value in inputs.items()}
            if isinstance(item, Mapping) and len(named) == 1:  # its key is that of the dataset
                named = dict(zip([self.input], named.values(), strict=True))
            if not named:
                raise BadExample("it has no inputs")
        else:
            named = {self.input: inputs}
        return {name: self._tensor(name, value) for name, value in named.items()}, target

    def notes(self, item: Any) -> list[str]:
        """What is converted of an example, for the user."""
        inputs, _ = _pair(item)
        if self.transform is not None:
            inputs = self.transform(inputs)
        values = list(inputs.values()) if isinstance(inputs, Mapping) else [inputs]
        notes = [PILLOW_NOTE] if any(map(is_pillow, values)) else []
        arrays = [value for value in values if isinstance(value, np.ndarray | Tensor) and value.ndim == 3]
        return [*notes, *([BYTES_NOTE] if any(_is_bytes(value) for value in arrays) else [])]

    def _tensor(self, name: str, value: Any) -> Tensor:
        if is_pillow(value):
            return _from_pillow(value, self.image_size)
        if isinstance(value, np.ndarray):
            if value.dtype.kind not in "biuf":
                raise BadExample(f"input '{name}' is an array of {value.dtype}, expected numbers")
            value = torch.from_numpy(np.array(value, dtype=value.dtype.newbyteorder("=")))
        if not isinstance(value, Tensor):
            kind = type(value).__name__
            raise BadExample(
                f"input '{name}' is a {kind}; expected a tensor, an array or a Pillow image (transform= may "
                "convert it, or leave it out of a dict)"
            )
        if value.is_complex() or value.is_quantized:
            raise BadExample(f"input '{name}' is a tensor of {value.dtype}, expected real numbers")
        if value.layout != torch.strided or value.is_meta:
            kind = "on the meta device" if value.is_meta else f"of layout {value.layout}"
            raise BadExample(f"input '{name}' is a tensor {kind}, expected a dense one with values")
        if not value.ndim:
            raise BadExample(f"input '{name}' is a single number; expected a tensor with an axis or more")
        return _as_input(name, value.detach().cpu())


def _pair(item: Any) -> tuple[Any, Any]:
    """The inputs and the target of an example."""
    if isinstance(item, Mapping):
        key = next((key for key in TARGET_KEYS if key in item), None)
        if key is None:
            raise BadExample(
                f"it is a dict of {', '.join(map(str, item)) or 'nothing'}, without a key for the target "
                f"({', '.join(TARGET_KEYS)})"
            )
        return {name: value for name, value in item.items() if name != key}, item[key]
    if isinstance(item, tuple | list) and len(item) == 2:
        return item[0], item[1]
    kind = f"a {type(item).__name__}" + (f" of {len(item)}" if isinstance(item, tuple | list) else "")
    raise BadExample(f"it is {kind}; expected a pair (inputs, target), or a dict")


def is_pillow(value: Any) -> bool:
    """Whether a value is an image of Pillow, which is not imported for this."""
    module = sys.modules.get("PIL.Image")
    return module is not None and isinstance(value, module.Image)


def _from_pillow(image: Any, size: int | None) -> Tensor:
    from PIL import Image, ImageOps

    if image.mode.startswith(("I", "F")):  # conversion to 8 bits would clip these silently
        raise BadExample(f"the image has more than 8 bits per channel (mode {image.mode}): pass transform=")
    image = image.convert("RGB")
    if size is not None:
        image = ImageOps.fit(image, (size, size), Image.Resampling.BILINEAR)
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous().float() / 255


def _is_bytes(value: Any) -> bool:
    return bool(value.dtype in (torch.uint8, np.uint8))


def _as_input(name: str, value: Tensor) -> Tensor:
    """float32, or int64 for integers such as tokens."""
    if value.dtype == torch.uint8 and value.ndim == 3:
        return value.float() / 255
    if not value.is_floating_point():
        return value.float() if value.dtype == torch.bool else value.long()
    value = value.float()
    if not value.isfinite().all():
        raise BadExample(f"input '{name}' has values that are NaN or infinite")
    return value


def shapes_of(inputs: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """Of the inputs of an example, by name."""
    return {name: tuple(value.shape) for name, value in inputs.items()}


def check_shapes(inputs: Mapping[str, Tensor], expected: Mapping[str, tuple[int, ...]]) -> None:
    """Check the inputs of an example.

    Raises:
        BadExample: names or shapes are not those of the other examples.
    """
    found = shapes_of(inputs)
    if found != expected:
        hint = (
            ": resize them, with transform= or image_size="
            if found.keys() == expected.keys() and any(len(shape) == 3 for shape in expected.values())
            else ""
        )
        raise BadExample(
            f"its inputs have shapes {shown(found)}, and those of others {shown(expected)}{hint}"
        )


def shown(shapes: Mapping[str, tuple[int, ...]]) -> str:
    """``image (3, 32, 32)``"""
    return ", ".join(f"{name} {shape}" for name, shape in shapes.items())


def raise_bad(where: str, bad: Mapping[int, str], read: int, cause: BaseException | None = None) -> None:
    """Report the examples that cannot be used, all of them counted.

    Args:
        where: the dataset.
        bad: what is wrong, by number of the example; nothing is raised if it is empty.
        read: number of examples that were read.
        cause: the exception of the first one, if there is one.

    Raises:
        DataError: there are any.
    """
    if not bad:
        return
    rows: dict[str, list[int]] = {}
    for row, why in bad.items():
        rows.setdefault(why, []).append(row)
    reasons = [f"{_numbers(own)}: {why}" for why, own in list(rows.items())[:3]]
    left = len(bad) - sum(len(own) for own in list(rows.values())[:3])
    first, others = "; ".join(reasons), f"; and {left:,} more" if left else ""
    raise DataError(
        f"{where}: {len(bad):,} of {read:,} examples read cannot be used: {first}{others}"
    ) from cause


def _numbers(rows: Sequence[int]) -> str:
    """``examples 3, 5, 6 and 4 more``"""
    return f"example{'s' if len(rows) > 1 else ''} {shorten(rows)}"
