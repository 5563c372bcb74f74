"""Names that plugins give to files of the run folder are checked before a file is written."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from sidetune_core.errors import PluginError, RunError
from sidetune_core.storage.file_names import check_file_name, check_file_names, ignores_case
from sidetune_core.storage.images import save_image
from sidetune_core.storage.marks import rewind
from sidetune_core.storage.new_run import create_run
from sidetune_core.storage.own_files import check_own, separate_hard_links
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
    check_own(folder)
    (folder.path / name).unlink(missing_ok=True)
    (folder.path / name).symlink_to(folder.path.parent)
    with pytest.raises(RunError, match=rf"{name} is a symbolic link: .* cp -rL"):
        check_own(folder)


@pytest.mark.skipif(os.name != "posix", reason="pipes with names are POSIX's")
def test_a_pipe_is_refused_and_not_opened(folder: RunFolder) -> None:
    os.mkfifo(folder.path / "metrics.jsonl")
    with pytest.raises(RunError, match="is no regular file"):
        check_own(folder)


def test_a_run_folder_that_is_a_link_is_none_of_these(folder: RunFolder) -> None:
    link = folder.path.parent / "link"
    link.symlink_to(folder.path)
    check_own(RunFolder(link))


def test_another_name_of_a_file_keeps_its_lines(folder: RunFolder) -> None:
    backup = folder.path.parent / "backup"
    os.link(folder.path / "eval.jsonl", backup)
    before = backup.read_bytes()
    separate_hard_links(folder)
    folder.append("eval.jsonl", {"after": 1})
    assert backup.read_bytes() == before
    assert len(folder.lines("eval.jsonl")) == 2


def test_temporary_files_of_documents_are_deleted(folder: RunFolder) -> None:
    left = folder.path / "documents" / "t0-test" / ".predictions.json.00c0de21"
    left.write_text("{")
    rewind(folder, {})
    assert not left.exists()


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("", "is no file name"),
        ("-x", "is no file name"),
        (".x", "is no file name"),
        ("x ", "is no file name"),
        ("a\nb", "is no file name"),
        ("a\x1b[2Jb", r"'a\\x1b\[2Jb', which is no file name"),
        ("a\u202eb", "is no file name"),
        ("a\udcffb", "is no file name"),
        ("NUL", "is no file name"),
        ("com1.x", "is no file name"),
        ("x" * 300, r"\(300 characters\), which is longer than 100 bytes"),
    ],
)
def test_a_name_that_is_no_file_name_is_refused(name: object, words: str) -> None:
    with pytest.raises(PluginError, match=f"^env 'x' gives a task the name .*{words}"):
        check_file_name(name, "env 'x' gives a task")


def test_a_name_that_is_no_text_is_refused() -> None:
    with pytest.raises(PluginError, match="the name 7, which is no text"):
        check_file_name(7, "env 'x' gives a task")


def test_two_names_that_are_one_file_are_refused() -> None:
    check_file_names(["a", "A"], "env 'x' gives a task", ignores_case=False)
    with pytest.raises(PluginError, match="the names 'a' and 'A', which are one file on this disk"):
        check_file_names(["a", "A"], "env 'x' gives a task", ignores_case=True)
    with pytest.raises(PluginError, match="which are one file"):
        check_file_names(["\u00e9", "e\u0301"], "env 'x' gives a task", ignores_case=False)


def test_a_disk_that_ignores_case_is_recognised(tmp_path: Path) -> None:
    other = tmp_path.with_name(tmp_path.name.swapcase())
    assert ignores_case(tmp_path / "absent") == other.exists()


def test_log_lines_have_no_control_characters(tmp_path: Path) -> None:
    RunFolder(tmp_path).log("a\x1b[2J\nerror: b\udcff")
    assert (tmp_path / "log.txt").read_text().endswith(r" a\x1b[2J\nerror: b\udcff" + "\n")


def test_a_folder_of_a_process_that_was_killed_before_its_run_began_is_free(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    for name in ("lock", "lock.json", ".run.json.0123abcd"):
        (tmp_path / name).write_text("")
    assert create_run(tmp_path, "test").checkpoints.is_dir()
    assert not (tmp_path / ".run.json.0123abcd").exists()


@pytest.mark.parametrize("name", ["run.json", "notes.txt", "checkpoints/after-001.json"])
def test_a_folder_with_anything_else_is_not_free(name: str, tmp_path: Path) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("")
    with pytest.raises(RunError, match="is not empty"):
        create_run(tmp_path, "test")


def test_a_damaged_status_is_unknown(tmp_path: Path) -> None:
    (tmp_path / "status").write_bytes(b"\xff\xfe")
    assert RunFolder(tmp_path).status == "unknown"


def test_a_line_that_is_no_object_is_damaged(tmp_path: Path) -> None:
    (tmp_path / "eval.jsonl").write_text('{"after": 0}\n5\n{"after": 1}\n')
    assert RunFolder(tmp_path).lines("eval.jsonl") == [{"after": 0}]
