"""Recurrent policies: sequences, states, and a task that needs memory."""

from __future__ import annotations

import sys
from itertools import islice
from pathlib import Path
from typing import Any

import attrs
import pytest
import torch

import sidetune_core
from sidetune_core.api import FitError, Heads, InputError, Inputs, OptionError, Order
from sidetune_core.rl import Categorical, PPOOptions, RolloutConfig
from sidetune_core.rl.memory import POSITION, STATE, Memory, RecurrentActorCritic, positions

sys.path.insert(0, str(Path(__file__).parent / "rollouts"))

from recall import LENGTH, Recall, RecallTask

POLICY = Categorical([3])
SIZE = 5
CONFIG = RolloutConfig(num_envs=4, ppo=PPOOptions(rollout_length=8, memory=SIZE), eval_episodes=8)


def make_head(shape: tuple[int, ...] = (6,), policy: Categorical = POLICY) -> RecurrentActorCritic:
    torch.manual_seed(0)
    return RecurrentActorCritic(shape, policy, hidden_size=7, hidden_layers=1, size=SIZE)


def test_a_sequence_is_unrolled_as_single_steps_are_and_begins_anew_with_an_episode() -> None:
    head, length = make_head(), 7
    encoding = torch.randn(length, 6)
    ended = torch.zeros(length, 1, dtype=torch.bool)
    ended[3] = True
    memory, single, states = Memory(SIZE, 1), [], []
    for step in range(length):
        states.append(memory.state.clone())
        inputs = memory.context_of(Inputs({}))
        single.append(head(encoding[step : step + 1], inputs.context))
        memory.update(single[-1], POLICY)
        memory.reset(ended[step])
    context = {STATE: torch.cat(states), POSITION: positions(ended).flatten()}
    unrolled = head(encoding, context)
    torch.testing.assert_close(unrolled, torch.cat(single))
    garbled = {**context, STATE: context[STATE].clone()}
    garbled[STATE][[1, 2, 3, 5, 6]] = 9.0  # only the first state of a sequence is read
    torch.testing.assert_close(head(encoding, garbled), unrolled)
    shard = {name: value[2:6] for name, value in context.items()}  # as of another process
    torch.testing.assert_close(head(encoding[2:6], shard), unrolled[2:6])


def test_gradients_flow_through_a_sequence_and_not_beyond_its_episode() -> None:
    head = make_head()
    encoding = torch.randn(4, 6, requires_grad=True)
    ended = torch.tensor([[False], [True], [False], [False]])
    head(encoding, {STATE: torch.zeros(4, SIZE), POSITION: positions(ended).flatten()})[3].sum().backward()
    assert encoding.grad is not None
    assert encoding.grad[:2].abs().sum() == 0
    assert (encoding.grad[2:].abs().sum(1) > 0).all()


def test_a_batch_is_made_of_whole_sequences_whose_policy_is_that_of_the_rollout() -> None:
    task = RecallTask(CONFIG)
    heads = Heads((2,), norm=False)
    heads.add_task(task)

    def predict(inputs: Inputs) -> torch.Tensor:
        with torch.no_grad():
            return heads.predict(inputs["cue"], "t0", inputs)

    batches = list(islice(task.train(predict, Order(0, 16)), 2))
    assert sum(len(batch.ids) for batch in batches) == 4 * 8
    followers = [(batch.inputs.context[POSITION].diff() == 1).sum() for batch in batches]
    assert sum(followers) == 4 * (8 - 1) - (1 + 3 * 2)  # without the first rows of sequences and of episodes
    for batch in batches:
        task.loss(predict(batch.inputs), batch)
        assert abs(task.record()["kl"]) < 1e-6
        assert task.record()["clipped"] == 0


def test_batches_have_to_be_made_of_whole_sequences() -> None:
    with pytest.raises(
        OptionError, match=r"batch-size 4 is no multiple of --env.ppo.rollout-length 8.*size 8$"
    ):
        RecallTask(CONFIG).steps_per_epoch(4)


def test_a_learner_that_passes_no_inputs_is_told_so() -> None:
    heads = Heads((2,))
    heads.add_task(RecallTask(CONFIG))
    with pytest.raises(FitError, match=r"call heads.predict\(encoding, task_id, inputs\)"):
        heads.predict(torch.zeros(1, 2), "t0")


def run_recall(folder: Path, memory: int, learner: str = "scratch", updates: int = 24) -> Any:
    env = {"name": "recall:Recall", "num_envs": 16, "frames": 16 * 16 * updates, "eval_episodes": 64}
    env |= {
        "ppo": {"rollout_length": 16, "memory": memory, "hidden_size": 16, "epochs": 8, "entropy_coef": 0.01}
    }
    spec = sidetune_core.RunSpec(
        base="mlp", learner=learner, env=env, train={"batch_size": 64, "lr": 1e-2}, trust_local_code=True
    )
    return sidetune_core.run(spec, folder)


def test_a_task_of_memory_is_solved_with_it_only_and_an_actor_keeps_the_state(tmp_path: Path) -> None:
    assert Recall.inputs == {"cue": (2,)}
    run = run_recall(tmp_path / "gru", 16)
    recurrent, plain = (
        list(one.folder.lines("eval.jsonl"))[-1]["figures"]["return"]
        for one in (run, run_recall(tmp_path / "plain", 0))
    )
    assert recurrent == 1.0
    assert "evaluated once more" not in run.folder.path.joinpath("log.txt").read_text()
    assert plain < 0.75
    model = sidetune_core.load(tmp_path / "gru", trust_local_code=True)
    actor = model.actor()
    for first in (0, 1, 1, 0):
        actor.reset()
        for step in range(LENGTH):
            cue = torch.zeros(2)
            cue[first] = float(step == 0)
            action = actor.act({"cue": cue.numpy()})
        assert action == first
    several = model.actor()
    for step in range(LENGTH):
        shown = torch.eye(2) * float(step == 0)
        actions = several.act([{"cue": row.numpy()} for row in shown])
    assert [action.item() for action in actions] == [0, 1]
    with pytest.raises(InputError, match="is recurrent: make an actor"):
        model.act({"cue": torch.zeros(2).numpy()})
    with pytest.raises(InputError, match="is recurrent"):
        model.module()


@pytest.mark.parametrize("learner", ["sidetune", "features"])
def test_other_learners_train_recurrent_policies_too(tmp_path: Path, learner: str) -> None:
    run = run_recall(tmp_path, 4, learner, updates=1)
    assert run.results.metric == "return"


def test_options_of_a_policy_without_memory_are_what_they_were() -> None:
    plain = RecallTask(attrs.evolve(CONFIG, ppo=attrs.evolve(CONFIG.ppo, memory=0)))
    head = plain.make_head((2,))
    (batch,) = islice(
        plain.train(lambda inputs: head(inputs["cue"]).detach(), Order(0, 4)), 1
    )  # no multiple of the rollout
    assert batch.inputs.context == {}
