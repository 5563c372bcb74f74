"""Names of tasks for axes and tables: their titles, such as class names, cut to a few characters."""

from __future__ import annotations

from collections.abc import Sequence


def task_labels(ids: Sequence[str], titles: Sequence[str], width: int = 14) -> list[str]:
    """A distinct label of each task with at most `width` characters: its title, or else its id.

    Args:
        ids: of the tasks.
        titles: as many, or none where they are unknown.
        width: longest label.
    """
    if len(titles) == len(ids):
        for labels in ([*titles], [_cut(title, width) for title in titles]):
            if len(set(labels)) == len(ids) and all(0 < len(label) <= width for label in labels):
                return labels
    labels = [_cut(name, width) for name in ids]
    return labels if len(set(labels)) == len(ids) else [str(number) for number in range(1, len(ids) + 1)]


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else f"{text[: width - 1].rstrip(' ,')}…"
