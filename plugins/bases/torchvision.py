"""Any classification network of torchvision, without its classifier."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal
from urllib.error import URLError

import attrs
import torch
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

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class Torchvision(Base):
    """A classification network of torchvision (``--base.model``), ``image`` (B, 3, H, W) in [0, 1].

    Encoding: the map (C, h, w) that its last pooling is given, or the mean over that map (C,) with ``--base.encoding vector``; for networks
    that pool no map, such as transformers, what the classifier is given. Taps: the last map of each size, the largest first, the encoding's
    own included. Pixels are standardised inside as the published weights want it; images are not resized.

    Raises:
        OptionError: torchvision has no such classification network, or no such weights of it.
        FitError: the env gives no ``image`` of three channels, or one of a size that the network does not take; or a map is asked for and
            there is none.
        WeightsError: weights cannot be downloaded, are missing, unsafe, or of another architecture.
    """

    @attrs.frozen
    class Config:
        """Options of the torchvision networks."""

        model: str = option("resnet50", "name of the network, such as resnet18, convnext_tiny or vit_b_16")
        weights: str = option(
            "DEFAULT",
            "name of published weights, such as IMAGENET1K_V1, or 'DEFAULT' for the best; 'none' (random); or a file",
        )
        encoding: Literal["map", "vector"] = option("map", "encode as a map (C, h, w), or as a vector (C,)")

    mean: Tensor
    std: Tensor

    def __init__(self, config: Config, inputs: InputShapes) -> None:
        super().__init__()
        shape = inputs.get("image", ())
        if len(shape) != 3 or shape[0] != 3:
            raise FitError(
                f"base 'torchvision' needs an input 'image' of shape (3, H, W); got {dict(inputs)}"
            )
        from torchvision.models.feature_extraction import create_feature_extractor  # 2 s of import

        self.model, self.encoding = config.model, config.encoding
        network, mean, std = _make(config)
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1), persistent=False)
        shapes = _shapes(network, shape, config.model)
        last, self.pooled = _last(network, shapes)
        if not self.pooled and config.encoding == "map":
            raise FitError(f"base 'torchvision': '{config.model}' pools no map; take --base.encoding vector")
        taps = _taps(shapes, last, tuple(shape)) if self.pooled else []
        self.names = [*dict.fromkeys([*taps, last])]
        self.tap_shapes = tuple(shapes[name] for name in taps)
        self.shape = shapes[last] if config.encoding == "map" or not self.pooled else shapes[last][:1]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # see `_shapes`
            self.network = create_feature_extractor(network, self.names)

    def forward(self, inputs: Mapping[str, Tensor]) -> Features:
        """The encoding (B, *shape) of ``image`` and the taps."""
        found = self.network((inputs["image"] - self.mean) / self.std)
        outputs = [found[name] for name in self.names]
        encoding = outputs[-1].mean((2, 3)) if self.pooled and self.encoding == "vector" else outputs[-1]
        return Features(encoding, tuple(outputs[: len(self.tap_shapes)]))


def _make(config: Torchvision.Config) -> tuple[nn.Module, tuple[float, ...], tuple[float, ...]]:
    """The whole network, and the mean and deviation that its pixels are standardised with."""
    from torchvision import models

    names = models.list_models(module=models)
    if config.model not in names:
        raise OptionError(
            f"torchvision has no classification network '{config.model}' (--base.model); it has {', '.join(names)}"
        )
    published: Any = models.get_model_weights(config.model)
    preset = published.DEFAULT.transforms()
    mean, std = tuple(getattr(preset, "mean", IMAGENET_MEAN)), tuple(getattr(preset, "std", IMAGENET_STD))
    members = {member.name: member for member in published} | {"DEFAULT": published.DEFAULT}
    if config.weights not in members:
        network: nn.Module = models.get_model(config.model, weights=None, **_plain(config.model))
        if config.weights != "none" and not Path(config.weights).expanduser().is_file():
            raise OptionError(
                f"torchvision has no weights '{config.weights}' of '{config.model}', and there is no such file; it has {', '.join(members)}"
            )
        load_weights(
            network, config.weights, owner=f"base 'torchvision' ({config.model})", packaged=Path("none")
        )
        return network, mean, std
    try:
        return models.get_model(config.model, weights=members[config.weights]), mean, std
    except (URLError, OSError, RuntimeError) as error:
        raise WeightsError(
            f"cannot get {members[config.weights].url} ({error}). Get the file on another machine and name it with --base.weights FILE, or "
            "take 'none' for random weights"
        ) from error


def _shapes(network: nn.Module, image: tuple[int, ...], model: str) -> dict[str, tuple[int, ...]]:
    """What each step of the network gives in evaluation, in order, without the batch axis; found without computing anything."""
    from torchvision import models
    from torchvision.models.feature_extraction import create_feature_extractor, get_graph_node_names

    with warnings.catch_warnings(), torch.device("meta"):
        warnings.simplefilter("ignore")  # that training has more steps, none of which is used here
        _, names = get_graph_node_names(network)
        probe = create_feature_extractor(models.get_model(model, weights=None, **_plain(model)), names)
        try:
            found = probe.eval()(torch.zeros(1, *image))
        except (RuntimeError, AssertionError, ValueError) as error:
            raise FitError(
                f"base 'torchvision': '{model}' does not take images of {image[1]} x {image[2]} pixels ({error})"
            ) from error
    return {name: tuple(value.shape[1:]) for name, value in found.items() if isinstance(value, Tensor)}


def _plain(model: str) -> dict[str, bool]:
    """For two networks, whose own random weights take minutes: PyTorch's."""
    return {"init_weights": False} if model in ("googlenet", "inception_v3") else {}


def _last(network: nn.Module, shapes: Mapping[str, tuple[int, ...]]) -> tuple[str, bool]:
    """The step before the last pooling of a map, and True; or, where there is none, the one before the classifier, and False."""
    modules, names = dict(network.named_modules()), list(shapes)
    for place in reversed(range(1, len(names))):
        pools = isinstance(modules.get(names[place]), nn.AdaptiveAvgPool2d) or names[place].startswith(
            ("adaptive_avg_pool2d", "mean")
        )
        if pools and len(shapes[names[place - 1]]) == 3:
            return names[place - 1], True
    linear = max(place for place, name in enumerate(names) if isinstance(modules.get(name), nn.Linear))
    return names[linear - 1], False


def _taps(shapes: Mapping[str, tuple[int, ...]], last: str, image: tuple[int, ...]) -> list[str]:
    """The last map of each size up to `last`, largest first. Maps with channels last, which some networks have, are passed over."""
    _, height, width = image
    names = list(shapes)
    taps: list[str] = []
    largest = 0
    for name in reversed(names[1 : names.index(last) + 1]):  # the first one is the image
        shape = shapes[name]
        if len(shape) != 3 or abs(shape[1] * width - shape[2] * height) > max(height, width):
            continue
        if shape[1] * shape[2] > largest:
            largest = shape[1] * shape[2]
            taps.append(name)
    return taps[::-1]
