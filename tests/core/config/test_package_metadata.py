"""Damaged metadata of one package is named, and breaks no scan of the others."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path

import pytest

from sidetune_core.cli.main import main, main_run
from sidetune_core.config.kinds import LEARNER, MERGER
from sidetune_core.config.package_metadata import damaged_metadata_skipped, packages_distributions
from sidetune_core.config.registry import find, scan
from sidetune_core.errors import PluginError

ABOUT = b"Metadata-Version: 2.1\nName: odd\nVersion: 1.0\n"
DAMAGED = {
    b"[sidetune.mergers]\nno equals sign\n": "malformed: line 2, 'no equals sign', has no '='",
    b"# ini\nx = [\n[[[sidetune.mergers\n": "malformed: line 2, 'x = [', precedes the first [group]",
    b"\xff\xfe[sidetune.mergers]\n": "is not UTF-8",
    b"[other.group]\nbroken\n": "malformed: line 2, 'broken', has no '='",
}


@pytest.fixture
def odd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The metadata folder of a distribution on ``sys.path``."""
    folder = tmp_path / "odd-1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_bytes(ABOUT)
    monkeypatch.syspath_prepend(tmp_path)
    return folder


@pytest.mark.parametrize("entries", DAMAGED)
def test_a_damaged_file_is_named_with_its_package_and_line(entries: bytes, odd: Path) -> None:
    (odd / "entry_points.txt").write_bytes(entries)
    (problem,) = scan().damaged
    assert str(problem) == f"odd 1.0 ({odd}): entry_points.txt {prefix(entries)}{DAMAGED[entries]}"


def prefix(entries: bytes) -> str:
    return "" if DAMAGED[entries].startswith("is not") else "is "


@pytest.mark.parametrize("entries", DAMAGED)
def test_scans_of_others_skip_a_damaged_file(entries: bytes, odd: Path) -> None:
    (odd / "entry_points.txt").write_bytes(entries)
    with damaged_metadata_skipped():
        assert metadata.entry_points(group="sidetune.learners")


def test_the_readers_of_the_standard_library_are_put_back() -> None:
    before = vars(metadata.Distribution)["entry_points"], vars(metadata.PathDistribution)["read_text"]
    with damaged_metadata_skipped():
        assert vars(metadata.Distribution)["entry_points"] is not before[0]
    after = vars(metadata.Distribution)["entry_points"], vars(metadata.PathDistribution)["read_text"]
    assert after == before


def test_a_package_with_plugins_and_no_readable_name_is_named_by_its_folder(odd: Path) -> None:
    (odd / "entry_points.txt").write_text("[sidetune.mergers]\nfoo = foo:Foo\n")
    (odd / "METADATA").write_bytes(b"Name: odd\xff\xfe\n")
    assert [problem.origin for problem in scan().damaged] == [str(odd)]


def test_packages_of_modules_are_found_next_to_damaged_metadata(odd: Path) -> None:
    (odd / "METADATA").write_bytes(b"Name: odd\xff\xfe\n")
    (odd / "top_level.txt").write_text("oddly\n")
    assert "torch" in packages_distributions()["torch"]


def test_the_general_help_names_the_components_of_an_installed_package(
    odd: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (odd / "entry_points.txt").write_text("[sidetune.learners]\noddly = foo:Foo\n")
    with pytest.raises(SystemExit, match="0"):
        main_run(["--help"])
    learners = [line for line in capsys.readouterr().out.splitlines() if line.startswith("learners: ")]
    assert ", oddly, " in learners[0]


def test_the_list_warns_of_damaged_metadata(odd: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (odd / "entry_points.txt").write_text("[sidetune.mergers]\nbroken\n")
    assert main(["list", "learners"]) == 0
    listing = capsys.readouterr()
    assert listing.err.startswith(f"warning: odd 1.0 ({odd}): entry_points.txt is malformed")
    assert "finetune" in listing.out


def test_a_run_is_composed_next_to_damaged_metadata(odd: Path) -> None:
    (odd / "entry_points.txt").write_text("[sidetune.mergers]\nbroken\n")
    assert main_run(["--dry-run"]) == 0


def test_the_error_for_an_unknown_name_mentions_damaged_metadata(odd: Path) -> None:
    (odd / "entry_points.txt").write_text("[sidetune.mergers]\nbroken\n")
    with pytest.raises(PluginError, match=r"no merger named 'broken'.* Unreadable: odd 1\.0 .* has no '='"):
        find(MERGER, "broken")


@pytest.mark.parametrize("name", ["with space", "sla/sh", "-dash", "name:colon", "a,b"])
def test_a_name_that_cannot_be_chosen_is_listed_as_unusable(
    name: str, odd: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (odd / "entry_points.txt").write_text(f"[sidetune.learners]\n{name} = foo:Foo\n")
    main(["list", "learners"])
    (line,) = [line for line in capsys.readouterr().out.splitlines() if name in line]
    assert "odd 1.0, unusable: its name cannot be chosen" in line


@pytest.mark.parametrize("name", ["with space", "sla/sh", "-dash", "name:colon"])
def test_a_name_that_cannot_be_chosen_is_refused_with_its_package(
    name: str, odd: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (odd / "entry_points.txt").write_text(f"[sidetune.learners]\n{name} = foo:Foo\n")
    assert main_run(["--learner", name, "--dry-run"]) == 2
    assert capsys.readouterr().err.startswith(f"error: learner '{name}' (odd 1.0): its name cannot be chosen")


@pytest.mark.parametrize("name", ["Upper", "ünïcode", "dot.ted", "help", "c++"])
def test_an_unusual_name_can_be_chosen(name: str, odd: Path) -> None:
    (odd / "entry_points.txt").write_text(f"[sidetune.learners]\n{name} = foo:Foo\n")
    assert find(LEARNER, name).distribution == "odd"


def test_two_lines_of_one_name_in_one_package_are_an_error_for_that_name(odd: Path) -> None:
    (odd / "entry_points.txt").write_text("[sidetune.mergers]\ntwice = a:A\ntwice = b:B\nonce = c:C\n")
    with pytest.raises(PluginError, match=r"merger 'twice' \(odd 1\.0\): .* 2 lines for it: a:A, b:B"):
        find(MERGER, "twice")
    assert find(MERGER, "once").target == "c:C"


@pytest.mark.parametrize("target", ["", "a b:c", "a-b:C", "a:"])
def test_a_target_that_is_no_class_of_a_module_is_refused(target: str, odd: Path) -> None:
    (odd / "entry_points.txt").write_text(f"[sidetune.mergers]\nfoo = {target}\n")
    with pytest.raises(PluginError, match=r"merger 'foo' \(odd 1\.0\): its target '.*' is not module:Class"):
        find(MERGER, "odd/foo")


def test_a_merger_named_like_a_default_changes_no_run_that_names_none(
    odd: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (odd / "entry_points.txt").write_text("[sidetune.mergers]\nalpha = foo:Foo\n")
    assert main_run(["--dry-run"]) == 0
    assert '"sidetune/alpha"' in capsys.readouterr().out
