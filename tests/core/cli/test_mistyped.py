"""What people type first and wrongly, and the command in the answer, which works when it is pasted."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest

from sidetune_core.cli.main import main, main_run
from sidetune_core.config.yaml_file import read_yaml


def answer(capsys: pytest.CaptureFixture[str], words: str) -> str:
    """What `sidetune-run` answers to words that are wrong, in one paragraph."""
    assert main_run(shlex.split(words)) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    return error.strip()


def suggested(error: str) -> list[str]:
    """The command at the end of an answer."""
    match = re.search(r"Type: (sidetune.*)$", error)
    assert match is not None, error
    return shlex.split(match[1])


@pytest.mark.parametrize(
    ("typed", "command"),
    [
        ("--epochs 3", "sidetune-run --train.epochs 3"),
        ("--lr 0.1", "sidetune-run --train.lr 0.1"),
        ("--batch-size 8 --wandb", "sidetune-run --train.batch-size 8"),
        ("--gpu --num-tasks 2", "sidetune-run --num-tasks 2"),
        ("icifar", "sidetune-run --env icifar"),
        ("digits features", "sidetune-run --env digits --learner features"),
        ("env=digits train.lr=0.1", "sidetune-run --env digits --train.lr 0.1"),
        ("--seed 0..2", "sidetune sweep --seed 0..2"),
        ("--learner ncm,features", "sidetune sweep --learner ncm,features"),
        ("--train.lr 1e-3,5e-3 --quiet", "sidetune sweep --train.lr 1e-3,5e-3"),
        ("--model resnet20 --dataset digits", "sidetune-run --base resnet20 --env digits"),
        ("-lr 0.1 -s 3", "sidetune-run --train.lr 0.1 --seed 3"),
        ("--base resnet18", "sidetune-run --base torchvision --base.model resnet18"),
    ],
)
def test_a_mistyped_command_is_answered_with_one_that_works(
    typed: str, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    error = answer(capsys, typed)
    if "--num-tasks" in typed:  # two levels: the option of the env is known once that is loaded
        assert suggested(error) == shlex.split("sidetune-run --env.num-tasks 2")
    else:
        assert suggested(error) == shlex.split(command)
    program, *words = suggested(error)
    run = main_run if program == "sidetune-run" else main
    assert run([*words, "--dry-run"]) == 0


@pytest.mark.parametrize(
    ("typed", "word"), [("photos", "photos"), ("-x 3", "-x"), ("--env images photos", "photos")]
)
def test_a_word_without_a_meaning_is_named(typed: str, word: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert answer(capsys, typed) == f"error: sidetune-run does not know '{word}'. See sidetune-run --help"


def test_commands_of_other_programs_are_answered_with_those_here(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train"]) == 2
    assert "Did you mean 'run'?" in capsys.readouterr().err
    assert main(["--learner", "ewc"]) == 2
    assert "To train: sidetune run --learner ewc." in capsys.readouterr().err


def test_all_wrong_words_are_counted_in_one_answer(capsys: pytest.CaptureFixture[str]) -> None:
    error = answer(capsys, "--batch 8 --wandb --gpu --lr 1 --epochs 2")
    assert "does not know 5 of these words: '--batch'" in error
    assert "and 1 more" in error
    assert suggested(error) == shlex.split("sidetune-run --train.batch-size 8 --train.lr 1 --train.epochs 2")


def test_a_correction_that_leaves_another_error_names_it_and_no_command(
    capsys: pytest.CaptureFixture[str],
) -> None:
    error = answer(capsys, "--dataset didgits")
    assert "Did you mean '--env'? With that corrected, another error is left: no env named 'didgits'" in error
    assert "Type:" not in error


def test_a_path_with_a_blank_is_quoted_in_the_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = tmp_path / "my spec.toml"
    spec.write_text('learner = "features"\n')
    assert suggested(answer(capsys, shlex.join([str(spec)]))) == ["sidetune-run", "--spec", str(spec)]


def test_a_spec_in_yaml_is_read_with_numbers_such_as_1e_3(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = tmp_path / "spec.yaml"
    spec.write_text("learner: features\ntrain: {lr: 1e-3, steps: 5}\n")
    assert main_run(["--spec", str(spec), "--dry-run"]) == 0
    assert json.loads(capsys.readouterr().out)["train"]["lr"] == 1e-3
    spec.write_text("a: [1, 2.5, .5e-1, -3, 1_0, x1, .inf]\n")
    assert read_yaml(spec)["a"] == [1, 2.5, 0.05, -3, 10, "x1", float("inf")]


def test_a_spec_in_yaml_without_pyyaml_names_the_other_formats(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "yaml", None)
    (tmp_path / "spec.yaml").write_text("learner: features\n")
    assert "A spec can be a .toml or .json file" in answer(capsys, f"--spec {tmp_path / 'spec.yaml'}")


def test_every_unknown_key_of_a_spec_is_answered(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "spec.toml").write_text('leaner = "ewc"\nlr = 0.1\n[trian]\nsteps = 3\n')
    error = answer(capsys, f"--spec {tmp_path / 'spec.toml'}")
    for hint in ("3 unknown keys", "'leaner' (Did you mean 'learner'?)", "'train.lr'", "'train'?"):
        assert hint in error


def test_a_folder_of_runs_is_reported_by_its_runs_and_refused_as_a_run(
    digits_run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    parent = digits_run.parent
    assert main(["report", str(parent)]) == 0
    assert "average" in capsys.readouterr().out
    assert f"runs below it: {digits_run}" in answer(capsys, f"--resume {parent}")
    error = answer(capsys, f"--out {parent} --train.steps 1")
    assert "holds 1 run: choose another --out, such as --out " in error
    assert not Path(error.rpartition("--out ")[2]).exists()


def test_help_and_run_are_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["help"]) == 0
    assert "Use trained runs:" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="0"):
        main(["help", "report"])
    assert "--figure" in capsys.readouterr().out
    assert main(["run", "--learner", "features", "--dry-run"]) == 0
