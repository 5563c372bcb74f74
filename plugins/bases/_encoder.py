"""Text encoders of the transformers library as bases."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, PreTrainedModel
from transformers.utils import logging

from sidetune_core.api import Base, Features, FitError, InputShapes, WeightsError, at_least, option

FILES = "a folder with config.json and model.safetensors"


@attrs.frozen
class EncoderOptions:
    """Options of every text encoder."""

    tap_every: int = option(
        1,
        "give every so-manieth hidden state as a tap, counted from the encoding down; fewer take less memory",
        at_least(1),
    )


class Encoder(Base):
    """A bidirectional transformer over tokens.

    Inputs: ``tokens`` (B, L) numbers of tokens, ``mask`` (B, L) 1 where there is one and 0 where the example has ended, ``types`` (B, L)
    0 in the first segment and 1 in the second, for networks that tell segments apart. Tensors may be shorter than the L of the env.
    Encoding (B, L, C), the last hidden state. Taps: the embeddings and the hidden states of all layers but the last, each (L, C); or
    every so-manieth of them. All are zero where the example has ended.

    Args:
        model: name on the Hugging Face hub, or a folder; nothing but its configuration is read where it is not `pretrained`.
        pretrained: whether to load its weights, or to draw them at random.
        inputs: shapes of the env's inputs.
        tap_every: see `EncoderOptions`.
        owner: for messages, such as ``base 'minilm'``.

    Raises:
        FitError: the env gives no tokens, the window is longer than the model's, or the model is no text encoder.
        WeightsError: there is no such model, or it has no safetensors.
    """

    def __init__(self, model: str, pretrained: bool, inputs: InputShapes, tap_every: int, owner: str) -> None:
        super().__init__()
        window = inputs.get("tokens", ())
        if len(window) != 1 or inputs.get("mask") != window:
            raise FitError(
                f"{owner} needs inputs 'tokens' and 'mask' of shape (L,), as env squad gives; got {dict(inputs)}"
            )
        self.network = _load(model, pretrained, owner)
        embeddings = self.network.get_input_embeddings()
        if self.network.config.is_encoder_decoder or not isinstance(embeddings, nn.Embedding):
            raise FitError(
                f"{owner}: {model} is a {type(self.network).__name__}, and no text encoder such as BERT"
            )
        self.vocabulary_size = embeddings.num_embeddings
        self._typed = "token_type_ids" in inspect.signature(self.network.forward).parameters
        self._typed = self._typed and getattr(self.network.config, "type_vocab_size", 2) > 1
        depth, channels = self.network.config.num_hidden_layers, self.network.config.hidden_size
        self._places = tuple(sorted(range(depth - tap_every, -1, -tap_every)))
        self.shape = (*window, channels)
        self.tap_shapes = (self.shape,) * len(self._places)
        self._check(f"{owner}: {model}", window[0])

    def forward(self, inputs: Mapping[str, Tensor]) -> Features:
        """The encoding (B, L, C) of ``tokens`` and the taps."""
        tokens, mask = inputs["tokens"].long(), inputs["mask"].long()
        types = {"token_type_ids": inputs["types"].long()} if self._typed and "types" in inputs else {}
        hidden = self.network(
            input_ids=tokens, attention_mask=mask, output_hidden_states=True, **types
        ).hidden_states
        ended = (mask == 0)[..., None]
        encoding, *taps = (hidden[place].masked_fill(ended, 0) for place in (-1, *self._places))
        return Features(encoding, tuple(taps))

    def first_layers(self, layers: int) -> Encoder:
        """A copy of the embeddings and the first `layers` layers; it gives no taps."""
        depth = self.network.config.num_hidden_layers
        if layers > depth:
            raise FitError(f"a base of {depth} layers cannot be cut after {layers}")
        cut = copy.deepcopy(self, {id(self.cache): None})
        stacks = [
            name
            for name, one in cut.network.named_modules()
            if isinstance(one, nn.ModuleList) and len(one) == depth
        ]
        if len(stacks) != 1:
            raise FitError(
                f"the layers of a {type(self.network).__name__} cannot be told apart from its other parts, so it cannot be cut"
            )
        parent, _, name = stacks[0].rpartition(".")
        layer_list = cut.network.get_submodule(stacks[0])
        setattr(cut.network.get_submodule(parent), name, layer_list[:layers])  # type: ignore[index]
        cut.network.config.num_hidden_layers = layers
        cut._places, cut.tap_shapes = (), ()
        return cut

    def _check(self, name: str, window: int) -> None:
        """Look at what becomes of two sequences that differ in their last token only."""
        pad = self.network.config.pad_token_id or 0
        tokens = torch.full((2, window), pad + 1)
        tokens[1, -1] = pad + 2
        training = self.training
        try:
            with torch.no_grad():
                assert self.vocabulary_size is not None
                batch = {"tokens": tokens % self.vocabulary_size, "mask": torch.ones(2, window)}
                one, other = self.eval()(batch).encoding
        except (IndexError, RuntimeError) as error:
            raise FitError(
                f"{name} takes no windows of {window} tokens ({str(error).splitlines()[0]}); choose a smaller window"
            ) from error
        finally:
            self.train(training)
        if window > 1 and torch.equal(one[0], other[0]):
            raise FitError(
                f"{name} is no encoder: what it makes of a token does not depend on those after it"
            )


def _load(model: str, pretrained: bool, owner: str) -> PreTrainedModel:
    """The network, without a pooling layer on top."""
    folder = Path(model).expanduser()
    local = folder.is_dir()
    if not local and (folder.is_absolute() or model.startswith(("~", "."))):
        raise WeightsError(
            f"{owner}: no folder {folder}; expected {FILES}, or a name on the Hugging Face hub"
        )
    source = str(folder) if local else model
    common: dict[str, Any] = {"local_files_only": local, "trust_remote_code": False}
    bars = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        config = AutoConfig.from_pretrained(source, **common)
        if pretrained:
            network = AutoModel.from_pretrained(
                source, config=config, use_safetensors=True, dtype=torch.float32, **common
            )
        else:
            network = AutoModel.from_config(config, trust_remote_code=False)  # type: ignore[no-untyped-call]
    except (OSError, ValueError, KeyError, RuntimeError, ImportError) as error:
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise WeightsError(
            f"{owner} cannot load {model}: {reason} Expected {FILES}, or a name on the Hugging Face hub"
        ) from error
    finally:
        if bars:
            logging.enable_progress_bar()  # type: ignore[no-untyped-call]
    if getattr(network, "pooler", None) is not None:
        network.pooler = None
    made: PreTrainedModel = network.eval()
    return made
