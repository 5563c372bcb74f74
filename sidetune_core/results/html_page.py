"""One HTML file without references to others: its frame, its style, tables, and the script that sorts them.

All text of others is escaped. The page forbids itself every request, so that it can be opened from anywhere.
"""

from __future__ import annotations

import html
from collections.abc import Collection, Sequence

from sidetune_core.io.printable import one_line
from sidetune_core.results.tables import Table


def escaped(text: object) -> str:
    """Text of others in one line of HTML."""
    return html.escape(one_line(text), quote=True)


def page(title: str, body: Sequence[str]) -> str:
    """A complete page."""
    content = "\n".join(filter(None, body))
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        f"<title>{escaped(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n<main>\n{content}\n"
        f"</main>\n<script>{_SCRIPT}</script>\n</body>\n</html>\n"
    )


def section(title: str, *parts: str) -> str:
    """A titled section; empty if it has no content."""
    content = "\n".join(filter(None, parts))
    return f"<section>\n<h2>{escaped(title)}</h2>\n{content}\n</section>" if content else ""


def folded(title: str, *parts: str) -> str:
    """Content that is shown when its title is clicked."""
    content = "\n".join(filter(None, parts))
    return f"<details>\n<summary>{escaped(title)}</summary>\n{content}\n</details>" if content else ""


def table(rows: Table, left: Collection[int] = (0,), sortable: bool = False) -> str:
    """A table, the header first; a click on the header of a `sortable` one sorts by that column."""
    head, *body = rows
    aligned = ["" if column in left else ' class="n"' for column in range(len(head))]
    titles = "".join(
        f'<th scope="col"{align}>{_head(cell, sortable)}</th>'
        for cell, align in zip(head, aligned, strict=True)
    )
    lines = [
        "<tr>"
        + "".join(f"<td{align}>{escaped(cell)}</td>" for cell, align in zip(row, aligned, strict=True))
        + "</tr>"
        for row in body
    ]
    kind = ' class="sortable"' if sortable else ""
    content = "\n".join(lines)
    return wide(f"<table{kind}>\n<thead><tr>{titles}</tr></thead>\n<tbody>\n{content}\n</tbody></table>")


def wide(content: str) -> str:
    """Content that scrolls by itself where the window is narrower."""
    return f'<div class="wide" tabindex="0">{content}</div>'


def paragraphs(lines: Sequence[str]) -> str:
    """A paragraph for each line."""
    return "\n".join(f"<p>{escaped(line)}</p>" for line in lines)


def long_list(title: str, content: str, lines: int) -> str:
    """Content of this many lines, folded if they are many."""
    return folded(f"{title} ({lines} lines)", content) if lines > LINES else content


def bullets(lines: Sequence[str]) -> str:
    """A list; indented lines are items of the one above."""
    items: list[str] = []
    for line in lines:
        depth = (len(line) - len(line.lstrip())) // 2
        items.append(f'<li style="margin-left:{depth * 1.2:g}em">{escaped(line.strip())}</li>')
    return f"<ul>{''.join(items)}</ul>" if items else ""


def cards(values: Sequence[tuple[str, str, str]]) -> str:
    """Large values, each with its name and a note."""
    made = (
        f'<div class="card"><span>{escaped(name)}</span><strong>{escaped(value)}</strong>'
        f"<small>{escaped(note)}</small></div>"
        for name, value, note in values
    )
    return f'<div class="cards">{"".join(made)}</div>'


def _head(cell: str, sortable: bool) -> str:
    text = escaped(cell.replace("\n", " "))
    return f'<button type="button">{text}</button>' if sortable else text


LINES = 14
"""Lines that are shown without a click."""

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"

_STYLE = """
:root { --text: #1d2433; --soft: #5b6575; --line: #dfe3ea; --back: #f6f7f9; --card: #fff; --accent: #2f5fd0; }
@media (prefers-color-scheme: dark) {
  :root { --text: #e6e9ef; --soft: #9aa4b5; --line: #333b49; --back: #14181f; --card: #1c222c;
          --accent: #8fb0ff; }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--back); color: var(--text);
       font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
main { max-width: 1080px; margin: 0 auto; padding: 32px 20px 64px; }
h1 { font-size: 1.7rem; line-height: 1.25; margin: 0 0 4px; overflow-wrap: anywhere; }
h2 { font-size: 1.15rem; margin: 0 0 12px; }
h3 { font-size: 1rem; margin: 20px 0 8px; }
p { margin: 0 0 8px; max-width: 78ch; }
.lead { color: var(--soft); overflow-wrap: anywhere; margin-bottom: 20px; }
.note { color: var(--soft); font-size: .9rem; }
section, details { background: var(--card); border: 1px solid var(--line); border-radius: 10px;
                   padding: 18px 20px; margin: 0 0 16px; }
section details { border: 0; padding: 0; margin: 12px 0 0; }
summary { cursor: pointer; font-weight: 600; overflow-wrap: anywhere; }
details[open] > summary { margin-bottom: 12px; }
ul { margin: 0; padding-left: 1.2em; overflow-wrap: anywhere; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: 12px;
         margin: 0 0 16px; }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 14px 16px;
        display: flex; flex-direction: column; }
.card span, .card small { color: var(--soft); font-size: .85rem; }
.card strong { font-size: 1.6rem; line-height: 1.3; font-variant-numeric: tabular-nums; }
.wide { overflow-x: auto; margin: 0 0 12px; }
table { border-collapse: collapse; font-size: .92rem; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: 6px 14px 6px 0; border-bottom: 1px solid var(--line);
         vertical-align: top; }
td:first-child { min-width: 11em; overflow-wrap: anywhere; }
.sortable td { white-space: nowrap; }
thead th { vertical-align: bottom; color: var(--soft); font-weight: 600; }
.n { text-align: right; white-space: nowrap; }
th button { font: inherit; color: inherit; background: none; border: 0; padding: 0; cursor: pointer;
            text-align: inherit; }
th button:hover { color: var(--accent); }
th[aria-sort=ascending] button::after { content: " ▲"; }
th[aria-sort=descending] button::after { content: " ▼"; }
svg { display: block; }
svg.chart { width: 100%; height: auto; max-width: 620px; }
svg text { fill: var(--text); font: 12px system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans",
           sans-serif; }
svg .axis { stroke: var(--line); }
svg .soft { fill: var(--soft); }
.legend { display: flex; flex-wrap: wrap; gap: 4px 18px; font-size: .88rem; margin: 0 0 8px; padding: 0;
          list-style: none; }
.legend i { display: inline-block; width: 18px; height: 3px; vertical-align: middle; margin-right: 6px; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 420px), 1fr)); gap: 20px; }
.images { display: flex; flex-wrap: wrap; gap: 14px; }
.image { max-width: 100%; }
.image img { max-width: 100%; image-rendering: pixelated; border-radius: 6px; display: block; }
.image small { color: var(--soft); font-size: .85rem; }
code { overflow-wrap: anywhere; }
@media (max-width: 560px) { svg.chart text { font-size: 18px; } section, details { padding: 16px; } }
@media print { body { background: #fff; } section, .card { break-inside: avoid; } }
"""

_SCRIPT = """
document.querySelectorAll("table.sortable th").forEach((head, column) => {
  const own = [...head.parentNode.children].indexOf(head);
  head.querySelector("button").addEventListener("click", () => {
    const body = head.closest("table").tBodies[0];
    const up = head.getAttribute("aria-sort") !== "ascending";
    const value = row => row.cells[own].textContent.trim();
    const number = text => /^[-+]?[\\d.,]+/.test(text) ? parseFloat(text.replace(/,/g, "")) : NaN;
    const order = (a, b) => {
      const [x, y] = [number(value(a)), number(value(b))];
      if (isNaN(x) && isNaN(y)) return value(a).localeCompare(value(b));
      return isNaN(x) || isNaN(y) ? isNaN(x) - isNaN(y) : x - y;
    };
    const rows = [...body.rows].sort((a, b) => up ? order(a, b) : order(b, a));
    rows.forEach(row => body.appendChild(row));
    [...head.parentNode.children].forEach(other => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
  });
});
"""
