"""Which data a run had, as far as comparisons of runs need it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import attrs

from sidetune_core.config.data_record import DataRecord, find
from sidetune_core.config.history import EXTENSIONS
from sidetune_core.config.plugin_record import read_segments


@attrs.frozen
class EnvData:
    """The data of one env of a run."""

    fingerprint: str = ""
    """Of all data that the env had in the course of the run; empty if unknown."""
    content: str = ""
    """The same of their contents, which do not depend on the seed; empty if unknown."""


def read_run_data(about: Mapping[str, Any], records: Sequence[DataRecord]) -> tuple[EnvData, ...]:
    """The data of each env of a run, in order.

    Args:
        about: ``run.json`` of the run, of any version.
        records: its ``data.json``.
    """
    segments = read_segments(about)
    extensions = about.get(EXTENSIONS)
    own = [extensions if isinstance(extensions, list) else [], *(segment.extensions for segment in segments)]
    histories = [[segment.data for segment in segments]]
    histories += [
        [str(listed[number].get("data", "")) for listed in own if listed is not None and len(listed) > number]
        for number in range(len(own[0] or ()))
    ]
    return tuple(_env_data(number, history, records) for number, history in enumerate(histories))


def _env_data(number: int, history: Iterable[str], records: Sequence[DataRecord]) -> EnvData:
    fingerprints = [fingerprint for fingerprint in dict.fromkeys(history) if fingerprint]
    found = [find(records, number, fingerprint) for fingerprint in fingerprints]
    contents = [record.content for record in found if record is not None and record.content]
    known = len(contents) == len(fingerprints)
    return EnvData("+".join(fingerprints), "+".join(contents) if known else "")


Comparison = Literal["same", "other", "unknown"]


def compare_data(one: Sequence[EnvData], other: Sequence[EnvData], same_seed: bool) -> Comparison:
    """Whether two runs of the same envs had the same data. With different seeds, fingerprints may differ
    because each run holds out examples of its own, so only contents tell.

    Envs without fingerprints, and runs of which nothing is known, count as the same.
    """
    result: Comparison = "same"
    for first, second in zip(one, other, strict=False):
        if not (first.fingerprint and second.fingerprint) or first.fingerprint == second.fingerprint:
            continue
        if first.content and second.content:
            if first.content != second.content:
                return "other"
        elif same_seed:
            return "other"
        else:
            result = "unknown"
    return result
