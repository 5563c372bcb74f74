"""A picture of R: what each task scored after each task, and before any."""

from __future__ import annotations

from pathlib import Path

from sidetune_core.errors import SidetuneError
from sidetune_core.report import RunSummary


def draw(summary: RunSummary, out: Path) -> None:
    """Write a heat map of R; the suffix of `out` says the format (.png, .svg, .pdf).

    Raises:
        SidetuneError: matplotlib is not installed, or does not know the format.
    """
    try:
        from matplotlib.figure import Figure  # no pyplot: nothing global, no display
    except ModuleNotFoundError as error:
        raise SidetuneError("a figure needs matplotlib: pip install 'sidetune[figure]'") from error
    results = summary.results
    scale = 100 if results.metric == "accuracy" else 1
    rows = [results.initial, *results.rows]
    cells = [[float("nan") if cell is None else scale * cell for cell in row] for row in rows]
    size = len(results.tasks)
    figure = Figure(figsize=(max(6.4, 2.6 + 0.62 * size), 1.9 + 0.42 * len(rows)), layout="constrained")
    axes = figure.add_subplot()
    known = [cell for row in cells for cell in row if cell == cell]
    middle = (min(known) + max(known)) / 2 if known else 0.0
    axes.imshow(cells, cmap="viridis" if results.higher_is_better else "viridis_r", aspect="auto")
    for i, row in enumerate(cells):
        for j, cell in enumerate(row):
            if cell == cell:
                dark = (cell < middle) == results.higher_is_better
                axes.text(j, i, f"{cell:.1f}" if scale == 100 else f"{cell:.3g}", ha="center", va="center", color="w" if dark else "k")
    axes.set_xticks(range(size), results.tasks)
    axes.set_yticks(range(len(rows)), ["untrained", *(f"after {task}" for task in results.tasks[: len(rows) - 1])])
    axes.set_xlabel(f"{results.metric} on task{' (%)' if scale == 100 else ''}")
    axes.set_title(summary.spec_line, fontsize="medium")
    axes.spines[:].set_visible(False)
    try:
        figure.savefig(out, dpi=150)
    except ValueError as error:
        raise SidetuneError(f"cannot draw to {out}: {str(error).splitlines()[0]}") from error
