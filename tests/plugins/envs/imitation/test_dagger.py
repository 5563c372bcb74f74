"""DAgger: what the expert labels, how often it is asked, and interrupted runs."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import sidetune_core
from sidetune_core import api, demonstrations
from sidetune_core.api import Batch, Inputs, Order
from sidetune_core.config import registry
from sidetune_core.config.kinds import ENV
from sidetune_core.config.options import structure
from sidetune_core.demonstrations.dataset import ExpertFile
from sidetune_core.rl import FollowsActions, Observations
from sidetune_core.storage.run_folder import open_run

CORE = Path(__file__).parents[3] / "core"
ROLLOUTS = CORE / "rl" / "rollouts"
sys.path.insert(0, str(ROLLOUTS))

Imitation: Any = registry.load(registry.find(ENV, "imitation"))
CUES = {"name": "cue:Cues", "eval_episodes": 4, "num_envs": 2}
STEPS = 5
"""Of an episode of a cue."""
DAGGER = {"dagger_rounds": 2, "dagger_interval": 6, "dagger_episodes": 3}
ENV_OPTIONS = {"val_trajectories": 4, "max_trajectories": 4, "eval_episodes": 4, "num_envs": 2, **DAGGER}


@pytest.fixture(scope="module")
def cues(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight trajectories of the oracle."""
    folder = tmp_path_factory.mktemp("cues")
    return demonstrations.record_demonstrations(CUES, folder, 8, task="t0", quiet=True).folder


def make_task(folder: Path, **options: Any) -> Any:
    values = {"root": [str(folder)], **ENV_OPTIONS, **options}
    env = Imitation(structure(Imitation.Config, values, "env 'imitation'"), 0)
    env.trust_local_code = True  # of the recorded env
    (task,) = env.tasks()
    return task


def wrong(inputs: Inputs) -> Tensor:
    """Logits of the action that the cue does not name."""
    return -8.0 * inputs["cue"][:, :2]


def drawn(batches: Iterator[Batch], count: int) -> list[Batch]:
    return list(islice(batches, count))


def test_the_expert_labels_what_the_policy_visits_before_each_round(cues: Path) -> None:
    task = make_task(cues)
    batches = task.train(wrong, Order(0, 10))
    recorded = drawn(batches, 6)
    assert task.record()["expert_queries"] == 0
    assert {*torch.cat([batch.ids for batch in recorded]).tolist()} == {*range(20, 40)}
    first = drawn(batches, 6)
    assert task.record() == {"dagger_rounds": 1, "labelled_steps": 15, "expert_queries": 15, "aborted": 0}
    second = drawn(batches, 40)
    assert task.record()["expert_queries"] == 30
    labelled = {*torch.cat([batch.ids for batch in second]).tolist()} - {*range(20, 40)}
    assert len(labelled) == 30
    assert {*torch.cat([batch.ids for batch in first]).tolist()} - {*range(20, 40)} < labelled
    for batch in (*first, *second):  # whatever the policy did
        assert torch.equal(batch.targets[:, 0], batch.inputs["cue"][:, :2].argmax(1).float())


def test_without_rounds_it_is_cloning(cues: Path) -> None:
    plain = make_task(cues, dagger_rounds=0)
    before = drawn(plain.train(wrong, Order(3, 7)), 6)
    now = drawn(make_task(cues).train(wrong, Order(3, 7)), 6)
    for one, other in zip(before, now, strict=True):
        assert torch.equal(one.ids, other.ids)
    assert plain.record() == {}
    assert plain.state() == {}


@pytest.mark.parametrize("step", [5, 6, 9, 12, 20])
def test_training_resumes_anywhere_with_the_same_batches(cues: Path, step: int) -> None:
    whole = make_task(cues)
    expected = drawn(whole.train(wrong, Order(1, 8)), 24)
    begun = make_task(cues)
    drawn(begun.train(wrong, Order(1, 8)), step)
    again = make_task(cues)
    again.set_state(begun.state())
    resumed = drawn(again.train(wrong, Order(1, 8, step)), 24 - step)
    for one, other in zip(expected[step:], resumed, strict=True):
        assert torch.equal(one.ids, other.ids)
        assert torch.equal(one.inputs["cue"], other.inputs["cue"])
        assert torch.equal(one.targets, other.targets)


@pytest.fixture(scope="module")
def server() -> Iterator[Callable[..., dict[str, int]]]:
    """Does one run, and kills it (see tests/core/training/kills/server.py)."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROLLOUTS)}
    with subprocess.Popen(
        [sys.executable, CORE / "training" / "kills" / "server.py"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    ) as process:

        def order(**values: Any) -> dict[str, int]:
            assert process.stdin is not None
            assert process.stdout is not None
            print(json.dumps(values), file=process.stdin, flush=True)
            answer: dict[str, int] = json.loads(process.stdout.readline())
            return answer

        yield order


@pytest.mark.skipif(os.name != "posix", reason="forks, and kills with SIGKILL")
def test_a_run_that_is_killed_between_or_in_rounds_and_resumed_ends_with_the_same_bytes(
    cues: Path, tmp_path: Path, server: Callable[..., dict[str, int]]
) -> None:
    spec = {
        "base": "mlp",
        "learner": "finetune",
        "env": {"name": "imitation", "root": [str(cues)], **ENV_OPTIONS},
        "train": {"steps": 16, "batch_size": 10, "lr": 1e-2},
    }

    def run(folder: Path, kill: int = 0, resume: bool = False) -> dict[str, int]:
        return server(spec=spec, folder=str(folder), save_every="3", kill=kill, resume=resume)

    whole, cut = tmp_path / "whole", tmp_path / "cut"
    moments = run(whole)["moments"]
    metrics = list(open_run(whole).lines("eval.jsonl"))[-1]["figures"]
    assert metrics["expert_queries"] == 30
    killed = [run(cut, kill=moments // 2), run(cut, kill=moments // 4, resume=True)]
    assert [answer["status"] for answer in killed] == [-signal.SIGKILL] * 2
    assert run(cut, resume=True)["status"] == 0
    assert (cut / "eval.jsonl").read_bytes() == (whole / "eval.jsonl").read_bytes()
    (newest,) = sorted((whole / "checkpoints").glob("after-*.safetensors"))[-1:]
    assert (cut / "checkpoints" / newest.name).read_bytes() == newest.read_bytes()


def test_a_run_and_a_policy_file_need_to_be_named_as_expert(cues: Path, tmp_path: Path) -> None:
    with pytest.raises(api.OptionError, match=r"no expert of cue t0.*Experts of cue t0: oracle, coin"):
        make_task(cues, expert="orakle")
    with pytest.raises(api.OptionError, match="pass --env.dagger-rounds 5"):
        make_task(cues, dagger_rounds=0, expert="oracle")


def test_an_expert_that_aborts_is_counted(cues: Path) -> None:
    task = make_task(cues, expert="coin", dagger_episodes=12)
    drawn(task.train(wrong, Order(0, 8)), 13)
    found = task.record()
    assert found["aborted"] > 0
    assert found["labelled_steps"] == STEPS * (24 - found["aborted"])
    assert found["expert_queries"] == found["labelled_steps"] + found["aborted"]


def test_the_bot_s_label_follows_the_actions_that_were_taken(tmp_path: Path) -> None:
    env = {"name": "gym", "ids": ["BabyAI-GoToRedBallNoDists-v0"], "inputs": ["image"], "view": "pixels"}
    recorded = demonstrations.record_demonstrations(env, tmp_path, 2, quiet=True)
    task = recorded.task(recorded.open_stream(True))
    bot: Any = task.expert("bot")
    assert isinstance(bot, FollowsActions)
    vector_env = task.make_vector_env(1)
    observations: Observations = vector_env.reset(3)
    bot.begin(vector_env, 0)
    for action in (0, 0, 1, 0, 0, 0):  # turns, whatever the bot says
        bot.act(observations)
        bot.took(torch.tensor([[float(action)]]))
        observations = vector_env.step(torch.tensor([[float(action)]])).observations
    for _ in range(60):  # from there the bot arrives
        action = bot.act(observations)
        step = vector_env.step(action)
        observations = step.observations
        if step.ended.any():
            break
    assert bool(step.success)
    vector_env.close()


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with two tasks of one cue, of which the last is trained further."""
    tmp_path = tmp_path_factory.mktemp("trained")
    spec = sidetune_core.RunSpec(
        base="mlp",
        learner="scratch",
        env={**CUES, "frames": 256, "ppo": {"rollout_length": 10}},
        train={"batch_size": 20},
        trust_local_code=True,
    )
    first = sidetune_core.run(spec, tmp_path / "first")
    run = sidetune_core.extend(  # of the same title: the last one labels
        first, spec.env, tasks=["t0"], out=tmp_path / "run", trust_local_code=True
    )
    assert run.tasks[-1].id not in {task.id for task in first.tasks}
    return run.folder.path


def assert_labels_are_those_of(run: Path, task_id: str, batch: Batch) -> None:
    """Check that steps were labelled, with the most likely actions of a task's policy."""
    labelled = batch.ids >= 2**32
    assert labelled.sum() == 15
    model = sidetune_core.load(run, trust_local_code=True)
    observations = [{"cue": row} for row in batch.inputs["cue"][labelled].numpy()]
    actions = [float(action[0]) for action in model.act(observations, task_id, deterministic=True)]
    assert batch.targets[labelled][:, 0].tolist() == actions


def test_the_policy_of_a_run_labels_steps(cues: Path, trained: Path) -> None:
    task = make_task(cues, expert=str(trained))
    batch = drawn(task.train(wrong, Order(0, 35)), 7)[-1]
    assert_labels_are_those_of(trained, sidetune_core.load(trained, trust_local_code=True).tasks[-1], batch)


def test_the_run_that_was_recorded_labels_steps_without_being_named(trained: Path, tmp_path: Path) -> None:
    kept = shutil.copytree(trained, tmp_path / "runs" / "kept")
    folder = tmp_path / "recordings" / "kept"
    recorded = demonstrations.record_demonstrations(
        None, folder, 8, expert=kept, task="t0", quiet=True, trust_local_code=True
    )
    assert recorded.manifest.expert_file == ExpertFile("../../runs/kept", "t0")
    moved = Path(shutil.move(tmp_path / "runs", tmp_path / "elsewhere"))
    with pytest.raises(api.OptionError, match=r"the policy of a run, which is no longer at \S+/runs/kept\. "):
        make_task(folder)
    moved.rename(tmp_path / "runs")
    batch = drawn(make_task(folder).train(wrong, Order(0, 35)), 7)[-1]
    assert_labels_are_those_of(kept, "t0", batch)  # and not the last one of its title

    card = folder / "card.json"
    card.write_text(card.read_text().replace(recorded.manifest.about["weights"], "0" * 64))
    with pytest.raises(api.OptionError, match=r"has other weights than .* pass --env.expert \S+/kept"):
        make_task(folder)


def test_a_recording_says_why_its_expert_cannot_label(cues: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(cues, tmp_path / "cues")
    text = (folder / "card.json").read_text()
    for expert, reason in (
        ("run", "the policy of a run, and its card.json, of an earlier version, does not say which"),
        ("oracle2", "expert 'oracle2', which cue t0 no longer has"),
    ):
        (folder / "card.json").write_text(text.replace('"expert": "oracle"', f'"expert": "{expert}"'))
        with pytest.raises(api.OptionError, match=f"{reason}. Pass one: --env.expert RUNFOLDER"):
            make_task(folder)
