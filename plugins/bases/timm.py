"""Any image network of timm, without its classifier."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import attrs
import timm
import torch
from timm.data.config import resolve_model_data_config
from torch import Tensor, nn

from sidetune_core.api import (
    Base,
    Features,
    FitError,
    InputShapes,
    OptionError,
    WeightsError,
    load_weights,
    option,
)


class Timm(Base):
    """A network of PyTorch Image Models (``--base.model``), ``image`` (B, 3, H, W) in [0, 1].

    Encoding: its last map (C, h, w), with the map of each stage as taps; or, with ``--base.encoding vector``, what its classifier is given,
    (C,), without taps. Pixels are standardised inside as the network wants it; images are not resized.

    Raises:
        OptionError: timm has no such network.
        FitError: the env gives no ``image`` of three channels, or one of a size that the network does not take; or a map is asked for and
            there is none.
        WeightsError: weights cannot be downloaded, are missing, unsafe, or of another architecture.
    """

    @attrs.frozen
    class Config:
        """Options of the timm networks."""

        model: str = option(
            "resnet50", "name of the network, such as resnet18 or vit_small_patch16_224.augreg_in21k"
        )
        weights: str = option(
            "default", "'default' (published for that name), 'none' (random), or a .safetensors or .pth file"
        )
        encoding: Literal["map", "vector"] = option("map", "encode as a map (C, h, w), or as a vector (C,)")

    mean: Tensor
    std: Tensor

    def __init__(self, config: Config, inputs: InputShapes) -> None:
        super().__init__()
        shape = inputs.get("image", ())
        if len(shape) != 3 or shape[0] != 3:
            raise FitError(f"base 'timm' needs an input 'image' of shape (3, H, W); got {dict(inputs)}")
        self.model, self.encoding = config.model, config.encoding
        self.network = _make(config)
        about = resolve_model_data_config(self.network)  # type: ignore[no-untyped-call]
        self.register_buffer("mean", torch.tensor(about["mean"]).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(about["std"]).view(3, 1, 1), persistent=False)
        self.channels = tuple(self.network.feature_info.channels()) if config.encoding == "map" else ()  # type: ignore[union-attr,operator]
        training = self.network.training
        with torch.no_grad():
            self.network.eval()
            try:
                features = self({"image": torch.zeros(1, *shape)})
            except (RuntimeError, AssertionError, ValueError) as error:
                raise FitError(
                    f"base 'timm': '{config.model}' does not take images of {shape[1]} x {shape[2]} pixels ({error})"
                ) from error
            self.network.train(training)
        self.shape = tuple(features.encoding.shape[1:])
        self.tap_shapes = tuple(tuple(tap.shape[1:]) for tap in features.taps)

    def forward(self, inputs: Mapping[str, Tensor]) -> Features:
        """The encoding (B, *shape) of ``image`` and the taps."""
        found = self.network((inputs["image"] - self.mean) / self.std)
        if self.encoding == "vector":
            return Features(found)
        maps = tuple(
            _channels_first(one, channels) for one, channels in zip(found, self.channels, strict=True)
        )
        return Features(maps[-1], maps)


def _make(config: Timm.Config) -> nn.Module:
    name = config.model
    if not timm.is_model(name.partition(".")[0]):
        close = timm.list_models(f"{name[:4]}*")[:8]
        raise OptionError(
            f"timm has no network '{name}' (--base.model){f'; it has {chr(44).join(close)} and others' if close else ''}"
        )
    kind: dict[str, Any] = {"features_only": True} if config.encoding == "map" else {"num_classes": 0}
    if config.weights not in (
        "default",
        "none",
    ):  # read as data, into the whole network: what is left of it has other keys
        whole = timm.create_model(name)
        load_weights(whole, config.weights, owner=f"base 'timm' ({name})", packaged=Path("none"))
        kind["pretrained_cfg_overlay"] = {"state_dict": whole.state_dict()}
    try:
        network: nn.Module = timm.create_model(name, pretrained=config.weights != "none", **kind)
    except (AttributeError, NotImplementedError) as error:
        raise FitError(
            f"base 'timm': '{name}' gives no maps ({error}); take --base.encoding vector"
        ) from error
    except (OSError, RuntimeError) as error:
        raise WeightsError(
            f"cannot get the weights of '{name}' ({error}). Get them on another machine and name the file with --base.weights FILE, or "
            "take 'none' for random ones"
        ) from error
    return network


def _channels_first(maps: Tensor, channels: int) -> Tensor:
    """(B, C, H, W), whichever way the network has it."""
    return maps if maps.shape[1] == channels else maps.permute(0, 3, 1, 2)
