"""Running mean and variance are those of all rows at once."""

from __future__ import annotations

import json

import numpy as np
import torch

from sidetune_core.rl.running_stats import RunningMeanStd


def test_in_parts_the_moments_are_those_of_the_whole() -> None:
    rows = np.random.default_rng(0).normal(1e3, 2.0, (100, 3))
    moments = RunningMeanStd.of((3,))
    for part in np.split(rows, [1, 10, 64]):
        moments.see(torch.from_numpy(part))
    np.testing.assert_allclose(moments.mean.numpy(), rows.mean(0), rtol=1e-12)
    np.testing.assert_allclose(moments.variance.numpy(), rows.var(0), rtol=1e-9)
    found = moments.standardised(torch.from_numpy(rows)).numpy()
    np.testing.assert_allclose(found, (rows - rows.mean(0)) / rows.std(0), atol=1e-5)


def test_far_values_are_clipped_and_nothing_is_divided_by_zero() -> None:
    moments = RunningMeanStd.of((1,))
    moments.see(torch.tensor([[5.0], [5.0]]))
    assert moments.standardised(torch.tensor([[5.0], [6.0], [-6.0]])).tolist() == [[0.0], [10.0], [-10.0]]


def test_the_state_goes_through_json_without_loss() -> None:
    moments = RunningMeanStd.of((2,))
    moments.see(torch.randn(7, 2, generator=torch.Generator().manual_seed(0)))
    again = RunningMeanStd.from_state(json.loads(json.dumps(moments.state())))
    assert torch.equal(again.mean, moments.mean)
    assert torch.equal(again.squares, moments.squares)
    assert again.count == 7
