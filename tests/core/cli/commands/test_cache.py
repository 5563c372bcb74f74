"""`sidetune cache` lists and clears the cache folders."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest

from sidetune_core.cli.main import main
from sidetune_core.io.cache_folders import in_use

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A root with two folders, one of which is a link to another disk."""
    root, disk = tmp_path / "root", tmp_path / "disk"
    (root / "weights").mkdir(parents=True)
    (root / "weights" / "net.pt").write_bytes(bytes(2_500_000))
    (disk / "nested").mkdir(parents=True)
    (disk / "nested" / "rows").write_bytes(bytes(1500))
    (root / "store").symlink_to(disk)
    monkeypatch.setenv("SIDETUNE_HOME", str(root))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "models"))
    return root


def answer(monkeypatch: pytest.MonkeyPatch, text: str, terminal: bool = True) -> None:
    stream = io.StringIO(text)
    stream.isatty = lambda: terminal  # type: ignore[method-assign]
    monkeypatch.setattr(sys, "stdin", stream)


def test_folders_are_listed_with_their_sizes_and_contents(
    caches: Path, tmp_path: Path, capsys: Capture
) -> None:
    assert main(["cache"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines[0] == [str(caches)]
    assert lines[1][:3] == ["store", "1.5", "kB"]
    assert lines[2] == ["weights", "2.5", "MB", "downloaded", "weights"]
    assert ["HF_HOME", "none", str(tmp_path / "models")] in lines


def test_what_is_named_is_deleted_and_nothing_else(caches: Path, tmp_path: Path, capsys: Capture) -> None:
    assert main(["cache", "clear", "store", "--yes"]) == 0
    assert "1.5 kB freed" in capsys.readouterr().out
    assert list((tmp_path / "disk").iterdir()) == []  # the link stays, what it leads to is empty
    assert (caches / "weights" / "net.pt").is_file()
    assert main(["cache", "clear", "all", "--yes"]) == 0
    assert not (caches / "weights").exists()


@pytest.mark.parametrize(("text", "status"), [("y\n", 0), ("\n", 1)])
def test_a_person_is_asked(
    text: str, status: int, caches: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    answer(monkeypatch, text)
    assert main(["cache", "clear", "weights"]) == status
    assert "Delete weights (2.5 MB)" in capsys.readouterr().out
    assert (caches / "weights").exists() == bool(status)


def test_a_script_is_refused_with_the_command_that_does_not_ask(
    caches: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    answer(monkeypatch, "", terminal=False)
    assert main(["cache", "clear", "weights"]) == 2
    assert "run: sidetune cache clear weights --yes" in capsys.readouterr().err
    assert (caches / "weights" / "net.pt").is_file()


def test_a_folder_that_a_run_uses_is_kept(caches: Path, capsys: Capture) -> None:
    with in_use(caches / "weights"):
        assert main(["cache", "clear", "all", "--yes"]) == 2
    assert f"a run uses the cache folder {caches / 'weights'}" in capsys.readouterr().err
    assert (caches / "weights" / "net.pt").is_file()
    assert any((caches / "store").iterdir())


def test_a_name_that_is_no_folder_is_refused_with_those_that_are(caches: Path, capsys: Capture) -> None:
    assert main(["cache", "clear", "weigths", "--yes"]) == 2
    assert "Did you mean 'weights'? Folders: store, weights" in capsys.readouterr().err
