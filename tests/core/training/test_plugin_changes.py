"""A run is begun under version 1.0 of a plugin, and used again under another."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import sidetune_core
import sidetune_core.config.resolve
from sidetune_core.cli.main import main, main_run
from sidetune_core.errors import Interrupted
from sidetune_core.storage import checkpoint
from sidetune_core.training import run as training_run

TINY = Path(__file__).parent / "kills"
MERGER = """
import attrs
from sidetune_core.api import Merger
from .constants import FACTOR

class Tiny(Merger):
    "Base plus side."
    calls, stop_at = 0, 0

    @attrs.frozen
    class Config:
        "No options."

    def __init__(self, config, shape, count):
        super().__init__()

    def forward(self, encodings):
        if encodings[0].requires_grad or encodings[1].requires_grad:
            Tiny.calls += 1
            if Tiny.calls == Tiny.stop_at:
                raise KeyboardInterrupt
        return FACTOR * encodings[0] + encodings[1]
"""
STEPS = 4
CHANGED = "merger 'tiny': tiny-plugin 1.0 → tiny-plugin 2.0, with other source"

Install = Callable[..., None]
Interrupt = Callable[[int], Path]
Capture = pytest.CaptureFixture[str]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Installs a version of the plugin in place of another, or none."""
    site = tmp_path / "site"
    site.mkdir()
    monkeypatch.syspath_prepend(site)
    monkeypatch.syspath_prepend(str(TINY))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.setattr(training_run, "git_state", lambda: None)

    def forget() -> None:
        for name in [name for name in sys.modules if name.partition(".")[0] == "tiny_plugin"]:
            del sys.modules[name]

    def install(version: str = "", factor: str = "") -> None:
        forget()
        shutil.rmtree(site)
        site.mkdir()
        if not version:
            return
        files = {
            f"tiny_plugin-{version}.dist-info/METADATA": f"Name: tiny-plugin\nVersion: {version}\n",
            f"tiny_plugin-{version}.dist-info/entry_points.txt": (
                "[sidetune.mergers]\ntiny = tiny_plugin.merger:Tiny\n"
            ),
            "tiny_plugin/__init__.py": "",
            "tiny_plugin/constants.py": f"FACTOR = {factor}\n",
            "tiny_plugin/merger.py": MERGER,
            "tiny_plugin/unused.py": f"VERSION = '{version}'\n",
        }
        for name, text in files.items():
            path = site / name
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
        os.utime(site)

    yield install
    forget()


@pytest.fixture
def begun(tmp_path: Path, image_archive: Path, install: Install) -> Interrupt:
    """Begins a run of two tasks under version 1.0, interrupted before a training step; 0 for a whole run."""

    def begin(stop_at: int) -> Path:
        install("1.0", "1.0")
        env = {"name": "images", "archive": image_archive, "classes_per_task": 2, "image_size": 8}
        spec = sidetune_core.RunSpec(
            base="tiny:TinyBase",
            side="tiny:TinySide",
            merger="tiny",
            learner="sidetune",
            env=env,
            train={"steps": STEPS, "batch_size": 5},
            device={"name": "cpu", "precision": "fp32"},
        )
        if not stop_at:
            return sidetune_core.run(spec, tmp_path / "run").folder.path
        resolved = sidetune_core.config.resolve.resolve(spec)
        resolved.components["merger"].cls.stop_at = stop_at
        with pytest.raises(Interrupted) as caught:
            sidetune_core.run(resolved, tmp_path / "run", save_every="1")
        return Path(caught.value.folder)

    return begin


def read(folder: Path) -> dict[str, Any]:
    about: dict[str, Any] = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    return about


def test_the_plugins_of_a_run_are_recorded_with_their_source(begun: Interrupt) -> None:
    record = read(begun(0))["plugins"]["merger"]
    assert record["name"] == "tiny-plugin/tiny"
    assert (record["distribution"], record["version"]) == ("tiny-plugin", "1.0")
    assert len(record["source"]) == 64


def test_a_run_is_not_resumed_with_changed_source(
    begun: Interrupt, install: Install, capsys: Capture
) -> None:
    folder = begun(3)
    install("2.0", "-3.0")
    assert main_run(["--resume", str(folder), "--trust-local-code", "--quiet"]) == 2
    message = capsys.readouterr().err
    assert message.startswith(f"error: {folder} was made with another plugin, {CHANGED}")
    assert "pip install 'tiny-plugin==1.0'" in message
    assert f"sidetune-run --resume {folder} --trust-local-code --allow-changed-plugins" in message
    assert "segments" not in read(folder)


def test_where_a_changed_plugin_took_over_is_recorded_and_reported(
    begun: Interrupt, install: Install, capsys: Capture
) -> None:
    folder = begun(3)
    install("2.0", "-3.0")
    assert (
        main_run(["--resume", str(folder), "--trust-local-code", "--quiet", "--allow-changed-plugins"]) == 0
    )
    (segment,) = read(folder)["segments"]
    assert (segment["task"], segment["step"]) == ("t0", 2)
    assert segment["plugins"]["merger"]["version"] == "2.0"
    assert read(folder)["plugins"]["merger"]["version"] == "1.0"
    line = f"from task t0, step 2 on: {CHANGED}"
    assert line in capsys.readouterr().err
    assert line in (folder / "log.txt").read_text(encoding="utf-8")
    assert f"- Changed: {line.replace(' on:', ' on,')}" in (folder / "report.md").read_text(encoding="utf-8")


def test_the_certificate_names_a_changed_plugin_as_the_likely_cause(
    begun: Interrupt, install: Install, capsys: Capture
) -> None:
    folder = begun(STEPS + 3)
    install("2.0", "-3.0")
    main_run(["--resume", str(folder), "--trust-local-code", "--quiet", "--allow-changed-plugins"])
    capsys.readouterr()
    main(["report", str(folder)])
    report = capsys.readouterr().out
    assert "Zero forgetting is not claimed" in report
    assert f"likely cause, from task t1, step 2 on, {CHANGED}" in report


def test_a_new_version_with_the_same_source_is_a_note(
    begun: Interrupt, install: Install, capsys: Capture
) -> None:
    folder = begun(3)
    install("1.1", "1.0")
    assert main_run(["--resume", str(folder), "--trust-local-code", "--quiet"]) == 0
    assert "tiny-plugin 1.0 → tiny-plugin 1.1, with the same source" in capsys.readouterr().err
    assert read(folder)["segments"][0]["plugins"]["merger"]["version"] == "1.1"


def test_an_unchanged_plugin_is_no_note(begun: Interrupt, install: Install, capsys: Capture) -> None:
    folder = begun(3)
    install("1.0", "1.0")
    assert main_run(["--resume", str(folder), "--trust-local-code", "--quiet"]) == 0
    assert capsys.readouterr().err == ""
    assert "segments" not in read(folder)


def test_a_run_of_an_earlier_version_without_digests_is_resumed_with_a_note(
    begun: Interrupt, install: Install, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint, "_plain", lambda identity: None)
    folder = begun(3)
    about = read(folder)
    about["plugins"] = {
        slot: {"distribution": f"{record['distribution']} {record['version']}".strip(), "class": "x"}
        for slot, record in about["plugins"].items()
    }
    (folder / "run.json").write_text(json.dumps(about))
    install("2.0", "-3.0")
    assert main_run(["--resume", str(folder), "--trust-local-code", "--quiet"]) == 0
    assert "tiny-plugin 1.0 → tiny-plugin 2.0, source not recorded" in capsys.readouterr().err


def test_verify_names_a_changed_plugin_as_the_likely_cause(
    begun: Interrupt, install: Install, capsys: Capture
) -> None:
    folder = begun(0)
    assert main(["verify", str(folder), "--trust-local-code"]) == 0
    install("2.0", "-3.0")
    capsys.readouterr()
    assert main(["verify", str(folder), "--trust-local-code"]) == 1
    printed = capsys.readouterr().out
    assert f"likely cause: {CHANGED}" in printed
    assert "pip install 'tiny-plugin==1.0'" in printed


def test_verify_does_not_call_small_differences_rounding_alone(
    begun: Interrupt, install: Install, capsys: Capture
) -> None:
    folder = begun(0)
    install("2.0", "1.0001")
    capsys.readouterr()
    assert main(["verify", str(folder), "--trust-local-code"]) == 0
    printed = capsys.readouterr().out
    assert f"outputs are compared up to rounding, since the run had {CHANGED}" in printed
    assert "which is as small as rounding" in printed


def test_a_changed_plugin_of_a_spec_is_noted_in_the_new_run(
    begun: Interrupt, install: Install, capsys: Capture, tmp_path: Path
) -> None:
    spec, out = begun(0) / "run.json", tmp_path / "again"
    install("2.0", "-3.0")
    assert main_run(["--spec", str(spec), "--trust-local-code", "--quiet", "--out", str(out)]) == 0
    note = f"other plugin than in the spec: {CHANGED}"
    assert note in capsys.readouterr().err
    assert note in (out / "log.txt").read_text(encoding="utf-8")
    assert note in (out / "report.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("command", ["resume", "spec", "verify"])
def test_a_plugin_that_is_gone_is_named_with_the_command_that_installs_it(
    command: str, begun: Interrupt, install: Install, capsys: Capture
) -> None:
    folder = begun(3 if command == "resume" else 0)
    install()
    commands = {
        "resume": lambda: main_run(["--resume", str(folder), "--trust-local-code"]),
        "spec": lambda: main_run(["--spec", str(folder / "run.json"), "--trust-local-code", "--dry-run"]),
        "verify": lambda: main(["verify", str(folder), "--trust-local-code"]),
    }
    assert commands[command]() == 2
    assert capsys.readouterr().err == (
        "error: merger 'tiny' is in tiny-plugin 1.0, which is not installed: pip install 'tiny-plugin==1.0'\n"
    )


def test_a_renamed_component_is_found_by_the_name_in_a_run(
    begun: Interrupt, install: Install, capsys: Capture, tmp_path: Path
) -> None:
    folder = begun(3)
    install("1.0", "1.0")
    (entries,) = (tmp_path / "site").glob("*/entry_points.txt")
    target = "tiny_plugin.merger:Tiny"
    entries.write_text(f"[sidetune.mergers]\nsmall = {target}\n[sidetune.former_mergers]\ntiny = {target}\n")
    assert main_run(["--resume", str(folder), "--trust-local-code", "--quiet"]) == 0
    assert main(["report", str(folder), str(folder)]) == 0
    assert capsys.readouterr().err == ""


def test_a_plugin_that_is_gone_can_be_replaced(begun: Interrupt, install: Install) -> None:
    spec = begun(0) / "run.json"
    install()
    assert main_run(["--spec", str(spec), "--trust-local-code", "--merger", "sum", "--dry-run"]) == 0


def test_allowing_changed_plugins_needs_a_run_to_resume(capsys: Capture) -> None:
    assert main_run(["--allow-changed-plugins", "--dry-run"]) == 2
    assert "--allow-changed-plugins goes with --resume" in capsys.readouterr().err
