"""Resuming a run: what it was made with until its latest checkpoint, compared with what it would continue
with.

Another spec, other data or another source of a plugin are refused unless the user accepts them; other
versions, threads, devices and numbers of processes are reported. All of them begin a segment of the run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from sidetune_core.config.data_record import DataChange, DataRecord, data_change, find
from sidetune_core.config.history import (
    EXTENSIONS,
    FIRST_SPEC,
    WORDS,
    contradictions,
    in_identity,
    odd_statements,
    resume_call,
    same,
)
from sidetune_core.config.identity import (
    ROUNDING,
    Identity,
    as_plain,
    condition_changes,
    spec_changes,
    task_changes,
)
from sidetune_core.config.plugin_record import (
    PluginChange,
    Segment,
    changes,
    read_plugins,
    read_segments,
    segment_of,
    since,
)
from sidetune_core.config.resolve import ResolvedRun, resolve
from sidetune_core.config.spec import Trust
from sidetune_core.config.spec_file import from_values
from sidetune_core.errors import OptionError, RunError, SidetuneError
from sidetune_core.storage import checkpoint
from sidetune_core.storage.data_file import read_data
from sidetune_core.storage.run_folder import RunFolder, resume_command
from sidetune_core.training.changed_tasks import check_outputs, check_tasks
from sidetune_core.training.job import Job

ACCEPTABLE = ("spec", "data", "plugins")
"""What a user may accept to have changed."""

SWITCHES = {"data": "--allow-changed-data", "plugins": "--allow-changed-plugins"}
"""Options that accept one of them."""


@attrs.frozen
class Latest:
    """Where the latest checkpoint of a run is, and the identity of the run there."""

    done: int = 0
    """Number of finished tasks."""
    step: int = 0
    """Steps within the next task."""
    identity: Identity | None = None
    """None at the start of a run, and in runs of earlier versions."""


@attrs.frozen
class Differences:
    """How a segment differs from the one before, in lines; empty where that is unknown."""

    spec: Sequence[str]
    data: Sequence[DataChange]
    plugins: Sequence[PluginChange]
    conditions: Sequence[str]

    def __bool__(self) -> bool:
        return any(attrs.astuple(self, recurse=False))


def find_latest(folder: RunFolder) -> Latest:
    """The latest complete checkpoint; damaged ones are reported when it is loaded."""
    latest = checkpoint.find(folder.checkpoints, lambda text: None)
    if latest is None:
        return Latest()
    step = latest.mid_task.step if latest.mid_task is not None else 0
    return Latest(len(latest.done), step, latest.identity)


def check_acceptable(names: Sequence[str]) -> None:
    """Check what a user accepts to have changed.

    Raises:
        OptionError: it is none of `ACCEPTABLE`.
    """
    for name in names:
        if name not in ACCEPTABLE:
            raise OptionError(f"--allow-changed takes {', '.join(ACCEPTABLE)}, not {name!r}")


def planned(resolved: ResolvedRun, extensions: Sequence[Mapping[str, Any]] = ()) -> Segment:
    """What is known of a segment before its data is read.

    Args:
        resolved: the run.
        extensions: of the run, with their present plugins (see `Identity`).
    """
    spec = as_plain(resolved.to_spec().to_json())
    return Segment(resolved.plugin_records(), spec=spec, extensions=extensions)


class Continuation:
    """Compares and records what a run continues with.

    A segment that has left no checkpoint is replaced; what the user accepted for it stays accepted.

    Args:
        folder: of the run.
        about: its ``run.json``.
        latest: its latest checkpoint.
        allowed: what the user accepts to have changed, of `ACCEPTABLE`.
        trust_local_code: see `resume`.
        command: continues the run; None for the one that resumes it.
    """

    def __init__(
        self,
        folder: RunFolder,
        about: Mapping[str, Any],
        latest: Latest,
        allowed: Sequence[str],
        trust_local_code: Trust = False,
        command: str | None = None,
    ) -> None:
        self._trust, self._command = trust_local_code, command
        self._folder, self._about, self._latest, self._allowed = folder, dict(about), latest, allowed
        self._tasks = [str(task["id"]) for task in about["tasks"]]
        first, *later = read_segments(about)
        kept = [segment for segment in later if not self._is_replaced(segment)]
        self._kept = kept
        self._accepted = later[-1] if len(later) > len(kept) else None
        self._extensions = in_identity(about.get(EXTENSIONS))
        self._records = read_data(folder)
        self._read: Sequence[DataRecord] = ()
        identity = latest.identity
        before = segment_of(identity) if identity is not None else [first, *kept][-1]
        begun = list(before.extensions or ())
        self.before = attrs.evolve(before, extensions=[*begun, *self._extensions[len(begun) :]])
        """What the run was made with last."""

    @property
    def is_finished(self) -> bool:
        """Whether all tasks are trained, so that nothing is computed any more."""
        return self._latest.done == len(self._tasks)

    def threads(self, processes: int) -> int:
        """The number of threads of the run so far; 0 if unknown, or if another number of processes shares
        the processors."""
        return self.before.threads if self.before.processes == processes else 0

    def check(self, now: Segment, env: str, tasks: Sequence[str] = ()) -> None:
        """Check what is known of the next segment against the run so far.

        Args:
            now: what the run would continue with, with its spec.
            env: title of the env, for messages.
            tasks: how the properties of tasks differ, in lines.

        Raises:
            RunError: spec, data or plugins have changed, and this is not accepted.
        """
        if self.is_finished:
            return
        found = self._not_accepted(self._differences(self.before, now, env), now, env)
        path = self._folder.path
        if found.spec:
            what = f"the spec in {path / 'run.json'} is not that of the latest checkpoint"
            self._refuse("spec", f"{what}, {_joined(found.spec)}: restore it")
        if refused := [change for change in found.plugins if change.source_changed]:
            what = f"{path} was made with another plugin, {_joined(refused)}"
            self._refuse("plugins", f"{what}: {refused[0].remedy}")
        if found.data or tasks:
            self._refuse("data", f"{path} was made with other data{_shown(found.data, tasks)}: restore it")

    def check_statements(self) -> None:
        """Check that ``run.json`` states what the latest checkpoint has; its spec may be another one, which
        `check` compares.

        Raises:
            RunError: it was edited.
        """
        latest = self._latest
        if latest.identity is None:
            return
        found = contradictions(self._about, latest.identity, latest.done, latest.step)
        if not self.is_finished:
            found = [fact for fact in found if fact != WORDS["spec"]]
        edited = [line for line in odd_statements(self._about) if "resolved" not in line or self.is_finished]
        if found:
            edited.append(f"run.json has other {', '.join(found)} than the latest checkpoint")
        if edited:
            raise RunError(f"{self._folder.path}: {_joined(edited)}: restore run.json")

    def check_data(self, job: Job, env: str) -> None:
        """Check data and tasks, once they are read.

        Raises:
            RunError: the env has other tasks, or tasks have other outputs, or the data has changed and this
                is not accepted.
        """
        now = job.identity
        ids, component = [task["id"] for task in now.tasks], job.resolved.components["env"]
        check_tasks(self._folder, self._about, self._tasks, ids, component, self.is_finished)
        check_outputs(self._folder, job.tasks)
        self._read = job.data
        accepted = self._accepted.accepted if self._accepted is not None else ()
        tasks = [line for line in self._task_changes(now) if line not in accepted]
        self.check(segment_of(now), env, tasks)

    def record(self, job: Job, env: str) -> list[str]:
        """Record in ``run.json`` what the run continues with, if that has changed, and from where; returns it
        as lines.
        """
        now, self._read = job.identity, job.data
        segment = segment_of(now)
        found = self._differences(self.before, segment, env)
        tasks = self._task_changes(now)
        plugins = list(map(str, found.plugins))
        accepted = [*(f"spec {line}" for line in found.spec), *map(str, found.data), *tasks]
        if self.is_finished:
            return [
                *(f"another plugin is installed than the run was made with: {line}" for line in plugins),
                *(f"the run was made with another one: {line}" for line in accepted),
            ]
        segments = list(self._kept)
        spec_changed = not same(self.before.spec, segment.spec) and self.before.spec is not None
        if found or tasks or spec_changed:
            segment = attrs.evolve(
                segment,
                task=self._tasks[self._latest.done],
                step=self._latest.step,
                accepted=tuple(accepted),
                spec=segment.spec if spec_changed else None,
                tasks=segment.tasks if tasks else None,
                higher_is_better=segment.higher_is_better if tasks else None,
                extensions=None if same(segment.extensions, self._extensions) else segment.extensions,
            )
            segments.append(segment)
        if spec_changed:
            self._about.setdefault(FIRST_SPEC, self.before.spec)
        recorded = [one.to_json() for one in segments]
        if spec_changed or recorded != self._about.get("segments", []):
            self._about["segments"] = recorded
            self._folder.write_json("run.json", self._about)
        lines = [*plugins, *accepted]
        if found.conditions:
            lines.append(f"{', '.join(found.conditions)}; {ROUNDING}")
        return [f"{since(segment)}: {line}" for line in lines]

    def not_compared(self, now: Identity, env: str) -> list[str]:
        """What of the run so far is not known, in lines."""
        if self._latest.identity is None:
            if self._latest == Latest():  # nothing was computed
                return []
            return ["its checkpoint is of an earlier version: spec and data are not compared"]
        if now.data and self.before.data:
            return []
        return [f"{env} has no fingerprint of its data: only spec, tasks and plugins are compared"]

    def _task_changes(self, now: Identity) -> list[str]:
        before = self._latest.identity
        return task_changes(before, now) if before is not None else []

    def _not_accepted(self, found: Differences, now: Segment, env: str) -> Differences:
        """The differences that the user has not accepted for the segment that is replaced."""
        accepted = self._accepted
        if accepted is None:
            return found
        again = self._differences(accepted, now, env)
        return Differences(
            spec=found.spec if again.spec or accepted.spec is None else (),
            data=found.data if again.data else (),
            plugins=found.plugins if any(change.source_changed for change in again.plugins) else (),
            conditions=(),
        )

    def _is_replaced(self, segment: Segment) -> bool:
        """Whether a segment began at the latest checkpoint or after it."""
        if segment.task not in self._tasks:
            return False
        latest = self._latest
        return (self._tasks.index(segment.task), segment.step) >= (latest.done, latest.step)

    def _differences(self, before: Segment, now: Segment, env: str) -> Differences:
        """What is known of two segments and differs; `now` has a spec."""
        assert now.spec is not None
        spec = (
            spec_changes(self._respelled(before.spec), now.spec)
            if before.spec not in (None, now.spec)
            else []
        )
        data = [self._change(0, env, before.data, now.data)] if _differ(before.data, now.data) else []
        plugins = changes(before.plugins, now.plugins)
        pairs = zip(before.extensions or (), now.extensions or (), strict=False)
        for number, (first, second) in enumerate(pairs, 1):
            if _differ(first["data"], second["data"]):
                name = second["env"]["name"].rpartition("/")[2]
                data.append(self._change(number, f"env '{name}'", first["data"], second["data"]))
            records = (read_plugins({"env": one.get("plugin")}, {}) for one in (first, second))
            plugins += changes(*records)
        return Differences(spec, data, plugins, condition_changes(before, now))

    def _change(self, extension: int, env: str, before: str, now: str) -> DataChange:
        """How the data of an env differ, by their fingerprints."""
        records = [*self._read, *self._records]
        return data_change(env, find(records, extension, before), find(records, extension, now))

    def _respelled(self, spec: Mapping[str, Any] | None) -> Mapping[str, Any]:
        """A recorded spec with the present names of components and options, if it can still be resolved."""
        assert spec is not None
        try:
            return as_plain(resolve(from_values(spec, "checkpoint", True, self._trust)).to_spec().to_json())
        except SidetuneError:
            return spec

    def _refuse(self, what: str, message: str) -> None:
        if what in self._allowed:
            return
        names = [name for name in ACCEPTABLE if name in (what, *self._allowed)]
        flag = SWITCHES.get(" ".join(names), f"--allow-changed {' '.join(names)}")
        changed = "what is installed" if what == "plugins" else f"the changed {what}"
        option = "allow_changed_data=True" if names == ["data"] else f"allow_changed={names}"
        call = resume_call(self._folder.path, self._about, option)
        if self._command is not None:
            again = f"the same call with {option}" if call else f"{self._command} {flag}"
            raise RunError(f"{message}, or continue it with {changed}: {again}")
        if call:
            raise RunError(f"{message}, or resume it with {changed}: {call}")
        command = resume_command(self._folder.path, bool(self._trust))
        raise RunError(f"{message}, or resume it with {changed}: {command} {flag}")


def _differ(before: str, now: str) -> bool:
    """Whether two fingerprints are known and differ."""
    return bool(before and now) and before != now


def _shown(data: Sequence[DataChange], tasks: Sequence[str]) -> str:
    """What has changed, after "was made with other data": the parts, where it is the data of one env."""
    if len(data) == 1 and data[0].parts and not tasks:
        return f": {data[0].shown}"
    return f", {_joined([*data, *tasks])}"


def _joined(lines: Sequence[object]) -> str:
    return "; ".join(map(str, lines))
