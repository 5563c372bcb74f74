"""The side that nobody chose, errors that name what fits, and counts of parameters."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import sidetune_core
from sidetune_core.assembly import alternatives
from sidetune_core.assembly.build import build_learner, build_stream, start_task
from sidetune_core.assembly.dry_run import fit_without_data, side_chooser
from sidetune_core.assembly.fit import Fit, fit_components
from sidetune_core.cli.main import main_run
from sidetune_core.config.resolve import resolve
from sidetune_core.config.spec import RunSpec
from sidetune_core.errors import FitError, WeightsError
from sidetune_core.interfaces.training import members
from sidetune_core.system import device
from sidetune_core.system.device import Machine

RESNET18 = {"name": "timm", "model": "resnet18", "weights": "none"}
SMALL = {"name": "resnet20", "weights": "none"}

WIDE = """
import attrs
import torch
from torch import nn
from sidetune_core.api import Side

class Wide(Side):
    @attrs.frozen
    class Config:
        width: int = 1000

    def __init__(self, config, inputs, base):
        super().__init__()
        self.first = nn.Linear(3 * 32 * 32, config.width)
        self.last = nn.Linear(config.width, base.shape[0])

    def forward(self, inputs, features):
        return self.last(self.first(inputs["image"].flatten(1)))
"""


def fit(**slots: Any) -> Fit:
    resolved = resolve(RunSpec(**slots))
    with closing(build_stream(resolved)) as stream:
        return fit_components(resolved, stream)


def lines(fitted: Fit) -> list[str]:
    """The header on a CPU with bfloat16 units."""
    return fitted.lines(fitted.task_cost(Machine(torch.device("cpu"), bf16=True, channels_last=True)))


@pytest.fixture(autouse=True)
def _time_to_try_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alternatives, "MAX_SECONDS", 60.0)


@pytest.fixture
def wide(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[int], dict[str, Any]]:
    """A side of your own, by its width."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own_side.py").write_text(WIDE)
    return lambda width: {"name": "own_side:Wide", "width": width}


def test_the_default_side_is_kept_where_it_fits() -> None:
    fitted = fit(base=SMALL)
    assert str(fitted.resolved) == "digits · resnet20 + fcn4 · alpha · sidetune · seed 0"
    assert (fitted.side, fitted.chosen, fitted.warning) == (25_904, False, "")
    assert fitted.resolved.to_spec() == resolve(RunSpec(base=SMALL)).to_spec()


@pytest.mark.parametrize(
    ("learner", "side"), [("sidetune", "ladder"), ("pnn", "conv")], ids=["taps", "stages"]
)
def test_a_side_that_nobody_chose_is_the_first_that_fits_base_and_learner(learner: str, side: str) -> None:
    for named in (None, "auto"):
        fitted = fit(base=RESNET18, learner=learner, side=named)
        assert fitted.resolved.components["side"].plugin.name == side
        assert not fitted.resolved.open_side
        assert fitted.side is not None
        assert fitted.side < fitted.base == 11_176_512
    assert lines(fitted)[0].startswith(f"side {side} (chosen: fits timm resnet18): ")


def test_the_chosen_side_is_the_one_that_is_recorded(tmp_path: Path) -> None:
    options = ["--env.num-tasks", "1", "--train.steps", "1", "--quiet", "--out", str(tmp_path / "run")]
    base = ["--base", "timm", "--base.model", "resnet18", "--base.weights", "none"]
    assert main_run([*base, *options, "--side", "auto"]) == 0
    about = json.loads((tmp_path / "run" / "run.json").read_text())
    assert about["resolved"]["side"] == {"name": "sidetune/ladder", "options": {"width": 32}}
    assert about["composition"].startswith("digits · timm resnet18 + ladder")
    assert about["parameters"] == {"base": 11_176_512, "side": 683_648, "trainable": 683_649}
    with pytest.raises(SystemExit, match="0"):
        main_run(["--base", "resnet20", "--side", "auto", "--help"])


def test_an_option_of_the_default_side_chooses_it() -> None:
    with pytest.raises(FitError, match="side 'fcn4' encodes as"):
        main_run_in_python("--side.weights", "none")


def main_run_in_python(*words: str) -> None:
    """The dry run of a command, whose errors are raised."""
    from sidetune_core.config.argv import parse

    base = ("--base", "timm", "--base.model", "resnet18", "--base.weights", "none")
    resolved = parse([*base, *words]).resolved
    assert resolved is not None
    fit_without_data(resolved)


def test_a_side_that_does_not_fit_names_those_that_do() -> None:
    with pytest.raises(FitError, match=r"sides that fit this base: ladder, conv, .*\(--side ladder\)"):
        fit(base=RESNET18, side="fcn4")
    with pytest.raises(FitError, match=r"Ladder has none; sides that fit this base: fcn4, conv, combined"):
        fit(base=SMALL, side="ladder", learner="pnn")


def test_a_base_that_does_not_fit_names_its_size_or_bases_that_do() -> None:
    vit = {"name": "timm", "model": "vit_tiny_patch16_224", "weights": "none"}
    with pytest.raises(FitError, match="timm vit_tiny_patch16_224 takes 224 x 224"):
        fit(base=vit, learner="features")
    with pytest.raises(FitError, match=r"bases that fit env 'digits': .*resnet20.*\(--base "):
        fit(base="minilm", learner="features")


@pytest.mark.parametrize(
    ("learner", "slots"),
    [
        ("sidetune", {}),
        ("features", {}),
        ("finetune", {"side": "fcn4"}),
        ("independent", {}),
        ("ewc", {}),
        ("joint", {}),
        ("pnn", {}),
        ("distill", {}),
    ],
)
def test_the_number_of_trainable_parameters_is_that_of_the_first_task_without_its_head(
    learner: str, slots: dict[str, str]
) -> None:
    resolved = resolve(RunSpec(base=SMALL, learner=learner, env={"name": "digits", "num-tasks": 1}, **slots))
    with closing(build_stream(resolved)) as stream:
        fitted = fit_components(resolved, stream)
        task = stream.tasks()[0]
        built = build_learner(fitted.resolved, stream, fit=fitted)
    trainable = members(start_task(built, task, 0, device.choose(resolved.device)))
    modules = nn.ModuleList(item for item in trainable if isinstance(item, nn.Module))
    own = {id(parameter): parameter.numel() for parameter in modules.parameters()}
    own |= {id(item): item.numel() for item in trainable if isinstance(item, nn.Parameter)}
    head = sum(parameter.numel() for parameter in task.make_head((64,)).parameters())
    assert fitted.trainable == sum(own.values()) - head


def test_the_header_says_how_much_is_trained() -> None:
    assert lines(fit(base=SMALL, learner="pnn")) == [
        "trainable 38,276 parameters a task without its head (14.2 % of the base's 269,072)"
    ]
    assert lines(fit(base=RESNET18, learner="pnn", side="auto")) == [
        "side conv (chosen: fits timm resnet18): 268,688 parameters (2.4 % of the base)",
        "trainable 275,235 parameters a task without its head (2.5 % of the base's 11,176,512)",
    ]
    assert lines(fit(base=SMALL, learner="features")) == [
        "trainable: the head of a task only; the base has 269,072 parameters"
    ]


def test_a_side_larger_than_the_base_is_warned_of(wide: Callable[[int], dict[str, Any]]) -> None:
    warning = fit(base=SMALL, side=wide(100)).warning
    assert warning.startswith("warning: side 'own_side:Wide' has 313,764 parameters, 1.17 x the base; ")
    assert "sides that fit and are smaller: fcn4" in warning
    assert fit(base=SMALL, side=wide(10)).warning == ""


def test_a_large_side_is_counted_without_memory_for_it(
    wide: Callable[[int], dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    initialised: list[int] = []
    fill = nn.init.kaiming_uniform_

    def recording(tensor: Tensor, *args: Any, **options: Any) -> Tensor:
        if tensor.device.type != "meta":
            initialised.append(tensor.numel())
        return fill(tensor, *args, **options)

    monkeypatch.setattr(nn.init, "kaiming_uniform_", recording)
    fitted = fit(base=SMALL, side=wide(10**8))
    assert fitted.side == 10**8 * (3 * 32 * 32 + 1 + 64) + 64  # 1.2 TiB
    assert fitted.trainable == fitted.side + 1
    assert max(initialised) < 10**6


def test_shapes_are_checked_before_weights_are_read(tmp_path: Path) -> None:
    missing = str(tmp_path / "missing.pth")
    with pytest.raises(FitError, match="side 'ladder-text' needs"):
        sidetune_core.run(
            RunSpec(base={"name": "fcn5", "weights": missing}, side="ladder-text"), tmp_path / "run"
        )
    for spec in (
        RunSpec(base={"name": "resnet20", "weights": missing}),
        RunSpec(base={"name": "resnet20", "weights": missing}, learner="independent"),
        RunSpec(base=SMALL, side={"name": "fcn4", "weights": missing}),
    ):
        with pytest.raises(WeightsError, match="missing.pth"):
            sidetune_core.run(spec, tmp_path / "run")


def test_counting_draws_no_random_numbers_of_the_run() -> None:
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    fit(base=SMALL)
    assert torch.equal(torch.rand(2), expected)


def test_a_dry_run_builds_what_needs_no_data(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main_run(["--base", "mlp", "--side", "ladder", "--dry-run"]) == 2
    assert "side 'ladder' needs a base with taps" in capsys.readouterr().err
    assert main_run(["--device.name", "cuda:77", "--dry-run"]) == 2
    assert "cuda" in capsys.readouterr().err
    assert main_run(["--base", "resnet20", "--dry-run"]) == 0
    assert "side fcn4: 25,905 trainable parameters a task without its head (9.6 %" in capsys.readouterr().err


def test_each_combination_of_components_of_a_sweep_is_checked_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from sidetune_core.assembly import dry_run

    built: list[str] = []
    original = dry_run._fit

    def counting(resolved: Any) -> Any:
        built.append(str(resolved))
        return original(resolved)

    monkeypatch.setattr(dry_run, "_fit", counting)
    settled = side_chooser()
    runs = [settled(resolve(RunSpec(base=RESNET18, train={"lr": lr}))) for lr in (0.1, 0.2)]
    assert [run.components["side"].plugin.name for run in runs] == ["ladder", "ladder"]
    assert [run.train.lr for run in runs] == [0.1, 0.2]
    assert len(built) == 1
