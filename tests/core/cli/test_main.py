"""The command line, as a person types it."""

from __future__ import annotations

import csv
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sidetune_core import __version__
from sidetune_core.api import ClassTask
from sidetune_core.cli.commands import COMMANDS
from sidetune_core.cli.main import main, main_run
from sidetune_core.storage.weights import read_tensors


@pytest.fixture
def small(image_archive: Path) -> list[str]:
    return (
        f"--env images --env.archive {image_archive} --env.classes-per-task 2 "
        "--base resnet20 --base.weights none "
        "--side.weights none --train.steps 4 --train.batch-size 8 --device.precision fp32"
    ).split()


def error_of(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    """Run a command that is to fail with status 2, and give what it says."""
    assert main_run(argv) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1  # one paragraph
    return captured.err


def imports_torch(code: str) -> bool:
    """Whether a new interpreter that runs `code` ends with torch in it."""
    program = f"""
import sys
from sidetune_core.cli.main import main, main_run
try:
    {code}
except SystemExit:
    pass
sys.exit("torch" in sys.modules)
"""
    return subprocess.run([sys.executable, "-c", program], capture_output=True).returncode != 0


@pytest.mark.parametrize(
    "code", ["main(['list'])", "main(['list', 'learners', '--json'])", "main_run(['--help'])"]
)
def test_listing_and_general_help_import_no_torch(code: str) -> None:
    assert not imports_torch(code)


def test_a_run_prints_the_matrix_the_figures_what_moved_and_where_it_is(
    small: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main_run([*small, "--out", str(tmp_path / "run")]) == 0
    captured = capsys.readouterr()
    for words in (
        "untrained",
        "average accuracy",
        "forgetting",
        "No forgetting was measured",
        str(tmp_path / "run"),
        "try next",
        f"sidetune predict {tmp_path / 'run'} --tasks all FILES",
    ):
        assert words in captured.out
    assert "task 1/2" in captured.err


def test_a_quiet_run_shows_results_only(
    small: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main_run([*small, "--quiet", "--out", str(tmp_path / "run")]) == 0
    assert capsys.readouterr().err == ""


def test_a_run_comes_back_from_its_run_json(small: list[str], tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    assert main_run([*small, "--seed", "3", "--out", str(first)]) == 0
    assert main_run(["--spec", str(first / "run.json"), "--out", str(second)]) == 0
    assert (first / "eval.jsonl").read_text() == (second / "eval.jsonl").read_text()
    assert (
        json.loads((second / "run.json").read_text())["resolved"]
        == json.loads((first / "run.json").read_text())["resolved"]
    )


def test_one_change_can_be_made_to_a_spec(
    small: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main_run([*small, "--out", str(tmp_path / "run")]) == 0
    capsys.readouterr()
    assert main_run(["--spec", str(tmp_path / "run" / "run.json"), "--train.lr", "0.5", "--dry-run"]) == 0
    resolved = json.loads(capsys.readouterr().out)
    assert (resolved["train"]["lr"], resolved["train"]["steps"], resolved["base"]["name"]) == (
        0.5,
        4,
        "sidetune/resnet20",
    )


def test_a_learner_exchanged_in_a_spec_drops_the_parts_it_has_no_use_for(
    small: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main_run([*small, "--out", str(tmp_path / "run")]) == 0
    capsys.readouterr()
    assert main_run(["--spec", str(tmp_path / "run" / "run.json"), "--learner", "features", "--dry-run"]) == 0
    resolved = json.loads(capsys.readouterr().out)
    assert resolved["side"] is None
    assert resolved["base"]["options"] == {"weights": "none"}


@pytest.mark.parametrize("word", ["--learner.no-norm", "--learner.no_norm"])
def test_a_switch_can_be_turned_off(word: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main_run(["--learner", "features", word, "--dry-run"]) == 0
    assert json.loads(capsys.readouterr().out)["learner"]["options"]["norm"] is False


def test_a_dry_run_prints_a_spec_and_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main_run(["--learner", "features", "--train.batch-size", "5", "--dry-run"]) == 0
    (tmp_path / "spec.json").write_text(capsys.readouterr().out)
    assert main_run(["--spec", "spec.json", "--dry-run"]) == 0
    assert json.loads(capsys.readouterr().out)["train"]["batch_size"] == 5
    assert [path.name for path in tmp_path.iterdir()] == ["spec.json"]


def test_help_after_names_lists_the_options_of_the_chosen_parts(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main_run(["--learner", "distill", "--env", "icifar", "--help"])
    assert stop.value.code == 0
    text = " ".join(capsys.readouterr().out.replace("│", " ").split())
    for words in (
        "--learner.coef",
        "weight of the difference",
        "--env.partition {consecutive,random}",
        "--base.weights",
        "--train.lr",
    ):
        assert words in text


def test_an_unknown_learner_is_answered_with_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert "no learner named 'sidetun'. Did you mean 'sidetune'? Installed: " in error_of(
        capsys, "--learner", "sidetun"
    )


def test_an_unknown_option_of_a_part_is_answered_with_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    message = error_of(capsys, "--learner", "distill", "--learner.coeff", "3")
    assert "learner 'distill' has no option 'coeff'. Did you mean 'coef'?" in message


@pytest.mark.parametrize(
    ("typed", "hint"),
    [
        ("--lerner", "does not know '--lerner'. Did you mean '--learner'?"),
        ("--device", "does not know '--device'. Did you mean '--device.name'?"),
        ("--precision", "does not know '--precision'. Did you mean '--device.precision'?"),
        ("--train.stor", "no option 'stor'. Did you mean '--cache.mode' (formerly 'store')?"),
        ("--train.stepz", "no option 'stepz'. Did you mean 'steps'?"),
    ],
)
def test_an_unknown_option_is_answered_with_the_nearest(
    typed: str, hint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert hint in error_of(capsys, typed, "x")


def test_a_value_after_a_switch_is_answered_with_how_switches_are_written(
    capsys: pytest.CaptureFixture[str],
) -> None:
    message = error_of(capsys, "--learner", "features", "--learner.norm", "False")
    assert "A switch takes no value: it is --learner.norm or --learner.no-norm" in message


def test_an_option_of_a_part_that_is_not_used_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert "learner 'features' uses no side" in error_of(
        capsys, "--learner", "features", "--side.weights", "none"
    )


def test_an_option_out_of_range_is_told_with_its_owner(capsys: pytest.CaptureFixture[str]) -> None:
    assert "--train: batch-size must be at least 1, not 0" in error_of(capsys, "--train.batch-size", "0")
    assert "learner 'distill': coef must be at least 0, not -1" in error_of(
        capsys, "--learner", "distill", "--learner.coef", "-1"
    )


def test_an_option_of_the_wrong_type_exits_with_status_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert "--train.batch-size takes a whole number, not 'many'" in error_of(
        capsys, "--train.batch-size", "many"
    )
    message = error_of(capsys, "--precision", "x")
    assert "Did you mean '--device.precision'?" in message
    assert "invalid choice 'x'" in message


def test_a_loss_that_diverges_exits_with_status_1(
    small: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [
        *small,
        "--train.lr",
        "1e30",
        "--train.optimizer",
        "sgd",
        "--train.grad-clip",
        "None",
        "--quiet",
        "--out",
        str(tmp_path / "run"),
    ]
    assert main_run(words) == 1
    assert re.search("error: the loss is .* of task t0", capsys.readouterr().err)


def test_weights_that_are_not_there_are_told_before_data_is_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    message = error_of(
        capsys,
        "--env",
        "icifar",
        "--env.archive",
        "absent.npz",
        "--base.weights",
        str(tmp_path / "absent.safetensors"),
    )
    assert "no weights file" in message


def test_parts_that_do_not_fit_are_told_before_data_is_read(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "wide_base.py").write_text(WIDE_BASE)
    program = [
        sys.executable,
        "-c",
        "import sys; from sidetune_core.cli.main import main_run; sys.exit(main_run())",
    ]
    words = [
        "--base",
        "wide_base:Wide",
        "--side.weights",
        "none",
        "--env",
        "icifar",
        "--env.archive",
        "absent.npz",
    ]
    done = subprocess.run([*program, *words], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2
    assert "side 'fcn4' encodes as (64,), but the base as (7,)" in done.stderr


WIDE_BASE = """
import attrs, torch
from torch import nn
from sidetune_core.api import Base, Features

class Wide(Base):
    @attrs.frozen
    class Config:
        pass

    def __init__(self, config, inputs):
        super().__init__()
        self.linear = nn.Linear(3, 7)
        self.shape = (7,)

    def forward(self, inputs):
        return Features(self.linear(inputs["image"].mean((2, 3))))
"""


def test_resume_takes_no_other_option(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    message = error_of(capsys, "--resume", str(tmp_path), "--seed", "3")
    assert "--seed cannot be set" in message
    assert "--spec" in message


def test_resuming_through_the_command_line_shows_the_results(
    small: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main_run([*small, "--out", str(tmp_path / "run")]) == 0
    capsys.readouterr()
    assert main_run(["--resume", str(tmp_path / "run")]) == 0
    assert "average accuracy" in capsys.readouterr().out


def test_debug_shows_the_traceback() -> None:
    from sidetune_core.errors import PluginError

    with pytest.raises(PluginError):
        main_run(["--learner", "sidetun", "--debug"])


def test_list_shows_every_kind_with_its_distribution(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list"]) == 0
    out = capsys.readouterr().out
    for words in ("bases", "resnet44", "fcn4", "mlp2", "sidetune", "icifar", "CIFAR ResNet of depth 44"):
        assert words in out
    assert "sidetune-replay" in out  # installed, or with the command that installs it


def test_list_of_one_kind_as_json_can_be_read_by_a_program(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "learners", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert list(listed) == ["learners"]
    assert {"sidetune", "features", "finetune", "distill"} <= {
        plugin["name"] for plugin in listed["learners"]
    }


def test_describe_shows_no_docstring_of_the_interface(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code = "from sidetune_plugins.learners.finetune import FineTune\n\nclass Plain(FineTune):\n    pass\n"
    (tmp_path / "plain_learner.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    assert main(["describe", "learner", "plain_learner:Plain"]) == 0
    assert capsys.readouterr().out.splitlines()[2] == "(no docstring)"


def test_describe_shows_every_option_with_its_default(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["describe", "learner", "distill"]) == 0
    out = capsys.readouterr().out
    assert "--learner.coef  float, default 1.0" in out
    assert "needs: base, side" in out


def test_a_report_passes_over_folders_that_are_no_runs(
    small: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main_run([*small, "--out", str(tmp_path / "run")]) == 0
    (tmp_path / "notes").mkdir()
    capsys.readouterr()
    assert main(["report", str(tmp_path / "run"), str(tmp_path / "notes")]) == 0
    captured = capsys.readouterr()
    assert "average accuracy" in captured.out
    assert "notes holds no run" in captured.err


def test_a_report_compares_runs(small: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main_run([*small, "--out", str(tmp_path / "one")]) == 0
    assert (
        main_run(
            [
                "--spec",
                str(tmp_path / "one" / "run.json"),
                "--learner",
                "features",
                "--out",
                str(tmp_path / "two"),
            ]
        )
        == 0
    )
    capsys.readouterr()
    assert main(["report", str(tmp_path / "one"), str(tmp_path / "two")]) == 0
    out = capsys.readouterr().out
    assert "forget" in out
    assert re.search("^two +features", out, re.MULTILINE)
    assert main(["report", str(tmp_path), "--long"]) == 0
    out = capsys.readouterr().out
    assert "Chaudhry" in out
    assert "· features ·" in out


@pytest.fixture
def seeds(small: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """Two seeds of one method and a single one of another."""
    runs = {name: str(tmp_path / name) for name in ("kept-0", "kept-1", "features-0")}
    assert main_run([*small, "--train.steps", "1", "--quiet", "--out", runs["kept-0"]]) == 0
    for name, words in {"kept-1": ["--seed", "1"], "features-0": ["--learner", "features"]}.items():
        assert main_run(["--spec", f"{runs['kept-0']}/run.json", *words, "--quiet", "--out", runs[name]]) == 0
    capsys.readouterr()
    return list(runs.values())


def test_a_report_of_several_seeds_has_a_line_per_method(
    seeds: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", *seeds, "--format", "csv"]) == 0
    head, *lines = capsys.readouterr().out.splitlines()
    assert head.startswith("method,seeds,metric,average_accuracy,average_accuracy_half_width,")
    assert sorted(line.split(",")[:2] for line in lines) == [["features", "1"], ["sidetune", "2"]]


def test_a_report_by_run_has_a_line_per_run(seeds: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", *seeds, "--group-by", "run", "--format", "latex"]) == 0
    out = capsys.readouterr().out
    assert [line.split(" & ")[0] for line in out.splitlines()[7:-2]] == ["kept-0", "kept-1", "features-0"]


def test_a_report_by_method_leaves_out_what_is_not_finished_or_repeats_a_seed(
    seeds: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    Path(seeds[2], "status").write_text("interrupted\n")
    assert main(["report", *seeds, seeds[0]]) == 0
    captured = capsys.readouterr()
    assert f"{seeds[2]} is not finished (interrupted)" in captured.err
    assert f"{seeds[0]} repeats seed 0 of sidetune" in captured.err
    assert "features" not in captured.out


@pytest.fixture
def diverged(seeds: list[str]) -> list[str]:
    """The runs of `seeds`, of which the second seed has diverged."""
    path = Path(seeds[1])
    lines = [json.loads(line) for line in (path / "eval.jsonl").read_text().splitlines()]
    lines[-1] |= {"figures": {"accuracy": None}, "not_finite": "outputs of 1 of 2 examples are not finite"}
    (path / "eval.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (path / "status").write_text("diverged: t1, after training t1, split test: outputs are not finite\n")
    return seeds


GAP = "t1, after training t1, split test: outputs of 1 of 2 examples are not finite"


def test_a_report_of_a_diverged_run_lists_its_gaps(
    diverged: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", diverged[1]]) == 0
    assert f"Diverged; means over seeds and ranks leave this run out:\n  {GAP}\n" in capsys.readouterr().out


def test_a_report_by_method_leaves_out_what_has_diverged_and_says_why(
    diverged: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", *diverged]) == 0
    out = capsys.readouterr().out
    assert re.search(r"^sidetune +1 of 2 ", out, re.MULTILINE)
    assert "Left out of means and ranks: kept-1 (sidetune, seed 1), diverged: t1, after training t1" in out


def test_a_report_as_csv_has_an_empty_cell_for_a_gap(
    diverged: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", *diverged, "--group-by", "run", "--format", "csv"]) == 0
    records = {row["run"]: row for row in csv.DictReader(capsys.readouterr().out.splitlines())}
    assert records["kept-1"]["average_accuracy"] == ""
    assert records["kept-1"]["status"].startswith("diverged: t1, after training t1")


def test_a_run_that_has_diverged_exits_with_status_1(
    small: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    usual = ClassTask.evaluate
    monkeypatch.setattr(ClassTask, "evaluate", lambda *task: usual(*task) | {"accuracy": float("nan")})
    assert main_run([*small, "--train.steps", "0", "--quiet", "--out", str(tmp_path / "run")]) == 1
    assert "  t0, after training t0, split test: accuracy is nan\n" in capsys.readouterr().out


def test_a_figure_of_methods_leaves_out_what_has_diverged(
    diverged: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", *diverged, "--figure", str(tmp_path / "runs.svg")]) == 0
    assert "Left out of means and ranks: kept-1" in capsys.readouterr().err


def test_a_reference_adds_a_column(seeds: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", *seeds, "--reference", seeds[2], "--format", "markdown"]) == 0
    assert "intransigence % (Chaudhry 2018, a* = last row of features-0)" in capsys.readouterr().out


def test_a_reference_on_other_tasks_is_refused(
    small: list[str], seeds: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main_run([*small, "--env.classes-per-task", "4", "--out", str(tmp_path / "other")]) == 0
    capsys.readouterr()
    assert main(["report", *seeds, "--reference", str(tmp_path / "other")]) == 2
    assert "cannot be a reference" in capsys.readouterr().err


def test_methods_are_compared_and_drawn_without_torch(seeds: list[str], tmp_path: Path) -> None:
    figure = tmp_path / "grid.svg"
    assert not imports_torch(
        f"main(['report', *{seeds}]); main(['report', *{seeds}, '--figure', '{figure}'])"
    )
    assert "mean over tasks so far" in figure.read_text()


def test_the_matrix_can_be_drawn(small: list[str], tmp_path: Path) -> None:
    assert main_run([*small, "--out", str(tmp_path / "run")]) == 0
    assert main(["report", str(tmp_path / "run"), "--figure", str(tmp_path / "r.svg")]) == 0
    assert "after red, white" in (tmp_path / "r.svg").read_text()


def test_an_export_can_be_loaded_as_the_base_of_another_run(
    small: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main_run([*small, "--out", str(tmp_path / "run")]) == 0
    out = tmp_path / "base.safetensors"
    assert main(["export", str(tmp_path / "run"), "--part", "base", "--out", str(out)]) == 0
    again = [
        str(out) if word == "none" and small[place - 1] == "--base.weights" else word
        for place, word in enumerate(small)
    ]
    assert main_run([*again, "--out", str(tmp_path / "again")]) == 0


def test_an_export_in_half_precision_is_half_as_large_and_rounds(small: list[str], tmp_path: Path) -> None:
    assert main_run([*small, "--out", str(tmp_path / "run")]) == 0
    whole, half = tmp_path / "whole.safetensors", tmp_path / "half.safetensors"
    assert main(["export", str(tmp_path / "run"), "--out", str(whole)]) == 0
    assert main(["export", str(tmp_path / "run"), "--out", str(half), "--half"]) == 0
    exact, rounded = read_tensors(whole), read_tensors(half)
    for name, tensor in exact.items():
        expected = tensor.half() if tensor.is_floating_point() else tensor
        assert rounded[name].dtype == expected.dtype
        assert bool((rounded[name] == expected).all())
    assert half.stat().st_size < 0.6 * whole.stat().st_size


def test_exporting_a_part_that_is_not_there_names_those_that_are(
    small: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main_run([*small, "--out", str(tmp_path / "run")]) == 0
    capsys.readouterr()
    assert main(["export", str(tmp_path / "run"), "--part", "bse"]) == 2
    assert "has no module 'bse'; it has base" in capsys.readouterr().err


NESTED = """
from typing import ClassVar
import attrs
from sidetune_core.api import Renamed, at_least, option
from sidetune_plugins.learners.features import FeatureExtraction

@attrs.frozen
class Penalty:
    coef: float = option(1.0, "weight of the penalty", at_least(0))
    on: bool = option(True, "use the penalty")

class Nested(FeatureExtraction):
    @attrs.frozen
    class Config(FeatureExtraction.Config):
        former_options: ClassVar = {"coef": Renamed("penalty.coef"), "dark": Renamed("mask")}
        penalty: Penalty = option(Penalty(coef=2.0), "options of the penalty")
        names: tuple[str, ...] = option(("a",), "names")
        mask: bool = option(False, "mask the images")
"""


@pytest.fixture
def nested(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Arguments that choose a learner with nested options, lists and former names."""
    from sidetune_core.config import registry
    from sidetune_core.config.kinds import LEARNER

    features = registry.load(registry.find(LEARNER, "features"))
    text = NESTED.replace("sidetune_plugins.learners.features", features.__module__)
    (tmp_path / "nested_learner.py").write_text(text.replace("FeatureExtraction", features.__name__))
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "nested_learner", raising=False)
    return ["--learner", "nested_learner:Nested"]


def options_of(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[dict[str, Any], list[str]]:
    """The options of the learner of a dry run, and the warnings that it prints."""
    assert main_run([*argv, "--dry-run"]) == 0
    captured = capsys.readouterr()
    return json.loads(captured.out)["learner"]["options"], [
        line for line in captured.err.splitlines() if line.startswith("warning")
    ]


def test_nested_options_and_lists_are_set_on_the_command_line(
    nested: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    options, printed = options_of(
        capsys, *nested, "--learner.penalty.coef", "3", "--learner.penalty.no-on", "--learner.names", "x", "y"
    )
    assert (options["penalty"], options["names"]) == ({"coef": 3.0, "on": False}, ["x", "y"])
    assert printed == []


def test_former_spellings_are_accepted_with_one_warning_each(
    nested: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--learner.coef=3", "--learner.dark", "--learner.names", "x,y", "--train.batch", "7"]
    options, printed = options_of(capsys, *nested, *words)
    assert (options["penalty"]["coef"], options["mask"], options["names"]) == (3.0, True, ["x", "y"])
    assert printed == [
        "warning: --learner.coef is now --learner.penalty.coef; the old spelling stops working in 0.3",
        "warning: --learner.dark is now --learner.mask; the old spelling stops working in 0.3",
        "warning: --learner.names x,y is now --learner.names x y; the old spelling stops working in 0.3",
        "warning: --train.batch is now --train.batch-size; the old spelling stops working in 0.3",
    ]


def test_a_spec_with_former_spellings_warns_and_a_run_json_does_not(
    nested: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = {
        "learner": {"name": nested[1], "options": {"dark": True, "penalty": {"coef": 4.0}}},
        "train": {"device": "cpu", "store": "off", "clip": None},
    }
    (tmp_path / "spec.json").write_text(json.dumps(spec))
    (tmp_path / "run.json").write_text(json.dumps({"resolved": spec}))
    from_spec, printed = options_of(
        capsys, "--spec", "spec.json", "--trust-local-code", "--learner.penalty.no-on"
    )
    assert from_spec["penalty"] == {"coef": 4.0, "on": False}
    assert len(printed) == len(set(printed)) == 4
    from_run, printed = options_of(
        capsys, "--spec", "run.json", "--trust-local-code", "--learner.penalty.no-on"
    )
    assert from_run == from_spec
    assert printed == []


def test_an_option_out_of_range_in_a_group_is_told_with_its_owner(
    nested: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    message = error_of(capsys, *nested, "--learner.penalty.coef", "-1")
    assert "learner 'nested_learner:Nested': penalty: coef must be at least 0, not -1.0" in message
    message = error_of(capsys, *nested, "--learner.penalty.cof", "1")
    assert "has no option 'penalty.cof'. Did you mean 'penalty.coef'?" in message


def test_describe_lists_nested_options_and_no_former_names(
    nested: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["describe", "learner", nested[1]]) == 0
    out = capsys.readouterr().out
    assert "--learner.penalty.coef  float, default 2.0" in out
    assert "--learner.names  list of str, default a" in out
    assert "dark" not in out


def test_a_grid_takes_nested_and_former_names(nested: list[str]) -> None:
    from sidetune_core.config.options import FormerSpelling
    from sidetune_core.sweeps import grid

    with pytest.warns(FormerSpelling):
        plan = grid.plan(grid.read([*nested, "--learner.coef", "3,4", "--learner.penalty.no-on"]))
    assert [run.spec["learner"]["options"]["penalty"] for run in plan.runs] == [
        {"coef": 3.0, "on": False},
        {"coef": 4.0, "on": False},
    ]


def test_the_help_lists_nested_options_and_lists(
    nested: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main_run([*nested, "--help"])
    out = capsys.readouterr().out
    assert "--learner.penalty.coef FLOAT" in out
    assert "--device.name" in out
    assert "--cache.limit" in out


def test_the_device_and_the_cache_have_options_of_their_own(capsys: pytest.CaptureFixture[str]) -> None:
    words = (
        "--device.name cpu --device.precision fp32 --device.base-precision bf16 --device.threads 2 "
        "--device.channels-last --cache.mode disk --cache.limit 8"
    )
    assert main_run(["--learner", "features", *words.split(), "--dry-run"]) == 0
    spec = json.loads(capsys.readouterr().out)
    assert spec["device"] == {
        "name": "cpu",
        "precision": "fp32",
        "base_precision": "bf16",
        "channels_last": True,
        "threads": 2,
    }
    assert (spec["cache"]["mode"], spec["cache"]["limit"]) == ("disk", 8.0)


def test_the_help_of_sidetune_has_a_line_for_each_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert sorted(line.split()[0] for line in lines if line.startswith("  ")) == sorted(COMMANDS)


@pytest.mark.parametrize("program", [main, main_run])
def test_the_version_comes_with_every_distribution_that_has_plugins(
    program: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assert program(["--version"]) == 0
    first, *others = capsys.readouterr().out.splitlines()
    assert first == f"sidetune {__version__}"
    assert any(line.startswith(f"  sidetune {__version__}: ") and " learners, " in line for line in others)


def test_sidetune_run_is_the_same_as_sidetune_dash_run(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--learner", "features", "--dry-run"]) == 0
    first = capsys.readouterr().out
    assert main_run(["--learner", "features", "--dry-run"]) == 0
    assert capsys.readouterr().out == first


def test_former_commands_and_flags_are_accepted_with_a_warning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", "--by", "run", str(tmp_path)]) == 2
    assert (
        "warning: --by is now --group-by; the old spelling stops working in 0.3\n" in capsys.readouterr().err
    )
    assert main(["collect", "--learner", "ewc"]) == 2
    assert "warning: sidetune collect is now sidetune record" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("typed", "hint"), [("reprot", "'report'?"), ("colect", "'record' (formerly 'collect')?")]
)
def test_an_unknown_command_is_answered_with_the_nearest(
    typed: str, hint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([typed]) == 2
    assert f"sidetune has no command '{typed}'. Did you mean {hint}" in capsys.readouterr().err
