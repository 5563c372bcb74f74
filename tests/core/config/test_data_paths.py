"""Relative paths in spec files, and in runs that are resumed from another folder."""

from __future__ import annotations

import json
from pathlib import Path

import attrs
import pytest

from sidetune_core.api import option
from sidetune_core.cli.main import main_run
from sidetune_core.config.data_paths import begun_here, located, path_options, relative_to_file
from sidetune_core.errors import OptionError


@attrs.frozen
class Nested:
    table: Path | None = option(None, "a table")


@attrs.frozen
class Config:
    root: tuple[Path, ...] = option((), "folders")
    cache: Path = option(Path("~/cache"), "a folder")
    name: str = option("", "a name")
    nested: Nested = option(Nested(), "more")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with a folder `conf` that has a file `data`."""
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf" / "data").touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_paths_and_tuples_of_paths_are_path_options() -> None:
    assert path_options(Config) == ["root", "cache", "nested.table"]


def test_paths_of_a_spec_file_are_relative_to_it(here: Path) -> None:
    given = {"root": ["data", "/data"], "cache": "~/data", "name": "data", "nested": {"table": "data"}}
    assert relative_to_file(Config, given, "env", "conf") == {
        "root": ["conf/data", "/data"],
        "cache": "~/data",
        "name": "data",
        "nested": {"table": "conf/data"},
    }


def test_a_path_that_exists_in_the_current_folder_only_is_that_one(here: Path) -> None:
    (here / "own").touch()
    assert relative_to_file(Config, {"root": ["own", "none"]}, "env", "conf")["root"] == ["own", "conf/none"]


def test_a_run_finds_its_data_from_another_folder_unless_they_are_there_too(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = Config(root=(Path("conf/data"),), nested=Nested(Path("absent")))
    assert begun_here(config) == str(here)
    assert begun_here(Config(root=(here,))) == ""
    assert located(config, "env", str(here), {}) is config
    monkeypatch.chdir("conf")
    assert located(config, "env", str(here), {}) == attrs.evolve(config, root=(here / "conf" / "data",))
    (here / "conf" / "conf").mkdir()
    (here / "conf" / "conf" / "data").touch()
    assert located(config, "env", str(here), {}) is config


def test_only_paths_can_be_moved() -> None:
    moved = {"nested.table": "/new"}
    assert located(Config(), "env 'x'", "", moved) == Config(nested=Nested(Path("/new")))
    with pytest.raises(
        OptionError, match="'name' of env 'x' cannot be set, only paths .*: root, cache, nest"
    ):
        located(Config(), "env 'x'", "", {"name": "y"})


def test_a_run_resumes_from_another_folder_and_with_moved_data_of_the_same_content(
    image_archive: Path, here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = here / "conf" / "images.npz"
    archive.write_bytes(image_archive.read_bytes())
    spec = {
        "learner": "features",
        "base": {"name": "resnet20", "weights": "none"},
        "env": {"name": "images", "archive": "images.npz", "classes_per_task": 2},
        "train": {"steps": 1},
    }
    (here / "conf" / "spec.json").write_text(json.dumps(spec))
    assert main_run(["--spec", "conf/spec.json", "--out", "run", "--quiet"]) == 0
    about = json.loads(Path("run/run.json").read_text())
    assert (about["resolved"]["env"]["options"]["archive"], about["folder"]) == (
        "conf/images.npz",
        str(here),
    )
    monkeypatch.chdir("conf")
    assert main_run(["--resume", "../run", "--quiet"]) == 0
    archive.rename(here / "elsewhere.npz")
    assert main_run(["--resume", "../run", "--quiet"]) == 2
    assert main_run(["--resume", "../run", "--env.archive", "../elsewhere.npz", "--quiet"]) == 0
    assert json.loads((here / "run" / "run.json").read_text())["resolved"] == about["resolved"]
    assert main_run(["--resume", "../run", "--env.classes-per-task", "1"]) == 2
    assert "'classes-per-task' of env 'images' cannot be set" in capsys.readouterr().err
