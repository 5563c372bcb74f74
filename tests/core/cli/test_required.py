"""Commands without their required arguments."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest

from sidetune_core.cli.commands import COMMANDS
from sidetune_core.cli.main import main


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["describe"], "no kind and no name given: sidetune describe learner sidetune"),
        (["describe", "base"], "no name given: sidetune describe learner sidetune"),
        (["convert", "--out", "w.safetensors"], "no file given: sidetune convert weights.pth"),
        (["evaluate", "--split", "val"], "no run given: sidetune evaluate RUN"),
        (["push", "adapter", "--private"], "no repository given: sidetune push ADAPTER OWNER/NAME"),
        (["play"], "no run given: sidetune play RUN"),
    ],
)
def test_a_missing_argument_is_answered_with_a_command(
    words: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    assert capsys.readouterr().err == f"error: {message}\n"


def test_the_newest_run_stands_in_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    run = tmp_path / "runs" / "my run"
    run.mkdir(parents=True)
    (run / "run.json").write_text("{}")
    assert main(["verify"]) == 2
    assert capsys.readouterr().err == "error: no run given: sidetune verify 'runs/my run'\n"


def test_every_command_with_a_required_argument_has_an_example() -> None:
    required = {
        name
        for name, command in COMMANDS.items()
        for parameter in inspect.signature(command.load()).parameters.values()
        if str(parameter.annotation).startswith("Positional[")
        and not str(parameter.annotation).startswith("Positional[tuple")
        and parameter.default is parameter.empty
    }
    assert required == {name for name, command in COMMANDS.items() if command.example}
