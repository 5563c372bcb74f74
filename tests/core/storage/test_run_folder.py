"""Names that plugins give to files of the run folder are checked before a file is written."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from sidetune_core.errors import PluginError, RunError
from sidetune_core.storage import run_folder
from sidetune_core.storage.images import save_image
from sidetune_core.storage.run_folder import RunFolder

BAD = ["", ".", "..", "../x", "a/b", "/etc/x", "a\\b", "a\0b", "x" * 300]


@pytest.mark.parametrize("name", BAD)
def test_a_document_of_a_name_that_is_elsewhere_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(PluginError, match=r"documents\(\) of t0-test returned the name"):
        RunFolder(tmp_path / "run").write_document("t0-test", name, "text")
    assert not list(tmp_path.rglob("*"))


def test_a_document_is_written_under_its_name(tmp_path: Path) -> None:
    RunFolder(tmp_path).write_document("t0-test", "predictions.json", "{}")
    assert (tmp_path / "documents" / "t0-test" / "predictions.json").read_text() == "{}"


@pytest.mark.parametrize("name", ["../x", ""])
def test_a_visualisation_of_a_name_that_is_elsewhere_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(PluginError, match=r"visualisations\(\) of t0 returned the name"):
        save_image(RunFolder(tmp_path / "run"), "t0", name, torch.zeros(3, 2, 2))
    assert not list(tmp_path.rglob("*"))


OWN = ["run.json", "status", "eval.jsonl", "seconds.jsonl", "log.txt", "report.md", "lock", "lock.json"]


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    """A run folder with files and sub-folders."""
    run = RunFolder(tmp_path / "run")
    run.write_json("run.json", {})
    run.write_document("t0-test", "predictions.json", "{}")
    run.append("eval.jsonl", {"after": 0})
    (tmp_path / "run" / "notes").symlink_to(tmp_path)  # not of the run
    return run


@pytest.mark.parametrize("name", [*OWN, "checkpoints", "probes", "pictures", "tb", "documents/t1-test"])
def test_a_link_in_place_of_a_file_or_folder_of_the_run_is_refused(name: str, folder: RunFolder) -> None:
    folder.check_own()
    (folder.path / name).unlink(missing_ok=True)
    (folder.path / name).symlink_to(folder.path.parent)
    with pytest.raises(RunError, match=rf"{name} is a symbolic link: .* cp -rL"):
        folder.check_own()


@pytest.mark.skipif(os.name != "posix", reason="pipes with names are POSIX's")
def test_a_pipe_is_refused_and_not_opened(folder: RunFolder) -> None:
    os.mkfifo(folder.path / "metrics.jsonl")
    with pytest.raises(RunError, match="is no regular file"):
        folder.check_own()


def test_a_run_folder_that_is_a_link_is_none_of_these(folder: RunFolder) -> None:
    link = folder.path.parent / "link"
    link.symlink_to(folder.path)
    RunFolder(link).check_own()


def test_another_name_of_a_file_keeps_its_lines(folder: RunFolder) -> None:
    backup = folder.path.parent / "backup"
    os.link(folder.path / "eval.jsonl", backup)
    before = backup.read_bytes()
    folder.separate_hard_links()
    folder.append("eval.jsonl", {"after": 1})
    assert backup.read_bytes() == before
    assert len(folder.lines("eval.jsonl")) == 2


def test_temporary_files_of_documents_are_deleted(folder: RunFolder) -> None:
    left = folder.path / "documents" / "t0-test" / ".predictions.json.00c0de21"
    left.write_text("{")
    folder.rewind({})
    assert not left.exists()


def test_a_folder_of_a_process_that_was_killed_before_its_run_began_is_free(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    for name in ("lock", "lock.json", ".run.json.0123abcd"):
        (tmp_path / name).write_text("")
    assert run_folder.create(tmp_path, "test").checkpoints.is_dir()
    assert not (tmp_path / ".run.json.0123abcd").exists()


@pytest.mark.parametrize("name", ["run.json", "notes.txt", "checkpoints/after-001.json"])
def test_a_folder_with_anything_else_is_not_free(name: str, tmp_path: Path) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("")
    with pytest.raises(RunError, match="is not empty"):
        run_folder.create(tmp_path, "test")
