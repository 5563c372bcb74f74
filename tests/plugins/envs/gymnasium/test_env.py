"""Env gym: spaces, wrappers, ends of episodes, and errors of environments."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from gymnasium.utils.env_checker import check_env

from sidetune_core.api import DataError, Inputs, OptionError, Order, RunError
from sidetune_core.cli.main import main_run
from sidetune_core.config import registry
from sidetune_core.config.kinds import ENV
from sidetune_core.config.options import structure
from sidetune_core.rl import Categorical, Gaussian
from sidetune_core.storage import checkpoint

sys.path.insert(0, str(Path(__file__).parent / "modules"))

Gym: Any = registry.load(registry.find(ENV, "gym"))
ODD = "gym_odd:Odd-v0"
SMALL: dict[str, Any] = {"num_envs": 2, "eval_episodes": 2, "ppo": {"rollout_length": 8}}


def stream(*ids: str, **options: Any) -> Any:
    return Gym(structure(Gym.Config, {"ids": list(ids), **SMALL, **options}, "env 'gym'"), 0)


def uniform(task: Any) -> Any:
    """A uniform policy."""
    return lambda inputs: torch.zeros(len(next(iter(inputs.values()))), task.policy.size + 1)


def test_images_are_channels_first_in_0_to_1_discrete_values_are_one_hot_and_text_is_dropped() -> None:
    (task,) = stream(ODD).tasks()
    assert task.inputs == {"image": (3, 6, 8), "mode": (3,)}
    assert isinstance(task.policy, Gaussian)
    vector_env = task.make_vector_env(2)
    vector_env.reset(0)
    step = vector_env.step(torch.full((2, 2), 5.0))  # clipped to the box
    vector_env.close()
    inputs = task.prepare(step.observations)
    torch.testing.assert_close(inputs["image"], torch.full((2, 3, 6, 8), 10 / 255))
    assert inputs["mode"].tolist() == [[0.0, 1.0, 0.0]] * 2


def test_environments_reset_in_the_same_step_and_keep_the_final_observation() -> None:
    (task,) = stream(ODD).tasks()
    vector_env = task.make_vector_env(2)
    vector_env.reset(0)
    steps = [vector_env.step(torch.zeros(2, 2)) for _ in range(4)]
    vector_env.close()
    assert [step.ended.tolist() for step in steps] == [[False] * 2, [False] * 2, [True] * 2, [False] * 2]
    assert steps[2].observations["image"].max() == 0
    assert steps[2].final_observations["image"].unique().tolist() == [30]
    assert steps[2].success.all()
    assert steps[1].final_observations == {}


def test_frames_are_stacked_converted_to_grayscale_and_resized() -> None:
    (task,) = stream(ODD, frame_stack=2, grayscale=True, image_size=4).tasks()
    assert task.inputs == {"image": (2, 4, 4), "mode": (6,)}
    vector_env = task.make_vector_env(1)
    first = vector_env.reset(0)["image"]
    second = vector_env.step(torch.zeros(1, 2)).observations["image"]
    vector_env.close()
    assert first.flatten(2).unique(dim=2)[0, :, 0].tolist() == [0, 0]
    assert second.flatten(2).unique(dim=2)[0, :, 0].tolist() == [0, 10]


def test_inputs_can_be_dropped_so_that_environments_fit_together() -> None:
    assert stream(ODD, "MiniGrid-Empty-5x5-v0", inputs=["image"], view="pixels", image_size=8).inputs == {
        "image": (3, 8, 8)
    }
    with pytest.raises(DataError, match="it has no input sound; its inputs: image, mode"):
        stream(ODD, inputs=["image", "sound"])


def test_masked_images_are_zero_and_other_inputs_are_kept() -> None:
    (task,) = stream(ODD, mask_images=True).tasks()
    vector_env = task.make_vector_env(1)
    vector_env.reset(0)
    found = vector_env.step(torch.zeros(1, 2)).observations
    vector_env.close()
    assert found["image"].max() == 0
    assert found["mode"].sum() == 1


def test_a_time_limit_truncates_and_does_not_terminate() -> None:
    (task,) = stream("CartPole-v1", time_limit=3).tasks()
    vector_env = task.make_vector_env(2)
    vector_env.reset(0)
    steps = [vector_env.step(torch.zeros(2, 1)) for _ in range(3)]
    vector_env.close()
    assert steps[2].truncated.all()
    assert not steps[2].terminated.any()
    assert steps[2].final_observations["vector"].shape == (2, 4)


def test_processes_do_not_change_rollouts() -> None:
    found = []
    for processes in (False, True):
        (task,) = stream("CartPole-v1", processes=processes).tasks()
        experience = task.train(uniform(task), Order(3, 16))
        found.append([next(experience) for _ in range(6)])
        del experience
    for one, other in zip(*found, strict=True):
        assert torch.equal(one.targets, other.targets)
        assert torch.equal(one.inputs["vector"], other.inputs["vector"])


def test_ctrl_c_leaves_processes_of_environments_to_the_run() -> None:
    (task,) = stream("CartPole-v1", processes=True).tasks()
    vector_env = task.make_vector_env(1)
    vector_env.reset(0)
    os.kill(vector_env._envs.processes[0].pid, signal.SIGINT)
    assert vector_env.step(torch.zeros(1, 1)).rewards.tolist() == [1.0]
    vector_env.close()


@pytest.mark.parametrize(
    ("fails", "message"),
    [
        (
            "raises",
            "environment 0, 1 of .*Odd-v0 raised ArithmeticError: gravity is off, at step 5 since it was "
            "opened",
        ),
        ("hangs", r"environment 0, 1 of .*Odd-v0 did not answer within 1 s \(--env.timeout\), at step 5"),
        ("dies", "environment 0, 1 of .*Odd-v0 lost its process, which crashed or was killed, at step 5"),
    ],
)
def test_an_environment_that_fails_in_its_process_is_an_error_with_its_index_and_step(
    fails: str, message: str
) -> None:
    arguments = f'{{"fails": "{fails}"}}'
    (task,) = stream(
        ODD, processes=True, timeout=1.0 if fails == "hangs" else 60.0, arguments=arguments
    ).tasks()
    with pytest.raises(RunError, match=message):
        next(task.train(uniform(task), Order(0, 16)))


def test_an_environment_that_raises_in_this_process_is_an_error_with_its_index_and_step() -> None:
    (task,) = stream(ODD, arguments='{"fails": "raises"}').tasks()
    with pytest.raises(
        RunError,
        match="0 of gym_odd:Odd-v0 raised ArithmeticError: gravity is off, at step 5 since it was opened$",
    ):
        next(task.train(uniform(task), Order(0, 16)))


@pytest.mark.parametrize(
    ("fails", "processes", "message"),
    [
        (
            "raises",
            False,
            "environment 0 of gym_odd:Odd-v0 raised ArithmeticError: gravity is off, at step 20 since it "
            "was opened",
        ),
        (
            "nan",
            False,
            "gym_odd:Odd-v0: the reward of environment 0 is not finite (step 20 of training)",
        ),
        (
            "dies",
            True,
            "environment 0, 1 of gym_odd:Odd-v0 lost its process, which crashed or was killed, at step 20 "
            "since",
        ),
    ],
)
def test_a_run_whose_environment_fails_resumes_once_it_is_fixed(
    fails: str,
    processes: bool,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    options = {
        "num-envs": 2,
        "eval-episodes": 2,
        "ppo.rollout-length": 8,
        "ids": ODD,
        "frames": 64,
        "processes": processes,
        "arguments": f'{{"fails": "{fails}", "at": 20}}',
    }
    argv = [f"--env.{name}={value}" for name, value in options.items() if name != "processes"]
    argv += ["--env.processes"] if processes else []
    assert (
        main_run(
            [
                "--env",
                "gym",
                *argv,
                "--learner",
                "scratch",
                "--train.batch-size",
                "16",
                "--out",
                "run",
                "--quiet",
            ]
        )
        == 2
    )
    printed = " ".join(capsys.readouterr().err.split())
    assert message in printed
    assert (
        "Fix the environment, and resume after step 8 of task t0 with: sidetune-run --resume run" in printed
    )
    assert message in Path("run/status").read_text()
    found = checkpoint.find(tmp_path / "run" / "checkpoints", pytest.fail)
    assert found is not None
    assert found.mid_task is not None
    assert found.mid_task.step == 8  # after two rollouts; the third failed
    Path("fixed").touch()
    assert main_run(["--resume", "run", "--quiet", "--trust-local-code"]) == 0
    assert Path("run/status").read_text().startswith("done")


def test_minigrid_is_rendered_or_one_hot_symbols() -> None:
    assert stream("MiniGrid-Empty-5x5-v0", view="pixels").inputs == {"direction": (4,), "image": (3, 28, 28)}
    symbols = stream("MiniGrid-Empty-5x5-v0")
    assert symbols.inputs == {"direction": (4,), "image": (20, 7, 7)}
    (task,) = symbols.tasks()
    batch = next(task.train(uniform(task), Order(0, 16)))
    assert batch.inputs["image"].unique().tolist() == [0.0, 1.0]
    assert torch.equal(batch.inputs["image"].sum((1, 2, 3)), torch.full((16,), 3.0 * 49))


@pytest.mark.parametrize(
    ("length", "threshold", "expected"), [(3, None, 1.0), (4, None, 0.0), (4, 2.0, 1.0), (4, 2.5, 0.0)]
)
def test_success_comes_from_the_environment_or_a_reward_threshold(
    length: int, threshold: float | None, expected: float
) -> None:
    (task,) = stream(
        ODD, arguments=f'{{"length": {length}}}', reward_threshold=threshold, metric="success"
    ).tasks()
    assert task.metric == "success"
    assert task.evaluate(uniform(task)) == {"return": length / 2, "success": expected, "length": length}


def test_success_is_the_registered_threshold_if_info_has_none() -> None:
    (task,) = stream("CartPole-v1").tasks()
    assert task.evaluate(uniform(task))["success"] == 0.0


def test_each_id_is_a_task_and_other_shapes_are_an_error() -> None:
    tasks = stream("CartPole-v1", "CartPole-v0").tasks()
    assert [(task.id, task.title) for task in tasks] == [("t0", "CartPole-v1"), ("t1", "CartPole-v0")]
    assert isinstance(tasks[0].policy, Categorical)
    with pytest.raises(
        DataError,
        match=r"must have inputs of one shape: CartPole-v1 has .*\(4,\).* gym_odd:Odd-v0 .*--env.image-size",
    ):
        stream("CartPole-v1", ODD)


def test_environments_that_cannot_be_created_or_do_not_fit_are_errors() -> None:
    with pytest.raises(DataError, match="environment Cartpole-v9 cannot be created: .*"):
        stream("Cartpole-v9")
    with pytest.raises(OptionError, match="--env.mask-images: CartPole-v1 has no image"):
        stream("CartPole-v1", mask_images=True)
    with pytest.raises(OptionError, match="--env.ids is empty"):
        stream()
    with pytest.raises(OptionError, match="--env.arguments \\[1\\]: give a JSON object"):
        stream("CartPole-v1", arguments="[1]")
    with pytest.raises(
        DataError,
        match="environment nothing:X-v0 cannot be created: .* no module named 'nothing' in",
    ):
        stream("nothing:X-v0")


@pytest.mark.parametrize("version", ["21", "26"])
def test_environments_of_the_old_gym_say_how_to_install_shimmy(
    version: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "shimmy", None)
    id = f"GymV{version}Environment-v0"
    with pytest.raises(
        DataError, match=rf"{id} needs 'shimmy': pip install 'shimmy\[gym-v26\]', or 'shimmy\[gym-v21\]' for"
    ):
        stream(id, arguments='{"env_id": "CartPole-v1"}')


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("id", ["CartPole-v1", "MiniGrid-Empty-5x5-v0", "VizdoomBasic-v1", ODD])
def test_wrapped_environments_pass_gymnasium_s_check(id: str) -> None:
    (task,) = stream(id).tasks()
    vector_env = task.make_vector_env(1)
    own_wrappers = id.startswith(
        ("MiniGrid", "Vizdoom")
    )  # they do not record their constructor arguments, which the close check needs
    check_env(vector_env._envs.envs[0], skip_render_check=True, skip_close_check=own_wrappers)
    vector_env.close()


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("id", ["CartPole-v1", "MiniGrid-Empty-5x5-v0", "VizdoomBasic-v1", ODD])
def test_wrapped_environments_pass_the_check_of_stable_baselines3(id: str) -> None:
    checker = pytest.importorskip(
        "stable_baselines3.common.env_checker", reason="stable-baselines3 is not installed"
    )
    (task,) = stream(id).tasks()
    vector_env = task.make_vector_env(1)
    checker.check_env(vector_env._envs.envs[0])
    vector_env.close()


@pytest.mark.skipif(os.name != "posix", reason="process groups")
@pytest.mark.parametrize("send", [os.killpg, os.kill], ids=["all", "one"])
def test_sigterm_to_all_processes_or_one_leaves_a_run_that_can_be_resumed(
    send: Callable[[int, int], None], tmp_path: Path
) -> None:
    options = [
        "--env.ids",
        "CartPole-v1",
        "--env.processes",
        "--env.num-envs",
        "2",
        "--env.ppo.rollout-length",
        "64",
        "--env.eval-episodes",
        "2",
    ]
    command = [
        "--env",
        "gym",
        *options,
        "--env.frames",
        "100000",
        "--train.batch-size",
        "64",
        "--learner",
        "features",
        "--out",
        "run",
    ]
    run = [
        sys.executable,
        "-c",
        "import sys; from sidetune_core.cli.main import main_run; sys.exit(main_run(sys.argv[1:]))",
    ]
    with subprocess.Popen(
        [*run, *command], cwd=tmp_path, start_new_session=True, stderr=subprocess.PIPE, text=True
    ) as process:
        curves = tmp_path / "run" / "metrics.jsonl"
        while not curves.exists() and process.poll() is None:
            time.sleep(0.05)
        send(process.pid, signal.SIGTERM)
        _, errors = process.communicate()
    assert process.returncode == 128 + signal.SIGTERM, errors
    assert "Traceback" not in errors
    assert (tmp_path / "run" / "status").read_text().startswith("interrupted"), errors
    found = checkpoint.find(tmp_path / "run" / "checkpoints", pytest.fail)
    assert found is not None
    assert found.mid_task is not None
    assert found.mid_task.step % 8 == 0 < found.mid_task.step


def test_a_run_that_fails_in_its_first_rollout_does_not_advise_to_resume(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    options = ["--env.num-envs=2", "--env.ppo.rollout-length=8", '--env.arguments={"fails": "raises"}']
    run = ["--env", "gym", f"--env.ids={ODD}", *options, "--train.batch-size=16", "--quiet", "--out", "run"]
    assert main_run(run) == 2
    assert "resume" not in capsys.readouterr().err


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_one_sigterm_ends_a_run_whose_step_hangs_in_its_process(tmp_path: Path) -> None:
    options = [
        "--env.num-envs=2",
        "--env.ppo.rollout-length=8",
        "--train.batch-size=16",
        f"--out={tmp_path / 'run'}",
    ]
    hangs = '--env.arguments={"fails": "hangs", "at": 20}'
    program = (
        "import sys; from sidetune_core.system import signals; signals.GRACE_SECONDS = 0.2; "
        "from sidetune_core.cli.main import main_run; sys.exit(main_run(sys.argv[1:]))"
    )
    modules = str(Path(__file__).parent / "modules")
    with subprocess.Popen(
        [sys.executable, "-c", program, "--env=gym", f"--env.ids={ODD}", hangs, *options],
        cwd=modules,
        env={**os.environ, "HANGING": str(tmp_path / "hanging")},
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        while not (tmp_path / "hanging").exists() and process.poll() is None:
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate()
    assert process.returncode == 128 + signal.SIGTERM, errors
    assert "Resume with: sidetune-run --resume" in errors


def test_inputs_of_evaluation_carry_no_ids() -> None:
    (task,) = stream("CartPole-v1").tasks()
    seen: list[Inputs] = []

    def predict(inputs: Inputs) -> torch.Tensor:
        seen.append(inputs)
        return uniform(task)(inputs)

    task.evaluate(predict)
    assert all(inputs.ids is None for inputs in seen)
    assert task.options.eval_episodes == 2


@pytest.mark.parametrize("processes", [False, True])
def test_vizdoom_leaves_nothing_in_the_working_directory(
    processes: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "temporary").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    monkeypatch.setattr(tempfile, "tempdir", None)
    (task,) = stream("VizdoomBasic-v1", inputs=["image"], image_size=32, processes=processes).tasks()
    vector_env = task.make_vector_env(1)
    assert vector_env.reset(0)["image"].shape == (1, 3, 32, 32)
    vector_env.step(torch.zeros(1, 1))
    vector_env.close()
    assert list((tmp_path / "temporary").glob("sidetune-*")) == []
    assert [path.name for path in tmp_path.iterdir()] == ["temporary"]
