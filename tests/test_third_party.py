"""A third-party package is installed, works, and is uninstalled."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import attrs
import pytest

from sidetune_core.cli.main import main, main_run
from sidetune_core.config.kinds import KINDS

HERE = Path(__file__).parent
RUN = "import sys; from sidetune_core.cli.main import main_run; sys.exit(main_run())"

CHECK = "import sys; from sidetune_core.cli.main import main; sys.exit(main(['check', *sys.argv[1:]]))"
CHECK_AND_RUN = """
import json, sys
from sidetune_core.cli.main import main, main_run
if main(["check", "merger", sys.argv[1]]):
    sys.exit("the merger does not conform")
for argv in json.loads(sys.argv[2]):
    if main_run([*argv, "--train.steps", "2", "--quiet"]):
        sys.exit(f"{argv} does not run")
"""

SAME_NAME = """
import attrs
from sidetune_core.api import Learner, at_least, option

@attrs.frozen
class Config:
    spice: float = option(0.0, "a number, from 0", at_least(0))

class FineTune(Learner):
    Config = Config

    def start(self, task):
        return []

    def forward(self, inputs, task_id):
        raise NotImplementedError
"""


@attrs.frozen
class Environment:
    """A virtual environment that extends the running one."""

    python: Path

    @classmethod
    def create(cls, folder: Path) -> Environment:
        """Create one, without downloads."""
        venv.create(folder, symlinks=os.name != "nt")
        paths = sysconfig.get_paths("venv", vars={"base": str(folder), "platbase": str(folder)})
        parents = sorted({sysconfig.get_path("purelib"), sysconfig.get_path("platlib")})
        Path(paths["purelib"], "parent.pth").write_text(
            "".join(f"import site; site.addsitedir({path!r})\n" for path in parents)
        )
        return cls(Path(paths["scripts"]) / "python")

    def pip(self, *argv: str) -> None:
        """Run the pip of the running environment on this one."""
        quiet = ("--quiet", "--disable-pip-version-check", "--no-input")
        subprocess.run([sys.executable, "-m", "pip", "--python", str(self.python), *argv, *quiet], check=True)

    def sidetune_run(self, *argv: str, folder: Path) -> subprocess.CompletedProcess[str]:
        """``sidetune-run`` in this environment."""
        return self.run(RUN, *argv, folder=folder)

    def run(self, program: str, *argv: str, folder: Path) -> subprocess.CompletedProcess[str]:
        """A program in this environment."""
        variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | {
            "OMP_NUM_THREADS": "1"
        }
        return subprocess.run(
            [str(self.python), "-c", program, *argv],
            cwd=folder,
            env=variables,
            capture_output=True,
            text=True,
        )


def test_a_package_is_installed_runs_and_is_uninstalled_without_a_change_of_the_core(tmp_path: Path) -> None:
    environment = Environment.create(tmp_path / "environment")
    source = shutil.copytree(
        HERE / "acme", tmp_path / "acme", ignore=shutil.ignore_patterns("build", "*.egg-info", "__pycache__")
    )
    out = tmp_path / "out"
    argv = ["--learner", "bitfit", "--learner.coef", "0.1", "--env", "blobs"]
    argv += ["--base", "resnet20", "--base.weights", "none"]
    argv += ["--train.steps", "3", "--quiet", "--out", str(out)]

    environment.pip("install", "--no-index", "--no-deps", "--no-build-isolation", str(source))
    done = environment.sidetune_run(*argv, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    plugins = json.loads((out / "run.json").read_text(encoding="utf-8"))["plugins"]
    recorded = {key: value for key, value in plugins["learner"].items() if key != "source"}
    assert recorded == {
        "name": "acme-sidetune/bitfit",
        "distribution": "acme-sidetune",
        "version": "2.0",
        "class": "acme_sidetune.bitfit:BitFit",
    }
    assert plugins["env"]["distribution"] == "acme-sidetune"
    assert (out / "status").read_text(encoding="utf-8") == "done\n"
    checked = environment.run(CHECK, "--distribution", "acme-sidetune", "--json", folder=tmp_path)
    assert checked.returncode == 0, checked.stdout
    report = json.loads(checked.stdout)
    assert report["passed"] is True
    assert [plugin["name"] for plugin in report["plugins"]] == ["acme-sidetune/bitfit", "acme-sidetune/blobs"]
    outcomes = {finding["check"]: finding["outcome"] for finding in report["plugins"][0]["findings"]}
    assert outcomes["distribution_requires_sidetune"] == outcomes["import_has_no_side_effects"] == "passed"

    environment.pip("uninstall", "--yes", "acme-sidetune")
    uninstalled = environment.sidetune_run(*argv, folder=tmp_path)
    assert uninstalled.returncode == 2
    errors = [line for line in uninstalled.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert errors[0].startswith("error: no learner named 'bitfit'.")
    assert "Installed: " in uninstalled.stderr
    assert "Traceback" not in uninstalled.stderr
    assert "bitfit" not in environment.sidetune_run("--help", folder=tmp_path).stdout


def test_a_new_package_of_every_kind_installs_conforms_and_runs(tmp_path: Path) -> None:
    """One kind is checked, for what its distribution declares; tests/core/cli/test_scaffold.py checks all."""
    environment = Environment.create(tmp_path / "environment")
    names = {kind.name: f"my_{kind.name}" for kind in KINDS}
    for kind, name in names.items():
        assert main(["new", kind, name, "--out", str(tmp_path / name)]) == 0
    environment.pip(
        "install",
        "--no-index",
        "--no-deps",
        "--no-build-isolation",
        *(str(tmp_path / name) for name in names.values()),
    )
    learner = {"base": "my_base", "learner": "my_learner", "env": "my_env"}
    sidetuned = {**names, "learner": "sidetune"}
    commands = [
        [word for kind, name in components.items() for word in (f"--{kind}", name)]
        for components in (learner, sidetuned)
    ]
    done = environment.run(CHECK_AND_RUN, names["merger"], json.dumps(commands), folder=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("Forgetting is zero by construction for t0") == 2


def test_the_core_and_the_built_in_plugins_do_not_mention_the_package() -> None:
    root = HERE.parent
    files = [path for folder in ("sidetune_core", "plugins") for path in (root / folder).rglob("*.py")]
    assert files
    assert [path for path in files if "acme_sidetune" in path.read_text(encoding="utf-8")] == []


@pytest.fixture
def same_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A distribution with a learner of the same name as a built-in one."""
    information = tmp_path / "rival-1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: rival\nVersion: 1.0\n")
    (information / "entry_points.txt").write_text("[sidetune.learners]\nfinetune = rival_learner:FineTune\n")
    (tmp_path / "rival_learner.py").write_text(SAME_NAME)
    monkeypatch.syspath_prepend(tmp_path)


@pytest.mark.usefixtures("same_name")
def test_a_name_in_two_packages_is_refused_with_the_qualified_names(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main_run(["--learner", "finetune", "--dry-run"]) == 2
    message = capsys.readouterr().err
    assert "learner 'finetune' is in rival 1.0 and sidetune " in message
    assert "write rival/finetune or sidetune/finetune" in message


@pytest.mark.usefixtures("same_name")
def test_a_qualified_name_selects_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    assert main_run(["--learner", "rival/finetune", "--learner.spice", "3", "--dry-run"]) == 0
    assert main_run(["--learner", "sidetune/finetune", "--learner.spice", "3", "--dry-run"]) == 2
    assert "learner 'sidetune/finetune' has no option 'spice'" in capsys.readouterr().err
