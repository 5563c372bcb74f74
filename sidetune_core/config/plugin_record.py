"""What a run was made with: recorded in ``run.json``, and compared when the run is used again.

``plugins`` of ``run.json`` has the component of each slot when the run began, ``versions``, ``threads`` and
others the conditions. Each entry of ``segments`` has those with which it was resumed later, if any had
changed, and from which task and step on.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from sidetune_core.config.identity import Identity, condition_changes
from sidetune_core.config.inventory import LOCAL, Plugin
from sidetune_core.config.plugin_source import source_digest

PACKAGE = r"[A-Za-z0-9][\w.-]*==[\w.+!-]*"
"""A distribution and its version, of which a command to paste is made; a file could say anything."""


@attrs.frozen
class PluginRecord:
    """A component as it was when a run, or a segment of it, began."""

    slot: str
    name: str
    """The name that is unique among all packages: ``acme-sidetune/sparse``."""
    distribution: str
    version: str
    target: str
    source: str = ""
    """See `plugin_source`; empty in runs of earlier versions."""

    @property
    def title(self) -> str:
        """``learner 'sparse'``"""
        return f"{self.slot} '{self.name.rpartition('/')[2]}'"

    @property
    def origin(self) -> str:
        """``acme-sidetune 1.0``"""
        return f"{self.distribution} {self.version}".rstrip()

    @property
    def install_command(self) -> str:
        """What installs it; empty for code in the current folder, and for what is no name of a package."""
        if self.distribution == LOCAL or not re.fullmatch(PACKAGE, f"{self.distribution}=={self.version}"):
            return ""
        version = f"=={self.version}" if self.version else ""
        return f"pip install '{self.distribution}{version}'"

    def to_json(self) -> dict[str, str]:
        """Plain values for ``run.json``."""
        return {
            "name": self.name,
            "distribution": self.distribution,
            "version": self.version,
            "class": self.target,
            "source": self.source,
        }


@attrs.frozen
class PluginChange:
    """A component that is not the one that a run was made with."""

    recorded: PluginRecord
    present: PluginRecord

    @property
    def source_changed(self) -> bool:
        """Whether its source is known to differ."""
        sources = (self.recorded.source, self.present.source)
        return all(sources) and sources[0] != sources[1]

    def __str__(self) -> str:
        before, now = self.recorded.origin, self.present.origin
        versions = f"{before} → {now}" if before != now else now
        if self.source_changed:
            return f"{self.recorded.title}: {versions}, with other source"
        known = self.recorded.source and self.present.source
        return (
            f"{self.recorded.title}: {versions}, {'with the same source' if known else 'source not recorded'}"
        )

    @property
    def remedy(self) -> str:
        """How to get the recorded one back."""
        if self.recorded.version != self.present.version and self.recorded.install_command:
            return self.recorded.install_command
        source = self.recorded.target.partition(":")[0] if self.recorded.distribution == LOCAL else ""
        return f"restore the source of {source or self.recorded.origin} that the run was made with"


@attrs.frozen
class Segment:
    """What a run was made with from some point on."""

    plugins: Mapping[str, PluginRecord]
    """By slot."""
    task: str = ""
    """The task that was under way or next; empty at the start of the run."""
    step: int = 0
    data: str = ""
    """See `Identity`, as for what follows; empty or 0 if unknown."""
    versions: Mapping[str, str] = attrs.field(factory=dict)
    threads: int = 0
    processes: int = 0
    machine: str = ""
    accepted: tuple[str, ...] = ()
    """How spec and data differ from those of the segment before, which was accepted, in lines."""
    spec: Mapping[str, Any] | None = None
    """The resolved spec, if it differs from that of the segment before."""
    tasks: Sequence[Mapping[str, str]] | None = None
    """See `Identity`, if they differ from those of the segment before."""
    higher_is_better: bool | None = None
    extensions: Sequence[Mapping[str, Any]] | None = None
    """See `Identity`, if they differ from those of ``run.json``."""

    def to_json(self) -> dict[str, Any]:
        """Plain values for ``run.json``."""
        values = attrs.asdict(self, recurse=False)
        if self.extensions is None:
            del values["extensions"]
        values["plugins"] = {slot: record.to_json() for slot, record in self.plugins.items()}
        return values


def segment_of(identity: Identity) -> Segment:
    """What a checkpoint was made with, or what a run would continue with."""
    return Segment(
        plugins=read_plugins(identity.plugins, {}),
        data=identity.data,
        versions=identity.versions,
        threads=identity.threads,
        processes=identity.processes,
        machine=identity.machine,
        spec=identity.spec,
        tasks=identity.tasks,
        higher_is_better=identity.higher_is_better,
        extensions=identity.extensions,
    )


def add_segment(about: dict[str, Any], segment: Segment) -> None:
    """Add to ``run.json`` a segment that differs from the one before in its conditions only; it replaces one
    that began at the same step."""
    added = attrs.evolve(segment, spec=None, tasks=None, higher_is_better=None, extensions=None).to_json()
    segments = list(about.get("segments", ()))
    if segments and (segments[-1]["task"], segments[-1]["step"]) == (segment.task, segment.step):
        added = {**segments.pop(), "threads": segment.threads}
    about["segments"] = [*segments, added]


def make_record(slot: str, plugin: Plugin) -> PluginRecord:
    """The record of an installed plugin."""
    name = plugin.name if plugin.distribution == LOCAL else f"{plugin.distribution}/{plugin.name}"
    return PluginRecord(slot, name, plugin.distribution, plugin.version, plugin.target, source_digest(plugin))


def read_segments(about: Mapping[str, Any]) -> list[Segment]:
    """The segments of a run, at least one; `about` is its ``run.json``, of any version. What is damaged is
    left out."""
    names = {
        slot: str(component.get("name"))
        for slot, component in _table(about.get("resolved")).items()
        if isinstance(component, Mapping)
    }
    later = about.get("segments")
    return [
        _read_segment(segment, names)
        for segment in (about, *(later if isinstance(later, Sequence) else ()))
        if isinstance(segment, Mapping)
    ]


def _read_segment(values: Mapping[str, Any], names: Mapping[str, str]) -> Segment:
    accepted, spec, extensions = (values.get(key) for key in ("accepted", "spec", "extensions"))
    return Segment(
        plugins=read_plugins(values.get("plugins"), names),
        task=str(values.get("task", "")),
        step=_count(values.get("step")),
        data=str(values.get("data", "")),
        versions={str(name): str(version) for name, version in _table(values.get("versions")).items()},
        threads=_count(values.get("threads")),
        processes=_count(values.get("processes")),
        machine=str(values.get("machine", "")),
        accepted=tuple(map(str, accepted)) if isinstance(accepted, list) else (),
        spec=spec if isinstance(spec, Mapping) else None,
        extensions=extensions if isinstance(extensions, list) else None,
    )


def changes(recorded: Mapping[str, PluginRecord], present: Mapping[str, PluginRecord]) -> list[PluginChange]:
    """The components of which the version or the source differs, in the slots that both have."""
    found = []
    for slot, before in recorded.items():
        now = present.get(slot)
        if now is not None:
            change = PluginChange(before, now)
            if change.source_changed or before.version != now.version:
                found.append(change)
    return found


def recorded_changes(about: Mapping[str, Any]) -> list[str]:
    """What a run has noted: other plugins or conditions than its spec was recorded with, and later
    changes."""
    noted = about.get("spec_changes")
    lines = [str(line) for line in noted] if isinstance(noted, list) else []
    segments = read_segments(about)
    return [*lines, *segment_lines(segments), *condition_lines(segments)]


def segment_lines(segments: Sequence[Segment]) -> list[str]:
    """A line for each component, and for each accepted difference of spec or data, that changed during a run:
    ``from task t1, step 40 on, learner …``."""
    lines = []
    for before, segment in zip(segments, segments[1:], strict=False):
        changed = [*map(str, changes(before.plugins, segment.plugins)), *segment.accepted]
        lines += [f"{since(segment)}, {change}" for change in changed]
    return lines


def condition_lines(segments: Sequence[Segment]) -> list[str]:
    """A line for each time that the conditions changed during a run: ``from task t1 on, threads 4 → 2``."""
    pairs = zip(segments, segments[1:], strict=False)
    changed = [(segment, condition_changes(before, segment)) for before, segment in pairs]
    return [f"{since(segment)}, {', '.join(found)}" for segment, found in changed if found]


def since(segment: Segment) -> str:
    """``from task t1, step 40 on``"""
    return f"from task {segment.task}{f', step {segment.step}' if segment.step else ''} on"


def read_plugins(values: Any, names: Mapping[str, str]) -> dict[str, PluginRecord]:
    """Records by slot from plain values of any version; `names` has the names that an earlier one left
    out."""
    records = {}
    for slot, entry in _table(values).items():
        if not isinstance(entry, Mapping):
            continue
        distribution, version = str(entry.get("distribution", "")), entry.get("version")
        if version is None:  # 'acme-sidetune 1.0', in runs of earlier versions
            distribution, _, version = distribution.partition(" ")
        records[slot] = PluginRecord(
            slot,
            str(entry.get("name", names.get(slot, ""))),
            distribution,
            str(version),
            str(entry.get("class", "")),
            str(entry.get("source", "")),
        )
    return records


def _count(value: Any) -> int:
    return value if isinstance(value, int) else 0


def _table(values: Any) -> Mapping[str, Any]:
    return values if isinstance(values, Mapping) else {}
