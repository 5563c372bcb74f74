"""Charts as inline SVG: R as a heat map, and lines over tasks or steps."""

from __future__ import annotations

import math
from collections.abc import Sequence

import attrs

from sidetune_core.results.cells import in_percent
from sidetune_core.results.html_page import escaped, wide
from sidetune_core.results.metrics import Results
from sidetune_core.results.task_labels import task_labels

COLOURS = (
    *("#2f5fd0", "#e07b1f", "#2a9d62", "#c8443c", "#8257c2"),
    *("#8c6239", "#d05ca8", "#6f7885", "#a8a32a", "#2aa7b8"),
)
"""Of lines; further ones are dashed."""
NUMBERED = 12
"""Tasks up to which the cells of a heat map have their values."""
TICKS = 18
"""Largest number of tasks that are named on an axis."""
MARKED = 40
"""Points from which on a line has no marks."""
LEGEND = 12
"""Lines up to which a legend names them; of more, the pointer names one."""

_SCALE = ((68, 1, 84), (59, 82, 139), (33, 145, 140), (94, 201, 98), (253, 231, 37))
"""Colours from the lowest to the highest value."""


@attrs.frozen
class Line:
    """A line of a chart."""

    name: str
    points: Sequence[tuple[float, float]]
    colour: int = 0
    """Number of its colour."""
    bold: bool = False


def heat_map(results: Results, titles: Sequence[str] = ()) -> str:
    """R: a row for the untrained learner and for each trained task, a column for each task."""
    rows, size = [results.initial, *results.rows], len(results.tasks)
    numbered = size <= NUMBERED
    width, height = (58, 30) if numbered else (max(9, min(22, 760 // size)),) * 2
    labels = task_labels(results.tasks, titles, 16)
    after = ["untrained", *(f"after {label}" for label in labels[: len(results.rows)])]
    left, step = 10 + 7 * max(map(len, after)), 1 if numbered else -(-size // TICKS)
    slanted = max(map(len, labels)) > 7 or not numbered
    bottom = 16 + (5 * max(map(len, labels)) if slanted else 8)
    scale, unit = (100, " %") if in_percent(results) else (1, "")
    known = results.measured
    low, high = (min(known), max(known)) if known else (0.0, 1.0)
    parts: list[str] = []
    for i, row in enumerate(rows):
        y, middle = i * height, i * height + height / 2 + 4
        if i % step == 0:
            parts.append(_text(left - 8, middle, after[i], "end"))
        for j, cell in enumerate(row):
            if cell is None:
                continue
            share = (cell - low) / (high - low) if high > low else 1.0
            share = share if results.higher_is_better else 1 - share
            shown = f"{scale * cell:.1f}" if scale == 100 else f"{cell:.3g}"
            hint = f"{results.tasks[j]}, {after[i]}: {shown}{unit}"
            parts.append(
                f'<rect x="{left + j * width}" y="{y}" width="{width - 1}" height="{height - 1}" '
                f'fill="{_colour(share)}"><title>{escaped(hint)}</title></rect>'
            )
            if numbered:
                ink = f"fill:{'#fff' if share < 0.6 else '#111'};pointer-events:none"
                parts.append(
                    _text(left + (j + 0.5) * width - 0.5, middle, shown, "middle", f' style="{ink}"')
                )
    base = len(rows) * height + 14
    for j in range(0, size, step):
        x = left + (j + 0.5) * width
        turn = f' transform="rotate(-40 {x:g} {base})"' if slanted else ""
        parts.append(_text(x, base, labels[j], "end" if slanted else "middle", turn))
    margin = 4 if not slanted else 12
    return _svg(left + size * width + margin, len(rows) * height + bottom, parts, "R as a heat map")


def line_chart(lines: Sequence[Line], x_title: str, y_title: str, whole: bool = False) -> str:
    """Lines over a number.

    Args:
        lines: those without points are left out.
        x_title: of the horizontal axis.
        y_title: of the vertical axis.
        whole: the horizontal axis has whole numbers.
    """
    lines = [line for line in lines if line.points]
    if not lines:
        return ""
    width, height, left, right, top, bottom = 520, 280, 52, 12, 24, 40
    xs = [x for line in lines for x, _ in line.points]
    ys = [y for line in lines for _, y in line.points]
    x_ticks, y_ticks = _ticks(min(xs), max(xs), 6, whole), _ticks(min(ys), max(ys), 5)
    x_low, x_high = (min(xs), max(xs)) if max(xs) > min(xs) else (min(xs) - 1, max(xs) + 1)
    y_low, y_high = min(y_ticks[0], *ys), max(y_ticks[-1], *ys)

    def across(x: float) -> float:
        return left + (x - x_low) / (x_high - x_low) * (width - left - right)

    def up(y: float) -> float:
        return height - bottom - (y - y_low) / (y_high - y_low or 1) * (height - bottom - top)

    soft = ' class="soft"'
    parts = [_text(4, 12, y_title, "start", soft)]
    for y in y_ticks:
        ends = f'x1="{left}" x2="{width - right}" y1="{up(y):.1f}" y2="{up(y):.1f}"'
        parts += [f'<line class="axis" {ends}/>', _text(left - 8, up(y) + 4, f"{y:g}", "end")]
    for x in x_ticks:
        if x_low <= x <= x_high:
            parts.append(_text(across(x), height - bottom + 18, f"{x:g}", "middle"))
    parts.append(_text((left + width - right) / 2, height - 6, x_title, "middle", soft))
    for line in lines:
        points = " ".join(f"{across(x):.1f},{up(y):.1f}" for x, y in line.points)
        dash = ("", "6 4", "2 3", "8 3 2 3")[line.colour // len(COLOURS) % 4]
        stroke = COLOURS[line.colour % len(COLOURS)]
        style = f'stroke="{stroke}" stroke-width="{3 if line.bold else 1.8}" stroke-dasharray="{dash}"'
        name = f"<title>{escaped(line.name)}</title>"
        parts.append(f'<polyline points="{points}" fill="none" {style}>{name}</polyline>')
        radius = 3.5 if line.bold else 2.5
        for x, y in line.points if len(line.points) < MARKED else ():
            hint = escaped(f"{line.name}: {y:.4g}")
            spot = f'cx="{across(x):.1f}" cy="{up(y):.1f}" r="{radius}" fill="{stroke}"'
            parts.append(f"<circle {spot}><title>{hint}</title></circle>")
    legend = "".join(
        f'<li><i style="background:{COLOURS[line.colour % len(COLOURS)]}"></i>{escaped(line.name)}</li>'
        for line in lines
    )
    shown = f'<ul class="legend">{legend}</ul>' if 1 < len(lines) <= LEGEND else ""
    return f"<div>{_svg(width, height, parts, y_title, scales=True)}{shown}</div>"


def _text(x: float, y: float, text: str, anchor: str, more: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{more}>{escaped(text)}</text>'


def _svg(width: float, height: float, parts: Sequence[str], title: str, scales: bool = False) -> str:
    size = 'class="chart"' if scales else f'width="{width:g}" height="{height:g}"'
    drawing = (
        f'<svg role="img" aria-label="{escaped(title)}" viewBox="0 0 {width:g} {height:g}" {size}>'
        f"{''.join(parts)}</svg>"
    )
    return wide(drawing)


def _colour(share: float) -> str:
    """The colour of a value at this fraction of the scale."""
    position = min(max(share, 0.0), 1.0) * (len(_SCALE) - 1)
    index = min(int(position), len(_SCALE) - 2)
    part = position - index
    mixed = (a + (b - a) * part for a, b in zip(_SCALE[index], _SCALE[index + 1], strict=True))
    return "#" + "".join(f"{round(value):02x}" for value in mixed)


def _ticks(low: float, high: float, count: int, whole: bool = False) -> list[float]:
    """Round numbers from `low` to `high`, about `count`, the first and the last outside unless they are
    whole."""
    span = high - low or abs(high) or 1.0
    rough = span / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough)
    step = max(1.0, round(step)) if whole else step
    first = math.ceil(low / step) if whole else math.floor(low / step)
    last = math.floor(high / step) if whole else math.ceil(high / step)
    return [index * step for index in range(first, max(last, first + 1) + 1)]
