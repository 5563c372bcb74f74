"""What is imported when: a plugin needs few modules of the core, and users' names load nothing before they
are used.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import sidetune_core


def imported(program: str) -> set[str]:
    """The modules in ``sys.modules`` after a program has run in a new interpreter."""
    code = f"{program}\nimport sys, json\nprint(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_loading_a_base_imports_few_modules_of_the_core() -> None:
    modules = imported(
        "from sidetune_core.config.kinds import BASE\n"
        "from sidetune_core.config.registry import find, load\n"
        "load(find(BASE, 'resnet20'))"
    )
    core = {name for name in modules if name.partition(".")[0] == "sidetune_core"}
    assert len(core) < 30, sorted(core)
    assert not {"tensorboard", "tyro", "torch.utils.tensorboard"} & modules


def test_a_run_imports_neither_the_compiler_nor_scikit_learn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    modules = imported(
        "from sidetune_core import RunSpec, run\n"
        "base, env = {'name': 'resnet20', 'weights': 'none'}, {'name': 'digits', 'classes_per_task': 5}\n"
        "run(RunSpec(base=base, env=env, train={'steps': 1, 'batch_size': 8}), 'run')"
    )
    assert not {"torch._dynamo", "sympy", "sklearn", "scipy"} & modules


def test_a_command_with_names_only_imports_no_parser_of_options_and_no_unused_library(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "spec.toml").write_text(
        "[train]\nsteps = 1\nbatch_size = 8\n[env]\nname = 'digits'\nnum_tasks = 1\n"
    )
    modules = imported(
        "from sidetune_core.cli.main import main_run\n"
        "main_run(['--spec', 'spec.toml', '--learner', 'sidetune', '--out', 'run', '--quiet'])"
    )
    assert (tmp_path / "run" / "report.md").is_file()
    assert not {"tyro", "typeguard", "numpy.ma", "torchvision", "sidetune_core.training.extension"} & modules


def test_the_list_of_components_imports_neither_torch_nor_numpy() -> None:
    modules = imported("from sidetune_core.cli.main import main\nmain(['list'])")
    assert not {"torch", "numpy", "sidetune_plugins"} & modules


def test_what_a_command_imports_is_exempt_from_garbage_collection() -> None:
    program = (
        "import gc\nfrom sidetune_core.system.collection import collected_after_imports\n"
        "with collected_after_imports():\n    during = gc.isenabled()\n    import torch\n"
        "first = (during, gc.isenabled(), gc.get_freeze_count() > 100_000)\n"
        "gc.unfreeze()\n"
        "with collected_after_imports():\n    during = gc.isenabled()\n"
        "assert (*first, during, gc.get_freeze_count()) == (False, True, True, True, 0)"
    )
    assert "torch" in imported(program)


def test_a_command_that_imports_triton_reports_no_leaks_when_it_ends() -> None:
    pytest.importorskip("triton")
    program = (
        "from sidetune_core.system.collection import collected_after_imports\n"
        "with collected_after_imports():\n    import triton._C.libtriton"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert "leaked" not in ended.stderr


def test_loading_a_run_imports_nothing_of_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    sidetune_core.run(
        sidetune_core.RunSpec(
            base={"name": "resnet20", "weights": "none"},
            env={"name": "digits", "classes_per_task": 5},
            train={"steps": 1, "batch_size": 8},
        ),
        "run",
    )
    modules = imported(
        "import torch, sidetune_core\nsidetune_core.load('run').predict(torch.zeros(3, 32, 32), tasks='all')"
    )
    unwanted = ("sidetune_core.training", "sidetune_core.results", "tensorboard", "torch._dynamo", "tyro")
    assert not [name for name in modules if name.startswith(unwanted)]


def test_importing_the_package_imports_neither_torch_nor_numpy() -> None:
    assert not {"torch", "numpy"} & imported("import sidetune_core")


@pytest.mark.parametrize("name", sidetune_core.__all__)
def test_names_for_users_are_found_when_they_are_used(name: str) -> None:
    assert getattr(sidetune_core, name) is not None


def test_a_package_and_a_function_do_not_share_a_name() -> None:
    import sidetune_core.sweeps.runner
    import sidetune_core.training.run  # noqa: F401 - binds the packages as attributes

    assert callable(sidetune_core.run)
    assert callable(sidetune_core.sweep)


def test_without_tensorboard_and_torchvision_a_run_is_trained_loaded_and_predicts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("tensorboard", "torch.utils.tensorboard", "torchvision", "scipy", "sklearn"):
        monkeypatch.setitem(sys.modules, name, None)  # which makes importing it fail
    spec = sidetune_core.RunSpec(
        base="mlp", side="mlp", env={"name": "digits", "num_tasks": 1}, train={"steps": 2}
    )
    sidetune_core.run(spec, tmp_path / "run")
    warnings = [line for line in capsys.readouterr().err.splitlines() if "TensorBoard" in line]
    assert len(warnings) == 1
    assert "pip install --upgrade tensorboard" in warnings[0]
    model = sidetune_core.load(tmp_path / "run")
    assert len(model.predict(np.zeros((3, 8, 8, 3), np.uint8))) == 3
