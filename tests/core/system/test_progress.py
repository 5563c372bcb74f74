"""What is shown while a run goes on."""

from __future__ import annotations

import io

import pytest

from sidetune_core.system import progress
from sidetune_core.system.progress import Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def show(stream: io.StringIO, quiet: bool = False) -> str:
    shown = Progress(stream, quiet)
    shown.start("task 1", 40)
    shown.step(20, 0.5)
    shown.finish("task 1 is over")
    return stream.getvalue()


def test_a_pipe_gets_plain_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", -1.0)
    assert show(io.StringIO()) == "task 1: step 20/40, loss 0.500\ntask 1 is over\n"


def test_other_figures_stand_beside_the_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", -1.0)
    stream = io.StringIO()
    shown = Progress(stream)
    shown.start("task 1", 40)
    shown.step(20, 0.5, {"return": 0.95499})
    assert stream.getvalue() == "task 1: step 20/40, loss 0.500, return 0.955\n"


def test_a_pipe_gets_no_more_than_a_line_every_few_seconds() -> None:
    assert show(io.StringIO()) == "task 1 is over\n"


def test_a_terminal_gets_a_bar() -> None:
    assert "0/40" in show(Terminal())


def test_quiet_shows_nothing() -> None:
    assert show(Terminal(), quiet=True) == ""


def finishing(stream: io.StringIO, quiet: bool = False) -> str:
    shown = Progress(stream, quiet)
    for done in range(3):
        shown.batch("task 1", done)
    shown.clear()
    return stream.getvalue()


def test_batches_after_training_are_counted_in_lines_or_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    assert finishing(io.StringIO()) == ""  # in less than two seconds
    assert "0batch" in finishing(Terminal())
    assert finishing(Terminal(), quiet=True) == ""
    monkeypatch.setattr(progress, "SECONDS_BEFORE_BATCHES", -1.0)
    assert finishing(io.StringIO()) == "task 1: batch 1\n"
