"""Bases out of torchvision and timm: maps, taps, normalisation, and weights by choice."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest
import torch

from sidetune_core.api import FitError, ImageInput, OptionError, WeightsError
from sidetune_core.config.kinds import BASE
from sidetune_core.config.registry import find, load

RESNET18 = ((64, 32, 32), (64, 16, 16), (128, 8, 8), (256, 4, 4), (512, 2, 2))


def make(kind: str, size: int = 64, **options: Any) -> Any:
    cls = load(find(BASE, kind))
    torch.manual_seed(0)
    return cls(
        cls.Config(**{"model": "resnet18", "weights": "none", **options}), {"image": (3, size, size)}
    ).eval()


@pytest.mark.parametrize("kind", ["torchvision", "timm"])
def test_a_resnet_has_a_tap_for_each_size_and_its_last_map_as_encoding(kind: str) -> None:
    base = make(kind)
    features = base({"image": torch.rand(2, 3, 64, 64)})
    assert base.shape == (512, 2, 2)
    assert base.tap_shapes == RESNET18
    assert features.encoding.shape == (2, 512, 2, 2)
    assert [tuple(tap.shape[1:]) for tap in features.taps] == list(RESNET18)
    assert torch.equal(features.taps[-1], features.encoding)


@pytest.mark.parametrize("kind", ["torchvision", "timm"])
def test_the_vector_is_the_mean_of_the_map(kind: str) -> None:
    image = {"image": torch.rand(2, 3, 64, 64)}
    vector = make(kind, encoding="vector")
    assert vector.shape == (512,)
    maps = make(kind)
    maps.load_state_dict(vector.state_dict())
    torch.testing.assert_close(vector(image).encoding, maps(image).encoding.mean((2, 3)))


def test_the_map_is_what_torchvision_computes_from_standardised_pixels() -> None:
    from torchvision import models

    base = make("torchvision")
    torch.manual_seed(0)
    network = models.resnet18(weights=None).eval()
    image = torch.rand(2, 3, 64, 64)
    x = (image - torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)) / torch.tensor(
        [0.229, 0.224, 0.225]
    ).view(3, 1, 1)
    x = network.maxpool(network.relu(network.bn1(network.conv1(x))))
    for stage in (network.layer1, network.layer2, network.layer3, network.layer4):
        x = stage(x)
    torch.testing.assert_close(base({"image": image}).encoding, x)


@pytest.mark.parametrize(
    ("model", "shape", "taps"),
    [
        (
            "mobilenet_v3_small",
            (576, 2, 2),
            ((16, 32, 32), (72, 16, 16), (96, 8, 8), (288, 4, 4), (576, 2, 2)),
        ),
        (
            "shufflenet_v2_x0_5",
            (1024, 2, 2),
            ((24, 32, 32), (24, 16, 16), (48, 8, 8), (96, 4, 4), (1024, 2, 2)),
        ),
    ],
)
def test_taps_are_found_in_networks_that_pool_on_the_way(
    model: str, shape: tuple[int, ...], taps: tuple[tuple[int, ...], ...]
) -> None:
    base = make("torchvision", model=model)
    assert base.shape == shape
    assert base.tap_shapes == taps


def test_weights_can_come_from_a_file(tmp_path: Path) -> None:
    from torchvision import models

    torch.manual_seed(1)
    network = models.resnet18(weights=None)
    torch.save(network.state_dict(), tmp_path / "resnet18.pth")
    base = make("torchvision", weights=str(tmp_path / "resnet18.pth"))
    assert torch.equal(base.network.get_parameter("conv1.weight"), network.conv1.weight)
    import timm

    whole = timm.create_model("resnet18")
    torch.save(whole.state_dict(), tmp_path / "timm.pth")
    for encoding in ("map", "vector"):
        base = make("timm", weights=str(tmp_path / "timm.pth"), encoding=encoding)
        assert torch.equal(base.network.get_parameter("layer4.1.conv2.weight"), whole.layer4[1].conv2.weight)


@pytest.mark.parametrize(
    ("kind", "options", "error", "message"),
    [
        (
            "torchvision",
            {"model": "resnet19"},
            OptionError,
            "network 'resnet19' .*; similar names: .*resnet18",
        ),
        ("torchvision", {"weights": "IMAGENET9K"}, OptionError, "has no weights 'IMAGENET9K' of 'resnet18'"),
        ("torchvision", {"model": "vit_b_16"}, FitError, "does not accept images of 64 x 64 pixels"),
        ("timm", {"model": "resnet19"}, OptionError, "timm has no network 'resnet19'"),
        ("timm", {"model": "vit_tinny_patch16_224"}, OptionError, "similar names: vit_tiny_patch16_224, "),
    ],
)
def test_unknown_names_and_unfit_images_are_refused(
    kind: str, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        make(kind, **options)


def test_only_the_weights_that_timm_publishes_have_a_name_on_the_hub() -> None:
    base = make("timm", weights="none", model="resnet18")
    assert base.hub_name == ""
    base._is_default = True  # they cannot be downloaded here
    assert base.hub_name == "timm/resnet18.a1_in1k"


@pytest.mark.parametrize(
    ("kind", "options", "images"),
    [
        ("torchvision", {"model": "resnet18"}, ImageInput(224, "bilinear", 224 / 256)),
        ("torchvision", {"weights": "DEFAULT", "model": "swin_t"}, ImageInput(224, "bicubic", 224 / 232)),
        (
            "torchvision",
            {"model": "vit_b_16", "weights": "IMAGENET1K_SWAG_E2E_V1"},
            ImageInput(384, "bicubic"),
        ),
        ("timm", {"model": "vit_tiny_patch16_384"}, ImageInput(384, "bicubic")),
        ("timm", {"model": "convnext_atto"}, ImageInput(224, "bicubic", 0.875)),
        ("resnet44", {}, ImageInput(32)),
        ("taskonomy", {"weights": "none"}, ImageInput(256)),
        ("taskonomy", {"weights": "packaged"}, None),
    ],
)
def test_the_images_of_the_weights_are_known_before_anything_is_built(
    kind: str, options: dict[str, Any], images: ImageInput | None
) -> None:
    cls = load(find(BASE, kind))
    assert cls.image_input(cls.Config(**options)) == images


@pytest.mark.parametrize(
    ("kind", "model", "size", "encoding", "shape", "taps"),
    [
        ("timm", "vit_tiny_patch16_224", 224, "map", (192, 14, 14), 3),
        ("timm", "mixer_s32_224", 224, "map", (512, 7, 7), 3),
        ("timm", "levit_128s", 224, "map", (384, 4, 4), 3),
        ("timm", "ghostnet_050", 64, "map", (80, 2, 2), 5),
        ("torchvision", "mobilenet_v3_small", 64, "map", (576, 2, 2), 5),
        ("torchvision", "regnet_y_400mf", 64, "map", (440, 2, 2), 5),
        ("torchvision", "vit_b_16", 224, "vector", (768,), 0),
    ],
)
def test_the_encoding_is_a_map_where_there_is_one(
    kind: str, model: str, size: int, encoding: str, shape: tuple[int, ...], taps: int
) -> None:
    base = make(kind, size=size, model=model)
    assert (base.encoding, base.shape, len(base.tap_shapes)) == (encoding, shape, taps)


def test_a_download_without_a_network_fails_at_once_in_a_sentence(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    with pytest.raises(
        WeightsError, match=r"cannot download https://download.pytorch.org/.*host is not found"
    ):
        make("torchvision", weights="DEFAULT")
    with pytest.raises(WeightsError, match="cannot download the weights of 'resnet18.a2_in1k'"):
        make("timm", model="resnet18.a2_in1k", weights="default")
    assert capfd.readouterr() == ("", "")


def count(continuation: Any) -> int:
    return sum(parameter.numel() for parameter in continuation.parameters())


@pytest.mark.parametrize("kind", ["torchvision", "timm"])
def test_what_follows_a_stage_is_cut_out_of_the_graph(kind: str) -> None:
    base = make(kind).requires_grad_(False)
    assert [block.name for block in base.blocks()[3:5]] == ["network.layer2.1", "network.layer3.0"]
    assert [block.after for block in base.blocks()] == [0, 0, 1, 1, 2, 2, 3, 3]
    assert [number for number, block in enumerate(base.blocks()) if not block.optional] == [2, 4, 6]
    with torch.no_grad():
        features = base({"image": torch.rand(2, 3, 64, 64)})
        whole = base.continued(2)
        assert torch.equal(whole(features.taps[2], {}), features.encoding)
    stages = [*base.network.layer3.parameters(), *base.network.layer4.parameters()]
    assert count(whole) == sum(parameter.numel() for parameter in stages)
    first = base.continued(2, [4, 6])
    assert count(first) == count(whole) - sum(
        parameter.numel()
        for stage in (base.network.layer3, base.network.layer4)
        for parameter in stage.get_submodule("1").parameters()
    )


def test_a_resnet_50_of_torchvision_has_taps_inside_its_blocks_unless_asked_for_others() -> None:
    with pytest.raises(FitError, match="taps that work: 0, 4; choose the taps by --base.taps chain"):
        make("torchvision", model="resnet50").continued(1)
    base = make("torchvision", model="resnet50", taps="chain", encoding="vector")
    assert base.tap_shapes == ((64, 32, 32), (256, 16, 16), (512, 8, 8), (1024, 4, 4), (2048, 2, 2))
    with torch.no_grad():
        features = base({"image": torch.rand(2, 3, 64, 64)})
        assert torch.equal(base.continued(3)(features.taps[3], {}), features.encoding)


def test_a_vit_of_timm_continues_from_its_tokens() -> None:
    base = make("timm", size=160, model="test_vit", encoding="tokens").requires_grad_(False)
    depth = len(base.network.blocks)
    assert [block.after for block in base.blocks()] == list(range(-1, depth - 1))
    assert all(block.optional for block in base.blocks())
    image = torch.rand(2, 3, 160, 160)
    with torch.no_grad():
        features = base({"image": image})
        expected = base.network.forward_features((image - base.mean) / base.std)
        assert torch.equal(features.encoding, expected)
        for tap, tokens in enumerate(features.taps):
            assert torch.equal(base.continued(tap)(tokens, {}), expected)
    with pytest.raises(FitError, match="use --base.encoding tokens"):
        make("timm", size=160, model="test_vit", encoding="map").continued(0)
    with pytest.raises(FitError, match="'resnet18' has no tokens"):
        make("timm", encoding="tokens")


def test_maps_with_channels_last_are_turned_around() -> None:
    base = make("timm", size=224, model="swin_tiny_patch4_window7_224")
    with torch.no_grad():
        features = base({"image": torch.rand(1, 3, 224, 224)})
        assert torch.equal(base.continued(2)(features.taps[2], {}), features.encoding)
