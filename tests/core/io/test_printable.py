"""Control characters are escaped where text leaves the program."""

from __future__ import annotations

import io
import sys

import pytest

from sidetune_core.cli.main import main
from sidetune_core.io.printable import (
    EscapedStream,
    colours_allowed,
    counted,
    escaped_output,
    indented,
    one_line,
    printable,
)
from sidetune_core.system.progress import Progress


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\x1b[2J", r"a\x1b[2J"),
        ("a\x9b2J", r"a\x9b2J"),
        ("a\x00\x07\x08\r\x7f", r"a\x00\x07\x08\r\x7f"),
        ("a\u202eb\u2066\u200f", r"a\u202eb\u2066\u200f"),
        ("a\u2028b\ufeff\u200b", r"a\u2028b\ufeff\u200b"),
        ("a\udcff", r"a\udcff"),
        ("é · ± ↑ 日本 \u00a0 \U0001f468\u200d\U0001f469", "é · ± ↑ 日本 \u00a0 \U0001f468\u200d\U0001f469"),
        ("a\tb\nc", "a\tb\nc"),
    ],
)
def test_control_characters_are_escaped(text: str, shown: str) -> None:
    assert printable(text) == shown


def test_a_value_stays_in_its_line() -> None:
    assert one_line("a\nerror: b") == r"a\nerror: b"


def test_further_lines_of_a_message_are_indented() -> None:
    assert indented("a\nerror: b\n") == "a\n  error: b"


def test_all_that_is_printed_in_the_block_is_escaped(capsys: pytest.CaptureFixture[str]) -> None:
    with escaped_output():
        print("a\x1b[31m")
        print("b\x9b", file=sys.stderr)
    print("c\x1b")
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("a\\x1b[31m\nc\x1b\n", "b\\x9b\n")


def test_only_colours_pass_in_a_help_text(capsys: pytest.CaptureFixture[str]) -> None:
    with escaped_output(), colours_allowed():
        print("\x1b[1;31mred\x1b[0m \x1b[2J")
    assert capsys.readouterr().out == "\x1b[1;31mred\x1b[0m \\x1b[2J\n"


def test_progress_escapes_what_it_shows() -> None:
    stream = io.StringIO()
    progress = Progress(EscapedStream(stream))
    progress.info("a\x1b[2J")
    progress.start("t\x1b\n0", 3)
    progress.finish("done\x07")
    assert stream.getvalue() == "a\\x1b[2J\ndone\\x07\n"


def test_progress_shows_each_text_in_one_line() -> None:
    stream = io.StringIO()
    progress = Progress(EscapedStream(stream))
    for show in (progress.info, progress.warning, progress.finish):
        show("a\nforged\tb\rc")
    assert stream.getvalue() == "a\\nforged\\tb\\rc\n" * 3


def test_numbers_have_their_plural() -> None:
    assert [counted(number, "task") for number in (0, 1, 2)] == ["0 tasks", "1 task", "2 tasks"]


def test_an_error_shows_what_was_typed_escaped(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["re\x1b[2Jport"]) == 2
    assert r"no command 're\x1b[2Jport'" in capsys.readouterr().err
