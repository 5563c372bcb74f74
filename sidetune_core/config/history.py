"""What ``run.json`` states about a run at each checkpoint: its beginning, and the segments after it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sidetune_core.config.identity import Identity

FIRST_SPEC = "first_resolved"
"""Key of the spec that a run began with, where another one was accepted later."""

EXTENSIONS = "extensions"
"""Key of the tasks that were added to a finished run (see `extensions.Extension`)."""

OBJECTS, UNWRITTEN = "objects", "not_in_spec"
"""Keys of what is recorded of the objects that Python gave, and of a sentence on them."""

MIXED = "result"
"""The metric's name if tasks have different metrics: no column may call a loss an accuracy."""

ALWAYS_RECORDED = frozenset({"sidetune", "python", "torch", "numpy"})
"""Names in the versions of every run of this version."""

KEYS = frozenset(
    {
        *(
            "asked",
            "resolved",
            FIRST_SPEC,
            "composition",
            "parameters",
            "task_cost",
            "plugins",
            "spec_changes",
            "tasks",
            "data",
            "metric",
        ),
        *(
            "higher_is_better",
            "machine",
            "processes",
            "threads",
            "versions",
            "git",
            "save_every",
            "keep",
            "measure",
            "first_tasks",
            "workers",
            "segments",
            "folder",
        ),
        *(EXTENSIONS, OBJECTS, UNWRITTEN),
    }
)
"""The keys of ``run.json``."""

WORDS = {
    "spec": "options (resolved)",
    "tasks": "tasks, titles or metrics",
    "higher_is_better": "direction of the metric (higher_is_better)",
    "versions": "versions of libraries",
    "machine": "device or precision (machine)",
    EXTENSIONS: "added tasks (extensions)",
}
"""The fields of an `Identity`, in words; others as they are."""

_OF_A_SEGMENT = (
    "spec",
    "tasks",
    "higher_is_better",
    "data",
    "plugins",
    "versions",
    "threads",
    "processes",
    "machine",
    EXTENSIONS,
)


def contradictions(about: Mapping[str, Any], identity: Identity, done: int, step: int = 0) -> list[str]:
    """The facts, in words, that ``run.json`` states otherwise than a checkpoint.

    Args:
        about: ``run.json``.
        identity: of the run at the checkpoint.
        done: number of tasks that were finished then.
        step: steps within the next task.
    """
    present = stated(about, done, step)
    return [
        WORDS.get(key, key)
        for key, value in {EXTENSIONS: [], **identity.to_json()}.items()
        if not _agrees(key, value, present.get(key))
    ]


def odd_statements(about: Mapping[str, Any]) -> Iterator[str]:
    """What no run writes into ``run.json``, in sentences."""
    if unknown := sorted(about.keys() - KEYS):
        yield f"run.json has keys that no run writes: {', '.join(unknown)}"
    positions = [_position(segment, _ids(about)) for segment in _segments(about)]
    if None in positions or positions != sorted(set(positions), key=lambda position: position or (0, 0)):
        yield "run.json has segments that do not follow each other in the tasks of the run"
    elif not same(stated(about, len(_ids(about)) + 1, 0).get("spec"), about.get("resolved")):
        yield "run.json has other options (resolved) than its last segment"
    metrics = {task.get("metric") for task in _tasks(about)} - {None}
    if metrics and about.get("metric") != (metrics.pop() if len(metrics) == 1 else MIXED):
        yield f"run.json has the metric '{about.get('metric')}', which is not that of its tasks"


def network_line(about: Mapping[str, Any]) -> str:
    """Class and digest of the network that Python gave to a run, ``ResNet 1f0c6a2b``; empty if there is none;
    `about` is its ``run.json``."""
    objects = about.get(OBJECTS)
    network = objects.get("base") if isinstance(objects, Mapping) else None
    if not isinstance(network, Mapping):
        return ""
    name = str(network.get("class", "")).rpartition(":")[2]
    return f"{name} {str(network.get('weights', ''))[:8]}"


def resume_call(path: object, about: Mapping[str, Any], options: str = "") -> str:
    """The call that resumes a run with components that Python gave; empty for a run without.

    Args:
        path: of the run folder.
        about: its ``run.json``.
        options: further arguments, such as ``allow_changed_data=True``.
    """
    objects = about.get(OBJECTS)
    if not isinstance(objects, Mapping) or not objects:
        return ""
    arguments = {"base": "base=network", "env": "tasks=[...]"}
    given = [argument for slot, argument in arguments.items() if slot in objects]
    return f"sidetune_core.resume({', '.join([repr(str(path)), *given, *([options] if options else [])])})"


def same(first: Any, second: Any) -> bool:
    """Whether two values are the same JSON: 1, 1.0 and true are not."""
    return json.dumps(first, sort_keys=True) == json.dumps(second, sort_keys=True)


def stated(about: Mapping[str, Any], done: int, step: int = 0) -> dict[str, Any]:
    """The identity of the run at a checkpoint, as ``run.json`` has it.

    A segment begins at the checkpoint that it was resumed from, which is of the one before; so does an
    extension.
    """
    facts: dict[str, Any] = {key: about.get(key) for key in _OF_A_SEGMENT}
    facts["spec"] = about.get(FIRST_SPEC, about.get("resolved"))
    facts[EXTENSIONS] = in_identity(about.get(EXTENSIONS))
    tasks, extensions = _tasks(about), facts[EXTENSIONS]
    for segment in _segments(about):
        position = _position(segment, _ids(about))
        if position is None or position >= (done, step):
            break
        facts |= {key: segment[key] for key in _OF_A_SEGMENT if segment.get(key) is not None}
    firsts = [_count(extension.get("first")) for extension in extensions]
    begun = sum((first, 0) < (done, step) for first in firsts)
    count = firsts[begun] if begun < len(firsts) else len(tasks)
    if isinstance(facts["tasks"], list):  # a segment has the tasks of its time
        facts["tasks"] = [*facts["tasks"], *tasks[len(facts["tasks"]) :]][:count]
    facts[EXTENSIONS] = [*facts[EXTENSIONS], *extensions[len(facts[EXTENSIONS]) :]][:begun]
    return facts


def in_identity(records: Any) -> list[dict[str, Any]]:
    """Records of extensions (see `extensions.Extension`) without what decides on speed and rounding only."""
    return [
        {key: value for key, value in record.items() if key not in ("cache", "device")}
        for record in (records if isinstance(records, list | tuple) else ())
        if isinstance(record, Mapping)
    ]


def _agrees(key: str, value: Any, stated: Any) -> bool:
    """Whether a fact is that of a checkpoint. Of the libraries that only some components use, each process
    records those that it finds."""
    if key != "versions" or not isinstance(stated, Mapping):
        return same(value, stated)
    return stated.keys() >= ALWAYS_RECORDED and all(
        stated.get(name, version) == version for name, version in value.items()
    )


def _position(segment: Mapping[str, Any], ids: Sequence[Any]) -> tuple[int, int] | None:
    task, step = segment.get("task"), segment.get("step")
    return (ids.index(task), step) if task in ids and type(step) is int else None


def _segments(about: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    segments = about.get("segments")
    return [one if isinstance(one, Mapping) else {} for one in segments] if isinstance(segments, list) else []


def _count(value: Any) -> int:
    return value if isinstance(value, int) else 0


def _ids(about: Mapping[str, Any]) -> list[Any]:
    return [task.get("id") for task in _tasks(about)]


def _tasks(about: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    tasks = about.get("tasks")
    return [task for task in tasks if isinstance(task, Mapping)] if isinstance(tasks, list) else []
