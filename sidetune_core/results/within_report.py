"""What a report says of the training within tasks: where it stopped, which weights were kept, and whether one
epoch was a single pass.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sidetune_core.io.printable import counted
from sidetune_core.storage.within import Within

SHOWN = 5
"""Tasks that are listed one by one."""


def training_lines(within: Within) -> tuple[str, ...]:
    """Lines for a report; empty if nothing was decided or counted.

    Raises:
        KeyError, TypeError, ValueError: a line has other keys or types.
    """
    return (*_selections(within.selections), *_passes(within.passes))


def _selections(lines: Sequence[Mapping[str, Any]]) -> list[str]:
    if not lines:
        return []
    stopped = sum(bool(line["stopped"]) for line in lines)
    restored = sum(bool(line["restored"]) for line in lines)
    phases = counted(len(lines), "training phase")
    text = f"selected on val: of {phases}, {stopped} stopped early and {restored} restored earlier weights"
    return [text, *_first(lines, _selection)]


def _selection(line: Mapping[str, Any]) -> str:
    phase = "" if line["phase"] == "train" else f", {line['phase']}"
    steps = f"{int(line['steps']):,} of {int(line['planned']):,} steps"
    if line["best_step"] is None:
        return f"  {line['stage']}{phase}: {steps}; {line['metric']} on val was never a finite number"
    best = f"{line['metric']} on val was best after step {int(line['best_step']):,}"
    return f"  {line['stage']}{phase}: {steps}; {best} ({float(line['value']):.4g})"


def _passes(lines: Sequence[Mapping[str, Any]]) -> list[str]:
    """Whether each example was drawn exactly once, in every task of which the ids are known."""
    if not lines:
        return []
    others = [line for line in lines if not line["drawn"] == line["distinct"] == line["examples"]]
    if not others:
        tasks = counted(len(lines), "task")
        return [f"single pass: every training example of {tasks} was drawn exactly once, by its id"]
    text = (
        f"one epoch, but no single pass in {len(others)} of {counted(len(lines), 'task')}: no batch is "
        "incomplete, so that examples are left out or drawn again; choose a --train.batch-size that divides "
        "their number"
    )
    return [text, *_first(others, _pass)]


def _pass(line: Mapping[str, Any]) -> str:
    drawn, distinct = int(line["drawn"]), int(line["distinct"])
    if line["examples"] is None:
        return f"  {line['task']}: {drawn:,} drawn, {distinct:,} of them distinct, of an unknown number"
    missing = int(line["examples"]) - distinct
    examples, again = int(line["examples"]), drawn - distinct
    return f"  {line['task']}: {missing:,} of {examples:,} not drawn, {again:,} drawn again"


def _first(lines: Sequence[Mapping[str, Any]], describe: Callable[[Mapping[str, Any]], str]) -> list[str]:
    """The first lines, described, and how many more there are."""
    more = len(lines) - SHOWN
    return [*map(describe, lines[:SHOWN]), *([f"  and {more:,} more, see within.jsonl"] if more > 0 else [])]
