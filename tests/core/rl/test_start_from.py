"""A task that begins where an earlier one ended, in a run of several tasks and in an extension."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import attrs
import pytest
import torch

import sidetune_core
from sidetune_core.errors import OptionError
from sidetune_core.rl import PPOOptions, RolloutConfig
from sidetune_core.serving.episodes import open_player

PPO = PPOOptions(rollout_length=10, epochs=1, hidden_layers=0, normalise_observations=True)
CONFIG = RolloutConfig(num_envs=4, frames=40, eval_episodes=4, ppo=PPO)


@pytest.fixture
def spec(monkeypatch: pytest.MonkeyPatch) -> sidetune_core.RunSpec:
    monkeypatch.syspath_prepend(str(Path(__file__).parent / "rollouts"))
    env: dict[str, Any] = {"name": "cue:Cues", **attrs.asdict(CONFIG)}
    return sidetune_core.RunSpec(base="mlp", side="mlp", learner="sidetune", env=env)


def own(run: sidetune_core.Run, id: str) -> dict[str, torch.Tensor]:
    """The tensors of a task, with the name of the task left out."""
    state = run.learner.state_dict().items()
    return {name.replace(f".{id}.", ".", 1): value for name, value in state if f".{id}." in f".{name}."}


def test_a_task_of_an_extension_begins_with_what_an_earlier_one_has_learned(
    spec: sidetune_core.RunSpec, tmp_path: Path
) -> None:
    first = sidetune_core.run(attrs.evolve(spec, train={"lr": 0.03}), tmp_path / "run")
    extended = sidetune_core.extend(
        first,
        spec.env,
        {"start_from": "t1", "lr": 0.0},
        tasks=["t0"],
        out=tmp_path / "more",
        trust_local_code=True,
    )
    assert [task.id for task in extended.tasks] == ["t0", "t1", "t2"]
    before, after = own(extended, "t1"), own(extended, "t2")
    assert before.keys() == after.keys()
    assert len(before) > 4  # side, merger and head
    for name, value in before.items():
        assert torch.equal(value, after[name]), name
    cue = {"cue": torch.tensor([[1.0, 0.0, 3.0, 40.0]])}
    values = [extended.predict(cue, id)[0, -1].item() for id in ("t0", "t1", "t2")]
    with open_player(tmp_path / "more", "t2", trust_local_code=True) as player:
        assert len(list(player.play(4))) == 4  # in the env of the extension, where it is t0
        assert player.predict(player.task.prepare(cue))[0, -1].item() == pytest.approx(values[2])  # type: ignore[attr-defined]
    model = sidetune_core.load(tmp_path / "more", trust_local_code=True)
    acting = [model.actor(id).predict(cue["cue"][0]).value for id in ("t0", "t1", "t2")]
    assert values == pytest.approx(acting)  # t0 and t1 were restored from their cards
    counts = [task.state()["observations"]["cue"]["count"] for task in extended.tasks]  # type: ignore[attr-defined]
    assert counts[2] == counts[1] + 4 * 11  # the statistics continue: a reset and ten steps of four envs


def test_a_task_can_begin_with_earlier_ones_only(spec: sidetune_core.RunSpec, tmp_path: Path) -> None:
    spec = attrs.evolve(spec, train={"start_from": "t7"})
    with pytest.raises(OptionError, match="--train.start-from t7: no earlier task 't7'; there are t0"):
        sidetune_core.run(spec, tmp_path / "run")
    assert not (tmp_path / "run" / "metrics.jsonl").exists()  # nothing was trained before
