"""Ids of tasks, made of names that people give to folders."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

MAX_LENGTH = 48


def task_ids(names: Sequence[str]) -> list[str]:
    """An id for each name: unique without regard to case, of letters, digits and ``-``.

    Accents are dropped and other characters become ``-``: ``Čapek & co.`` is ``Capek-co``. A name without
    any letter or digit of ASCII is ``task``. The second of equal ids has ``-2`` at its end, and so on.
    """
    taken: set[str] = set()
    ids = []
    for name in names:
        start = _safe(name)
        id, number = start, 1
        while id.lower() in taken:
            number += 1
            id = f"{start}-{number}"
        taken.add(id.lower())
        ids.append(id)
    return ids


def _safe(name: str) -> str:
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
    return re.sub(r"[^A-Za-z0-9]+", "-", plain)[:MAX_LENGTH].strip("-") or "task"
