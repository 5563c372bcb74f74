"""Draw ``docs/overview.png``: what side-tuning is, and R of two methods from the ledger's records.

Run ``python docs/overview.py`` at the root of a checkout; it needs matplotlib.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

ROOT: Final = Path(__file__).parents[1]
OUT: Final = ROOT / "docs" / "overview.png"
RECORDS: Final = {
    "side-tuning": "icifar-sidetune-fork4",
    "fine-tuning": "icifar-finetune",
}
"""The record of each method, of the table with the original budget."""

FROZEN, TRAINED = "#cfd4da", "#f5a742"


def rows(record: str) -> list[list[float | None]]:
    """R of the first recorded seed, in percent: a row after each task, a column for each task."""
    path = ROOT / "ledger" / "recorded" / f"{record}.json"
    results = json.loads(path.read_text(encoding="utf-8"))["runs"][0]["results"]
    trained = [row[: after + 1] for after, row in enumerate(results["rows"])]
    return [[None if cell is None else 100 * cell for cell in row] for row in trained]


def draw(out: Path = OUT) -> None:
    """Draw it."""
    figure = Figure(figsize=(10, 3.4), layout="constrained")
    network, *matrices = figure.subplots(1, 3, width_ratios=(1.75, 1, 1))
    _draw_network(network)
    for axes, (method, record) in zip(matrices, RECORDS.items(), strict=True):
        image = _draw_matrix(axes, rows(record), method)
    matrices[0].set_ylabel("after training on task")
    figure.colorbar(image, ax=matrices, label="accuracy %", shrink=0.8)
    figure.savefig(out, dpi=120)


def _draw_network(axes: Any) -> None:
    """The frozen base, and side, merger and head of each of three tasks."""
    axes.set(xlim=(0, 10.2), ylim=(-0.6, 6.2))
    axes.axis("off")
    _box(axes, (1.6, 0.3), (1.6, 4.9), "base\n(frozen)", FROZEN)
    axes.annotate("image", (1.55, 2.75), (0.0, 2.75), va="center", arrowprops={"arrowstyle": "->"})
    for task, height in enumerate((4.2, 2.3, 0.4)):
        middle = height + 0.45
        _box(axes, (4.1, height), (1.5, 0.9), f"side {task}", TRAINED)
        _box(axes, (6.1, height), (1.7, 0.9), f"merger {task}", TRAINED)
        _box(axes, (8.3, height), (1.5, 0.9), f"head {task}", TRAINED)
        for start, end in ((3.2, 4.1), (5.6, 6.1), (7.8, 8.3), (9.8, 10.2)):
            axes.annotate("", (end, middle), (start, middle), arrowprops={"arrowstyle": "->"})
        curve = {"arrowstyle": "->", "connectionstyle": "angle,angleA=0,angleB=90,rad=4"}
        axes.annotate("", (6.95, height + 0.95), (3.2, height + 1.3), arrowprops=curve)
    axes.set_title("one frozen base, small networks for each task", fontsize="medium")


def _box(axes: Any, corner: Sequence[float], size: Sequence[float], text: str, color: str) -> None:
    axes.add_patch(FancyBboxPatch(corner, *size, boxstyle="round,pad=0.05", facecolor=color, edgecolor="0.3"))
    x, y = (start + length / 2 for start, length in zip(corner, size, strict=True))
    axes.text(x, y, text, ha="center", va="center", fontsize="small")


def _draw_matrix(axes: Any, matrix: Sequence[Sequence[float | None]], method: str) -> Any:
    """R as a heat map; what is right of the diagonal is left empty. Returns the image."""
    count = len(matrix)
    cells = [[float("nan")] * count for _ in range(count)]
    for after, row in enumerate(matrix):
        for task, cell in enumerate(row):
            if cell is not None:
                cells[after][task] = cell
    image = axes.imshow(cells, vmin=0, vmax=100, cmap="viridis")
    last = [cell for cell in matrix[-1] if cell is not None]
    axes.set_title(f"{method}: {sum(last) / len(last):.1f} % at the end", fontsize="medium")
    axes.set_xlabel("accuracy on task")
    axes.set_xticks(range(count))
    axes.set_yticks(range(count))
    axes.tick_params(labelsize="small")
    return image


if __name__ == "__main__":
    draw()
