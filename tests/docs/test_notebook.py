"""The notebook runs from top to bottom, and is stored without output."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

NOTEBOOK = Path(__file__).parents[2] / "examples" / "first-run.ipynb"


def cells(kind: str) -> list[dict[str, Any]]:
    notebook = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    assert notebook["nbformat"] == 4
    return [cell for cell in notebook["cells"] if cell["cell_type"] == kind]


def test_the_notebook_trains_reports_loads_and_predicts(capsys: pytest.CaptureFixture[str]) -> None:
    namespace: dict[str, Any] = {"__name__": "__main__"}
    for number, cell in enumerate(cells("code")):
        exec(compile("".join(cell["source"]), f"{NOTEBOOK.name}, code cell {number}", "exec"), namespace)
    assert namespace["run"].results.rows[-1][1] is not None
    assert namespace["verification"].problems == ()
    assert set(namespace["prediction"].probabilities) == {"0", "1"}
    printed = capsys.readouterr().out
    assert "# " in printed
    assert "torch.Size([1, 2])" in printed


def test_no_output_is_stored() -> None:
    assert [cell for cell in cells("code") if cell["outputs"] or cell["execution_count"] is not None] == []


def test_links_of_the_notebook_lead_to_files() -> None:
    text = "".join(line for cell in cells("markdown") for line in cell["source"])
    links = [link.partition(")")[0] for link in text.split("](")[1:]]
    assert links
    assert [link for link in links if not (NOTEBOOK.parent / link).is_file()] == []
