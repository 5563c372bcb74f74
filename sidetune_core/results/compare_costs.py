"""What methods cost: the memory that they store, the parameters that they train, time and energy."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from sidetune_core.results.cells import UNMEASURED, format_int
from sidetune_core.results.grouping import MethodRuns
from sidetune_core.results.metrics import mean
from sidetune_core.results.run_summary import TRAINABLE, RunSummary
from sidetune_core.results.tables import Table

STORED_KINDS = ("weights", "exemplars", "statistics")
"""See `assembly.stored`; their sum is the memory budget."""


def cost_values(method: MethodRuns) -> list[float | None]:
    """Bytes of each of `STORED_KINDS`, processor seconds and joules, averaged over the seeds that have not
    diverged; None where one of them is unknown.
    """
    stored = [_over_seeds(method, _bytes_of(kind)) for kind in STORED_KINDS]
    return [
        *stored,
        _over_seeds(method, lambda run: run.processor_seconds),
        _over_seeds(method, lambda run: run.energy),
    ]


def cost_table(methods: Sequence[MethodRuns]) -> Table:
    """A line for each method; energy is a column only where a run has it."""
    has_energy = any(run.energy is not None for method in methods for run in method.runs)
    heads = [f"{kind}\nMiB" for kind in STORED_KINDS] + ["memory\nbudget\nMiB"]
    heads += ["trainable\nparameters\nper task", "processor\nseconds", *(["kJ"] if has_energy else [])]
    table = [["method", *heads]]
    for method in methods:
        *stored, processor, joules = cost_values(method)
        known = [size for size in stored if size is not None]
        budget = sum(known) if len(known) == len(stored) else None
        table.append(
            [
                method.name,
                *(_in_mebibytes(size) for size in (*stored, budget)),
                format_int(method.runs[0].parameters.get(TRAINABLE)),
                UNMEASURED if processor is None else f"{processor:,.0f}",
                *([UNMEASURED if joules is None else f"{joules / 1000:,.1f}"] if has_energy else []),
            ]
        )
    return table


def _bytes_of(kind: str) -> Callable[[RunSummary], float | None]:
    return lambda run: run.stored.get(kind)


def _over_seeds(method: MethodRuns, read: Callable[[RunSummary], float | None]) -> float | None:
    return mean(read(run) for run in method.averaged)


def _in_mebibytes(size: float | None) -> str:
    """In MiB with three digits: most methods store little."""
    return UNMEASURED if size is None else f"{size / 2**20:,.3f}"
