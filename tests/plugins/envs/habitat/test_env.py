"""Env habitat: tasks whose environments run in processes, from options to metrics."""

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
from pkgutil import resolve_name
from typing import Any

import pytest
import torch
from sidetune_plugins.envs.habitat import make

from sidetune_core.api import DataError, InputError, OptionError, Order, PluginError, RunError, TaskCard
from sidetune_core.cli.main import main, main_run
from sidetune_core.config import registry
from sidetune_core.config.kinds import ENV
from sidetune_core.config.options import structure
from sidetune_core.demonstrations import open_demonstrations
from sidetune_core.testing import check_plugin

CONFIG = Path(__file__).parents[4] / "examples" / "habitat-rooms" / "habitat_rooms" / "pointnav_rooms.yaml"
ROOMS: dict[str, Any] = {"imports": ["habitat_rooms"], "config": str(CONFIG)}
CORRIDOR = "##########\n#........#\n##########\n"
SMALL: dict[str, Any] = {"num_envs": 2, "ppo": {"rollout_length": 8}, "inputs": ["goal"]}
EAST = -90.0
AHEAD = [((x, 1.5), (x + 2.0, 1.5), EAST) for x in (1.5, 2.0, 2.5, 3.0, 3.5)]


def stream(**options: Any) -> Any:
    Habitat: Any = registry.load(registry.find(ENV, "habitat"))
    return Habitat(structure(Habitat.Config, {**SMALL, **options}, "env 'habitat'"), 0)


def always(task: Any, action: int) -> Any:
    """A policy that takes one action."""
    logits = torch.zeros(task.policy.size + 1)
    logits[action] = 100.0
    return lambda inputs: logits.expand(len(next(iter(inputs.values()))), -1)


def test_evaluation_plays_every_episode_of_its_split_once(write_episodes: Any) -> None:
    val = [((1.5, 1.5), (1.5 + length, 1.5), EAST) for length in (1.0, 2.0, 3.0, 5.0, 6.0)]
    (task,) = stream(**write_episodes(CORRIDOR, AHEAD[:1], val)).tasks()
    metrics = task.evaluate(always(task, 0))  # STOP
    assert metrics.pop("distance_to_goal") == pytest.approx((1 + 2 + 3 + 5 + 6) / 5, abs=1e-5)
    assert metrics == {"spl": 0.0, "success": 0.0, "length": 1.0, "return": pytest.approx(-0.01)}


def test_success_and_spl_are_means_over_episodes_as_habitat_computes_them(write_episodes: Any) -> None:
    behind = [((5.5, 1.5), (3.5, 1.5), EAST)]
    (task,) = stream(**write_episodes(CORRIDOR, AHEAD, [*AHEAD[:2], *behind]), oracle_stop=True).tasks()
    assert (task.metric, task.policy.counts) == ("spl", [3])
    metrics = task.evaluate(always(task, 0))  # two goals are ahead, and one is behind
    assert metrics["success"] == pytest.approx(2 / 3)
    assert metrics["spl"] == pytest.approx(2 / 3)
    assert metrics["length"] == pytest.approx((8 + 8 + 500) / 3)


def test_a_subset_of_the_episodes_is_spread_over_the_split() -> None:
    (task,) = stream(**ROOMS, eval_episodes=4).tasks()
    assert task._info.episodes == 100
    vector_env = task.make_test_vector_env(2)
    assert [maker.spec.episodes for maker in vector_env._envs.env_fns] == [(0, 25), (50, 75)]
    vector_env.close()


def test_scenes_of_the_config_are_for_training_and_another_split_is_evaluated_in_all_scenes() -> None:
    (task,) = stream(**ROOMS, overrides=["habitat.dataset.content_scenes=[door,hall]"]).tasks()
    assert (task._info.scenes, task._info.episodes) == (("door", "hall"), 100)
    (task,) = stream(**ROOMS, split="train", overrides=["habitat.dataset.content_scenes=[door,hall]"]).tasks()
    assert (task._info.scenes, task._info.episodes) == (("door", "hall"), 100)


def test_environments_divide_the_scenes_and_rollouts_are_a_function_of_the_seed() -> None:
    (task,) = stream(**ROOMS).tasks()
    vector_env = task.make_vector_env(3)
    assert [maker.spec.scenes for maker in vector_env._envs.env_fns] == [
        ("bend", "pillars"),
        ("door",),
        ("hall",),
    ]
    vector_env.close()
    rows = [next(task.train(always(task, 1), Order(seed, 16))) for seed in (3, 3, 4)]
    assert torch.equal(rows[0].inputs["goal"], rows[1].inputs["goal"])
    assert not torch.equal(rows[0].inputs["goal"], rows[2].inputs["goal"])


def test_the_original_s_preset_has_its_inputs_map_reward_and_ppo(write_episodes: Any) -> None:
    far = [((1.5, 1.5), (8.5, 1.5), EAST)]
    own = write_episodes(CORRIDOR, far)
    env = stream(**{**own, "inputs": ["image", "goal"], "ppo": {}, "preset": "original", "map_metres": 10.5})
    (task,) = env.tasks()
    assert task.inputs == {"image": (12, 16, 16), "goal": (12, 16, 16), "map": (12, 84, 84)}
    assert task.policy.counts == [3]
    assert (task.options.num_envs, task.options.ppo.replay_steps) == (2, 1024)
    vector_env = task.make_test_vector_env(1)
    latest = vector_env.reset(0)["map"][0, -3:]
    reward = [vector_env.step(torch.zeros(1, 1)).rewards for _ in range(28)][-1]
    vector_env.close()
    visited, goal = ((plane == 255).nonzero() for plane in latest[:2])
    assert len(visited) == 9  # one cell, pooled; the grid is the world's, so the centre is on its edge
    assert (visited - 41.5).abs().max() <= 1.5
    assert goal.tolist() == [[y, x] for y in (0, 1) for x in (41, 42, 43)]
    assert reward.item() > 9


def test_each_task_of_a_stream_has_overrides_of_its_own(write_episodes: Any) -> None:
    given = write_episodes(CORRIDOR, AHEAD)
    overrides = [
        "habitat.simulator.forward_step_size=0.5",
        "habitat.simulator.forward_step_size=1.0 habitat.task.slack_reward=-0.5",
    ]
    tasks = stream(**given, task_overrides=overrides, oracle_stop=True).tasks()
    assert [task.title for task in tasks] == overrides
    assert [task.evaluate(always(task, 0))["length"] for task in tasks] == [4.0, 2.0]
    with pytest.raises(DataError, match="inputs and actions of one shape"):
        stream(
            **given,
            inputs=["image"],
            task_overrides=[
                "habitat.seed=1",
                "habitat.simulator.agents.main_agent.sim_sensors.rgb_sensor.width=8",
            ],
        )


def test_a_simulator_that_fails_is_an_error_with_environment_and_step(write_episodes: Any) -> None:
    given = write_episodes(CORRIDOR, AHEAD, **{"habitat.simulator.type": "Failing-v0"})
    (task,) = stream(**given | {"imports": ["rooms_that_fail"]}).tasks()
    message = "environment 0, 1 of pointnav_gibson.yaml raised ArithmeticError: the floor is gone, at step 3"
    with pytest.raises(RunError, match=message):
        next(task.train(always(task, 1), Order(0, 16)))


def test_errors_say_what_to_do(write_episodes: Any) -> None:
    with pytest.raises(
        PluginError,
        match="env 'habitat' needs 'habitat_sim'. Install habitat-sim, .* conda install habitat-sim",
    ):
        stream(**write_episodes(CORRIDOR, AHEAD, **{"habitat.simulator.type": "Sim-v0"}))
    with pytest.raises(DataError, match="no such file, in the current folder or among habitat's configs"):
        stream(imports=["habitat_rooms"], config="pointnav_mars.yaml")
    with pytest.raises(DataError, match="FileNotFoundError.*datasets_download --uids habitat_test_scenes"):
        stream(imports=["habitat_rooms"], config="pointnav_gibson.yaml")
    with pytest.raises(DataError, match="No module named 'my_rooms'. Modules of --env.imports must"):
        stream(imports=["my_rooms"])
    with pytest.raises(DataError, match="habitat.simulator.turn_angel"):
        stream(**ROOMS, overrides=["habitat.simulator.turn_angel=30"])
    with pytest.raises(
        DataError, match="split train has no scene attic .*; its scenes: bend, door, hall, pillars"
    ):
        stream(**ROOMS, overrides=["habitat.dataset.content_scenes=[hall,attic]"])
    with pytest.raises(DataError, match="there is no input sonar"):
        stream(**{**ROOMS, "inputs": ["goal", "sonar"]})
    with pytest.raises(DataError, match="--env.oracle-stop needs habitat's measurement 'success'"):
        stream(
            **ROOMS,
            oracle_stop=True,
            overrides=[
                "~habitat.task.measurements.success, ~habitat.task.measurements.spl",
                "habitat.seed=1",
            ],
        )
    with pytest.raises(OptionError, match="--env.inputs is empty"):
        stream(inputs=[])


def test_the_expert_follows_the_shortest_path() -> None:
    (task,) = stream(**ROOMS, num_envs=1).tasks()
    vector_env, expert = task.make_vector_env(1), task.expert(task.experts[0])
    observations = vector_env.reset(5)
    expert.begin(vector_env, 5)
    spl: list[float] = []
    while len(spl) < 5:
        step = vector_env.step(expert.act(observations))
        observations = step.observations
        spl += step.metrics["spl"].tolist() if step.ended.any() else []
    vector_env.close()
    assert min(spl) > 0.8
    assert sum(spl) / 5 > 0.9


def test_the_expert_is_recorded_and_cloned_from_the_command_line(
    write_episodes: Any, tmp_path: Path, capsys: Any
) -> None:
    """The goal is ahead or behind, so the clone has to use it."""
    behind = [((x + 2.0, 1.5), (x, 1.5), EAST) for x in (1.5, 2.0, 2.5)]
    changes = {"habitat.environment.max_episode_steps": 20, "habitat.simulator.turn_angle": 180}
    given = write_episodes(CORRIDOR, [*AHEAD[:3], *behind], **changes)
    argv = ["--env", "habitat", *options(given), "--env.oracle-stop"]
    assert main(["record", *argv, "--trajectories", "16", "--out", str(tmp_path / "paths"), "--quiet"]) == 0
    assert "16 trajectories of 'shortest-path' in pointnav_gibson.yaml" in capsys.readouterr().out
    manifest = open_demonstrations(tmp_path / "paths").manifest
    assert manifest.metrics["success"] == 1.0
    assert manifest.versions["habitat-lab"] == metadata.version("habitat-lab")
    argv = [
        "--env",
        "imitation",
        f"--env.root={tmp_path / 'paths'}",
        "--env.val-trajectories=2",
        "--env.eval-episodes=6",
        "--env.num-envs=2",
    ]
    argv += [
        "--env.deterministic-eval",
        "--base.weights=none",
        "--learner=scratch",
        "--train.steps=60",
        "--train.lr=3e-3",
        "--train.batch-size=32",
        "--trust-local-code",  # the data names the package of the simulator
    ]
    assert main_run([*argv, "--out", str(tmp_path / "run"), "--quiet"]) == 0
    rows = [json.loads(line) for line in (tmp_path / "run" / "eval.jsonl").read_text().splitlines()]
    assert rows[-1]["figures"]["success"] == rows[-1]["figures"]["agreement"] == 1.0
    assert rows[-1]["figures"]["spl"] == pytest.approx(1.0)


def test_the_env_conforms() -> None:
    values = {
        **ROOMS,
        **SMALL,
        "inputs": ["image", "goal"],
        "eval_episodes": 2,
        "overrides": ["habitat.environment.max_episode_steps=8"],
    }
    findings = check_plugin("env", "sidetune/habitat", values)
    assert {finding.check: finding.message for finding in findings if not finding.passed} == {}


def options(values: dict[str, Any]) -> list[str]:
    argv = []
    for name, value in values.items():
        argv += [f"--env.{name}", *map(str, value if isinstance(value, list) else [value])]
    return argv


def command(given: dict[str, Any], out: Path, *more: str) -> list[str]:
    argv = options({**given, "inputs": ["image", "goal"], "num-envs": 2, "ppo.rollout-length": 64})
    argv += [
        "--learner",
        "sidetune",
        "--env.oracle-stop",
        "--env.ppo.epochs",
        "8",
        "--train.lr",
        "0.003",
        "--train.batch-size",
        "64",
    ]
    code = "import sys; from sidetune_core.cli.main import main_run; sys.exit(main_run())"
    return [sys.executable, "-c", code, "--env", "habitat", *argv, "--out", str(out), *more]


def test_from_a_config_to_a_trained_policy_and_its_spl(write_episodes: Any, tmp_path: Path) -> None:
    """The goal is ahead or behind, so the policy has to use it."""
    behind = [((x + 2.0, 1.5), (x, 1.5), EAST) for x in (1.5, 2.0, 2.5)]
    changes = {"habitat.environment.max_episode_steps": 20, "habitat.simulator.turn_angle": 180}
    given = write_episodes(CORRIDOR, [*AHEAD, *behind], **changes)
    done = subprocess.run(
        command(given, tmp_path / "run", "--env.frames", "3000"), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    found = re.search(r"^spl ([\d.]+) \(untrained ([\d.]+)\)", done.stdout, re.MULTILINE)
    assert found is not None
    after, before = map(float, found.groups())
    assert before < 0.7
    assert after > 0.8  # one of the eight episodes may fail, depending on the machine


def test_a_run_that_is_stopped_can_be_resumed(write_episodes: Any, tmp_path: Path) -> None:
    given = write_episodes(CORRIDOR, AHEAD, **{"habitat.environment.max_episode_steps": 10})
    argv = command(given, tmp_path / "run", "--env.frames", "4096", "--save-every", "8")
    begun = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, start_new_session=True)
    while begun.poll() is None and not (tmp_path / "run" / "checkpoints" / "within.safetensors").exists():
        time.sleep(0.05)
    os.killpg(begun.pid, signal.SIGTERM)  # like a batch system, also to the processes of the environments
    begun.communicate()
    assert begun.returncode == 128 + signal.SIGTERM
    code = "import sys; from sidetune_core.cli.main import main_run; sys.exit(main_run())"
    done = subprocess.run(
        [sys.executable, "-c", code, "--resume", str(tmp_path / "run"), "--trust-local-code"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert re.search(r"^spl [\d.]+ \(untrained", done.stdout, re.MULTILINE)


def make_handler(task: Any) -> Any:
    Habitat: Any = registry.load(registry.find(ENV, "habitat"))
    values = json.loads(json.dumps(task.card(), allow_nan=False))
    card = TaskCard("t0", task.title, "sidetune/habitat", task.inputs, task.outputs, "spl", values=values)
    return Habitat.handler(card)


def test_observations_of_habitat_become_the_inputs_of_training(write_episodes: Any) -> None:
    """Those of a plain ``habitat.Env`` of the same config, in this process."""
    options = write_episodes(CORRIDOR, AHEAD[:1])
    (task,) = stream(**{**options, "inputs": ["image", "goal"], "frame_stack": 2, "num_envs": 1}).tasks()
    handler = make_handler(task)
    make.prepare(task._spec)
    config = make.compose_config(task._spec)
    vector_env = task.make_vector_env(1)
    trained = vector_env.reset(0)
    with resolve_name("habitat:Env")(config) as plain:  # importable once its simulator is registered
        first = handler.observe(plain.reset())
        frames = [handler.padding(first), first]
        for index in (1, 2, 3):
            expected = task.prepare(trained)
            seen = handler.inputs([handler.stacked(frames)])
            assert all(torch.equal(seen[name], expected[name]) for name in expected)
            (name,) = handler.native(torch.tensor([[float(index)]]))
            frames = [frames[1], handler.observe(plain.step(name))]
            trained = vector_env.step(torch.tensor([[float(index)]])).observations
    vector_env.close()


def test_actions_have_the_names_of_habitat(write_episodes: Any) -> None:
    (task,) = stream(**write_episodes(CORRIDOR, AHEAD[:1]), oracle_stop=True).tasks()
    actions = make_handler(task).native(torch.arange(3.0)[:, None])
    assert actions == ["move_forward", "turn_left", "turn_right"]


def test_a_map_has_to_be_given(write_episodes: Any) -> None:
    (task,) = stream(**{**write_episodes(CORRIDOR, AHEAD[:1]), "inputs": ["map"]}).tasks()
    with pytest.raises(InputError, match="no 'map' .*from the state of the simulator"):
        make_handler(task).observe({"pointgoal_with_gps_compass": [1.0, 0.0]})


def test_played_episodes_are_limited_and_show_the_images_of_the_agent(write_episodes: Any) -> None:
    (task,) = stream(**write_episodes(CORRIDOR, AHEAD[:1])).tasks()
    frames: list[Any] = []
    episodes = list(
        task.play(always(task, 1), 3, max_steps=3, show=lambda env, shown, fps: frames.extend(shown))
    )
    assert [episode.length for episode in episodes] == [3, 3, 3]
    assert [frame.shape for frame in frames] == [(16, 16, 3)] * 12


def test_what_cannot_be_shown_is_refused(write_episodes: Any) -> None:
    options = write_episodes(CORRIDOR, AHEAD[:1])
    sensor = "habitat.simulator.agents.main_agent.sim_sensors.rgb_sensor"
    options["overrides"] = [entry for entry in options["overrides"] if sensor not in entry] + [f"~{sensor}"]
    (task,) = stream(**{**options, "inputs": ["goal"]}).tasks()
    with pytest.raises(OptionError, match="no sensor 'rgb'"):
        task.make_rendered_vector_env(1)
