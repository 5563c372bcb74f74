"""Keypoints and occlusion edges as heat maps: a linear probe on the base is better than a constant."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from sidetune_plugins.envs.rooms.heatmaps import THIN, heat_map
from torch import Tensor
from torch.nn import functional

from sidetune_core.config.kinds import BASE, ENV
from sidetune_core.config.registry import find, load

ROOMS = {"num_images": 48, "num_test_images": 24, "image_size": 64, "decoder_width": 16, "domains": THIN}
PIXELS = 10_000


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


def tasks(home: Path, monkeypatch: pytest.MonkeyPatch, **options: Any) -> Any:
    monkeypatch.setenv("SIDETUNE_HOME", str(home))
    cls = load(find(ENV, "rooms"))
    env, lines = cls(cls.Config(**ROOMS, **options), 0), []
    env.info = lines.append
    return env.tasks(), " ".join(lines)


def pixels(task: Any, split: str, base: Any) -> tuple[Tensor, Tensor]:
    """Features of the first two taps, and targets, of some valid pixels: (P, C) and (P,)."""
    rows = task._frames.rows[split]
    batch = task._batch(rows)
    with torch.no_grad():
        taps = base(batch.inputs.tensors).taps[:2]
    maps = [functional.interpolate(tap, size=[64, 64], mode="bilinear") for tap in taps]
    valid = batch.targets[:, 1] > 0
    features = torch.cat([*maps, torch.ones(len(rows), 1, 64, 64)], 1).permute(0, 2, 3, 1)[valid]
    chosen = torch.randperm(len(features), generator=torch.Generator().manual_seed(0))[:PIXELS]
    return features[chosen].double(), batch.targets[:, 0][valid][chosen].double()


def l1_regression(features: Tensor, targets: Tensor) -> Tensor:
    """The weights that minimise l1, by iteratively reweighted least squares."""
    weight, ridge = torch.ones_like(targets), 1e-3 * torch.eye(features.shape[1], dtype=features.dtype)
    for _ in range(20):
        weighted = features * weight[:, None]
        solution = torch.linalg.solve(weighted.T @ features + ridge, weighted.T @ targets)
        weight = 1 / (targets - features @ solution).abs().clamp(min=1e-3)
    return solution


@pytest.mark.parametrize(("sigma", "low", "high"), [(0.0, 0.98, 1.1), (2.0, 0.0, 0.95)])
def test_a_linear_probe_is_better_than_a_constant_on_heat_maps_alone(
    sigma: float, low: float, high: float, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, lines = tasks(home, monkeypatch, heatmap_sigma=sigma)
    assert ("--env.heatmap-sigma 2" in lines) is (sigma == 0)
    cls = load(find(BASE, "taskonomy"))
    base = cls(cls.Config(width=10, weights="packaged"), made[0].inputs).eval()
    for task in made:
        features, targets = pixels(task, "train", base)
        solution = l1_regression(features, targets)
        test_features, test_targets = pixels(task, "test", base)
        constant = (test_targets - targets.median()).abs().mean()
        probe = (test_targets - test_features @ solution).abs().mean()
        assert low < float(probe / constant) < high


def test_a_heat_map_is_the_scaled_gaussian_around_a_point() -> None:
    responses = torch.zeros(1, 1, 64, 64, dtype=torch.int32)
    responses[0, 0, 32, 32] = 65535
    row = heat_map(responses.to(torch.uint16), 2.0)[0, 0, 32].float()
    offsets = torch.arange(64) - 32.0
    gaussian = torch.exp(-offsets.square() / 8)
    total = torch.exp(-torch.arange(-6, 7.0).square() / 8).sum()
    expected = 3 * 65535 * gaussian / total**2
    torch.testing.assert_close(row[26:39], expected[26:39], rtol=1e-3, atol=1)
