"""What an import changes in the process is noticed, and restored for the run."""

from __future__ import annotations

import logging
import os
import random
import signal
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from sidetune_core.config.process_state import (
    changed_settings,
    interrupts_noted,
    process_kept_alive,
    process_state_kept,
    settings,
)

CHANGES = {
    "the current folder": "os.chdir('/')",
    "signal handlers": "signal.signal(signal.SIGTERM, signal.SIG_IGN)",
    "filters of all warnings": "warnings.simplefilter('error')",
    "the settings of logging": "logging.disable(logging.CRITICAL)",
    "the default type of tensors": "torch.set_default_dtype(torch.float64)",
    "the default device": "torch.set_default_device('meta')",
    "the number of threads": "torch.set_num_threads(torch.get_num_threads() + 1)",
    "the gradient mode": "torch.set_grad_enabled(False)",
    "the precision of matrix products": "torch.set_float32_matmul_precision('high')",
    "deterministic algorithms": "torch.use_deterministic_algorithms(True)",
    "the settings of cuDNN": "torch.backends.cudnn.benchmark = True",
}
NAMES = {"os": os, "signal": signal, "warnings": warnings, "logging": logging, "torch": torch}


def test_every_setting_has_a_change_here() -> None:
    assert settings().keys() == CHANGES.keys()


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_is_noticed_and_restored(name: str) -> None:
    before = {known: setting.read() for known, setting in settings().items()}
    with process_state_kept():
        exec(CHANGES[name], dict(NAMES))
        assert changed_settings(before) == [name]
    assert changed_settings(before) == []


def test_random_states_are_restored() -> None:
    def draws() -> tuple[float, ...]:
        return random.random(), float(np.random.rand()), float(torch.rand(()))

    random.seed(3), np.random.seed(3), torch.manual_seed(3)
    expected = draws()
    random.seed(3), np.random.seed(3), torch.manual_seed(3)
    with process_state_kept():
        draws()
    assert draws() == expected


def test_a_filter_of_one_category_is_left_to_the_library_that_sets_it() -> None:
    with warnings.catch_warnings():
        with process_state_kept():
            warnings.simplefilter("ignore", ResourceWarning)
        assert any(entry[2] is ResourceWarning and entry[0] == "ignore" for entry in warnings.filters)


def test_a_folder_that_no_longer_exists_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "gone"
    folder.mkdir()
    monkeypatch.chdir(folder)
    folder.rmdir()
    with process_state_kept():
        pass


def test_an_exit_of_the_process_becomes_an_exception() -> None:
    with pytest.raises(SystemExit, match=r"os\._exit\(3\)"), process_kept_alive():
        os._exit(3)


@pytest.fixture
def ctrl_c_raises() -> Iterator[None]:
    """Python's own handler, which a process in the background of a shell does not have."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("ctrl_c_raises")
def test_ctrl_c_is_told_from_code_that_raises_its_exception() -> None:
    with pytest.raises(KeyboardInterrupt), interrupts_noted() as received:
        os.kill(os.getpid(), signal.SIGINT)
    assert received == [signal.SIGINT]
    with pytest.raises(KeyboardInterrupt), interrupts_noted() as received:
        raise KeyboardInterrupt
    assert received == []
