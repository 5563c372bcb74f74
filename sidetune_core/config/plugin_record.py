"""Which plugins a run was made with: recorded in ``run.json``, and compared when the run is used again.

``plugins`` of ``run.json`` has the component of each slot when the run began. Each entry of ``segments`` has
those with which it was resumed later, if any had changed, and from which task and step on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from sidetune_core.config.inventory import LOCAL, Plugin
from sidetune_core.config.plugin_source import source_digest


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
        """What installs it; empty for code in the current folder."""
        if self.distribution == LOCAL:
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
    """The plugins of a run from some point on."""

    plugins: Mapping[str, PluginRecord]
    """By slot."""
    task: str = ""
    """The task that was under way or next; empty at the start of the run."""
    step: int = 0

    def to_json(self) -> dict[str, Any]:
        """Plain values for ``run.json``."""
        plugins = {slot: record.to_json() for slot, record in self.plugins.items()}
        return {"task": self.task, "step": self.step, "plugins": plugins}


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
        Segment(
            _read_plugins(segment.get("plugins"), names), str(segment.get("task", "")), segment.get("step", 0)
        )
        for segment in (about, *(later if isinstance(later, Sequence) else ()))
        if isinstance(segment, Mapping)
    ]


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
    """What a run has noted about plugins: other ones than its spec was recorded with, and later changes."""
    noted = about.get("spec_changes")
    lines = [str(line) for line in noted] if isinstance(noted, list) else []
    return [*lines, *segment_lines(read_segments(about))]


def segment_lines(segments: Sequence[Segment]) -> list[str]:
    """A line for each component that changed during a run: ``from task t1, step 40 on, learner …``."""
    lines = []
    for before, segment in zip(segments, segments[1:], strict=False):
        step = f", step {segment.step}" if segment.step else ""
        for change in changes(before.plugins, segment.plugins):
            lines.append(f"from task {segment.task}{step} on, {change}")
    return lines


def _read_plugins(values: Any, names: Mapping[str, str]) -> dict[str, PluginRecord]:
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


def _table(values: Any) -> Mapping[str, Any]:
    return values if isinstance(values, Mapping) else {}
