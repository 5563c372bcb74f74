"""Any classification network of torchvision, without its classifier."""

from __future__ import annotations

import functools
import math
import warnings
from collections.abc import Collection, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, ClassVar, Literal
from urllib.error import URLError

import attrs
import torch
from torch import Tensor, fx, nn

from sidetune_core.api import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    Base,
    Block,
    Features,
    FitError,
    ImageInput,
    InputShapes,
    OptionError,
    WeightsError,
    load_weights,
    option,
    register_image_stats,
)

from .._download import is_reachable
from ._cut_graph import GraphAfterTap, continue_graph
from ._graph import Traced, find_blocks, nodes_in_chain, on_meta

OTHER_TAPS = "choose the taps by --base.taps chain"


class Torchvision(Base):
    """A classification network of torchvision (``--base.model``), ``image`` (B, 3, H, W) in [0, 1].

    Encoding: the input (C, h, w) of the last pooling, or its mean (C,) with ``--base.encoding vector``; for
    networks without pooling, such as transformers, the input of the classifier. Taps: the last map of each
    size, largest first, including the encoding's own; in many networks it is inside a residual block, other
    than with ``--base.taps chain``. Pixels are normalised inside as the published weights
    expect; images are not resized.

    Raises:
        OptionError: torchvision has no such classification network, or no such weights of it.
        FitError: the env has no ``image`` (3, H, W), the network does not accept its size, or the network
            has no last map and the encoding is a map.
        WeightsError: the weights cannot be downloaded, are missing, unsafe, or of another architecture.
    """

    @attrs.frozen
    class Config:
        """Options of the torchvision networks."""

        model: str = option(
            "resnet50", "torchvision's name of the network, such as resnet18, convnext_tiny or vit_b_16"
        )
        weights: str = option(
            "DEFAULT",
            "name of published weights, such as IMAGENET1K_V1, or 'DEFAULT' for the best; 'none' (random); "
            "or a "
            ".safetensors or .pth file",
        )
        shown: ClassVar[tuple[str, ...]] = ("model",)
        encoding: Literal["auto", "map", "vector"] = option(
            "auto", "encoding: a map (C, h, w), a vector (C,), or 'auto': a map if the network has one"
        )
        taps: Literal["last", "chain"] = option(
            "last",
            "taps: the 'last' map of each size, or 'chain': the last of each size through which everything "
            "goes, from which sides can continue",
        )

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

        self.model, self._image = config.model, tuple(shape)
        network, mean, std = _make(config)
        register_image_stats(self, mean, std)
        shapes = _node_shapes(network, shape, config.model)
        last, self.pooled = _last_node(network, shapes)
        if not self.pooled and config.encoding == "map":
            raise FitError(
                f"base 'torchvision': '{config.model}' has no last map; use --base.encoding vector"
            )
        self.encoding = config.encoding
        if config.encoding == "auto":
            self.encoding = "map" if self.pooled else "vector"
        taps: list[str] = []
        if self.pooled:
            candidates = (
                list(shapes) if config.taps == "last" else _names_in_chain(_trace(config.model, [last]), last)
            )
            taps = _tap_nodes(
                {name: shapes[name] for name in candidates if name in shapes}, last, self._image
            )
        self.names = [*dict.fromkeys([*taps, last])]
        self.tap_shapes = tuple(shapes[name] for name in taps)
        self.shape = shapes[last] if self.encoding == "map" or not self.pooled else shapes[last][:1]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # see `_node_shapes`
            self.network = create_feature_extractor(network, self.names)

    @classmethod
    def image_input(cls, config: Config) -> ImageInput:
        """The images of the weights' own transforms; those of the best weights for ``none`` and files."""
        published = _published(config.model)
        chosen = getattr(published, config.weights, published.DEFAULT)
        preset = chosen.transforms()
        crop, resize = preset.crop_size[0], preset.resize_size[0]
        interpolation: Literal["bilinear", "bicubic"] = (
            "bilinear" if preset.interpolation.value == "bilinear" else "bicubic"
        )
        return ImageInput(crop, interpolation, crop / resize)

    def forward(self, inputs: Mapping[str, Tensor]) -> Features:
        """The encoding (B, *shape) of ``image`` and the taps."""
        outputs_by_name = self.network((inputs["image"] - self.mean) / self.std)
        outputs = [outputs_by_name[name] for name in self.names]
        encoding = outputs[-1].mean((2, 3)) if self.pooled and self.encoding == "vector" else outputs[-1]
        return Features(encoding, tuple(outputs[: len(self.tap_shapes)]))

    def blocks(self) -> tuple[Block, ...]:
        """The residual blocks of the network; those of other networks, such as VGG's, are none."""
        return _blocks(self.model, *self._nodes, self._image)

    def continued(self, tap: int, keep: Collection[int] | None = None) -> GraphAfterTap:
        """See `Continuable`."""
        traced = {training: self._traced(training) for training in (False, True)}
        blocks = self.blocks()
        example = {"image": torch.full((2, *self._image), 0.5, device=self.mean.device)}
        return continue_graph(self, self.network, traced, blocks, tap, keep, OTHER_TAPS, example)

    @property
    def _nodes(self) -> tuple[tuple[str, ...], int, bool]:
        """The names of the taps and the encoding, the number of taps, and whether the encoding is a mean."""
        return tuple(self.names), len(self.tap_shapes), self.pooled and self.encoding == "vector"

    def _traced(self, training: bool) -> Traced:
        return _traced(self.model, *self._nodes, training)


@attrs.frozen(eq=False)
class _Trace:
    """The graph of a complete network, without memory for its weights."""

    network: nn.Module
    graph: fx.Graph
    nodes: Mapping[str, fx.Node]
    """By torchvision's name."""
    owners: dict[fx.Node, str]
    """See `Traced`."""


def _trace(model: str, names: Sequence[str], training: bool = False) -> _Trace:
    """The graph with the nodes `names`, in which norms of torchvision's own are single nodes if possible."""
    import torchvision
    from torchvision.models.feature_extraction import NodePathTracer

    with torch.device("meta"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        network = torchvision.models.get_model(model, weights=None, **_init_options(model)).train(training)
    leaves = [
        kind
        for kind in vars(torchvision.ops).values()
        if isinstance(kind, type) and issubclass(kind, nn.Module)
    ]
    for kinds in ([*leaves, nn.LayerNorm], leaves):
        tracer = NodePathTracer(leaf_modules=kinds, autowrap_modules=(math, torchvision.ops))
        tracer.proxy_buffer_attributes = True  # what is computed from them is no constant
        graph = tracer.trace(network)
        nodes = {name: node for node, name in tracer.node_to_qualname.items()}
        if nodes.keys() >= set(names):
            break
    owners = {
        node: str(node.target) if node.op == "call_module" else name.rpartition(".")[0]
        for name, node in nodes.items()
    }
    return _Trace(network, graph, nodes, owners)


@functools.lru_cache(maxsize=8)
def _traced(model: str, names: tuple[str, ...], taps: int, is_mean: bool, training: bool) -> Traced:
    """The graph of the complete network up to the encoding, the last of `names`. It has no weights and is not
    changed, so that all tasks share it."""
    traced = _trace(model, names, training)
    encoding = traced.nodes[names[-1]]
    if is_mean:
        with traced.graph.inserting_after(encoding):
            encoding = traced.graph.call_method("mean", (encoding, (2, 3)))
        traced.owners[encoding] = ""
    return Traced(
        traced.network,
        traced.graph,
        traced.owners,
        tuple(traced.nodes[name] for name in names[:taps]),
        encoding,
    )


@functools.lru_cache(maxsize=8)
def _blocks(
    model: str, names: tuple[str, ...], taps: int, is_mean: bool, image: tuple[int, ...]
) -> tuple[Block, ...]:
    """See `Torchvision.blocks`."""
    traced = _traced(model, names, taps, is_mean, training=False)
    return find_blocks(traced, torch.zeros(2, *image, device="meta"))


def _names_in_chain(trace: _Trace, last: str) -> list[str]:
    """The nodes up to `last` that everything goes through, in order."""
    chain = nodes_in_chain(trace.graph, trace.nodes[last])
    return [name for name, node in trace.nodes.items() if node in chain]


def _published(model: str) -> Any:
    """The enumeration of the published weights of a network."""
    from torchvision import models

    names = models.list_models(module=models)
    if model not in names:
        similar = get_close_matches(model, names)
        hint = f"similar names: {', '.join(similar)}" if similar else f"choose from {', '.join(names)}"
        raise OptionError(f"torchvision has no classification network '{model}' (--base.model); {hint}")
    return models.get_model_weights(model)


def _make(config: Torchvision.Config) -> tuple[nn.Module, tuple[float, ...], tuple[float, ...]]:
    """The complete network, and the mean and standard deviation of the pixels that it was trained on."""
    from torchvision import models

    published = _published(config.model)
    preset = published.DEFAULT.transforms()
    mean, std = tuple(getattr(preset, "mean", IMAGENET_MEAN)), tuple(getattr(preset, "std", IMAGENET_STD))
    members = {member.name: member for member in published} | {"DEFAULT": published.DEFAULT}
    if config.weights not in members:
        network: nn.Module = models.get_model(config.model, weights=None, **_init_options(config.model))
        if config.weights != "none" and not Path(config.weights).expanduser().is_file():
            raise OptionError(
                f"torchvision has no weights '{config.weights}' of '{config.model}', and no such file "
                "exists; "
                f"choose from {', '.join(members)}"
            )
        load_weights(network, config.weights, owner=f"base 'torchvision' ({config.model})")
        return network, mean, std
    weights = members[config.weights]
    try:
        if not _is_downloaded(weights.url) and not is_reachable(weights.url):
            raise URLError("its host is not found")
        return models.get_model(config.model, weights=weights), mean, std
    except (URLError, OSError, RuntimeError) as error:
        raise WeightsError(
            f"cannot download {weights.url} ({error}). Download the file on another "
            "machine and "
            "pass --base.weights FILE, or use 'none' for random weights"
        ) from error


def _is_downloaded(url: str) -> bool:
    """Whether PyTorch's cache has a file."""
    return (Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]).is_file()


def _node_shapes(network: nn.Module, image: tuple[int, ...], model: str) -> dict[str, tuple[int, ...]]:
    """Output shapes, without the batch axis, of the nodes of the network's graph in eval mode, in order.

    They are computed on the meta device, by a copy of the network.
    """
    from torchvision.models.feature_extraction import create_feature_extractor, get_graph_node_names

    with warnings.catch_warnings(), torch.device("meta"):
        warnings.simplefilter("ignore")  # about nodes that exist in training mode only
        _, names = get_graph_node_names(network)
        extractor = create_feature_extractor(on_meta(network), names)
        try:
            outputs = extractor.eval()(torch.zeros(2, *image))
        except (RuntimeError, AssertionError, ValueError) as error:
            reason = "" if "Proxy(" in str(error) else f" ({error})"  # it is about the trace, not the image
            raise FitError(
                f"base 'torchvision': '{model}' does not accept images of {image[1]} x {image[2]} "
                f"pixels{reason}"
            ) from error
    # of other tensors, such as biases of attention, the first axis is not the batch
    tensors = {name: value for name, value in outputs.items() if isinstance(value, Tensor) and value.ndim}
    return {name: tuple(value.shape[1:]) for name, value in tensors.items() if value.shape[0] == 2}


def _init_options(model: str) -> dict[str, bool]:
    """PyTorch's default initialisation for two networks whose own takes minutes."""
    return {"init_weights": False} if model in ("googlenet", "inception_v3") else {}


def _last_node(network: nn.Module, shapes: Mapping[str, tuple[int, ...]]) -> tuple[str, bool]:
    """The node before the last pooling of a map, and True; or the one before the classifier, and False."""
    modules, names = dict(network.named_modules()), list(shapes)
    for index in reversed(range(1, len(names))):
        name, previous = names[index], names[index - 1]
        pools = isinstance(modules.get(name), nn.AdaptiveAvgPool2d)
        pools = pools or name.startswith(("adaptive_avg_pool2d", "mean"))
        if pools and len(shapes[previous]) == 3:
            return previous, True
    classifier = max(index for index, name in enumerate(names) if isinstance(modules.get(name), nn.Linear))
    return names[classifier - 1], False


def _tap_nodes(shapes: Mapping[str, tuple[int, ...]], last: str, image: tuple[int, ...]) -> list[str]:
    """The last map of each size up to `last`, largest first. Maps with channels last are skipped."""
    _, height, width = image
    names = list(shapes)
    taps: list[str] = []
    largest = 0
    for name in reversed(names[1 : names.index(last) + 1]):  # the first node is the image
        shape = shapes[name]
        if len(shape) != 3 or abs(shape[1] * width - shape[2] * height) > max(height, width):
            continue
        if shape[1] * shape[2] > largest:
            largest = shape[1] * shape[2]
            taps.append(name)
    return taps[::-1]
