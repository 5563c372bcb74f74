"""Completion of commands, options and names of components, asked of a real shell."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from sidetune_core.cli.main import main


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["sidetune", "rep"], {"report", "reproduce"}),
        (["sidetune-run", "--learner", "sid"], {"sidetune"}),
        (["sidetune", "run", "--env", "rot"], {"rotated"}),
        (["sidetune-run", "--train.ba"], {"--train.batch-size"}),
        (["sidetune", "report", "--train.ba"], set()),
        (["sidetune", "sweep", "--train.ba"], {"--train.batch-size"}),
        (["sidetune", "describe", "le"], {"learner"}),
        (["sidetune", "describe", "side", "fcn4"], {"fcn4"}),
    ],
)
def test_bash_completes(
    words: list[str], expected: set[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("there is no bash")
    assert main(["completion", "bash"]) == 0
    script = capsys.readouterr().out
    command = tmp_path / "sidetune"
    command.write_text(f"#!/bin/sh\nexec {sys.executable} -c '{RUN}' \"$@\"\n")
    command.chmod(0o755)
    asked = (
        f'COMP_WORDS=({" ".join(words)}); COMP_CWORD={len(words) - 1}; _sidetune; echo "${{COMPREPLY[@]}}"'
    )
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        [bash, "-c", script + asked], capture_output=True, text=True, env={**os.environ, "PATH": path}
    )
    assert set(done.stdout.split()) == expected, done.stderr


RUN = "import sys; from sidetune_core.cli.main import main; sys.exit(main(sys.argv[1:]))"


def test_other_shells_have_scripts_with_the_same_names(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", "zsh"]) == 0
    assert "bashcompinit" in capsys.readouterr().out
    assert main(["completion", "fish"]) == 0
    assert "-l learner -x -a '(sidetune list learner --names 2>/dev/null)'" in capsys.readouterr().out


def test_names_are_listed_one_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "mergers", "--names"]) == 0
    assert "alpha" in capsys.readouterr().out.splitlines()
