"""Prose and code use the field's words, and Python lines fit into 110 columns."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
ROOTS = (
    "README.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "docs",
    "examples",
    "plugins",
    "sidetune_core",
)
COLUMNS = 110

WORDS = {
    r"\banew\b": "again, from scratch, re-computed",
    r"\bbeside\b": "next to, alongside, compared with",
    r"(?<![-.\"'])\bfigures?\b(?![\"']| ?[(=.:\d])": "metric, value, result (for a drawing: plot, image)",
    r"\bgive[ns]? up\b|\bgave up\b": "truncated, failed, discarded",
    r"\bg(o|oes|one|oing) on\b|\bwent on\b": "resume, continue",
    r"\bin which is acted\b|\bacted in\b": "rollouts, environments",
    r"\blearnt\b": "trained (models), learned (parameters)",
    r"\bmay move\b|\bmovable\b": "trainable",
    r"\bmend(s|ed|ing)?\b": "fix",
    r"\bpart of a run\b": "component",
    r"\bpromise[sd]?\b": "guarantee",
    r"\brivals?\b": "baseline",
    r"\bshares? of\b": "fraction of; shard of (a batch)",
    r"\bso many\b|\bso-manieth\b": "n, every n-th",
    r"\bthe house\b": "the architecture",
    r"\btold\b": "reported, logged, printed; told apart: differ significantly",
    r"\bwhole state\b": "checkpoint",
    r"\bworlds\b": "environments",
}
"""Words that are never right here, and what to write instead."""

ALLOWED = {
    ("sidetune_core/cli/commands/report.py", "figure"),
    ("docs/overview.py", "figure"),
    ("docs/overview.py", "Figure"),
    ("sidetune_core/cli/commands/ledger.py", "figure"),
    ("sidetune_core/results/figures.py", "figure"),
    ("sidetune_core/results/figures.py", "Figure"),
    ("sidetune_core/results/metrics.py", "Figure"),
    ("sidetune_core/training/finished_run.py", "Figure"),
    # former names that are still accepted or read
    ("sidetune_core/api.py", '"Worlds"'),
    ("sidetune_core/certificate/former_formats.py", "learnt"),
    ("sidetune_core/demonstrations/dataset.py", "figures"),
    ("sidetune_core/ledger/claims.py", "figures"),
    ("sidetune_core/results/metrics.py", "learnt"),
}
"""A word is right on a line of this file that has this phrase."""

GENERATED = re.compile(r"^<!-- ledger: .*?^<!-- end -->$", re.DOTALL | re.MULTILINE)
FENCE = re.compile(r"^```(\w+).*?^```$", re.DOTALL | re.MULTILINE)
PRAGMA = re.compile(r"  # (type: ignore|noqa).*$")
INLINE = re.compile(r"`[^`\n]+`")


def test_words_are_those_of_the_field() -> None:
    hits = [
        f"{name}:{line}: '{' '.join(word.split())}': write {better}"
        for name, text in texts()
        for line, word, better in found(text)
        if not any(name == file and phrase in text.splitlines()[line - 1] for file, phrase in ALLOWED)
    ]
    assert not hits, "\n".join(["words to replace:", *hits])


def test_python_lines_fit_into_the_columns() -> None:
    long = [
        f"{name}:{number}: {len(line)} columns"
        for name, text in texts()
        if name.endswith(".py")
        for number, line in enumerate(text.splitlines(), 1)
        if len(PRAGMA.sub("", line)) > COLUMNS
    ]
    assert not long, "\n".join(["lines to break:", *long])


def test_a_word_is_found_across_lines_and_not_in_commands() -> None:
    text = "it goes\non\n```python\nx\n```\ntold\n```console\n$ go on\n```\n`worlds` and\nworlds\n"
    words = [(line, word) for line, word, _ in found(prose("page.md", text))]
    assert words == [(1, "goes\non"), (6, "told"), (11, "worlds")]


def texts() -> Iterator[tuple[str, str]]:
    """Every file below the roots, by its path in the repository."""
    for root in ROOTS:
        path = ROOT / root
        for file in [path] if path.is_file() else sorted([*path.rglob("*.md"), *path.rglob("*.py")]):
            name = file.relative_to(ROOT).as_posix()
            yield name, prose(name, file.read_text(encoding="utf-8"))


def prose(name: str, text: str) -> str:
    """What a person wrote: of a page, no generated tables, no commands with their output, no inline code."""
    if name.endswith(".md"):
        text = GENERATED.sub(blank, text)
        text = FENCE.sub(lambda block: block[0] if block[1] == "python" else blank(block), text)
        text = INLINE.sub(blank, text)
    return text


def blank(hit: re.Match[str]) -> str:
    """As many blanks and newlines as the text has."""
    return re.sub(r"[^\n]", " ", hit[0])


def found(text: str) -> list[tuple[int, str, str]]:
    """Words to replace: line, word, and what to write instead."""
    return sorted(
        (text.count("\n", 0, hit.start()) + 1, hit[0], better)
        for word, better in WORDS.items()
        for hit in re.finditer(word.replace(" ", r"\s+"), text, re.IGNORECASE)
    )
