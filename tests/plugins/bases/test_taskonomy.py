"""The Taskonomy encoder: size, keys, maps, and weights of the published form."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from sidetune_core.api import FitError, OptionError, WeightsError
from sidetune_core.config.kinds import BASE
from sidetune_core.config.registry import find, load


def make(size: int = 64, **options: Any) -> Any:
    cls = load(find(BASE, "taskonomy"))
    return cls(cls.Config(**{"width": 4, **options}), {"image": (3, size, size)})


def test_it_has_the_published_number_of_parameters_and_buffers() -> None:
    with torch.device("meta"):
        base = make(256, width=64)
    assert sum(parameter.numel() for parameter in base.parameters()) == 23_655_504
    assert sum(buffer.numel() for buffer in base.buffers()) == 53_190
    assert base.shape == (8, 16, 16)
    assert base.tap_shapes == ((256, 32, 32), (512, 16, 16), (1024, 16, 16), (2048, 16, 16))


def test_its_keys_are_those_of_the_published_bank() -> None:
    norm = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    expected = {"conv1.weight", "compress1.weight"} | {
        f"{name}.{part}" for name in ("bn1", "compress_bn") for part in norm
    }
    for stage, blocks in enumerate((3, 4, 6, 3), 1):
        for block in range(blocks):
            for k in (1, 2, 3):
                expected |= {
                    f"layer{stage}.{block}.conv{k}.weight",
                    *(f"layer{stage}.{block}.bn{k}.{part}" for part in norm),
                }
        expected |= {
            f"layer{stage}.0.downsample.0.weight",
            *(f"layer{stage}.0.downsample.1.{part}" for part in norm),
        }
    assert set(make().state_dict()) == expected


@pytest.mark.parametrize("size", [32, 33, 50, 64, 100, 128])
def test_declared_shapes_hold_at_any_size(size: int) -> None:
    base = make(size, width=2).eval()
    features = base({"image": torch.rand(1, 3, size, size)})
    assert tuple(features.encoding.shape[1:]) == base.shape
    assert tuple(tuple(tap.shape[1:]) for tap in features.taps) == base.tap_shapes


def test_the_stride_of_a_stage_is_in_its_last_block() -> None:
    base = make()
    strides = [
        [block.conv2.stride[0] for block in stage]
        for stage in (base.layer1, base.layer2, base.layer3, base.layer4)
    ]
    assert strides == [[1, 1, 2], [1, 1, 1, 2], [1] * 6, [1] * 3]


def test_a_file_of_the_banks_form_fills_it(tmp_path: Path) -> None:
    base = make()
    torch.save({"state_dict": base.state_dict(), "epoch": 3}, tmp_path / "curvature_encoder.dat")
    image = {"image": torch.rand(2, 3, 64, 64)}
    assert torch.equal(
        make(weights=str(tmp_path / "curvature_encoder.dat")).eval()(image).encoding,
        base.eval()(image).encoding,
    )
    with pytest.raises(WeightsError, match="state_dict mismatch"):
        make(width=8, weights=str(tmp_path / "curvature_encoder.dat"))


def test_small_images_and_unknown_domains_are_refused() -> None:
    with pytest.raises(FitError, match="at least 32"):
        make(31)
    with pytest.raises(OptionError, match="has no encoder of 'taste'"):
        make(domain="taste")


def test_at_full_width_and_size_the_maps_have_the_published_shapes() -> None:
    base = make(256, width=64).eval()
    with torch.no_grad():
        features = base({"image": torch.rand(1, 3, 256, 256)})
    assert tuple(features.encoding.shape) == (1, 8, 16, 16)
    assert [tuple(tap.shape) for tap in features.taps] == [
        (1, 256, 32, 32),
        (1, 512, 16, 16),
        (1, 1024, 16, 16),
        (1, 2048, 16, 16),
    ]
    assert all(
        bool(maps.isfinite().all()) and float(maps.std()) > 0 for maps in (features.encoding, *features.taps)
    )


def test_the_packaged_weights_are_those_of_their_card_and_fit_no_other_width() -> None:
    file = (
        Path(sys.modules[type(make()).__module__].__file__ or "").parent
        / "weights"
        / "taskonomy-rooms.safetensors"
    )
    assert hashlib.sha256(file.read_bytes()).hexdigest() in file.with_suffix(".md").read_text(
        encoding="utf-8"
    )
    base = make(64, width=10, weights="packaged").eval()
    assert base.conv1.weight.dtype == torch.float32
    with pytest.raises(WeightsError, match="state_dict mismatch"):
        make(64, width=16, weights="packaged")
