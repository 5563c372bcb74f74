"""What a checkpoint is to hold: the tensors and the other state of a learner and its tasks."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import attrs
from torch import Tensor

from sidetune_core import hashing
from sidetune_core.storage.chain_file import TASK_STATES
from sidetune_core.storage.marks import Marks
from sidetune_core.storage.nested_state import entries, flatten


@attrs.frozen(eq=False)
class Content:
    """What a checkpoint holds, apart from the files before it."""

    tensors: Mapping[str, Tensor]
    """Of the state dict, of extra state and of the state of tasks."""
    digests: Mapping[str, str]
    """Of `tensors`."""
    extra: Mapping[str, Any]
    """Extra state of modules by key (see `flatten`)."""
    task_states: Mapping[str, Any]
    """By id of a task."""
    keys: Sequence[str]
    """Of the state dict, in order."""
    done: Sequence[str] = ()
    """Ids of the tasks that are finished."""
    marks: Marks = attrs.field(factory=dict)
    identity: Mapping[str, Any] | None = None
    gone: Collection[str] | None = None
    """If `tensors` are only those that may differ from the file before: names that may have gone since. None
    if `tensors` are all."""


@attrs.frozen(eq=False)
class Changes:
    """What may differ in a learner from the newest checkpoint after a task."""

    tensors: Mapping[str, Tensor]
    """By key of the state dict, in its order; those that were touched, and those that are extra state."""
    digests: Mapping[str, str]
    """Of `tensors`, without those that are extra state."""
    gone: Collection[str]
    """Names that may have had a tensor, and have none of `tensors` now."""
    extra: Mapping[str, Any]
    """All extra state of modules, by key."""
    keys: Sequence[str]
    """Of the complete state dict, in order."""


def make_content(
    state: Mapping[str, Any],
    tasks: Mapping[str, Any],
    done: Sequence[str],
    marks: Marks,
    identity: Mapping[str, Any] | None,
    known: Mapping[str, str] | None = None,
) -> Content:
    """The content of a checkpoint from a state dict and the state of tasks.

    Args:
        state: of the learner.
        tasks: state of the tasks by id.
        done: ids of the tasks that are finished.
        marks: of the run folder.
        identity: of the run.
        known: digests of tensors of `state`, so that they are not computed twice.

    Raises:
        PluginError: the state has a type that cannot be saved.
    """
    tensors = {key: value for key, value in state.items() if isinstance(value, Tensor)}
    extra, inner = flatten({key: value for key, value in state.items() if key not in tensors})
    task_states, of_tasks = flatten(tasks, TASK_STATES)
    tensors |= inner | of_tasks
    known = known or {}
    digests = {
        name: known.get(name) or hashing.tensor_digest(name, tensor).hex() for name, tensor in tensors.items()
    }
    return Content(tensors, digests, entries(extra), entries(task_states), list(state), done, marks, identity)


def content_of_changes(
    changes: Changes,
    tasks: Mapping[str, Any],
    done: Sequence[str],
    marks: Marks,
    identity: Mapping[str, Any] | None,
) -> Content:
    """`make_content` for a learner of which only the changes are known."""
    extra, inner = flatten(changes.extra)
    task_states, of_tasks = flatten(tasks, TASK_STATES)
    tensors = {**changes.tensors, **inner, **of_tasks}
    digests = {
        name: changes.digests.get(name) or hashing.tensor_digest(name, tensor).hex()
        for name, tensor in tensors.items()
    }
    return Content(
        tensors,
        digests,
        entries(extra),
        entries(task_states),
        changes.keys,
        done,
        marks,
        identity,
        changes.gone,
    )
