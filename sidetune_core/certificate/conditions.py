"""What the last bits of outputs depend on besides the learner: processor, device, libraries, threads."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import metadata
from typing import Any

import attrs
import torch

from sidetune_core.certificate.probes import ROUNDING
from sidetune_core.config.identity import Identity
from sidetune_core.system.device import Machine, processor

COMPUTING = ("torch", "numpy")
"""The libraries that compute outputs."""


@attrs.frozen
class Conditions:
    """The conditions under which outputs were computed; empty strings and 0 where they are not recorded."""

    machine: str
    """Device, precision and memory layout."""
    processor: str
    threads: int
    versions: Mapping[str, str]
    """Of Python and `COMPUTING`."""

    @property
    def precision(self) -> str:
        """A key of `ROUNDING`, the coarser one if it is not recorded."""
        words = self.machine.split(", ")
        return next((name for name in ROUNDING if name in words), "bf16")

    def differences(self, present: Conditions) -> list[str]:
        """What differs now, or is not recorded: ``torch 2.11.0 (now 2.12.0)``."""
        pairs = [
            ("device", self.machine, present.machine),
            ("processor", self.processor, present.processor),
            ("threads", str(self.threads or ""), str(present.threads)),
            *((name, self.versions.get(name, ""), present.versions[name]) for name in present.versions),
        ]
        return [
            f"{name} {before} (now {now})" if before else f"{name} unrecorded"
            for name, before, now in pairs
            if before != now or not before
        ]


def conditions(machine: Machine) -> Conditions:
    """Those of this process."""
    versions = {"python": platform.python_version(), **{name: metadata.version(name) for name in COMPUTING}}
    return Conditions(str(machine), processor(), torch.get_num_threads(), versions)


def of_run(about: Mapping[str, Any], identity: Identity | None, processor: str) -> Conditions:
    """Those of a run's newest checkpoint, or of its ``run.json`` where the checkpoint has none."""
    machine, threads, versions = (
        (identity.machine, identity.threads, identity.versions)
        if identity is not None
        else (about.get("machine"), about.get("threads"), about.get("versions"))
    )
    return Conditions(
        str(machine or ""),
        processor,
        threads if isinstance(threads, int) else 0,
        versions if isinstance(versions, Mapping) else {},
    )


@contextmanager
def running_as(recorded: Conditions) -> Iterator[None]:
    """Compute with the number of threads of a run, as far as this computer has as many processors."""
    threads = torch.get_num_threads()
    if 0 < recorded.threads <= (os.cpu_count() or 1):
        torch.set_num_threads(recorded.threads)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
