"""Rollouts and PPO: advantages, losses and time limits against closed forms; order of computation;
resuming."""

from __future__ import annotations

import math
import os
import signal
import sys
from itertools import islice
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest
import torch
from torch import Tensor

import sidetune_core
from sidetune_core import api, rl
from sidetune_core.api import Batch, Inputs, Order
from sidetune_core.errors import DataError, Diverged, Interrupted, OptionError, RunError
from sidetune_core.feature_cache.cache import FeatureCache
from sidetune_core.rl import PPOOptions, RolloutConfig
from sidetune_core.rl.ppo import gae
from sidetune_core.storage import checkpoint
from sidetune_core.training import run as training_run

FOLDER = Path(__file__).parent / "rollouts"
sys.path.insert(0, str(FOLDER))

from cue import LENGTH, Counting, CueTask, CueVectorEnv  # noqa: E402

OPTIONS = RolloutConfig(
    num_envs=4, frames=80, eval_episodes=8, ppo=PPOOptions(rollout_length=10, epochs=3, hidden_layers=0)
)
ROWS, BATCH = 40, 20
LAST = 4
"""Columns of the targets after the action: log-probability, advantage, return, value."""


def with_ppo(**changes: Any) -> RolloutConfig:
    return attrs.evolve(OPTIONS, ppo=attrs.evolve(OPTIONS.ppo, **changes))


def constant(value: float) -> api.Predict:
    """A uniform policy whose value is constant."""
    return lambda inputs: torch.tensor([0.0, 0.0, value]).repeat(len(inputs["cue"]), 1)


def batches(
    task: CueTask, steps: int, predict: api.Predict | None = None, first_step: int = 0, seed: int = 0
) -> list[Batch]:
    return list(islice(task.train(predict or constant(0.0), Order(seed, BATCH, first_step)), steps))


def columns(batch: Batch) -> dict[str, Tensor]:
    return dict(
        zip(("action", "log_prob", "advantage", "return", "value"), batch.targets.unbind(1), strict=True)
    )


def test_a_policy_with_outputs_that_are_not_finite_collects_no_rollout() -> None:
    task = CueTask("t0", OPTIONS)
    with pytest.raises(Diverged, match=r"cue t0: the policy's outputs are not finite \(step 1 of training\)"):
        batches(task, 1, lambda inputs: torch.full((len(inputs["cue"]), 3), math.nan))
    assert task.opened[0].closed


def test_a_policy_with_outputs_that_are_not_finite_is_not_evaluated() -> None:
    task = CueTask("t0", OPTIONS)
    with pytest.raises(Diverged, match=r"the policy's outputs are not finite \(step 1 of evaluation\)"):
        task.evaluate(lambda inputs: torch.full((len(inputs["cue"]), 3), math.nan))
    assert task.opened[0].steps == 0


def test_advantages_are_discounted_sums_of_temporal_differences() -> None:
    random = np.random.default_rng(0)
    steps, envs, gamma, lam = 12, 3, 0.9, 0.7
    rewards, values = random.normal(size=(steps, envs)), random.normal(size=(steps + 1, envs))
    ended = random.random((steps, envs)) < 0.3
    expected = np.zeros((steps, envs))
    for env in range(envs):
        for start in range(steps):
            for later in range(start, steps):
                follows = 0.0 if ended[later, env] else values[later + 1, env]
                difference = rewards[later, env] + gamma * follows - values[later, env]
                expected[start, env] += (gamma * lam) ** (later - start) * difference
                if ended[later, env]:
                    break
    found = gae(*map(torch.from_numpy, (rewards, values[:-1], values[-1], ended.astype(float))), gamma, lam)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-12)


def test_the_return_of_a_truncated_episode_includes_the_value_of_its_final_observation() -> None:
    worth, gamma = 7.0, 0.9
    options = with_ppo(gamma=gamma, gae_lambda=1.0, normalise_advantages=False)
    task = CueTask("t0", options)
    for batch in batches(task, 2, constant(worth)):
        time = batch.inputs["cue"][:, 2]
        found = columns(batch)["return"]
        left = LENGTH - time
        most = (1 - gamma**left) / (1 - gamma)  # all remaining rewards are 1, then the value
        assert (found <= most + gamma**left * worth + 1e-4).all()
        assert (found >= gamma**left * worth - 1e-4).all()
        last = time == LENGTH - 1
        torch.testing.assert_close(
            found[last].round(decimals=3) % 1, torch.full((int(last.sum()),), (gamma * worth) % 1)
        )


class Ending(CueTask):
    """Its episodes terminate."""

    def make_vector_env(self, count: int) -> rl.VectorEnv:
        vector_env = super().make_vector_env(count)
        step = vector_env.step

        def ending(actions: Tensor) -> rl.Step:
            found = step(actions)
            return attrs.evolve(found, terminated=found.truncated, truncated=found.terminated)

        vector_env.step = ending  # type: ignore[method-assign]
        return vector_env


def test_the_return_of_a_terminated_episode_includes_no_value() -> None:
    options = with_ppo(gae_lambda=1.0, normalise_advantages=False)
    for batch in batches(Ending("t0", options), 2, constant(7.0)):
        last = batch.inputs["cue"][:, 2] == LENGTH - 1
        assert set(columns(batch)["return"][last].tolist()) <= {0.0, 1.0}


def test_the_loss_is_ppo_s_row_by_row() -> None:
    options = with_ppo(clip=0.2, value_clip=0.5, value_coef=0.7, entropy_coef=0.3)
    random = np.random.default_rng(1)
    output, advantages = random.normal(size=(50, 3)), random.normal(size=50)
    actions, before = random.integers(0, 2, 50), random.normal(-0.7, 0.3, 50)
    returns, values = random.normal(size=50), random.normal(size=50)
    expected = []
    for row in range(50):
        p = np.exp(output[row, :2]) / np.exp(output[row, :2]).sum()
        ratio = p[actions[row]] / np.exp(before[row])
        gain = min(ratio * advantages[row], min(max(ratio, 0.8), 1.2) * advantages[row])
        near = values[row] + min(max(output[row, 2] - values[row], -0.5), 0.5)
        error = max((output[row, 2] - returns[row]) ** 2, (near - returns[row]) ** 2)
        expected.append(-gain + 0.7 * error + 0.3 * (p * np.log(p)).sum())
    targets = torch.from_numpy(np.stack([actions, before, advantages, returns, values], 1))
    found = CueTask("t0", options).loss(
        torch.from_numpy(output), Batch(torch.arange(50), Inputs({}), targets)
    )
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-10)


def test_every_row_occurs_once_in_each_epoch_and_batches_have_one_size() -> None:
    found = batches(CueTask("t0", OPTIONS), 2 * 3 * 2)
    ids = torch.stack([batch.ids for batch in found]).view(2, 3, ROWS)
    for rollout in ids:
        assert all(torch.equal(one.sort().values, rollout[0].sort().values) for one in rollout)
        assert len(set(rollout[0].tolist())) == ROWS
        assert not torch.equal(rollout[0], rollout[1])
    assert not set(ids[0].flatten().tolist()) & set(ids[1].flatten().tolist())


def test_a_batch_that_does_not_divide_a_rollout_is_refused() -> None:
    with pytest.raises(
        OptionError,
        match="--train.batch-size 30 does not divide a rollout of 4 environments x 10 steps = 40 rows.*"
        "--train.batch-size 20$",
    ):
        CueTask("t0", OPTIONS).steps_per_epoch(30)


def test_an_epoch_has_the_requested_frames_in_whole_rollouts() -> None:
    assert CueTask("t0", OPTIONS).steps_per_epoch(BATCH) == 2 * 3 * 2
    assert CueTask("t0", attrs.evolve(OPTIONS, frames=81)).steps_per_epoch(BATCH) == 3 * 3 * 2


def test_advantages_of_a_batch_are_standardised() -> None:
    (batch,) = batches(CueTask("t0", OPTIONS), 1)
    advantages = columns(batch)["advantage"]
    assert abs(float(advantages.mean())) < 1e-6
    assert float(advantages.std()) == pytest.approx(1, abs=1e-5)


def test_a_frozen_base_computes_each_frame_once() -> None:
    base = Counting().eval().requires_grad_(False)
    FeatureCache(2**20, (), pytest.fail).attach(base, "fp32")

    def predict(inputs: Inputs) -> Tensor:
        return torch.cat([base(inputs).encoding[:, :2], torch.zeros(len(inputs["cue"]), 1)], 1)

    task, updates = CueTask("t0", OPTIONS), 3
    plain = Counting()
    plain.load_state_dict(base.state_dict())
    for batch in islice(task.train(predict, Order(0, BATCH)), updates * task.steps_per_epoch(BATCH) // 2):
        with torch.no_grad():
            torch.testing.assert_close(base(batch.inputs).encoding, plain(dict(batch.inputs)).encoding)
    cut = updates * ROWS // LENGTH  # final observations of truncated episodes are frames of their own
    frames = (updates * OPTIONS.ppo.rollout_length + 1) * OPTIONS.num_envs
    assert sum(base.rows) == frames + cut


def test_rollouts_are_a_function_of_the_seed() -> None:
    runs = [batches(CueTask("t0", OPTIONS), 12, seed=seed) for seed in (0, 0, 1)]
    targets = [torch.cat([batch.targets for batch in run]) for run in runs]
    assert torch.equal(targets[0], targets[1])
    assert not torch.equal(targets[0], targets[2])


def test_an_order_begins_where_a_rollout_does() -> None:
    task = CueTask("t0", OPTIONS)
    assert [step for step in range(13) if task.can_resume_at(step, BATCH)] == [0, 6, 12]
    assert len(batches(task, 3, first_step=6)) == 3
    with pytest.raises(RunError, match="can resume only at multiples of 6 steps"):
        batches(task, 1, first_step=3)


def test_environments_are_closed_with_the_generator_of_batches() -> None:
    task = CueTask("t0", OPTIONS)
    experience = task.train(constant(0.0), Order(0, BATCH))
    next(experience)
    assert not task.opened[0].closed
    del experience
    assert task.opened[0].closed


def test_running_statistics_are_those_of_training_and_are_restored_exactly() -> None:
    options = with_ppo(normalise_observations=True, normalise_rewards=True)
    task = CueTask("t0", options)
    batches(task, 13)
    state = task.state()
    seen = state["observations"]["cue"]
    assert seen["count"] == (3 * 10 + 1) * 4
    assert seen["mean"][2] == pytest.approx(
        (30 // 5 * 10 * 4) / seen["count"]
    )  # times 0 to 4, then 0 once more
    other = CueTask("t0", options)
    other.set_state(state)
    assert other.state() == state
    assert task.evaluate(constant(0.0)) == other.evaluate(constant(0.0))
    assert task.state() == state


def test_a_failed_rollout_leaves_the_statistics_unchanged() -> None:
    task = CueTask("t0", with_ppo(normalise_rewards=True), fails_at=15)
    experience = task.train(constant(0.0), Order(0, BATCH))
    next(experience)
    before = task.state()
    with pytest.raises(DataError):
        list(islice(experience, 20))
    assert task.state() == before


class Broken(CueTask):
    """Its third step returns NaN."""

    def make_vector_env(self, count: int) -> rl.VectorEnv:
        vector_env = super().make_vector_env(count)
        step = vector_env.step

        def breaking(actions: Tensor) -> rl.Step:
            found = step(actions)
            if self.opened[-1].steps == 3:
                found.observations["cue"][1, 2] = float("nan")
            return found

        vector_env.step = breaking  # type: ignore[method-assign]
        return vector_env


def test_an_observation_that_is_not_finite_is_an_error_with_its_environment_and_step() -> None:
    with pytest.raises(
        RunError,
        match="cue t0: the observation 'cue' of environment 1 is not finite \\(step 3 of training\\)",
    ):
        batches(Broken("t0", OPTIONS), 1)


def test_evaluation_plays_the_requested_number_of_episodes_and_the_same_each_time() -> None:
    task = CueTask("t0", attrs.evolve(OPTIONS, eval_episodes=6))
    first, second = task.evaluate(constant(0.0)), task.evaluate(constant(0.0))
    assert first == second
    assert first["length"] == LENGTH

    def right(inputs: Inputs) -> Tensor:
        return torch.cat([inputs["cue"][:, :2], torch.zeros(len(inputs["cue"]), 1)], 1)

    assert task.evaluate(right) == {"return": LENGTH, "success": 1.0, "length": LENGTH}


@pytest.fixture
def spec(monkeypatch: pytest.MonkeyPatch) -> sidetune_core.RunSpec:
    monkeypatch.chdir(FOLDER)
    monkeypatch.syspath_prepend(str(FOLDER))
    monkeypatch.setattr(training_run, "git_state", lambda: None)
    config = attrs.evolve(with_ppo(normalise_observations=True), frames=160)
    env = {"name": "cue:Cues", **attrs.asdict(config)}
    return sidetune_core.RunSpec(base="mlp", learner="scratch", env=env)


def changed(spec: sidetune_core.RunSpec, **options: Any) -> sidetune_core.RunSpec:
    assert spec.env is not None
    return attrs.evolve(spec, env=attrs.evolve(spec.env, options={**spec.env.options, **options}))


def test_predictions_of_observations_and_of_prepared_inputs_agree(
    spec: sidetune_core.RunSpec, tmp_path: Path
) -> None:
    run = sidetune_core.run(changed(spec, frames=80), tmp_path / "run")
    cue = torch.tensor([[1.0, 0.0, 3.0, 40.0], [0.0, 1.0, 1.0, 9.0]])
    raw = run.predict({"cue": cue}, "t0")
    assert torch.equal(raw, run.predict(run.tasks[0].prepare({"cue": cue}), "t0"))  # type: ignore[attr-defined]
    values = [
        sidetune_core.load(tmp_path / "run", trust_local_code=True).actor("t0").predict({"cue": row}).value
        for row in cue
    ]
    torch.testing.assert_close(raw[:, -1], torch.tensor(values))


def test_a_small_env_is_solved_and_not_forgotten(spec: sidetune_core.RunSpec, tmp_path: Path) -> None:
    run = sidetune_core.run(changed(spec, frames=1200), tmp_path / "run")
    untrained, first, last = (row[0] for row in [run.results.initial, *run.results.rows])
    assert untrained is not None
    assert untrained < 4
    assert first == last == LENGTH
    *_, line = run.folder.lines("metrics.jsonl")
    assert {"return", "success", "length", "kl", "clipped", "entropy"} <= line.keys()


def test_one_spec_gives_the_same_bytes_twice(spec: sidetune_core.RunSpec, tmp_path: Path) -> None:
    folders = [sidetune_core.run(spec, tmp_path / name).folder.path for name in ("one", "other")]
    for name in ("eval.jsonl", "metrics.jsonl"):
        assert (folders[0] / name).read_bytes() == (folders[1] / name).read_bytes()


def test_a_run_is_saved_where_a_rollout_begins_and_resumes_there_with_new_episodes(
    spec: sidetune_core.RunSpec,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    saved = []
    save = checkpoint.save_mid_task
    monkeypatch.setattr(checkpoint, "save_mid_task", lambda *args: saved.append((args[6].step, save(*args))))
    sidetune_core.run(spec, tmp_path / "whole", save_every="1")
    assert [step for step, _ in saved] == [6, 12, 18, 24] * 2
    with pytest.raises(DataError, match="the environment is broken"):
        sidetune_core.run(changed(spec, fails_at=25), tmp_path / "cut")
    found = checkpoint.find(tmp_path / "cut" / "checkpoints", pytest.fail)
    assert found is not None
    assert found.mid_task is not None
    assert found.mid_task.step == 12
    assert found.tasks["t0"]["observations"]["cue"]["count"] == 21 * 4
    with pytest.raises(DataError, match="the environment is broken"):  # of the second task
        sidetune_core.resume(tmp_path / "cut", quiet=False, trust_local_code=True)
    assert "episodes in progress restart" in capsys.readouterr().err
    resumed = sidetune_core.resume(tmp_path / "cut", trust_local_code=True)
    assert [len(row) for row in resumed.results.rows] == [2, 2]
    counts = {task.id: task.state()["observations"]["cue"]["count"] for task in resumed.tasks}
    assert counts == {
        "t0": (41 + 1) * 4,
        "t1": (41 + 1) * 4,
    }  # including the first observations of new episodes


def test_a_signal_during_a_rollout_stops_where_the_rollout_began(
    spec: sidetune_core.RunSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = CueVectorEnv.step

    def stopping(vector_env: CueVectorEnv, actions: Tensor) -> rl.Step:
        if vector_env.steps == 15 and vector_env.count == OPTIONS.num_envs:
            os.kill(os.getpid(), signal.SIGINT)
        return step(vector_env, actions)

    monkeypatch.setattr(CueVectorEnv, "step", stopping)
    with pytest.raises(Interrupted):
        sidetune_core.run(spec, tmp_path / "cut")
    found = checkpoint.find(tmp_path / "cut" / "checkpoints", pytest.fail)
    assert found is not None
    assert found.mid_task is not None
    assert found.mid_task.step == 6
