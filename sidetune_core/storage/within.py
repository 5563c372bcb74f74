"""What a run measures and decides within the training of its tasks: the lines of ``within.jsonl``.

Each has a ``kind`` and the ``stage`` that is trained (``t0``, or ``t0 to t9`` for joint training):

``evaluation``
    a split of a task (``task``, ``split``, ``metrics``, and ``examples`` if not all) after ``step`` steps of
    the stage, before which ``trained`` tasks were trained. Step 0 is before the first one. ``restored`` says
    that the weights are those of an earlier step.
``selection``
    the end of a phase under ``--train.patience`` or ``--train.select``: the ``best_step`` of its ``steps``,
    its ``value``, whether it was ``stopped`` early and its weights ``restored``.
``pass``
    what a stage drew of the training examples of a task under ``--train.epochs 1``: ``drawn`` in all, of
    which ``distinct`` ones, of ``examples``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

from sidetune_core.storage.run_files import WITHIN
from sidetune_core.storage.run_folder import RunFolder

EVALUATION, SELECTION, PASS = "evaluation", "selection", "pass"


@attrs.frozen
class Within:
    """The lines by kind."""

    evaluations: tuple[Mapping[str, Any], ...] = ()
    selections: tuple[Mapping[str, Any], ...] = ()
    passes: tuple[Mapping[str, Any], ...] = ()


def read_within(folder: RunFolder) -> Within:
    """The lines of a run; none for a run that measured nothing within tasks.

    Raises:
        ValueError: a line is damaged.
    """
    lines = folder.lines(WITHIN, strict=True)

    def of(kind: str) -> tuple[Mapping[str, Any], ...]:
        return tuple(line for line in lines if line.get("kind") == kind)

    return Within(of(EVALUATION), of(SELECTION), of(PASS))
