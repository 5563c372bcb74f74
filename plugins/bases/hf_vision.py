"""Any image encoder of the transformers library: ViT, DINOv2, Swin, ConvNeXt, ResNet, the tower of CLIP, …"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping
from typing import Any, ClassVar, Literal

import attrs
import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.utils.hub import cached_file

from sidetune_core.api import (
    Base,
    Block,
    Continuation,
    Features,
    FitError,
    ImageInput,
    InputShapes,
    OptionError,
    Shape,
    at_least,
    load_weights,
    option,
    register_image_stats,
    select_blocks,
)

from .._download import hub_access
from ._continuation import as_trainable, check_copy
from ._layers import copy_layers, layer_blocks
from ._transformers import FILES, load_config, load_network, local_folder

OWNER = "base 'hf-vision'"
PROCESSOR = "preprocessor_config.json"
"""The file of a model with the images that it was trained on."""
MAX_PREFIX = 16
"""Most tokens before those of the patches: of the class, of distillation, registers."""
BICUBIC = (1, 3)
"""Pillow's numbers of the Lanczos and the bicubic filter."""


class HFVision(Base):
    """An image encoder of transformers (``--base.model``), ``image`` (B, 3, H, W) in [0, 1].

    The model is a name on the Hugging Face Hub, or a folder, which needs no network access. Weights are read
    from safetensors only, and code in the model's repository is never run. Of a model with an image and a
    text tower, the image tower is used. Pixels are normalised inside as ``preprocessor_config.json`` says;
    images are not resized.

    Encoding: the last hidden state as a map (C, h, w), of a transformer without the tokens before its
    patches. Or, by ``--base.encoding``, a vector (C,), which is the class token or else the mean, or all
    tokens (L, C). Taps: the last map of each size; of networks with one size, such as ViT, every n-th hidden
    state.

    Raises:
        FitError: the env has no ``image`` (3, H, W), the model does not accept its size, it is no image
            encoder, or it has no such encoding.
        WeightsError: the model does not exist or has no safetensors file, or the file of weights is of
            another architecture.
    """

    @attrs.frozen
    class Config:
        """Options of the image encoders of transformers."""

        shown: ClassVar[tuple[str, ...]] = ("model",)
        model: str = option("google/vit-base-patch16-224-in21k", f"name on the Hugging Face hub, or {FILES}")
        weights: str = option(
            "default", "'default' (the model's own), 'none' (random), or a .safetensors or .pth file"
        )
        encoding: Literal["auto", "map", "vector", "tokens"] = option(
            "auto",
            "encoding: a map (C, h, w), a vector (C,), tokens (L, C), or 'auto': a map if there is one",
        )
        tap_every: int = option(
            4, "of networks with maps of one size: return every n-th hidden state as a tap", at_least(1)
        )

    mean: Tensor
    std: Tensor

    def __init__(self, config: Config, inputs: InputShapes) -> None:
        super().__init__()
        shape = inputs.get("image", ())
        if len(shape) != 3 or shape[0] != 3:
            raise FitError(f"{OWNER} needs an input 'image' of shape (3, H, W); got {dict(inputs)}")
        about = load_config(config.model, OWNER)
        about = getattr(about, "vision_config", about)
        is_default = config.weights == "default"
        self.network = load_network(config.model, about, is_default, OWNER)
        if not is_default:
            load_weights(self.network, config.weights, owner=f"{OWNER} ({config.model})")
        if getattr(self.network, "main_input_name", "") != "pixel_values":
            raise FitError(
                f"{OWNER}: {config.model} is a {type(self.network).__name__}, not an image encoder"
            )
        pooler = getattr(self.network, "pooler", None)
        if pooler is not None and any(True for _ in pooler.parameters()):
            self.network.pooler = None  # type: ignore[assignment]  # its output is not used
        processor = _read_processor(config.model)
        register_image_stats(self, *_image_stats(processor))
        self.hub_name = config.model if is_default and local_folder(config.model) is None else ""
        self._image, self.encoding = (int(shape[1]), int(shape[2])), config.encoding
        self._tap_indices: tuple[int, ...] = ()
        self._examine(config)

    @classmethod
    def image_input(cls, config: Config) -> ImageInput | None:
        """The images that the model's ``preprocessor_config.json`` describes, or its ``config.json``; None if
        neither can be read, or they name no size.
        """
        values = _read_processor(config.model)
        size = _length(values.get("size"))
        crop = _length(values.get("crop_size")) if values.get("do_center_crop", True) else None
        interpolation: Literal["bilinear", "bicubic"] = (
            "bicubic" if values.get("resample") in BICUBIC else "bilinear"
        )
        if size is None:
            return None
        if values.get("crop_pct") and size < 384:  # ConvNeXt: resized to size / crop_pct, and cropped to size
            return ImageInput(size, interpolation, float(values["crop_pct"]))
        if crop is None or crop > size:
            return ImageInput(size, interpolation)
        return ImageInput(crop, interpolation, crop / size)

    def forward(self, inputs: Mapping[str, Tensor]) -> Features:
        """The encoding (B, *shape) of ``image`` and the taps."""
        last, hidden = self._run(inputs["image"])
        taps = tuple(self._shaped(hidden[index]) for index in self._tap_indices)
        if self.encoding == "vector":
            return Features(self._pooled(last), taps)
        return Features(self._shaped(last), taps)

    def blocks(self) -> tuple[Block, ...]:
        """The layers of a transformer with an encoding of tokens; empty for others."""
        try:
            self._check_tokens()
            return layer_blocks(self.network, self._tap_indices, "network.")
        except FitError:
            return ()

    def continued(self, tap: int, keep: Collection[int] | None = None) -> _LayersAfterTap:
        """See `Continuable`. Only the tokens of a transformer can be continued from: its maps lack the class
        token, and networks whose layers are not one list are refused.

        Raises:
            FitError: also for these.
        """
        self._check_tokens()
        blocks, taps = layer_blocks(self.network, self._tap_indices, "network."), len(self.tap_shapes)
        kept = select_blocks(blocks, taps, tap, keep)
        whole = copy_layers(self.network, select_blocks(blocks, taps, tap, None), is_shared=True)
        example = torch.full((2, 3, *self._image), 0.5, device=self.mean.device)
        check_copy(self, _LayersAfterTap(whole), tap, {"image": example})
        return as_trainable(_LayersAfterTap(copy_layers(self.network, kept)), self)

    def _check_tokens(self) -> None:
        if self.encoding != "tokens":
            raise FitError(
                f"{OWNER}: no side can continue from the maps of {type(self.network).__name__}; use "
                "--base.encoding tokens if it is a transformer, otherwise base 'timm' or 'torchvision'"
            )

    def _run(self, image: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """The last hidden state and all hidden states: (B, C, h, w), or (B, L, C)."""
        outputs = self.network(pixel_values=(image - self.mean) / self.std, output_hidden_states=True)
        maps = getattr(outputs, "reshaped_hidden_states", None)  # of Swin, whose tokens have several sizes
        return outputs.last_hidden_state, tuple(maps or outputs.hidden_states or ())

    def _examine(self, config: Config) -> None:
        """Find the shapes of the encoding and the taps with a blank image."""
        training = self.training
        try:
            with torch.no_grad():
                last, hidden = self.eval()._run(torch.zeros(1, 3, *self._image))
        except (RuntimeError, ValueError, AssertionError) as error:
            raise FitError(
                f"{OWNER}: '{config.model}' does not accept images of {self._image[0]} x {self._image[1]} "
                f"pixels ({str(error).splitlines()[0]})"
            ) from error
        finally:
            self.train(training)
        has_map = last.ndim == 4 or self._grid(last.shape[1]) is not None
        if self.encoding == "auto":
            self.encoding = "map" if has_map else "vector"
        if self.encoding == "map" and not has_map:
            raise FitError(
                f"{OWNER}: '{config.model}' has no map ({last.shape[1]} tokens for images of "
                f"{self._image[0]} x {self._image[1]}); use --base.encoding vector"
            )
        shapes = [tuple(self._shaped(state).shape[1:]) for state in hidden] if has_map else []
        sizes = [shape[1:] for shape in shapes if len(shape) == 3]
        if self.encoding == "tokens" and last.ndim == 3:
            self._tap_indices = _every(config.tap_every, len(hidden))
        elif len(set(sizes)) > 1:
            self._tap_indices = tuple(
                index
                for index, size in enumerate(sizes)
                if index + 1 == len(sizes) or sizes[index + 1] != size
            )
        elif sizes:
            self._tap_indices = _every(config.tap_every, len(hidden))
        self.tap_shapes = tuple(tuple(self._shaped(hidden[index]).shape[1:]) for index in self._tap_indices)
        encoding = self._pooled(last) if self.encoding == "vector" else self._shaped(last)
        self.shape: Shape = tuple(encoding.shape[1:])

    def _shaped(self, state: Tensor) -> Tensor:
        """A hidden state as a map (B, C, h, w), or with encoding 'tokens' as (B, L, C)."""
        if self.encoding == "tokens":
            return state.flatten(2).transpose(1, 2) if state.ndim == 4 else state
        if state.ndim == 4:
            return state
        grid = self._grid(state.shape[1])
        if grid is None:
            return state
        height, width = grid
        patches = state[:, state.shape[1] - height * width :]
        return patches.transpose(1, 2).reshape(len(state), -1, height, width)

    def _pooled(self, last: Tensor) -> Tensor:
        """The class token (B, C), or the mean over the positions of a network without one."""
        if last.ndim == 4:
            return last.mean((2, 3))
        grid = self._grid(last.shape[1])
        has_class = grid is not None and grid[0] * grid[1] < last.shape[1]
        return last[:, 0] if has_class else last.mean(1)

    def _grid(self, tokens: int) -> tuple[int, int] | None:
        """Height and width of the map that the last of some tokens are; None if they are none."""
        height, width = self._image
        patch = getattr(self.network.config, "patch_size", None)
        if isinstance(patch, int) and patch > 0:
            rows, columns = height // patch, width // patch
            if 0 <= tokens - rows * columns <= MAX_PREFIX:
                return rows, columns
        rows = round(math.sqrt(tokens * height / width))
        columns = tokens // rows if rows else 0
        fits = rows * columns == tokens and abs(rows * width - columns * height) <= max(height, width)
        return (rows, columns) if fits else None


class _LayersAfterTap(Continuation):
    """The layers of a transformer after a hidden state; tokens (B, L, C) to (B, L, C)."""

    def __init__(self, network: PreTrainedModel) -> None:
        super().__init__()
        self.network = network

    def forward(self, tap: Tensor, inputs: Mapping[str, Tensor]) -> Tensor:
        encoding: Tensor = self.network(pixel_values=tap).last_hidden_state
        return encoding


def _every(step: int, states: int) -> tuple[int, ...]:
    """Every n-th of some hidden states, counting back from the last; the embeddings, number 0, are none."""
    return tuple(sorted(range(states - 1, 0, -step)))


def _read_processor(model: str) -> Mapping[str, Any]:
    """The content of ``preprocessor_config.json``; of a model without it, the size in ``config.json``."""
    folder = local_folder(model)
    try:
        if folder is not None:
            path: Any = folder / PROCESSOR if (folder / PROCESSOR).is_file() else None
        else:
            with hub_access():
                path = cached_file(model, PROCESSOR, _raise_exceptions_for_missing_entries=False)
        if path is not None:
            with open(path, encoding="utf-8") as file:
                values = json.load(file)
            return values if isinstance(values, dict) else {}
    except (OSError, ValueError) as error:
        if folder is not None:
            raise OptionError(f"{OWNER}: cannot read {folder / PROCESSOR}: {error}") from error
        return {}
    about = load_config(model, OWNER)
    return {"size": getattr(getattr(about, "vision_config", about), "image_size", None), "resample": 3}


def _length(size: Any) -> int | None:
    """The shorter side of a size: 224, [224, 224], or a table with height and width or the shortest edge."""
    if isinstance(size, Mapping):
        size = size.get("shortest_edge") or [size[key] for key in ("height", "width") if key in size]
    if isinstance(size, list | tuple):
        size = min(size, default=None)
    return size if isinstance(size, int) and size > 0 else None


def _image_stats(values: Mapping[str, Any]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of the pixels, in [0, 1]."""
    if not values.get("do_normalize", True):
        return (0.0,) * 3, (1.0,) * 3
    mean, std = values.get("image_mean", (0.5,) * 3), values.get("image_std", (0.5,) * 3)
    return tuple(map(float, mean)), tuple(map(float, std))
