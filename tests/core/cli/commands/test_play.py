"""Command play: the episodes of a run's evaluation, and others."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from sidetune_core import RunSpec, run
from sidetune_core.cli.main import main
from sidetune_core.rl import Episode
from sidetune_core.serving import episodes

sys.path[:0] = [
    str(Path(__file__).parents[3] / "plugins" / "envs" / "gymnasium" / "modules"),
    str(Path(__file__).parents[2] / "rl" / "rollouts"),
]

WALK = "gym_zoo:Walk-v0"
SMALL: dict[str, Any] = {
    "num_envs": 2,
    "eval_episodes": 5,
    "frames": 64,
    "ppo": {"rollout_length": 32, "epochs": 2, "normalise_observations": True},
}
Capture = pytest.CaptureFixture[str]


def train(folder: Path, env: dict[str, Any]) -> Path:
    spec = RunSpec(env=env, learner={"name": "scratch", "norm": False}, base="mlp", train={"batch_size": 32})
    run(spec, folder)
    return folder


@pytest.fixture(scope="module")
def cartpole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    env = {"name": "gym", "ids": ["CartPole-v1", "CartPole-v0"], **SMALL}
    return train(tmp_path_factory.mktemp("cartpole") / "run", env)


@pytest.fixture(scope="module")
def walk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Episodes without a time limit, and evaluations with sampled actions."""
    env = {"name": "gym", "ids": [WALK], **SMALL, "deterministic_eval": False}
    return train(tmp_path_factory.mktemp("walk") / "run", env)


@pytest.fixture
def play(capsys: Capture) -> Callable[..., Any]:
    """What the command prints as JSON."""

    def do(*words: str | Path) -> Any:
        assert main(["play", *map(str, words), "--format", "json"]) == 0
        return json.loads(capsys.readouterr().out)

    return do


def refused(capsys: Capture, *words: str | Path) -> str:
    assert main(["play", *map(str, words)]) == 2
    return " ".join(capsys.readouterr().err.split())


def evaluated(folder: Path, task: str) -> Any:
    """The metrics of the run's latest evaluation of a task."""
    rows = [json.loads(line) for line in (folder / "eval.jsonl").read_text().splitlines()]
    return [row["figures"] for row in rows if row.get("task") == task][-1]


@pytest.mark.parametrize("task", ["t0", "t1"])
def test_the_episodes_of_the_evaluation_have_its_result(cartpole: Path, play: Any, task: str) -> None:
    printed = play(cartpole, "--task", task)
    assert printed["mean"] == evaluated(cartpole, task)
    assert len(printed["episodes"]) == 5
    assert printed["evaluation"] is True


def test_sampled_evaluations_have_the_same_result(walk: Path, play: Any) -> None:
    printed = play(walk, "--trust-local-code")
    assert printed["mean"] == evaluated(walk, "t0")
    assert play(walk, "--trust-local-code", "--deterministic")["mean"] != printed["mean"]


def test_another_seed_gives_other_episodes(cartpole: Path, play: Any) -> None:
    first, second = (play(cartpole, "--task", "t0", "--seed", seed, "--episodes", "3") for seed in "12")
    assert first["episodes"] != second["episodes"]
    assert first["evaluation"] is False


def test_options_of_the_env_can_be_changed(cartpole: Path, play: Any) -> None:
    printed = play(cartpole, "--task", "t0", "--env.time-limit", "4", "--episodes", "3")
    assert [row["length"] for row in printed["episodes"]] == [4, 4, 4]


def test_an_episode_ends_after_max_steps(walk: Path, play: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ("--env.arguments", '{"limit": null}', "--trust-local-code", "--episodes", "2")
    printed = play(walk, "--max-steps", "7", *arguments)
    assert [row["length"] for row in printed["episodes"]] == [7, 7]
    monkeypatch.setattr(episodes, "MAX_EVAL_STEPS", 9)
    printed = play(walk, *arguments)
    assert [row["length"] for row in printed["episodes"]] == [9, 9]


def test_a_table_has_a_row_for_each_episode_and_the_mean(cartpole: Path, capsys: Capture) -> None:
    assert main(["play", str(cartpole), "--task", "t0"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "t0: CartPole-v1"
    assert lines[1].split() == ["episode", "return", "length", "success"]
    assert lines[-2].split()[:2] == ["mean", f"{evaluated(cartpole, 't0')['return']:.3f}"]
    assert lines[-1] == "5 episodes, those of the run's evaluation"
    assert len(lines) == 9


def test_csv_ends_with_the_mean(cartpole: Path, capsys: Capture) -> None:
    assert main(["play", str(cartpole), "--task", "t0", "--format", "csv"]) == 0
    rows = list(csv.DictReader(capsys.readouterr().out.splitlines()))
    assert [row["episode"] for row in rows] == ["1", "2", "3", "4", "5", "mean"]
    assert float(rows[-1]["return"]) == evaluated(cartpole, "t0")["return"]


def test_a_video_has_all_episodes_and_changes_no_result(walk: Path, play: Any, tmp_path: Path) -> None:
    printed = play(walk, "--trust-local-code", "--video", tmp_path / "walk.gif")
    with Image.open(tmp_path / "walk.gif") as image:
        frames = image.n_frames  # type: ignore[attr-defined]
    assert printed["mean"] == evaluated(walk, "t0")
    assert frames == sum(row["length"] + 1 for row in printed["episodes"])


def test_what_cannot_be_rendered_is_refused_before_it_is_played(
    tmp_path: Path, capsys: Capture, cartpole: Path
) -> None:
    run = train(tmp_path / "run", {"name": "gym", "ids": ["gym_odd:Odd-v0"], **SMALL, "inputs": ["mode"]})
    message = refused(capsys, run, "--trust-local-code", "--video", tmp_path / "odd.gif")
    assert "environment gym_odd:Odd-v0 cannot be rendered" in message
    assert not (tmp_path / "odd.gif").exists()


def test_ctrl_c_ends_after_what_was_played(
    cartpole: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*words: Any, **options: Any) -> Iterator[Episode]:
        yield Episode(3.0, 3, True, {})
        raise KeyboardInterrupt

    monkeypatch.setattr(episodes.Player, "play", interrupted)
    assert main(["play", str(cartpole), "--task", "t0"]) == 130
    printed = capsys.readouterr()
    assert "Interrupted." in printed.err
    assert printed.out.splitlines()[-1] == "1 episode, those of the run's evaluation"


def test_local_code_needs_trust(walk: Path, capsys: Capture) -> None:
    assert "--trust-local-code" in refused(capsys, walk)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "has several tasks; choose one with --task. Tasks: t0, t1"),
        (("--task", "t9"), "has no task 't9'"),
        (("--task", "t0", "--episodes", "0"), "play at least one"),
        (("--task", "t0", "--deterministic", "--stochastic"), "exclude each other"),
        (("--task", "t0", "--video", "film.avi"), ".gif or .mp4"),
        (("--task", "t0", "--learner", "ewc"), "takes a run folder and options --env.*, not --learner"),
        (
            ("--task", "t0", "--env.frame-stack", "2"),
            "was trained with inputs {'vector': [4]}",
        ),
        (("--task", "t1", "--env.ids", "CartPole-v1"), "no task 't1' with these options; it has t0"),
        (("--task", "t0", "--env.nothing", "2"), "no option 'nothing'"),
    ],
)
def test_a_mistake_is_a_sentence(cartpole: Path, capsys: Capture, words: Any, message: str) -> None:
    assert message in refused(capsys, cartpole, *words)


def test_the_run_comes_first(capsys: Capture) -> None:
    assert "name the run folder first" in refused(capsys, "--env.time-limit", "3")


def test_a_run_without_a_policy_is_refused(tmp_path: Path, capsys: Capture) -> None:
    spec = RunSpec(
        env={"name": "digits", "num_tasks": 1},
        base={"name": "resnet20", "weights": "none"},
        train={"steps": 1, "batch_size": 8},
    )
    run(spec, tmp_path / "run")
    assert "has no policy, so there are no episodes to play" in refused(capsys, tmp_path / "run")


def test_other_actions_are_refused(walk: Path, capsys: Capture) -> None:
    words = ("--trust-local-code", "--env.arguments", '{"actions": "box"}')
    assert "was trained with policy {'family': 'categorical'" in refused(capsys, walk, *words)


def test_a_video_is_not_written_into_the_run(cartpole: Path, capsys: Capture) -> None:
    assert main(["play", str(cartpole), "--task", "t0", "--video", str(cartpole / "x.gif")]) == 2
    assert "x.gif is in" in capsys.readouterr().err


def test_a_run_can_be_played_in_another_environment(cartpole: Path, play: Any) -> None:
    printed = play(cartpole, "--task", "t0", "--env.ids", "CartPole-v0", "--episodes", "2")
    assert printed["title"] == "CartPole-v0"
