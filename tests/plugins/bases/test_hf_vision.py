"""Image encoders of transformers as bases: maps, vectors, tokens and taps of tiny networks in a folder."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from sidetune_core.api import FitError, ImageInput, OptionError, WeightsError
from sidetune_core.config import kinds, registry

HF_VISION = registry.load(registry.find(kinds.BASE, "hf-vision"))
TRANSFORMER = {
    "hidden_size": 16,
    "num_hidden_layers": 5,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "image_size": 32,
    "patch_size": 8,
}
CONFIGS: dict[str, Callable[[], Any]] = {
    "vit": lambda: transformers.ViTConfig(**TRANSFORMER),
    "dinov2-registers": lambda: transformers.Dinov2WithRegistersConfig(**TRANSFORMER, num_register_tokens=4),
    "swin": lambda: transformers.SwinConfig(
        embed_dim=8, depths=[1, 1], num_heads=[1, 2], window_size=2, image_size=32, patch_size=4
    ),
    "convnext": lambda: transformers.ConvNextConfig(hidden_sizes=[8, 12, 16, 20], depths=[1, 1, 1, 1]),
    "resnet": lambda: transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic"
    ),
}
IMAGE = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Folders with tiny random models, by kind."""
    parent = tmp_path_factory.mktemp("models")

    def folder(kind: str) -> Path:
        path = parent / kind
        if not path.exists():
            torch.manual_seed(0)
            transformers.AutoModel.from_config(CONFIGS[kind]()).save_pretrained(path)
            values = {"size": {"height": 32, "width": 32}, "resample": 3, "image_mean": [0.5] * 3}
            (path / "preprocessor_config.json").write_text(json.dumps({**values, "image_std": [0.25] * 3}))
        return path

    return folder


def make(folder: Path, size: int = 32, **options: Any) -> Any:
    return HF_VISION(HF_VISION.Config(model=str(folder), **options), {"image": (3, size, size)}).eval()


def expected(folder: Path) -> Any:
    network = transformers.AutoModel.from_pretrained(folder).eval()
    with torch.no_grad():
        return network(pixel_values=(IMAGE - 0.5) / 0.25, output_hidden_states=True)


@pytest.mark.parametrize(
    ("kind", "shape", "taps"),
    [
        ("vit", (16, 4, 4), [(16, 4, 4)] * 2),
        ("dinov2-registers", (16, 4, 4), [(16, 4, 4)] * 2),
        ("swin", (16, 4, 4), [(8, 8, 8), (16, 4, 4)]),
        ("convnext", (20, 1, 1), [(8, 8, 8), (12, 4, 4), (16, 2, 2), (20, 1, 1)]),
        ("resnet", (16, 4, 4), [(8, 8, 8), (16, 4, 4)]),
    ],
)
def test_the_map_is_the_last_hidden_state_and_taps_are_earlier_ones(
    saved: Callable[[str], Path], kind: str, shape: tuple[int, ...], taps: list[tuple[int, ...]]
) -> None:
    base = make(saved(kind))
    with torch.no_grad():
        features = base({"image": IMAGE})
    assert (base.shape, list(base.tap_shapes)) == (shape, taps)
    assert [tuple(tap.shape) for tap in features.taps] == [(2, *tap) for tap in taps]
    last = expected(saved(kind)).last_hidden_state
    if last.ndim == 3:  # the patches are the last tokens, row by row
        last = last[:, -shape[1] * shape[2] :].transpose(1, 2).unflatten(2, shape[1:])
    torch.testing.assert_close(features.encoding, last)


def test_taps_of_a_vit_are_every_nth_hidden_state_counted_from_the_last(
    saved: Callable[[str], Path],
) -> None:
    base, hidden = make(saved("vit"), tap_every=2), expected(saved("vit")).hidden_states
    with torch.no_grad():
        taps = base({"image": IMAGE}).taps
    assert len(taps) == 3
    for tap, index in zip(taps, (1, 3, 5), strict=True):
        torch.testing.assert_close(tap.flatten(2).transpose(1, 2), hidden[index][:, 1:])


@pytest.mark.parametrize(
    ("kind", "encoding", "shape", "reference"),
    [
        ("vit", "vector", (16,), lambda last: last[:, 0]),
        ("swin", "vector", (16,), lambda last: last.mean(1)),
        ("convnext", "vector", (20,), lambda last: last.mean((2, 3))),
        ("vit", "tokens", (17, 16), lambda last: last),
        ("resnet", "tokens", (16, 16), lambda last: last.flatten(2).transpose(1, 2)),
    ],
)
def test_a_vector_is_the_class_token_or_the_mean_and_tokens_are_all(
    saved: Callable[[str], Path], kind: str, encoding: str, shape: tuple[int, ...], reference: Any
) -> None:
    base = make(saved(kind), encoding=encoding)
    with torch.no_grad():
        features = base({"image": IMAGE})
    assert base.shape == shape
    torch.testing.assert_close(features.encoding, reference(expected(saved(kind)).last_hidden_state))
    assert [tuple(tap.shape[1:]) for tap in features.taps] == list(base.tap_shapes)


@pytest.mark.parametrize(
    ("values", "images"),
    [
        ({"size": {"height": 32, "width": 32}, "resample": 3}, ImageInput(32, "bicubic")),
        ({"size": 40, "resample": 2}, ImageInput(40, "bilinear")),
        (
            {"size": {"shortest_edge": 256}, "crop_size": {"height": 224, "width": 224}, "resample": 3},
            ImageInput(224, "bicubic", 0.875),
        ),
        (
            {"size": {"shortest_edge": 224}, "crop_pct": 0.875, "resample": 3},
            ImageInput(224, "bicubic", 0.875),
        ),
        ({"size": {"shortest_edge": 384}, "crop_pct": 0.875, "resample": 3}, ImageInput(384, "bicubic")),
    ],
)
def test_the_images_are_those_of_the_processor(
    tmp_path: Path, values: dict[str, Any], images: ImageInput
) -> None:
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(values))
    assert HF_VISION.image_input(HF_VISION.Config(model=str(tmp_path))) == images


def test_without_a_processor_the_size_is_that_of_the_config(tmp_path: Path) -> None:
    CONFIGS["vit"]().save_pretrained(tmp_path)
    assert HF_VISION.image_input(HF_VISION.Config(model=str(tmp_path))) == ImageInput(32, "bicubic")
    (tmp_path / "preprocessor_config.json").write_text("{")
    with pytest.raises(OptionError, match="cannot read"):
        HF_VISION.image_input(HF_VISION.Config(model=str(tmp_path)))


def test_weights_are_random_or_from_a_file_by_option(saved: Callable[[str], Path]) -> None:
    folder = saved("resnet")
    name = "embedder.embedder.convolution.weight"
    default, random = make(folder), make(folder, weights="none")
    assert not torch.equal(default.network.get_parameter(name), random.network.get_parameter(name))
    file = make(folder, weights=str(folder / "model.safetensors"))
    assert torch.equal(default.network.get_parameter(name), file.network.get_parameter(name))
    assert default.hub_name == ""


def test_the_image_tower_of_a_model_with_two_is_used(tmp_path: Path) -> None:
    text = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    torch.manual_seed(0)
    clip = transformers.CLIPModel(
        transformers.CLIPConfig(text_config={**text, "vocab_size": 20}, vision_config=TRANSFORMER)
    )
    clip.save_pretrained(tmp_path)
    base = make(tmp_path)
    assert base.shape == (16, 4, 4)
    name = "embeddings.patch_embedding.weight"
    own = dict(base.network.named_parameters())
    assert torch.equal(
        next(value for key, value in own.items() if key.endswith(name)),
        clip.get_parameter(f"vision_model.{name}"),
    )


def test_what_does_not_fit_is_refused(saved: Callable[[str], Path], tiny_bert: Path, tmp_path: Path) -> None:
    with pytest.raises(FitError, match="does not accept images of 40 x 40 pixels"):
        make(saved("vit"), size=40)
    with pytest.raises(FitError, match="not an image encoder"):
        make(tiny_bert)
    with pytest.raises(FitError, match="needs an input 'image'"):
        HF_VISION(HF_VISION.Config(model=str(saved("vit"))), {"tokens": (8,)})
    with pytest.raises(WeightsError, match="does not exist"):
        make(tmp_path / "nowhere")


@pytest.mark.parametrize("kind", ["vit", "dinov2-registers"])
def test_the_layers_after_the_tokens_of_a_tap_encode_as_the_network(
    kind: str, saved: Callable[[str], Path]
) -> None:
    base = make(saved(kind), encoding="tokens", tap_every=2).requires_grad_(False)
    assert [block.after for block in base.blocks()] == [-1, 0, 0, 1, 1]
    with torch.no_grad():
        output = base({"image": IMAGE})
        for tap in (0, 1):
            assert torch.equal(base.continued(tap)(output.taps[tap], {}), output.encoding)
    one = base.continued(0, [3])
    assert one.state_dict().keys() <= base.state_dict().keys()
    assert not [name for name, _ in one.named_parameters() if "embeddings" in name or ".4." in name]


@pytest.mark.parametrize(
    ("kind", "encoding", "message"),
    [
        ("vit", "map", "the maps of ViTModel; use --base.encoding tokens"),
        ("convnext", "auto", "the maps of ConvNextModel; .* otherwise base 'timm'"),
    ],
)
def test_only_the_tokens_of_a_transformer_have_a_continuation(
    kind: str, encoding: str, message: str, saved: Callable[[str], Path]
) -> None:
    with pytest.raises(FitError, match=message):
        make(saved(kind), encoding=encoding).continued(0)
