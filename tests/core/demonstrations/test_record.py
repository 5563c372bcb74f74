"""Demonstrations: their contents, resuming and extending them, and errors of those that cannot be used."""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path
from typing import Any

import attrs
import pytest
import torch
from torch import Tensor

import sidetune_core
from sidetune_core import demonstrations, rl
from sidetune_core.cli.main import main
from sidetune_core.demonstrations.dataset import Trajectories, open_demonstrations, read_manifest
from sidetune_core.demonstrations.experts import PolicyExpert
from sidetune_core.demonstrations.record import SHARD_TRAJECTORIES as SHARD
from sidetune_core.errors import DataError, Diverged, OptionError, RunError
from sidetune_core.testing import check_plugin

FOLDER = Path(__file__).parents[1] / "rl" / "rollouts"
sys.path.insert(0, str(FOLDER))

from cue import LENGTH, Coin, CueTask, Oracle  # noqa: E402

ENV_OPTIONS: dict[str, Any] = {"eval_episodes": 4, "num_envs": 2, "frames": 200, "ppo": {"rollout_length": 8}}
ENV = {"name": "cue:Cues", **ENV_OPTIONS}


def record(
    folder: Path, trajectories: int, expert: str | Path | None = "oracle", seed: int = 0
) -> demonstrations.Demonstrations:
    return demonstrations.record_demonstrations(
        ENV, folder, trajectories, expert=expert, task="t0", seed=seed, quiet=True
    )


def open_task(folder: Path) -> rl.RolloutTask:
    opened = open_demonstrations(folder)
    return opened.task(opened.open_stream(trust_local_code=True))


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != "lock"
    }


class Halting(Oracle):
    """Is interrupted after `left` episodes."""

    left = SHARD + 10

    def begin(self, vector_env: rl.VectorEnv, seed: int) -> None:
        if not self.left:
            raise KeyboardInterrupt
        self.left -= 1


def test_observations_actions_and_rewards_are_recorded_step_by_step(tmp_path: Path) -> None:
    recording = record(tmp_path, 7)
    found = recording.read(0, 7)
    assert found.observations["cue"].shape == (7 * LENGTH, 4)
    assert torch.equal(found.actions[:, 0], found.observations["cue"][:, :2].argmax(1).float())
    assert found.rewards.tolist() == [1.0] * 7 * LENGTH
    assert found.lengths.tolist() == [LENGTH] * 7
    assert found.truncated.view(7, LENGTH).tolist() == [[False] * (LENGTH - 1) + [True]] * 7
    assert not found.terminated.any()
    assert found.success.all()
    assert found.final["cue"].shape == (7, 4)
    assert found.final["cue"][:, 2].tolist() == [LENGTH] * 7  # the time, where the next episode has 0
    assert len(set(found.seeds.tolist())) == 7
    assert recording.manifest.metrics == {"return": LENGTH, "success": 1.0, "length": LENGTH}
    assert recording.manifest.versions["cue"] == "1.0"
    assert json.loads((tmp_path / "card.json").read_text())["figures"]["success"] == 1.0


def test_a_range_of_trajectories_is_read_from_the_shards_that_hold_it(tmp_path: Path) -> None:
    recording = record(tmp_path, SHARD + 3)
    whole = recording.read(0, SHARD + 3)
    part = recording.read(SHARD - 2, 4)
    assert torch.equal(part.seeds, whole.seeds[SHARD - 2 : SHARD + 2])
    assert torch.equal(
        part.observations["cue"], whole.observations["cue"][(SHARD - 2) * LENGTH : (SHARD + 2) * LENGTH]
    )
    with pytest.raises(DataError, match=f"has {SHARD + 3} trajectories, and {SHARD + 4} were requested"):
        recording.read(SHARD, 4)


def test_an_interrupted_recording_resumes_to_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record(tmp_path / "whole", 2 * SHARD + 20)
    with monkeypatch.context() as patched:
        patched.setattr(CueTask, "expert", lambda self, name: Halting())
        with pytest.raises(KeyboardInterrupt):
            record(tmp_path / "halted", 2 * SHARD + 20)
    assert read_manifest(tmp_path / "halted").recorded == SHARD
    with pytest.raises(
        DataError, match=f"has {SHARD} of its {2 * SHARD + 20} trajectories: the recording was interrupted"
    ):
        open_demonstrations(tmp_path / "halted")
    (tmp_path / "halted" / "shards" / ".00001.safetensors.0123abcd").write_text("half a file")
    record(tmp_path / "halted", 2 * SHARD + 20)
    assert contents(tmp_path / "halted") == contents(tmp_path / "whole")


def test_extended_demonstrations_have_the_bytes_of_a_single_recording(tmp_path: Path) -> None:
    record(tmp_path / "whole", SHARD + 20, "coin")
    for trajectories in (3, SHARD + 5, SHARD + 20, 2):
        record(tmp_path / "grown", trajectories, "coin")
    assert contents(tmp_path / "grown") == contents(tmp_path / "whole")
    assert read_manifest(tmp_path / "whole").shards[0].given_up > 0


def test_a_damaged_or_missing_shard_is_an_error_and_recorded_again(tmp_path: Path) -> None:
    recording = record(tmp_path, SHARD + 5)
    before = contents(tmp_path)
    shard = tmp_path / "shards" / "00001.safetensors"
    shard.write_bytes(shard.read_bytes()[:-1] + b"!")
    recording.read(0, SHARD)
    with pytest.raises(
        DataError,
        match="the shard .*00001.safetensors is damaged .* Run the same sidetune record command again",
    ):
        recording.read(0, SHARD + 1)
    record(tmp_path, SHARD + 5)
    assert contents(tmp_path) == before
    shard.unlink()
    with pytest.raises(DataError, match="the shard .*00001.safetensors cannot be read"):
        recording.read(SHARD, 1)
    record(tmp_path, SHARD + 5)
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": 2}, "has format 2, and this version of sidetune reads format 1"),
        ({"seed": "none"}, "the manifest is damaged: .*seed: expected int"),
        ({"env": {"name": "cue:Cues"}}, "names no env"),
        ({"task": "t7"}, "no longer has a rollout task 't7'"),
        (
            {"inputs": {"cue": [3]}},
            r"has observations {'cue': \(3,\)}, but its env now returns {'cue': \(4,\)}",
        ),
    ],
)
def test_a_manifest_that_cannot_be_used_is_an_error(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    record(tmp_path, 2)
    manifest = json.loads((tmp_path / "card.json").read_text())
    (tmp_path / "card.json").write_text(json.dumps({**manifest, **changes}))
    with pytest.raises(DataError, match=message):
        open_task(tmp_path)


def test_other_files_and_other_demonstrations_are_not_extended(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.png").write_text("")
    with pytest.raises(RunError, match="contains cat.png and no demonstrations"):
        record(tmp_path / "photos", 2)
    with pytest.raises(DataError, match="has no demonstrations .* sidetune record --env NAME --out"):
        open_demonstrations(tmp_path / "photos")
    record(tmp_path / "other", 4)
    with pytest.raises(RunError, match="its env is {'seed': 0}, but {'seed': 1} was requested"):
        record(tmp_path / "other", 4, seed=1)
    with pytest.raises(
        RunError,
        match="its env is {'options': {'num_envs': 2}}, but {'options': {'num_envs': 3}} was requested",
    ):
        demonstrations.record_demonstrations(
            {**ENV, "num_envs": 3}, tmp_path / "other", 4, task="t0", quiet=True
        )


def test_another_version_can_read_demonstrations_but_not_extend_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record(tmp_path, 4)
    monkeypatch.setattr(CueTask, "versions", lambda self: {"cue": "2.0"})
    assert record(tmp_path, 4).manifest.versions["cue"] == "1.0"
    with pytest.raises(RunError, match="its versions is {'cue': '1.0'}, but {'cue': '2.0'} was requested"):
        record(tmp_path, 5)


def test_demonstrations_of_version_0_1_are_read_and_extended(tmp_path: Path) -> None:
    record(tmp_path / "new", 5)
    record(tmp_path / "old", 3)
    manifest = json.loads((tmp_path / "old" / "card.json").read_text())
    options = manifest["env"]["options"]
    ppo = options.pop("ppo")
    for later in ("memory", "replay_epochs", "replay_steps", "recompute_advantages"):
        ppo.pop(later, None)
    options.pop("preset", None)
    former = {"rollout": "rollout_length", "passes": "epochs", "clip_value": "value_clip"}
    options |= {name: ppo.pop(now) for name, now in former.items()}
    options |= {"hidden": ppo.pop("hidden_size"), "layers": ppo.pop("hidden_layers"), **ppo}
    options |= {"envs": options.pop("num_envs"), "episodes": options.pop("eval_episodes")}
    options |= {"evaluate": "mode" if options.pop("deterministic_eval") else "sample"}
    (tmp_path / "old" / "card.json").write_text(json.dumps(manifest))
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # the user typed no former name
        assert open_task(tmp_path / "old").options.ppo.rollout_length == 8
        record(tmp_path / "old", 5)
    assert contents(tmp_path / "old") == contents(tmp_path / "new")


class Stumbling(Oracle):
    def act(self, observations: rl.Observations) -> Tensor | None:
        raise ValueError("no idea")


class Undecided(Oracle):
    def act(self, observations: rl.Observations) -> Tensor | None:
        return torch.full((1, 1), float("nan"))


class Lazy(Coin):
    def act(self, observations: rl.Observations) -> Tensor | None:
        return None


@pytest.mark.parametrize(
    ("expert", "message"),
    [
        (
            Stumbling,
            r"trajectory 0 \(seed \d+\) of cue t0: the expert 'oracle' raised ValueError: no idea, at step 1",
        ),
        (Undecided, r"trajectory 0 .*: the expert 'oracle' returned an action that is not finite"),
        (Lazy, "expert 'oracle' failed 20 consecutive episodes of cue t0, at trajectory 0"),
    ],
)
def test_an_expert_that_fails_is_an_error_with_its_trajectory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, expert: type[Any], message: str
) -> None:
    monkeypatch.setattr(CueTask, "expert", lambda self, name: expert())
    with pytest.raises(RunError, match=message):
        record(tmp_path, 2)


def test_the_policy_of_a_trained_run_is_recorded_with_its_actions_of_evaluation(tmp_path: Path) -> None:
    env = {**ENV, "ppo": {"rollout_length": 8, "normalise_observations": True}}
    run = sidetune_core.run(
        sidetune_core.RunSpec(base="mlp", learner="features", env=env, train={"batch_size": 16}),
        tmp_path / "run",
    )
    recording = demonstrations.record_demonstrations(
        None, tmp_path / "data", 3, expert=tmp_path / "run", task="t0", quiet=True, trust_local_code=True
    )
    found = recording.read(0, 3)
    task = next(task for task in run.tasks if task.id == "t0")
    assert isinstance(task, CueTask)
    scores = run.predict(dict(task.prepare(found.observations)), "t0")
    assert torch.equal(found.actions[:, 0], scores[:, :2].argmax(1).float())
    assert recording.manifest.expert == "run"
    assert "mlp" in recording.manifest.about["composition"]
    assert str(tmp_path) not in (tmp_path / "data" / "card.json").read_text()
    with pytest.raises(OptionError, match="is a run, which is recorded in its own env; leave out --env"):
        record(tmp_path / "other", 3, tmp_path / "run")


def test_the_policy_of_a_task_that_was_added_is_recorded_in_its_own_env(tmp_path: Path) -> None:
    spec = sidetune_core.RunSpec(base="mlp", learner="features", env=ENV, train={"batch_size": 16})
    sidetune_core.run(spec, tmp_path / "run")
    more = {**ENV, "eval_episodes": 2}
    added = sidetune_core.extend(tmp_path / "run", more, tasks=["t0"], trust_local_code=True).tasks[-1]
    recording = demonstrations.record_demonstrations(
        None, tmp_path / "data", 2, expert=tmp_path / "run", task=added.id, quiet=True, trust_local_code=True
    )
    assert recording.manifest.task == "t0" != added.id
    assert recording.manifest.env["options"]["eval_episodes"] == 2


def test_a_policy_with_outputs_that_are_not_finite_does_not_act() -> None:
    expert = PolicyExpert(lambda inputs: torch.full((1, 3), float("nan")), CueTask("t0", rl.RolloutConfig()))
    with pytest.raises(Diverged, match="cue t0: the policy's outputs are not finite"):
        expert.act({"cue": torch.zeros(1, 4)})


class Wide(Oracle):
    def act(self, observations: rl.Observations) -> Tensor | None:
        return torch.zeros(1, 2)


def test_the_conformance_kit_asks_experts_to_act(monkeypatch: pytest.MonkeyPatch) -> None:
    def outcome() -> Any:
        findings = check_plugin("env", "cue:Cues", {**ENV_OPTIONS, "frames": 20})
        return next((one.outcome, one.message) for one in findings if one.check == "experts_act")

    assert outcome() == ("passed", "")
    monkeypatch.setattr(CueTask, "expert", lambda self, name: Wide())
    assert outcome() == (
        "failed",
        "task 't0': its expert 'oracle' returns an action of shape (1, 2); return (1, 1), or None",
    )


def test_trajectories_are_restored_from_their_tensors(tmp_path: Path) -> None:
    found = record(tmp_path, 3).read(0, 3)
    restored = Trajectories.from_tensors(found.to_tensors())
    for field in attrs.fields(Trajectories):
        one, other = getattr(found, field.name), getattr(restored, field.name)
        assert torch.equal(one, other) if isinstance(one, Tensor) else one.keys() == other.keys()


def test_the_command_records_and_prints_the_next_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = f"record --env cue:Cues --env.eval-episodes 4 --task t1 --out {tmp_path} --trajectories 3 --seed 2"
    assert main(argv.split()) == 0
    captured = capsys.readouterr()
    assert (
        "3 trajectories of 'oracle' in cue t1, 15 steps (return 5.000, success 1.000, length 5.000)"
        in captured.out
    )
    assert f"try next    sidetune-run --env imitation --env.root {tmp_path}" in captured.out
    assert "recording oracle in cue t1: 0 of 3 trajectories recorded" in captured.err
    assert read_manifest(tmp_path).seed == 2


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (
            "--env cue:Cues",
            "env 'cue:Cues' has several tasks; choose the one to record with --task. Tasks: t0 (cue t0), t1",
        ),
        ("--env cue:Cues --task t9", "env 'cue:Cues' has no task 't9'"),
        (
            "--env cue:Cues --task t0 --expert oracl",
            "has no expert 'oracl' for cue t0, .* Did you mean 'oracle'",
        ),
        ("--env digits --task t0", "env 'digits' has no rollout tasks, so there is nothing to record"),
        (
            "--learner ewc --env cue:Cues",
            "sidetune record uses an env and an expert, not --learner",
        ),
        ("", "choose the environment to record with --env NAME"),
    ],
)
def test_an_error_of_the_command_is_one_paragraph(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], argv: str, message: str
) -> None:
    assert main(["record", *argv.split(), "--out", str(tmp_path)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    assert message.partition(" .* ")[0] in line
    assert message.partition(" .* ")[2] in line


def test_an_interrupted_command_prints_how_to_resume(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(CueTask, "expert", lambda self, name: Halting())
    assert (
        main(["record", "--env", "cue:Cues", "--task", "t0", "--out", str(tmp_path), "--trajectories", "90"])
        == 130
    )
    assert (
        f"Resume with: sidetune record --env cue:Cues --out {tmp_path} --trajectories 90 --task t0"
        in capsys.readouterr().err
    )
