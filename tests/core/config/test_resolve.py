"""Code that a file names is imported only where the user has typed it or trusts the file."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import sidetune_core
from sidetune_core.cli.main import main, main_run
from sidetune_core.config.resolve import resolve, with_present_names
from sidetune_core.config.spec import RunSpec
from sidetune_core.config.spec_file import from_values, read_spec
from sidetune_core.errors import UntrustedCode
from sidetune_core.sweeps.grid import plan, read

MODULE = """
from pathlib import Path
from sidetune_plugins.learners.finetune import FineTune
Path("imported").touch()
class Mine(FineTune): ...
"""
VALUES = {"learner": "stranger:Mine", "env": {"name": "digits", "num-tasks": 1}, "train": {"steps": 1}}


@pytest.fixture
def spec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A spec that names a class of a module next to it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "stranger.py").write_text(MODULE)
    (tmp_path / "spec.json").write_text(json.dumps(VALUES))
    return Path("spec.json")


@pytest.fixture
def run(spec: Path) -> Path:
    """A run of it, whose learner was typed; the module is no longer loaded."""
    path = Path("run")
    path.mkdir()
    resolved = resolve(RunSpec(**VALUES, base={"name": "resnet20", "weights": "none"})).to_spec()
    tasks = [{"id": "t0", "title": "x", "metric": "accuracy"}]
    about = {"resolved": resolved.to_json(), "composition": "x", "tasks": tasks, "metric": "accuracy"}
    about |= {"higher_is_better": True, "save_every": "60s"}
    (path / "run.json").write_text(json.dumps(about))
    (path / "certificate.json").write_text("{}")
    return path


@pytest.fixture(autouse=True)
def _unloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.delitem(sys.modules, "stranger", raising=False)


def refused(action: Callable[[], Any]) -> str:
    """The message of an action that is refused; nothing is imported."""
    Path("imported").unlink(missing_ok=True)
    with pytest.raises(UntrustedCode) as raised:
        action()
    assert not Path("imported").exists()
    return str(raised.value)


def test_a_spec_file_imports_nothing(spec: Path) -> None:
    assert "learner 'stranger:Mine' in spec.json" in refused(lambda: resolve(read_spec(spec)))


def test_a_spec_file_that_is_trusted_imports_its_code(spec: Path) -> None:
    assert resolve(read_spec(spec, trust_local_code=True)).components["learner"].cls.__name__ == "Mine"


def test_a_sweep_trusts_its_specs_and_not_their_data(spec: Path) -> None:
    assert not resolve(read_spec(spec, trust_local_code="spec")).trusts_data
    assert resolve(read_spec(spec, trust_local_code=True)).trusts_data


def test_a_spec_that_is_made_in_python_names_any_code(spec: Path) -> None:
    assert resolve(RunSpec(**VALUES)).components["learner"].cls.__name__ == "Mine"


def test_a_class_in_a_grid_file_is_not_imported(spec: Path) -> None:
    Path("grid.json").write_text(json.dumps({"env": "digits", "grid": {"learner": ["stranger:Mine"]}}))
    refused(lambda: plan(read(["grid.json"])))


def test_a_sweep_of_a_spec_file_imports_nothing(spec: Path) -> None:
    refused(lambda: plan(read(["--spec", "spec.json", "--seed", "0,1"])))


def test_a_run_is_not_resumed_with_code_that_its_folder_names(run: Path) -> None:
    refused(lambda: sidetune_core.resume(run))


def test_names_are_respelled_without_importing_the_code(spec: Path) -> None:
    values = [
        VALUES | {"learner": {"name": "stranger:Mine", "options": options}} for options in ({}, {"a": 1})
    ]
    assert len(with_present_names([from_values(value, "run.json", recorded=True) for value in values])) == 2
    assert not Path("imported").exists()


@pytest.mark.parametrize(
    "words",
    [
        ["sidetune-run", "--resume", "run"],
        ["sidetune-run", "--spec", "spec.json", "--dry-run"],
        ["sidetune-run", "--spec", "run/run.json", "--env", "digits", "--dry-run"],
        ["sidetune", "sweep", "--spec", "spec.json", "--dry-run"],
        ["sidetune", "record", "--expert", "run"],
    ],
)
def test_the_message_ends_with_the_command_that_trusts_it(
    words: list[str], run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("imported").unlink(missing_ok=True)
    assert (main_run if words[0] == "sidetune-run" else main)(words[1:]) == 2
    assert capsys.readouterr().err.strip().endswith(f"if you trust it: {' '.join(words)} --trust-local-code")
    assert not Path("imported").exists()


def test_a_class_that_is_typed_too_is_imported(spec: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main_run(["--spec", "spec.json", "--learner", "stranger:Mine", "--dry-run"]) == 0


def test_options_that_name_code_are_refused_in_a_file(spec: Path) -> None:
    env = {"name": "gym", "ids": ["stranger:Env-v0"]}
    values = {"learner": "scratch", "env": env}
    assert "option ids" in refused(lambda: resolve(from_values(values, "spec.json")))
    arguments = {"name": "gym", "arguments": '{"make": {"env_id": "stranger:Env-v0"}}'}
    refused(lambda: resolve(from_values({**values, "env": arguments}, "spec.json")))
    assert resolve(RunSpec(**values)).components["env"].config.ids == ("stranger:Env-v0",)


def test_options_of_a_file_stay_refused_where_its_env_is_typed_too(
    spec: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values = {"learner": "scratch", "env": {"name": "gym", "ids": ["stranger:Env-v0"]}}
    spec.write_text(json.dumps(values))
    assert main_run(["--spec", "spec.json", "--env", "gym", "--dry-run"]) == 2
    assert "'stranger:Env-v0' of option ids in spec.json is code" in capsys.readouterr().err
    assert main_run(["--spec", "spec.json", "--env.ids", "CartPole-v1", "--dry-run"]) == 0


def test_only_a_run_that_names_code_needs_trust(spec: Path) -> None:
    env = {"name": "gym", "ids": ["CartPole-v1"]}
    assert resolve(read_spec(spec, trust_local_code=True)).needs_trust
    assert resolve(RunSpec(**VALUES)).needs_trust
    assert not resolve(RunSpec(learner="finetune", env=env)).needs_trust
    assert resolve(RunSpec(learner="finetune", env={**env, "ids": ["stranger:Own-v0"]})).needs_trust
