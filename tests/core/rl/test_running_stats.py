"""Running mean and variance are those of all rows at once."""

from __future__ import annotations

import json

import numpy as np
import torch

from sidetune_core.rl.running_stats import RunningMeanStd


def test_batches_give_the_statistics_of_all_rows() -> None:
    rows = np.random.default_rng(0).normal(1e3, 2.0, (100, 3))
    statistics = RunningMeanStd.of((3,))
    for batch in np.split(rows, [1, 10, 64]):
        statistics.update(torch.from_numpy(batch))
    np.testing.assert_allclose(statistics.mean.numpy(), rows.mean(0), rtol=1e-12)
    np.testing.assert_allclose(statistics.variance.numpy(), rows.var(0), rtol=1e-9)
    found = statistics.standardised(torch.from_numpy(rows)).numpy()
    np.testing.assert_allclose(found, (rows - rows.mean(0)) / rows.std(0), atol=1e-5)


def test_outliers_are_clipped_and_a_variance_of_zero_is_no_error() -> None:
    statistics = RunningMeanStd.of((1,))
    statistics.update(torch.tensor([[5.0], [5.0]]))
    assert statistics.standardised(torch.tensor([[5.0], [6.0], [-6.0]])).tolist() == [[0.0], [10.0], [-10.0]]


def test_the_state_survives_json_without_loss() -> None:
    statistics = RunningMeanStd.of((2,))
    statistics.update(torch.randn(7, 2, generator=torch.Generator().manual_seed(0)))
    restored = RunningMeanStd.from_state(json.loads(json.dumps(statistics.state())))
    assert torch.equal(restored.mean, statistics.mean)
    assert torch.equal(restored.squares, statistics.squares)
    assert restored.count == 7
