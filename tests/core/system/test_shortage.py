"""A lack of memory is a sentence that says what was allocated, and what to do."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from sidetune_core.system.shortage import ADVICE, describe_shortage, is_out_of_memory

LARGEST = 2**45


def error_of_torch() -> RuntimeError:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(LARGEST, dtype=torch.uint8)
    return caught.value


def error_of_numpy() -> MemoryError:
    with pytest.raises(MemoryError) as caught:
        np.empty(2**55, np.uint8)
    return caught.value


def test_the_size_that_pytorch_asked_for_is_reported() -> None:
    described = describe_shortage(error_of_torch())
    assert described is not None
    assert f"out of memory: {LARGEST / 1e6:,.0f} MB could not be allocated" in described
    assert described.endswith(f"; {ADVICE}")


def test_the_size_that_numpy_asked_for_is_reported() -> None:
    described = describe_shortage(error_of_numpy())
    assert described is not None
    assert "out of memory: 32.0 PiB could not be allocated" in described


def test_a_gpu_is_named() -> None:
    error = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has 79 GiB")
    described = describe_shortage(error)
    assert described is not None
    assert described.startswith("GPU out of memory: 20.00 MiB could not be allocated")


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("std::bad_alloc"),
        RuntimeError("can't start new thread"),
        RuntimeError("unable to mmap 96 bytes from file </x>: Cannot allocate memory (12)"),
        OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)),
    ],
)
def test_other_errors_about_memory_are_recognised(error: Exception) -> None:
    assert is_out_of_memory(error)
    assert describe_shortage(error) is not None


@pytest.mark.parametrize(
    "error",
    [RuntimeError("mat1 and mat2 shapes cannot be multiplied"), OSError(errno.EACCES, "denied"), KeyError()],
)
def test_errors_about_something_else_are_not(error: Exception) -> None:
    assert describe_shortage(error) is None


def test_a_full_disk_is_reported_by_the_system() -> None:
    assert describe_shortage(OSError(errno.ENOSPC, "No space left on device")) == "No space left on device"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="measures its address space in /proc")
def test_a_run_under_a_limit_of_memory_ends_in_a_sentence(image_archive: Path, tmp_path: Path) -> None:
    program = f"""
import resource, sys
import torch
from sidetune_core.cli.main import main_run
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 2**29, used + 2**29))
sys.exit(main_run([
    "--env", "images", "--env.archive", {str(image_archive)!r}, "--env.image-size", "2000",
    "--base", "conv", "--out", {str(tmp_path / "run")!r},
]))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    (last,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]  # libraries write too
    assert last.startswith("error: out of memory: ")
    assert "MB could not be allocated by sidetune_plugins." in last
    assert "(ulimit -v allows " in last
    assert last.endswith(f"; {ADVICE}")
