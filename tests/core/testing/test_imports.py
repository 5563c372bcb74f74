"""The kit names what the import of a module changes in the process."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from sidetune_core.config.kinds import MERGER
from sidetune_core.config.registry import find
from sidetune_core.testing.findings import Broken
from sidetune_core.testing.imports import import_has_no_side_effects

EFFECTS: Mapping[str, tuple[str, str]] = {
    "prints": ("print('hello')", "prints 'hello'"),
    "seeds": ("import random; random.seed(1)", "draws random numbers or seeds a generator"),
    "folder": ("import os; os.chdir('/')", "changes the current folder"),
    "signals": ("import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)", "changes signal handlers"),
    "filters": ("import warnings; warnings.simplefilter('error')", "changes filters of all warnings"),
    "logs": ("import logging; logging.basicConfig(level=0)", "changes the settings of logging"),
    "type": ("import torch; torch.set_default_dtype(torch.float64)", "changes the default type of tensors"),
    "threads": ("import torch; torch.set_num_threads(1)", "changes the number of threads"),
    "quits": ("print('bye'); import os; os._exit(0)", "prints 'bye'"),
}


@pytest.fixture(scope="module")
def effects(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A distribution with a module for each effect, and one that has none."""
    folder = tmp_path_factory.mktemp("effects")
    information = folder / "effects-1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: effects\nVersion: 1.0\n")
    lines = [f"{name} = with_effects.{name}:M\n" for name in (*EFFECTS, "none")]
    (information / "entry_points.txt").write_text("[sidetune.mergers]\n" + "".join(lines))
    (folder / "with_effects").mkdir()
    for name, (source, _) in {**EFFECTS, "none": ("", "")}.items():
        (folder / "with_effects" / f"{name}.py").write_text(source)
    return folder


@pytest.mark.parametrize("name", EFFECTS)
def test_an_effect_of_an_import_is_named(name: str, effects: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(effects)
    with pytest.raises(Broken) as caught:
        import_has_no_side_effects(find(MERGER, name))
    expected = EFFECTS[name][1]
    assert str(caught.value).startswith(f"importing with_effects.{name} {expected}; do this in the class")


def test_the_other_modules_of_the_package_are_not_blamed(
    effects: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(effects)
    import_has_no_side_effects(find(MERGER, "none"))
