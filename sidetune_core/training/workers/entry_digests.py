"""Digests of the entries of a learner's state dict, tensor or not."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from torch import Tensor

from sidetune_core import hashing
from sidetune_core.storage.nested_state import flatten


def entry_digest(value: Any) -> str:
    """The digest of an entry, which does not depend on its name: a learner may wrap the layers of its base
    when a task starts."""
    plain, tensors = flatten(value)
    return f"{plain}/{hashing.fingerprint(tensors)}"


class EntryDigests:
    """The digests of the entries of a state dict, whose number grows with the tasks: an entry is hashed once
    more only if it was written to, unless it is one of those that all tasks share.

    Args:
        shared: digests of the entries before the first task.
    """

    def __init__(self, shared: Collection[str]) -> None:
        self._shared = shared
        self._known: dict[str, tuple[tuple[int, int], str]] = {}

    def update(self, state: Mapping[str, Any]) -> dict[str, str]:
        """The digests of the entries as they are, by name."""
        digests = dict[str, str]()
        for name, value in state.items():
            mark = (value.data_ptr(), value._version) if isinstance(value, Tensor) else (0, -1)
            known = self._known.get(name)
            if known is None or known[0] != mark or mark[1] < 0 or known[1] in self._shared:
                known = mark, entry_digest(value)
                self._known[name] = known
            digests[name] = known[1]
        return digests
