"""What the last bits of outputs depend on besides the learner: processor, device, libraries, threads."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import metadata
from typing import Any

import attrs
import torch

from sidetune_core.certificate.probes import ROUNDING
from sidetune_core.certificate.record import TaskRecord
from sidetune_core.config.identity import Identity, condition_changes
from sidetune_core.system.device import Machine, processor, recorded_precisions

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
        precisions = recorded_precisions(self.machine)
        is_fine = precisions is not None and precisions.base == precisions.trained == "fp32"
        return "fp32" if is_fine else "bf16"

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


@attrs.frozen
class History:
    """The conditions of a run after each of its stages, which differ where it was resumed under others.

    Both are by number of trained tasks, and lack what is not known.
    """

    identities: Mapping[int, Identity | None]
    processors: Mapping[int, str]

    def changes(self, after: int) -> list[str]:
        """What changed after a stage, until the last one: ``machine 'cpu, bf16' → 'cpu, fp32'``."""
        first, found = self.identities.get(after), list[str]()
        for count, identity in self.identities.items():
            if count > after and first is not None and identity is not None:
                found += condition_changes(first, identity)
        own = self.processors.get(after, "")
        found += [
            f"processor {own} → {other}"
            for count, other in self.processors.items()
            if count > after and own and other and other != own
        ]
        return list(dict.fromkeys(found))

    def rounding(self, after: int, now: float) -> float:
        """See `probes.ROUNDING`: of the coarser precision, that of a stage or the present one."""
        identity = self.identities.get(after)
        return now if identity is None else max(now, ROUNDING[of_run({}, identity, "").precision])


def history(
    records: Sequence[TaskRecord], identities: Mapping[int, Identity | None], processors: Mapping[int, str]
) -> History:
    """The history of a run.

    Args:
        records: of its tasks, which have the processors of their stages.
        identities: by number of trained tasks.
        processors: those that are known otherwise.
    """
    return History(identities, {record.after: record.processor for record in records} | dict(processors))


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
