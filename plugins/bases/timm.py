"""Any image network of timm, without its classifier."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from contextlib import nullcontext
from difflib import get_close_matches
from typing import Any, ClassVar, Literal

import attrs
import timm
import torch
from timm.data.config import resolve_data_config, resolve_model_data_config
from torch import Tensor, fx, nn

from sidetune_core.api import (
    Base,
    Block,
    Continuation,
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

from .._download import hub_access
from ._continuation import as_trainable, check_copy, copy_without, left_out
from ._cut_graph import continue_graph
from ._graph import Traced, find_blocks, on_meta, shapes_of, trace

NO_CHAIN = "of a transformer such as ViT, use --base.encoding tokens"


class Timm(Base):
    """A network of PyTorch Image Models (``--base.model``), ``image`` (B, 3, H, W) in [0, 1].

    Encoding: the last map (C, h, w), with the map of each stage as taps; or, with ``--base.encoding
    vector`` and for networks without maps, the input of the classifier (C,), without taps; or, with
    ``--base.encoding tokens``, all tokens (L, C) of a transformer such as ViT, with those after each block
    but the last as taps. Pixels are normalised inside as the pretrained weights expect; images are not
    resized.

    Raises:
        OptionError: timm has no such network.
        FitError: the env has no ``image`` (3, H, W), the network does not accept its size, or the network
            has no maps or tokens and the encoding is one.
        WeightsError: the weights cannot be downloaded, are missing, unsafe, or of another architecture.
    """

    @attrs.frozen
    class Config:
        """Options of the timm networks."""

        model: str = option(
            "resnet50", "timm's name of the network, such as resnet18 or vit_small_patch16_224.augreg_in21k"
        )
        weights: str = option(
            "default",
            "'default' (timm's weights of that name), 'none' (random), or a .safetensors or .pth file",
        )
        shown: ClassVar[tuple[str, ...]] = ("model",)
        encoding: Literal["auto", "map", "vector", "tokens"] = option(
            "auto",
            "encoding: a map (C, h, w), a vector (C,), tokens (L, C), or 'auto': a map if there is one",
        )

    mean: Tensor
    std: Tensor

    def __init__(self, config: Config, inputs: InputShapes) -> None:
        super().__init__()
        shape = inputs.get("image", ())
        if len(shape) != 3 or shape[0] != 3:
            raise FitError(f"base 'timm' needs an input 'image' of shape (3, H, W); got {dict(inputs)}")
        self.model, self._image = config.model, tuple(shape)
        self.network, self.encoding = _make_encoder(config)
        self._is_default = config.weights == "default"
        data_config = resolve_model_data_config(self.network)  # type: ignore[no-untyped-call]
        register_image_stats(self, data_config["mean"], data_config["std"])
        self.channels = tuple(self.network.feature_info.channels()) if self.encoding == "map" else ()  # type: ignore[union-attr,operator]
        training = self.network.training
        with torch.no_grad():
            self.network.eval()
            try:
                features = self({"image": torch.zeros(1, *shape)})
            except (RuntimeError, AssertionError, ValueError) as error:
                raise FitError(
                    f"base 'timm': '{config.model}' does not accept images of {shape[1]} x {shape[2]} pixels "
                    f"({error})"
                ) from error
            self.network.train(training)
        self.shape = tuple(features.encoding.shape[1:])
        self.tap_shapes = tuple(tuple(tap.shape[1:]) for tap in features.taps)

    @classmethod
    def image_input(cls, config: Config) -> ImageInput:
        """The images of timm's configuration of the weights; nothing is built or downloaded."""
        _check_name(config.model)
        published = timm.get_pretrained_cfg(config.model)
        data = resolve_data_config(pretrained_cfg=published.to_dict() if published else None)  # type: ignore[no-untyped-call]
        interpolation: Literal["bilinear", "bicubic"] = (
            "bilinear" if data["interpolation"] in ("bilinear", "random") else "bicubic"
        )
        return ImageInput(min(data["input_size"][1:]), interpolation, float(data["crop_pct"]))

    @property
    def hub_name(self) -> str:
        """The model that timm loads the weights ``default`` from; empty if they are from elsewhere."""
        about = getattr(self.network, "pretrained_cfg", None) or {}
        return str(about.get("hf_hub_id") or "") if self._is_default else ""

    def forward(self, inputs: Mapping[str, Tensor]) -> Features:
        """The encoding (B, *shape) of ``image`` and the taps."""
        image = (inputs["image"] - self.mean) / self.std
        if self.encoding == "tokens":
            return _tokens(self.network, image)
        outputs = self.network(image)
        if self.encoding == "vector":
            return Features(outputs)
        maps = tuple(map(_channels_first, outputs, self.channels))
        return Features(maps[-1], maps)

    def blocks(self) -> tuple[Block, ...]:
        """The blocks of a transformer, with an encoding of tokens; otherwise the residual blocks of the
        network, if torch.fx can trace it."""
        if self.encoding == "tokens":
            return _token_blocks(self.network)
        if not self.tap_shapes:
            return ()
        try:
            return find_blocks(self._traced(training=False), self._blank("meta"))
        except FitError:
            return ()

    def continued(self, tap: int, keep: Collection[int] | None = None) -> Continuation:
        """See `Continuable`. The maps of a transformer lack its class token, unlike its tokens.

        Raises:
            FitError: also if torch.fx cannot trace a network of maps.
        """
        if not self.tap_shapes:
            raise FitError("the base has no taps to continue from; use --base.encoding map or tokens")
        example = {"image": self._blank(self.mean.device) + 0.5}
        if self.encoding == "tokens":
            blocks = self.blocks()
            before = left_out(self, blocks, tap, None)
            check_copy(self, _TokensAfterTap(self.network, before, is_shared=True), tap, example)
            return as_trainable(_TokensAfterTap(self.network, left_out(self, blocks, tap, keep)), self)
        evaluated = self._traced(training=False)
        traced = {False: evaluated, True: self._traced(training=True, last=evaluated.channels_last)}
        blocks = find_blocks(traced[False], self._blank("meta"))
        return continue_graph(self, self.network, traced, blocks, tap, keep, NO_CHAIN, example)

    def _blank(self, device: torch.device | str) -> Tensor:
        return torch.zeros(2, *self._image, device=device)

    def _traced(self, training: bool, last: frozenset[int] | None = None) -> Traced:
        """The graph of the network; `last` is `Traced.channels_last`, which the shapes tell if it is None."""
        network = on_meta(self.network).train(training)
        tracer, graph = trace(network, NO_CHAIN)
        (output,) = (node for node in graph.nodes if node.op == "output")
        owners = tracer.owners()
        maps = [node for node in output.args[0] if isinstance(node, fx.Node)]
        shapes = None
        if last is None:
            shapes = shapes_of(network, graph, self._blank("meta"))
            last = frozenset(
                index for index, node in enumerate(maps) if (shapes[node] or ())[1] != self.channels[index]
            )
        encoding = maps[-1]
        if len(maps) - 1 in last:
            with graph.inserting_before(output):
                encoding = graph.call_method("permute", (encoding, 0, 3, 1, 2))
            owners[encoding] = ""
        return Traced(network, graph, owners, tuple(maps), encoding, last, shapes)


def _check_name(name: str) -> None:
    if not timm.is_model(name.partition(".")[0]):
        similar = get_close_matches(name.partition(".")[0], timm.list_models())
        hint = f"; similar names: {', '.join(similar)}" if similar else ""
        raise OptionError(f"timm has no network '{name}' (--base.model){hint}")


def _tokens(network: nn.Module, image: Tensor) -> Features:
    """All tokens after the last norm, and those after each block but the last, (B, L, C)."""
    indices = list(range(len(network.blocks) - 1))  # type: ignore[arg-type]
    encoding, states = network.forward_intermediates(  # type: ignore[operator]
        image, indices=indices, return_prefix_tokens=True, output_fmt="NLC"
    )
    taps = (state if isinstance(state, Tensor) else torch.cat(state[::-1], 1) for state in states)
    return Features(encoding, tuple(taps))


def _token_blocks(network: nn.Module) -> tuple[Block, ...]:
    """The blocks of a transformer, each of which can be left out."""
    depth = len(network.blocks)  # type: ignore[arg-type]
    return tuple(Block(f"network.blocks.{index}", index - 1, optional=True) for index in range(depth))


class _TokensAfterTap(Continuation):
    """Blocks of a transformer and its last norm; tokens (B, L, C) to (B, L, C).

    Args:
        network: the transformer.
        parts: blocks of it that are not copied.
        is_shared: share the parameters and buffers with the network instead of copying them.
    """

    def __init__(self, network: nn.Module, parts: Collection[nn.Module], is_shared: bool = False) -> None:
        super().__init__()
        tensors = (*network.parameters(), *network.buffers()) if is_shared else ()
        self.network = nn.Module()
        for name in ("blocks", "norm"):
            part = network.get_submodule(name)
            self.network.add_module(name, copy_without(part, parts, {id(one): one for one in tensors}))

    def forward(self, tap: Tensor, inputs: Mapping[str, Tensor]) -> Tensor:
        for block in self.network.get_submodule("blocks").children():
            tap = block(tap)
        encoding: Tensor = self.network.get_submodule("norm")(tap)
        return encoding


def _make_encoder(config: Timm.Config) -> tuple[nn.Module, Literal["map", "vector", "tokens"]]:
    """The network, and what it returns."""
    _check_name(config.model)
    if config.encoding != "auto":
        return _make(config, config.encoding), config.encoding
    try:
        return _make(config, "map"), "map"
    except FitError:
        return _make(config, "vector"), "vector"


def _make(config: Timm.Config, encoding: Literal["map", "vector", "tokens"]) -> nn.Module:
    name = config.model
    arguments: dict[str, Any] = {"features_only": True} if encoding == "map" else {"num_classes": 0}
    if encoding == "tokens":
        arguments["global_pool"] = ""
    if config.weights not in ("default", "none"):
        # The file is read as data into the complete network, for the truncated one has other keys.
        complete = timm.create_model(name)
        load_weights(complete, config.weights, owner=f"base 'timm' ({name})")
        arguments["pretrained_cfg_overlay"] = {"state_dict": complete.state_dict()}
    try:
        with hub_access() if config.weights != "none" else nullcontext():
            network: nn.Module = timm.create_model(name, pretrained=config.weights != "none", **arguments)
    except (AttributeError, NotImplementedError) as error:
        raise FitError(f"base 'timm': '{name}' has no maps ({error}); use --base.encoding vector") from error
    except TypeError as error:
        raise FitError(f"base 'timm': '{name}' has no tokens ({error}); use --base.encoding auto") from error
    except (OSError, RuntimeError) as error:
        raise WeightsError(
            f"cannot download the weights of '{name}' ({error}). Download them on another machine and pass "
            "--base.weights FILE, or use 'none' for random weights"
        ) from error
    if encoding == "tokens" and not (
        all(
            hasattr(network, name)
            for name in ("forward_intermediates", "num_prefix_tokens", "blocks", "norm")
        )
    ):
        raise FitError(f"base 'timm': '{name}' has no tokens; use --base.encoding auto")
    return network


def _channels_first(maps: Tensor, channels: int) -> Tensor:
    """(B, C, H, W), out of that or of (B, H, W, C)."""
    return maps if maps.shape[1] == channels else maps.permute(0, 3, 1, 2)
