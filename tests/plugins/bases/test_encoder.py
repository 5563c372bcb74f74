"""Text encoders as bases: transformer and minilm."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from sidetune_core.api import Inputs
from sidetune_core.config import kinds, registry
from sidetune_core.errors import FitError, WeightsError
from sidetune_core.feature_cache.cache import FeatureCache
from sidetune_core.interfaces.networks import note_structure

TRANSFORMER, MINILM = (registry.load(registry.find(kinds.BASE, name)) for name in ("transformer", "minilm"))
LENGTH = 24


def shapes(length: int = LENGTH) -> dict[str, tuple[int, ...]]:
    return {"tokens": (length,), "mask": (length,), "types": (length,)}


def make(folder: Path, length: int = LENGTH, **options: Any) -> Any:
    return TRANSFORMER(TRANSFORMER.Config(model=str(folder), **options), shapes(length)).eval()


@pytest.fixture
def batch() -> dict[str, torch.Tensor]:
    """Two examples, the second of ten tokens."""
    mask = torch.ones(2, LENGTH, dtype=torch.int8)
    mask[1, 10:] = 0
    tokens = torch.randint(5, 40, (2, LENGTH), generator=torch.Generator().manual_seed(0)) * mask
    return {"tokens": tokens.int(), "mask": mask, "types": mask * (torch.arange(LENGTH) > 4)}


def test_encoding_and_taps_are_the_hidden_states_of_the_library(
    tiny_bert: Path, batch: dict[str, torch.Tensor]
) -> None:
    base = make(tiny_bert)
    theirs = transformers.BertModel.from_pretrained(tiny_bert).eval()
    with torch.no_grad():
        features = base(batch)
        hidden = theirs(
            input_ids=batch["tokens"].long(),
            attention_mask=batch["mask"],
            token_type_ids=batch["types"].long(),
            output_hidden_states=True,
        ).hidden_states
    assert (base.shape, base.tap_shapes, base.vocabulary_size) == ((LENGTH, 16), ((LENGTH, 16),) * 3, 48)
    real = batch["mask"].bool()
    for output, expected in zip((*features.taps, features.encoding), hidden, strict=True):
        torch.testing.assert_close(output[real], expected[real])
        assert not output[~real].any()


def test_padding_and_the_length_of_the_batch_do_not_matter(
    tiny_bert: Path, batch: dict[str, torch.Tensor]
) -> None:
    base = make(tiny_bert)
    with torch.no_grad():
        batched, alone = base(batch), base({name: value[1:, :10] for name, value in batch.items()})
    torch.testing.assert_close(batched.encoding[1:, :10], alone.encoding)


@pytest.mark.parametrize(("every", "indices"), [(1, [0, 1, 2]), (2, [1]), (3, [0]), (4, [])])
def test_taps_may_be_fewer(
    every: int, indices: list[int], tiny_bert: Path, batch: dict[str, torch.Tensor]
) -> None:
    all_taps, base = make(tiny_bert)(batch).taps, make(tiny_bert, tap_every=every)
    assert len(base.tap_shapes) == len(indices)
    for tap, index in zip(base(batch).taps, indices, strict=True):
        assert torch.equal(tap, all_taps[index])


def test_a_shortened_base_encodes_as_its_last_layer_did(
    tiny_bert: Path, batch: dict[str, torch.Tensor]
) -> None:
    base = make(tiny_bert)
    shortened = base.first_layers(2)
    torch.testing.assert_close(shortened(batch).encoding, base(batch).taps[2])
    assert sum(parameter.numel() for parameter in shortened.parameters()) < sum(
        parameter.numel() for parameter in base.parameters()
    )
    assert len(base.network.encoder.layer) == 3
    with pytest.raises(FitError, match="3 layers cannot be cut after 4"):
        base.first_layers(4)


def test_random_weights_need_the_configuration_only(tiny_bert: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text((tiny_bert / "config.json").read_text())
    torch.manual_seed(1)
    random, trained = (
        base.network.encoder.layer[0].output.dense.weight
        for base in (make(tmp_path, weights="none"), make(tiny_bert))
    )
    assert not torch.equal(random, trained)
    with pytest.raises(WeightsError, match="base 'transformer' cannot load"):
        make(tmp_path)


def test_a_pickle_is_never_read(tiny_bert: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text((tiny_bert / "config.json").read_text())
    torch.save(transformers.BertModel.from_pretrained(tiny_bert).state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(WeightsError, match="cannot load"):
        make(tmp_path)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (
            transformers.GPT2Config(vocab_size=48, n_embd=16, n_layer=2, n_head=2, n_positions=64),
            "is not a bidirectional encoder",
        ),
        (
            transformers.T5Config(
                vocab_size=48,
                d_model=16,
                d_kv=8,
                d_ff=16,
                num_layers=1,
                num_heads=2,
                decoder_start_token_id=0,
            ),
            "not a text encoder such as BERT",
        ),
        (
            transformers.ViTConfig(
                hidden_size=16,
                num_hidden_layers=1,
                num_attention_heads=2,
                intermediate_size=16,
                image_size=32,
            ),
            "not a text encoder such as BERT",
        ),
    ],
    ids=["decoder", "encoder-decoder", "images"],
)
def test_a_model_that_is_no_text_encoder_is_refused(model: Any, message: str, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    with pytest.raises(FitError, match=message):
        make(tmp_path, weights="none")


SIZES: Any = {
    "vocab_size": 48,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 16,
}


@pytest.mark.parametrize(
    "model",
    [
        transformers.RobertaConfig(**SIZES, max_position_embeddings=64),
        transformers.DistilBertConfig(
            vocab_size=48, dim=16, n_layers=2, n_heads=2, hidden_dim=16, max_position_embeddings=64
        ),
        transformers.ElectraConfig(**SIZES, embedding_size=8),
    ],
    ids=["roberta", "distilbert", "electra"],
)
def test_other_encoders_work_too(model: Any, tmp_path: Path, batch: dict[str, torch.Tensor]) -> None:
    model.save_pretrained(tmp_path)
    base = make(tmp_path, weights="none")
    assert base(batch).encoding.shape == (2, LENGTH, 16)
    assert base.first_layers(1)(batch).encoding.shape == (2, LENGTH, 16)


RELATIVE: Any = {**SIZES, "relative_attention": True, "position_buckets": 8, "max_relative_positions": 8}


@pytest.mark.parametrize(
    "model",
    [
        transformers.BertConfig(**SIZES),
        transformers.RobertaConfig(**SIZES, max_position_embeddings=64),
        transformers.DistilBertConfig(vocab_size=48, dim=16, n_layers=2, n_heads=2, hidden_dim=16),
        transformers.ElectraConfig(**SIZES, embedding_size=8),
        transformers.DebertaV2Config(**RELATIVE, pos_att_type=["p2c", "c2p"], position_biased_input=False),
        transformers.MPNetConfig(**SIZES),
        transformers.ModernBertConfig(
            **SIZES,
            local_attention=4,
            global_attn_every_n_layers=2,
            pad_token_id=0,
            bos_token_id=1,
            cls_token_id=1,
            sep_token_id=2,
            eos_token_id=2,
        ),
    ],
    ids=["bert", "roberta", "distilbert", "electra", "deberta", "mpnet", "modernbert"],
)
def test_the_layers_after_a_hidden_state_encode_as_the_network(
    model: Any, tmp_path: Path, batch: dict[str, torch.Tensor]
) -> None:
    model.save_pretrained(tmp_path)
    base = make(tmp_path, weights="none").requires_grad_(False)
    with torch.no_grad():
        features = base(batch)
        for tap, hidden in enumerate(features.taps):
            continuation = base.continued(tap)
            assert torch.equal(continuation(hidden, batch), features.encoding)
    assert continuation.state_dict().keys() <= base.state_dict().keys()
    layers = len(list(base.parameters())) - len(list(base.network.embeddings.parameters()))
    assert len(list(base.continued(0).parameters())) <= layers  # no embeddings
    base.continued(0, [1])(features.taps[0], batch).sum().backward()
    assert not any(parameter.requires_grad for parameter in base.parameters())


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (transformers.AlbertConfig(**SIZES, embedding_size=8), "AlbertModel are not one list of 2 modules"),
        (
            transformers.XLNetConfig(vocab_size=48, d_model=16, n_layer=2, n_head=2, d_inner=16),
            "no module 'embeddings'",
        ),
        (
            transformers.DebertaV2Config(**SIZES, conv_kernel_size=3),
            "tap 1, since its encoding depends on more",
        ),
    ],
    ids=["albert", "xlnet", "deberta-xxlarge"],
)
def test_a_network_that_is_no_list_of_layers_has_no_continuation(
    model: Any, message: str, tmp_path: Path
) -> None:
    model.save_pretrained(tmp_path)
    with pytest.raises(FitError, match=message):
        make(tmp_path, weights="none").continued(1)


def test_a_continuation_needs_a_layer(tiny_bert: Path) -> None:
    with pytest.raises(FitError, match="at least one of its layers"):
        make(tiny_bert).continued(1, [])


def test_checking_a_continuation_leaves_the_modes_of_the_base_alone(tiny_bert: Path) -> None:
    base = make(tiny_bert).train()
    base.network.encoder.layer[0].eval()
    assert base.continued(1).network.encoder.layer[-1].training
    assert base.training
    assert not base.network.encoder.layer[0].training


def test_taps_further_apart_have_more_blocks_between_them(tiny_bert: Path) -> None:
    blocks = make(tiny_bert, tap_every=2).blocks()
    assert [(block.name, block.after) for block in blocks] == [
        ("network.encoder.layer.0", -1),
        ("network.encoder.layer.1", 0),
        ("network.encoder.layer.2", 0),
    ]


def test_sequences_longer_than_the_model_accepts_are_refused(tiny_bert: Path) -> None:
    with pytest.raises(FitError, match="does not accept sequences of 65 tokens"):
        make(tiny_bert, length=65)


def test_inputs_without_tokens_are_refused(tiny_bert: Path) -> None:
    with pytest.raises(FitError, match="needs inputs 'tokens' and 'mask'"):
        TRANSFORMER(TRANSFORMER.Config(model=str(tiny_bert)), {"image": (3, 8, 8)})


def test_a_folder_is_read_without_a_network(
    tiny_bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        pytest.fail("network access")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    make(tiny_bert)
    with pytest.raises(WeightsError):
        make(tmp_path)  # an empty folder
    with pytest.raises(WeightsError, match="does not exist"):
        make(tmp_path / "nowhere")


def test_minilm_comes_with_its_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_: pytest.fail("network access"))
    base = MINILM(MINILM.Config(), shapes()).eval()
    assert (base.shape, len(base.tap_shapes), base.vocabulary_size) == ((LENGTH, 384), 6, 30522)
    assert sum(parameter.numel() for parameter in base.parameters()) == 22_565_376
    assert base.hub_name == "sentence-transformers/all-MiniLM-L6-v2"
    tokens = torch.tensor(
        [[101, 2198, 2003, 3407, 102], [101, 2198, 2003, 7726, 102], [101, 7279, 6132, 2097, 102]]
    )
    with torch.no_grad():
        encoding = base(
            {"tokens": tokens, "mask": torch.ones_like(tokens), "types": torch.zeros_like(tokens)}
        ).encoding.mean(1)
    similarity = torch.nn.functional.cosine_similarity(encoding[:1], encoding[1:])
    assert (
        similarity[0] > similarity[1]
    )  # "john is happy" lies nearer to "john is sad" than to "pencils will"


def test_minilm_after_its_second_layer_is_layers_2_to_5() -> None:
    base = MINILM(MINILM.Config(), shapes()).eval()
    continuation = base.continued(2)
    layers = {name.split(".")[3] for name, _ in continuation.named_parameters()}
    assert layers == {"2", "3", "4", "5"}
    assert sum(parameter.numel() for parameter in continuation.parameters()) == 7_098_626 - 770
    mask = torch.ones(2, LENGTH)
    mask[1, 10:] = 0
    batch = {"tokens": 1000 + torch.arange(2 * LENGTH).view(2, LENGTH), "mask": mask, "types": mask * 0}
    with torch.no_grad():
        features = base(batch)
        assert torch.equal(continuation(features.taps[2], batch), features.encoding)


def test_it_is_cached_although_the_library_hooks_its_layers(
    tiny_bert: Path, batch: dict[str, torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    base = make(tiny_bert).requires_grad_(False)
    note_structure(base)
    FeatureCache(2**20, taps=None, info=pytest.fail).attach(base, "fp32")
    calls: list[Any] = []
    forward = TRANSFORMER.forward
    monkeypatch.setattr(TRANSFORMER, "forward", lambda *args: calls.append(args) or forward(*args))
    for _ in range(2):
        base(Inputs(batch, torch.arange(2), batch["mask"].sum(1)))
    assert len(calls) == 1


def test_a_folder_is_no_name_on_the_hub(tiny_bert: Path) -> None:
    assert make(tiny_bert).hub_name == ""
