"""What a run states about the commit of its code."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from sidetune_core.training import git_state


@pytest.mark.parametrize(
    ("file", "changed"),
    [("ledger/searches/new.json", False), ("ledger/recorded/new.json", False), ("code.py", True)],
)
def test_records_made_one_after_another_are_no_change_of_the_code(
    file: str, changed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run([*git, "init", "--quiet"], check=True)
    subprocess.run([*git, "commit", "--quiet", "--allow-empty", "--message", "First"], check=True)
    (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / file).write_text("new")
    monkeypatch.setattr(git_state, "__file__", str(tmp_path / "git_state.py"))
    state = git_state.git_state()
    assert state is not None
    assert state["changed"] is changed
