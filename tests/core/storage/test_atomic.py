"""Files that are there whole or not at all."""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import pytest

from sidetune_core.errors import WriteError
from sidetune_core.storage import atomic
from sidetune_core.storage.atomic import (
    append_line,
    clear_unfinished,
    not_synced,
    sync_folder,
    sync_folders,
    truncate,
    write_bytes,
    write_text,
    writing,
)


def test_bytes_are_written_into_folders_that_are_made(tmp_path: Path) -> None:
    write_bytes(tmp_path / "a" / "b" / "file", b"\x00\xff")
    assert (tmp_path / "a" / "b" / "file").read_bytes() == b"\x00\xff"


def test_text_is_utf_8_whatever_the_locale(tmp_path: Path) -> None:
    write_text(tmp_path / "file", "α → β\n")
    assert (tmp_path / "file").read_bytes() == "α → β\n".encode()


def test_an_old_file_is_replaced(tmp_path: Path) -> None:
    write_text(tmp_path / "file", "a long old text")
    write_text(tmp_path / "file", "new")
    assert (tmp_path / "file").read_text() == "new"


def test_nothing_else_is_left_behind(tmp_path: Path) -> None:
    write_text(tmp_path / "file", "text")
    assert list(tmp_path.iterdir()) == [tmp_path / "file"]


@pytest.mark.parametrize("step", ["fsync", "replace"])
@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_a_write_that_is_cut_off_leaves_the_old_file_alone(
    step: str, error: type[BaseException], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise error

    write_text(tmp_path / "file", "old")
    with monkeypatch.context() as patch:
        patch.setattr(os, step, fail)
        with pytest.raises(error):
            write_text(tmp_path / "file", "new")
    assert (tmp_path / "file").read_text() == "old"
    assert list(tmp_path.iterdir()) == [tmp_path / "file"]


def test_a_file_appears_under_its_name_only_when_it_is_synced_and_then_its_folder_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there: list[bool] = []
    sync = os.fsync

    def look(handle: int) -> None:
        there.append((tmp_path / "file").exists())
        sync(handle)

    monkeypatch.setattr(os, "fsync", look)
    write_text(tmp_path / "file", "text")
    assert there == [False, True]


@pytest.mark.skipif(os.name != "posix", reason="modes of files are POSIX's")
@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o027, 0o640), (0o077, 0o600)])
def test_the_mode_is_that_of_any_new_file(umask: int, mode: int, tmp_path: Path) -> None:
    before = os.umask(umask)
    try:
        write_text(tmp_path / "file", "text")
    finally:
        os.umask(before)
    assert (tmp_path / "file").stat().st_mode & 0o777 == mode


def test_each_new_folder_is_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[Path] = []
    monkeypatch.setattr(atomic, "sync_folder", synced.append)
    write_text(tmp_path / "a" / "b" / "file", "text")
    assert synced == [tmp_path, tmp_path / "a", tmp_path / "a" / "b"]


def test_the_folders_of_several_files_are_synced_once_after_the_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[Path] = []
    monkeypatch.setattr(atomic, "sync_folder", synced.append)
    unsynced = set[Path]()
    write_text(tmp_path / "a" / "first", "text", unsynced)
    write_bytes(tmp_path / "a" / "second", b"text", unsynced)
    assert synced == []
    sync_folders(unsynced)
    assert synced == [tmp_path, tmp_path / "a"]
    assert unsynced == set()


def test_what_is_deleted_soon_is_not_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", synced.append)
    with not_synced():
        write_text(tmp_path / "a" / "file", "text")
    assert synced == []
    write_text(tmp_path / "a" / "file", "text")
    assert len(synced) == 2  # the file and its folder


@pytest.mark.parametrize(("number", "fails"), [(errno.EINVAL, False), (errno.EIO, True)])
def test_a_file_system_that_cannot_sync_folders_is_no_error_and_a_broken_disk_is(
    number: int, fails: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="error") if fails else nullcontext():
        sync_folder(tmp_path)


def test_a_line_follows_whole_lines_only(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    path.write_text("first\nsec")
    append_line(path, "third")
    append_line(path, "α")
    assert path.read_text(encoding="utf-8") == "first\nthird\nα\n"


@pytest.mark.skipif(os.name != "posix", reason="limits of processes are POSIX's")
def test_a_line_that_does_not_fit_on_the_disk_leaves_no_part_of_it(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    append_line(path, "first")
    with _largest_file(10), pytest.raises(OSError, match="too large"):
        append_line(path, "a longer line")
    assert path.read_text() == "first\n"


@contextmanager
def _largest_file(size: int) -> Iterator[None]:
    """Limit files of this process to some bytes."""
    import resource

    limits, action = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, action)


@pytest.mark.skipif(os.name != "posix", reason="O_NOFOLLOW is POSIX's")
@pytest.mark.parametrize("write", [lambda path: append_line(path, "x"), lambda path: truncate(path, 0)])
def test_a_link_is_not_followed(write: Callable[[Path], None], tmp_path: Path) -> None:
    (tmp_path / "foreign").write_text("text\n")
    (tmp_path / "link").symlink_to(tmp_path / "foreign")
    with pytest.raises(WriteError, match="link: it is a symbolic link"), writing(tmp_path / "link"):
        write(tmp_path / "link")
    assert (tmp_path / "foreign").read_text() == "text\n"


def test_a_link_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "foreign").write_text("text")
    (tmp_path / "link").symlink_to(tmp_path / "foreign")
    write_text(tmp_path / "link", "new")
    assert (tmp_path / "foreign").read_text() == "text"
    assert not (tmp_path / "link").is_symlink()


def test_old_temporary_files_are_deleted_and_those_of_other_processes_are_not(tmp_path: Path) -> None:
    old, new = tmp_path / ".file.00000000", tmp_path / ".file.00000001"
    for path in (old, new, tmp_path / ".other"):
        path.write_text("text")
    os.utime(old, (0, 0))
    clear_unfinished(tmp_path, older_than=60)
    assert sorted(tmp_path.iterdir()) == [new, tmp_path / ".other"]
    clear_unfinished(tmp_path)
    assert list(tmp_path.iterdir()) == [tmp_path / ".other"]
