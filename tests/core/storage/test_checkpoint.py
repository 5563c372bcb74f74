"""What a checkpoint records besides tensors."""

from __future__ import annotations

import errno
import math
import os
from pathlib import Path
from typing import Any

import pytest
import safetensors
import torch
from torch import nn

from sidetune_core.config.identity import Identity
from sidetune_core.errors import RunError
from sidetune_core.storage import checkpoint
from sidetune_core.storage.checkpoint import MidTaskState

IDENTITY = Identity({"seed": 0}, "0a1b", [], True, {}, {"torch": "2.11.0"}, 1, 1, "cpu")


def save(folder: Path) -> Path:
    return checkpoint.save(folder, nn.Linear(1, 1), ["t0"], {}, {}, IDENTITY)


def test_a_checkpoint_after_a_task_has_the_identity_of_the_run(tmp_path: Path) -> None:
    assert checkpoint.read(save(tmp_path)).identity == IDENTITY


def test_a_checkpoint_within_a_task_has_the_identity_of_the_run(tmp_path: Path) -> None:
    checkpoint.save_mid_task(tmp_path, nn.Linear(1, 1), [], {}, {}, IDENTITY, MidTaskState(["t0"], 1, {}))
    found = checkpoint.find(tmp_path, pytest.fail)
    assert found is not None
    assert found.identity == IDENTITY


def test_an_altered_identity_makes_a_checkpoint_invalid(tmp_path: Path) -> None:
    path = save(tmp_path).with_suffix(".json")
    path.write_text(path.read_text(encoding="utf-8").replace("0a1b", "0a1c"), encoding="utf-8")
    warnings: list[str] = []
    assert checkpoint.find(tmp_path, warnings.append) is None
    assert "SHA-256" in warnings[0]


@pytest.mark.parametrize("suffix", [".json", ".safetensors"])
def test_a_checkpoint_that_cannot_be_read_at_present_is_not_taken_for_damaged(
    suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, opened = save(tmp_path).with_suffix(suffix), Path.open

    def fail(path: Path, *rest: Any) -> Any:
        if path == file:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return opened(path, *rest)

    monkeypatch.setattr(Path, "open", fail)
    with pytest.raises(RunError, match=f"cannot read {file}: Too many open files; nothing was changed"):
        checkpoint.find(tmp_path, pytest.fail)


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("unable to mmap"), OSError("no locks")])
def test_a_checkpoint_that_cannot_be_loaded_at_present_is_not_taken_for_damaged(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    save(tmp_path)
    monkeypatch.setattr(safetensors, "safe_open", fail)
    with pytest.raises(RunError, match=r"cannot read .*after-001.safetensors: (not enough|un|no l)"):
        checkpoint.find(tmp_path, pytest.fail)


def test_the_latest_checkpoint_is_that_of_the_largest_number(tmp_path: Path) -> None:
    for count in (998, 999, 1000):
        checkpoint.save(tmp_path, nn.Linear(1, 1), [f"t{k}" for k in range(count)], {}, {})
    assert checkpoint.latest(tmp_path) == checkpoint.boundary(tmp_path, 1000)
    found = checkpoint.find(tmp_path, pytest.fail)
    assert found is not None
    assert len(found.done) == 1000


@pytest.mark.parametrize("within", [False, True], ids=["after a task", "within a task"])
def test_the_state_of_tasks_may_hold_tensors_and_any_number(within: bool, tmp_path: Path) -> None:
    states = {"t0": {"seen": torch.arange(3), "best": -math.inf, "by class": {1: [0.5, torch.ones(2)]}}}
    learner = nn.Linear(1, 1)
    if within:
        checkpoint.save_mid_task(tmp_path, learner, [], {}, states, None, MidTaskState(["t0"], 1, {}))
    else:
        checkpoint.save(tmp_path, learner, ["t0"], {}, states)
    back = checkpoint.find(tmp_path, pytest.fail)
    assert back is not None
    assert back.state.keys() == learner.state_dict().keys()
    seen, best, by_class = (back.tasks["t0"][name] for name in ("seen", "best", "by class"))
    assert (seen.tolist(), best) == ([0, 1, 2], -math.inf)
    assert (by_class[1][0], by_class[1][1].tolist()) == (0.5, [1, 1])
