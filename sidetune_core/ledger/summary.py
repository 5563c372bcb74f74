"""One row for each table of the ledger: side-tuning, and the baselines that answer for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from sidetune_core.ledger.claims import Entry, methods_of
from sidetune_core.results.cells import UNMEASURED, in_percent
from sidetune_core.results.compare_methods import estimate, format_estimate, rank
from sidetune_core.results.compare_runs import COMPARED
from sidetune_core.results.grouping import MethodRuns
from sidetune_core.results.metrics import one_unit
from sidetune_core.results.run_summary import TRAINABLE
from sidetune_core.results.significance import FEWEST_SEEDS
from sidetune_core.results.tables import Layout, typeset

Column = Literal[
    "side-tuning", "independent networks", "joint training", "fine-tuning", "features", "scratch"
]
COLUMNS: tuple[Column, ...] = (
    "side-tuning",
    "independent networks",
    "joint training",
    "fine-tuning",
    "features",
    "scratch",
)


def summarize(tables: Mapping[str, Sequence[Entry]], layout: Layout) -> str:
    """A row for each table with a claim that names a column of the summary.

    A cell is the average over tasks and seeds of the last row of R, with the half-width of its 95 %
    confidence interval from three seeds on; losses of several tasks have the method's average rank among all
    methods of their table. Below three seeds, the number of seeds is stated.
    """
    columns = [c for c in COLUMNS if any(c == e.claim.summary for rows in tables.values() for e in rows)]
    table = [["table", "metric", *columns, "weights\nper task"]]
    for name, entries in tables.items():
        recorded = [entry for entry in entries if entry.runs]
        methods = methods_of(recorded)
        cells = {
            entry.claim.summary: _cell(method, methods)
            for entry, method in zip(recorded, methods, strict=True)
            if entry.claim.summary
        }
        if cells:
            row = [cells.get(column, UNMEASURED) for column in columns]
            table.append([name, _metric(recorded), *row, _weights(recorded)])
    return typeset(table, layout, left={0, 1})


def _cell(method: MethodRuns, methods: Sequence[MethodRuns]) -> str:
    seeds, results = len(method.averaged), method.runs[0].results
    few = "" if seeds >= FEWEST_SEEDS else f" ({seeds} seed{'' if seeds == 1 else 's'})"
    if one_unit(results):
        return format_estimate(estimate(method, COMPARED[0]), in_percent(results)) + few
    ranking = rank(methods)
    return UNMEASURED if ranking is None else f"{ranking.average[methods.index(method)]:.2f}{few}"


def _metric(entries: Sequence[Entry]) -> str:
    results = entries[0].runs[0].results
    if not one_unit(results):
        return f"average rank of {len(entries)} methods"
    return f"{results.metric}{' %' if in_percent(results) else ''}"


def _weights(entries: Sequence[Entry]) -> str:
    """Trainable weights of side-tuning relative to the network that is trained as a whole."""
    trained = {entry.claim.summary: entry.runs[0].parameters.get(TRAINABLE) for entry in entries}
    side, whole = (
        trained.get("side-tuning"),
        trained.get("independent networks") or trained.get("fine-tuning"),
    )
    return UNMEASURED if side is None or whole is None else f"{side / whole:.0%}".replace("%", " %")
