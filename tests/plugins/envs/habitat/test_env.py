"""Env habitat: tasks over environments in processes, from options to figures."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import torch

from sidetune_core.api import DataError, OptionError, Order, PluginError, RunError
from sidetune_core.cli.main import main, main_run
from sidetune_core.config import registry
from sidetune_core.config.kinds import ENV
from sidetune_core.config.options import structure
from sidetune_core.demonstrations import open_demonstrations
from sidetune_core.testing import check_plugin

CONFIG = Path(__file__).parents[4] / "examples" / "habitat-rooms" / "habitat_rooms" / "pointnav_rooms.yaml"
ROOMS = {"imports": "habitat_rooms", "config": str(CONFIG)}
CORRIDOR = "##########\n#........#\n##########\n"
SMALL = {"envs": 2, "rollout": 8, "inputs": "goal"}
EAST = -90.0
AHEAD = [((x, 1.5), (x + 2.0, 1.5), EAST) for x in (1.5, 2.0, 2.5, 3.0, 3.5)]


def stream(**options: Any) -> Any:
    Habitat: Any = registry.load(registry.find(ENV, "habitat"))
    return Habitat(structure(Habitat.Config, {**SMALL, **options}, "env 'habitat'"), 0)


def always(task: Any, action: int) -> Any:
    """A policy that is sure of one action."""
    preferences = torch.zeros(task.policy.size + 1)
    preferences[action] = 100.0
    return lambda inputs: preferences.expand(len(next(iter(inputs.values()))), -1)


def test_evaluation_plays_every_episode_of_its_split_once(write_episodes: Any) -> None:
    val = [((1.5, 1.5), (1.5 + length, 1.5), EAST) for length in (1.0, 2.0, 3.0, 5.0, 6.0)]
    (task,) = stream(**write_episodes(CORRIDOR, AHEAD[:1], val)).tasks()
    figures = task.evaluate(always(task, 0))  # stops at once
    assert figures.pop("distance_to_goal") == pytest.approx((1 + 2 + 3 + 5 + 6) / 5, abs=1e-5)
    assert figures == {"spl": 0.0, "success": 0.0, "length": 1.0, "return": pytest.approx(-0.01)}


def test_success_and_spl_are_means_over_episodes_as_habitat_computes_them(write_episodes: Any) -> None:
    back = [((5.5, 1.5), (3.5, 1.5), EAST)]
    (task,) = stream(**write_episodes(CORRIDOR, AHEAD, [*AHEAD[:2], *back]), oracle_stop=True).tasks()
    assert (task.metric, task.policy.counts) == ("spl", [3])
    figures = task.evaluate(always(task, 0))  # two episodes are straight on, and one is behind
    assert figures["success"] == pytest.approx(2 / 3)
    assert figures["spl"] == pytest.approx(2 / 3)
    assert figures["length"] == pytest.approx((8 + 8 + 500) / 3)


def test_fewer_episodes_are_spread_over_the_split() -> None:
    (task,) = stream(**ROOMS, episodes=4).tasks()
    assert task._look.episodes == 100
    vector_env = task.make_test_vector_env(2)
    assert [maker.recipe.places for maker in vector_env._envs.env_fns] == [(0, 25), (50, 75)]
    vector_env.close()


def test_scenes_that_the_config_names_are_trained_in_and_all_of_another_split_are_evaluated_in() -> None:
    (task,) = stream(**ROOMS, overrides="habitat.dataset.content_scenes=[door,hall]").tasks()
    assert (task._look.scenes, task._look.episodes) == (("door", "hall"), 100)
    (task,) = stream(**ROOMS, split="train", overrides="habitat.dataset.content_scenes=[door,hall]").tasks()
    assert (task._look.scenes, task._look.episodes) == (("door", "hall"), 100)


def test_environments_share_the_scenes_and_experience_is_a_function_of_the_seed() -> None:
    (task,) = stream(**ROOMS).tasks()
    vector_env = task.make_vector_env(3)
    assert [maker.recipe.scenes for maker in vector_env._envs.env_fns] == [
        ("bend", "pillars"),
        ("door",),
        ("hall",),
    ]
    vector_env.close()
    rows = [next(task.train(always(task, 1), Order(seed, 16))) for seed in (3, 3, 4)]
    assert torch.equal(rows[0].inputs["goal"], rows[1].inputs["goal"])
    assert not torch.equal(rows[0].inputs["goal"], rows[2].inputs["goal"])


def test_a_stream_of_several_tasks_changes_the_config_for_each(write_episodes: Any) -> None:
    given = write_episodes(CORRIDOR, AHEAD)
    changes = "habitat.simulator.forward_step_size=0.5;habitat.simulator.forward_step_size=1.0,habitat.task.slack_reward=-0.5"
    tasks = stream(**given, tasks=changes, oracle_stop=True).tasks()
    assert [task.title for task in tasks] == changes.split(";")
    assert [task.evaluate(always(task, 0))["length"] for task in tasks] == [4.0, 2.0]
    with pytest.raises(DataError, match="inputs and actions of one shape"):
        stream(
            **given,
            inputs="image",
            tasks="habitat.seed=1;habitat.simulator.agents.main_agent.sim_sensors.rgb_sensor.width=8",
        )


def test_a_simulator_that_fails_is_told_with_environment_and_step(write_episodes: Any) -> None:
    given = write_episodes(CORRIDOR, AHEAD, **{"habitat.simulator.type": "Failing-v0"})
    (task,) = stream(**given | {"imports": "rooms_that_fail"}).tasks()
    message = "environment 0, 1 of pointnav_gibson.yaml raised ArithmeticError: the floor is gone, at step 3 since it was opened"
    with pytest.raises(RunError, match=message):
        next(task.train(always(task, 1), Order(0, 16)))


def test_what_is_missing_is_told_with_what_to_do(write_episodes: Any) -> None:
    with pytest.raises(
        PluginError,
        match="env 'habitat' needs 'habitat_sim'. Install habitat-sim, .* conda install habitat-sim",
    ):
        stream(**write_episodes(CORRIDOR, AHEAD, **{"habitat.simulator.type": "Sim-v0"}))
    with pytest.raises(DataError, match="no such file, neither here nor among habitat's configs"):
        stream(imports="habitat_rooms", config="pointnav_mars.yaml")
    with pytest.raises(DataError, match="FileNotFoundError.*datasets_download --uids habitat_test_scenes"):
        stream(imports="habitat_rooms", config="pointnav_gibson.yaml")
    with pytest.raises(DataError, match="No module named 'my_rooms'. --env.imports names modules"):
        stream(imports="my_rooms")
    with pytest.raises(DataError, match="habitat.simulator.turn_angel"):
        stream(**ROOMS, overrides="habitat.simulator.turn_angel=30")
    with pytest.raises(
        DataError, match="split train has no scene attic .*; it has bend, door, hall, pillars"
    ):
        stream(**ROOMS, overrides="habitat.dataset.content_scenes=[hall,attic]")
    with pytest.raises(DataError, match="there is no input sonar"):
        stream(**{**ROOMS, "inputs": "goal,sonar"})
    with pytest.raises(DataError, match="--env.oracle-stop needs habitat's measure 'success'"):
        stream(
            **ROOMS,
            oracle_stop=True,
            overrides="~habitat.task.measurements.success, ~habitat.task.measurements.spl,habitat.seed=1",
        )
    with pytest.raises(OptionError, match="--env.inputs is empty"):
        stream(inputs=" ")


def test_the_expert_goes_the_shortest_way() -> None:
    (task,) = stream(**ROOMS, envs=1).tasks()
    vector_env, expert = task.make_vector_env(1), task.expert(task.experts[0])
    observations = vector_env.reset(5)
    expert.begin(vector_env, 5)
    found: list[float] = []
    while len(found) < 5:
        step = vector_env.step(expert.act(observations))
        observations = step.observations
        found += step.measures["spl"].tolist() if step.ended.any() else []
    vector_env.close()
    assert min(found) > 0.8
    assert sum(found) / 5 > 0.9


def test_the_expert_is_recorded_and_cloned_from_the_command_line(
    write_episodes: Any, tmp_path: Path, capsys: Any
) -> None:
    """The goal is ahead or behind, so that the clone has to read where it is."""
    behind = [((x + 2.0, 1.5), (x, 1.5), EAST) for x in (1.5, 2.0, 2.5)]
    changes = {"habitat.environment.max_episode_steps": 20, "habitat.simulator.turn_angle": 180}
    given = write_episodes(CORRIDOR, [*AHEAD[:3], *behind], **changes)
    words = [
        "--env",
        "habitat",
        *(f"--env.{name}={value}" for name, value in given.items()),
        "--env.oracle-stop",
    ]
    assert main(["collect", *words, "--trajectories", "16", "--out", str(tmp_path / "paths"), "--quiet"]) == 0
    assert "16 trajectories of 'shortest-path' in pointnav_gibson.yaml" in capsys.readouterr().out
    manifest = open_demonstrations(tmp_path / "paths").manifest
    assert manifest.figures["success"] == 1.0
    assert manifest.versions["habitat-lab"] == metadata.version("habitat-lab")
    words = [
        "--env",
        "imitation",
        f"--env.data={tmp_path / 'paths'}",
        "--env.held-out=2",
        "--env.episodes=6",
        "--env.envs=2",
    ]
    words += [
        "--env.evaluate=mode",
        "--base.weights=none",
        "--learner=scratch",
        "--train.steps=60",
        "--train.lr=3e-3",
        "--train.batch-size=32",
    ]
    assert main_run([*words, "--out", str(tmp_path / "run"), "--quiet"]) == 0
    rows = [json.loads(line) for line in (tmp_path / "run" / "eval.jsonl").read_text().splitlines()]
    assert rows[-1]["figures"]["success"] == rows[-1]["figures"]["agreement"] == 1.0
    assert rows[-1]["figures"]["spl"] == pytest.approx(1.0)


def test_the_env_conforms() -> None:
    options = {
        **ROOMS,
        **SMALL,
        "inputs": "image,goal",
        "episodes": 2,
        "overrides": "habitat.environment.max_episode_steps=8",
    }
    findings = check_plugin("env", "sidetune/habitat", options)
    assert {finding.check: finding.message for finding in findings if not finding.passed} == {}


def command(given: dict[str, Any], out: Path, *more: str) -> list[str]:
    words = [
        f"--env.{name}={value}"
        for name, value in {**given, "inputs": "image,goal", "envs": 2, "rollout": 64}.items()
    ]
    words += [
        "--learner",
        "sidetune",
        "--env.oracle-stop",
        "--env.passes",
        "8",
        "--train.lr",
        "0.003",
        "--train.batch-size",
        "64",
    ]
    code = "import sys; from sidetune_core.cli.main import main_run; sys.exit(main_run())"
    return [sys.executable, "-c", code, "--env", "habitat", *words, "--out", str(out), *more]


def test_from_a_config_to_a_trained_policy_and_its_spl(write_episodes: Any, tmp_path: Path) -> None:
    """The goal is ahead or behind, so that the policy has to read where it is."""
    behind = [((x + 2.0, 1.5), (x, 1.5), EAST) for x in (1.5, 2.0, 2.5)]
    changes = {"habitat.environment.max_episode_steps": 20, "habitat.simulator.turn_angle": 180}
    given = write_episodes(CORRIDOR, [*AHEAD, *behind], **changes)
    done = subprocess.run(
        command(given, tmp_path / "run", "--env.frames", "3000"), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    before, after = (
        float(found) for found in re.findall(r"^(?:untrained|t0) +([\d.]+)", done.stdout, re.MULTILINE)[:2]
    )
    assert before < 0.7
    assert after > 0.9


def test_a_run_that_is_stopped_goes_on(write_episodes: Any, tmp_path: Path) -> None:
    given = write_episodes(CORRIDOR, AHEAD, **{"habitat.environment.max_episode_steps": 10})
    words = command(given, tmp_path / "run", "--env.frames", "4096", "--save-every", "8")
    begun = subprocess.Popen(words, stdout=subprocess.PIPE, text=True, start_new_session=True)
    while begun.poll() is None and not (tmp_path / "run" / "checkpoints" / "within.safetensors").exists():
        time.sleep(0.05)
    os.killpg(begun.pid, signal.SIGTERM)  # as a batch system does: to the processes of the environments too
    begun.communicate()
    assert begun.returncode == 128 + signal.SIGTERM
    code = "import sys; from sidetune_core.cli.main import main_run; sys.exit(main_run())"
    done = subprocess.run(
        [sys.executable, "-c", code, "--resume", str(tmp_path / "run")], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "average spl" in done.stdout
