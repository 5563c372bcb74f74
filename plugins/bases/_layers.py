"""Networks of transformers that are one list of layers between embeddings and encoding."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from sidetune_core.api import Block, FitError

from ._continuation import copy_without

PROJECTIONS = ("embeddings_project", "pre_layrnorm")
"""Layers between the embeddings and the first hidden state: of ELECTRA, and of CLIP."""


class GivenState(nn.Module):
    """Takes the place of the embeddings: returns the hidden state that the network is called with instead of
    token ids or pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.patch_embeddings = nn.Module()  # of which image encoders look up the data type
        self.patch_embeddings.projection = nn.Module()
        self.patch_embeddings.projection.register_buffer("weight", torch.empty(0), persistent=False)

    def forward(self, *arguments: object, **named: object) -> Tensor:
        given = [named.get("inputs_embeds"), named.get("pixel_values"), *arguments]
        return next(value for value in given if isinstance(value, Tensor) and value.is_floating_point())


def layer_names(network: PreTrainedModel) -> tuple[str, ...]:
    """The names of all layers of a network, in order.

    Raises:
        FitError: they are not one list.
    """
    depth = getattr(network.config, "num_hidden_layers", None)
    stacks = [
        name
        for name, module in network.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) == depth
    ]
    if depth is None or len(stacks) != 1:
        raise FitError(
            f"the layers of {type(network).__name__} are not one list of {depth or 'all'} modules, so it "
            "cannot be cut between them"
        )
    return tuple(f"{stacks[0]}.{index}" for index in range(depth))


def layer_blocks(network: PreTrainedModel, taps: Sequence[int], prefix: str) -> tuple[Block, ...]:
    """The layers as blocks.

    Args:
        network: see `layer_names`.
        taps: numbers of the hidden states that are taps, in order; number n is the input of layer n.
        prefix: of the network in the base's state dict.
    """
    return tuple(
        Block(prefix + name, sum(tap <= layer for tap in taps) - 1, optional=True)
        for layer, name in enumerate(layer_names(network))
    )


def copy_layers(network: PreTrainedModel, kept: Collection[int], is_shared: bool = False) -> PreTrainedModel:
    """A copy of a network with the layers `kept`, which is called with a hidden state.

    Args:
        network: see `layer_names`.
        kept: numbers of the layers to keep, in which the copy has their names.
        is_shared: share the parameters and buffers with the network instead of copying them.

    Raises:
        FitError: no layer is kept, the layers are not one list, or nothing named ``embeddings`` is before it.
    """
    names = layer_names(network)
    if not kept:
        raise FitError("a transformer needs at least one of its layers; keep one of the blocks")
    if not isinstance(getattr(network, "embeddings", None), nn.Module):
        raise FitError(
            f"{type(network).__name__} has no module 'embeddings', so it cannot be continued from a hidden "
            "state"
        )
    memo: dict[int, object] = {id(network.embeddings): GivenState()}
    memo |= {id(getattr(network, name)): nn.Identity() for name in PROJECTIONS if hasattr(network, name)}
    if is_shared:
        memo |= {id(tensor): tensor for tensor in (*network.parameters(), *network.buffers())}
    parts = [network.get_submodule(name) for index, name in enumerate(names) if index not in kept]
    copied = copy_without(network, parts, memo)
    copied.config.num_hidden_layers = len(kept)
    if isinstance(kinds := getattr(copied.config, "layer_types", None), list) and len(kinds) == len(names):
        copied.config.layer_types = [kinds[index] for index in sorted(kept)]
    return copied
