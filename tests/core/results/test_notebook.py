"""What a notebook shows of results: short lines, a heat map, tables of pandas, a figure."""

from __future__ import annotations

import math
import sys

import pytest

from sidetune_core.errors import SidetuneError
from sidetune_core.results.metrics import Results

RESULTS = Results(
    ("t0", "t1", "t2"), ((0.75, None, None), (0.5, 1.0, 0.25)), (0.25, 0.125, 0.5), "accuracy", True
)


def test_the_repr_of_results_is_one_line() -> None:
    assert repr(RESULTS) == "<Results: 2 of 3 tasks trained; average accuracy 75.0 %>"
    losses = Results(("a", "b"), ((0.5, 2.0),), (1.0, 3.0), "loss", False)
    assert repr(losses) == "<Results: 1 of 2 tasks trained; loss a 0.5, b 2>"


def test_a_notebook_shows_r_as_a_heat_map() -> None:
    shown = RESULTS._repr_html_()
    assert shown.count("<rect") == 7
    assert "75.0 %" in shown


def test_pandas_has_r_with_gaps_as_nan() -> None:
    frame = RESULTS.to_pandas()
    assert list(frame.index) == ["untrained", "t0", "t1"]
    assert frame.loc["t1", "t0"] == 0.5
    assert math.isnan(frame.loc["t0", "t1"])


def test_pandas_has_a_row_for_each_task() -> None:
    frame = RESULTS.to_pandas("task")
    assert list(frame.loc["t0"]) == [0.25, 0.75, 0.5]
    assert math.isnan(frame.loc["t2", "trained"])
    assert frame.loc["t2", "final"] == 0.25


def test_without_pandas_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(SidetuneError, match=r"pip install 'sidetune\[pandas\]'"):
        RESULTS.to_pandas()


def test_the_plot_names_tasks_and_has_the_values() -> None:
    (axes,) = RESULTS.plot().axes
    assert [text.get_text() for text in axes.get_xticklabels()] == ["t0", "t1", "t2"]
    assert "12.5" in [text.get_text() for text in axes.texts]
