"""Whether ``report.md`` is the report of the run folder that it is in."""

from __future__ import annotations

import re
from pathlib import Path

from sidetune_core import __version__
from sidetune_core.certificate.certificate_file import read_certificate
from sidetune_core.certificate.record import FORMAT
from sidetune_core.errors import SidetuneError
from sidetune_core.results.report import run_report
from sidetune_core.results.summary import summarise
from sidetune_core.results.tables import markdown_text
from sidetune_core.storage.run_folder import RunFolder

FOLDER = r"Folder: (`+) ?((?:(?!\1).)*?) ?\1$"
"""The end of the line with the status, which is code in Markdown."""


def check_report(folder: RunFolder) -> tuple[list[str], list[str]]:
    """Contradictions between ``report.md`` and the other files, and notes on what could not be checked.

    The name of the folder may be another one than when the report was written.
    """
    path = folder.path / "report.md"
    if not path.is_file():
        return [], ["there is no report.md"]
    try:
        written = path.read_text(encoding="utf-8")
        summary = summarise(folder)
        expected = run_report(summary)
    except (OSError, ValueError, SidetuneError) as error:
        return [f"report.md could not be checked: {error}"], []
    if _without_name(written) == _without_name(expected):
        return [], []
    line = _first_difference(_without_name(written), _without_name(expected))
    if not _is_of_this_version(folder):
        return [], [f"report.md was written by another version of sidetune; this one would write '{line}'"]
    if len(summary.results.rows) < len(summary.results.tasks):
        return [], ["report.md is older than the other files of the run, which is not finished"]
    return [f"report.md is not what the folder says, which is '{line}'"], []


def _is_of_this_version(folder: RunFolder) -> bool:
    """Whether the run was made by this version, with certificates of the present format."""
    certificate = read_certificate(folder)
    versions = folder.read_json("run.json").get("versions") or {}
    return (
        versions.get("sidetune") == __version__ and certificate is not None and certificate.format == FORMAT
    )


def _without_name(report: str) -> list[str]:
    """The lines of a report without the name and the path of its folder, where these agree."""
    title, *lines = report.splitlines() or [""]
    folders = [match for line in lines if (match := re.search(FOLDER, line))]
    if not folders or title != f"# {markdown_text(Path(folders[0][2]).name)}":
        return [title, *lines]
    return [re.sub(FOLDER, "", line) for line in lines]


def _first_difference(written: list[str], expected: list[str]) -> str:
    """The first line that a report should have and has not."""
    pairs = zip([*written, *[""] * len(expected)], expected, strict=False)
    return next((line for before, line in pairs if before != line), "nothing more").strip()
