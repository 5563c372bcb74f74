"""`sidetune report` of runs and searches, as a person types it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sidetune_core.cli.main import main


def test_a_report_is_written_as_one_html_file(
    digits_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "new" / "report.html"
    path.parent.mkdir()
    assert main(["report", str(digits_run), "--html", str(path)]) == 0
    assert capsys.readouterr().out == f"{path}\n"
    text = path.read_text(encoding="utf-8")
    for words in ("<svg", "after 0, 1", "certificate", "sidetune/resnet20", "processor time"):
        assert words in text


def test_definitions_are_printed_in_the_long_report_only(
    digits_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", str(digits_run)]) == 0
    short = capsys.readouterr().out
    assert main(["report", str(digits_run), "--long"]) == 0
    long = capsys.readouterr().out
    assert "mean of the last row (GEM 2017)" in long
    assert "mean of the last row" in short
    assert "GEM 2017" not in short


def test_lines_fit_the_columns_that_are_asked_for(
    digits_run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    assert main(["report", str(digits_run)]) == 0
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 60


def test_no_color_removes_the_colours_of_help(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from sidetune_core.io.printable import colours_allowed, escaped_output

    for value, expected in (("1", "red\n"), ("", "\x1b[31mred\x1b[0m\n")):
        monkeypatch.setenv("NO_COLOR", value)
        with escaped_output(), colours_allowed():
            print("\x1b[31mred\x1b[0m")
        assert capsys.readouterr().out == expected


def test_a_search_as_csv_names_the_report_of_its_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "tuning.json").write_text("{}")
    assert main(["report", str(tmp_path), "--format", "csv"]) == 2
    assert f"sidetune report {tmp_path}{os.sep}runs --format csv" in capsys.readouterr().err
    assert main(["report", str(tmp_path)]) == 2
    assert "tuning.json" in capsys.readouterr().err
