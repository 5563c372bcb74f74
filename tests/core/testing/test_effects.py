"""Side effects are noted: output, messages, and files in the current folder."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import pytest

from sidetune_core.testing.effects import watched


def test_standard_output_is_kept_back(capsys: pytest.CaptureFixture[str]) -> None:
    with watched() as effects:
        print("hello")
    assert effects.printed.getvalue() == "hello\n"
    assert capsys.readouterr().out == ""


def test_a_message_on_standard_error_is_noted_and_a_warning_is_not() -> None:
    with watched() as effects, warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("careful", stacklevel=1)
        print("oops", file=sys.stderr)
    assert effects.complained == ["oops"]


def test_a_file_in_the_current_folder_is_noted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with watched() as effects:
        Path("litter.txt").write_text("x")
        Path("litter.txt").read_text()
    assert effects.written == ["litter.txt"]


def test_a_file_elsewhere_is_not(tmp_path: Path) -> None:
    with watched() as effects:
        (tmp_path / "cache.bin").write_bytes(b"x")
    assert effects.written == []
