"""Recordings of experts: what is in them, going on after a break, and what is said of those that cannot be used."""

from __future__ import annotations

import json
import sys
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
from sidetune_core.demonstrations.record import SHARD
from sidetune_core.errors import DataError, OptionError, RunError
from sidetune_core.testing import check_plugin

FOLDER = Path(__file__).parents[1] / "rl" / "rollouts"
sys.path.insert(0, str(FOLDER))

from cue import LENGTH, Coin, CueTask, Oracle  # noqa: E402

ENV_OPTIONS = {"episodes": 4, "envs": 2, "rollout": 8, "frames": 200}
ENV = {"name": "cue:Cues", **ENV_OPTIONS}


def record(
    folder: Path, trajectories: int, expert: str | Path | None = "oracle", seed: int = 0
) -> demonstrations.Demonstrations:
    return demonstrations.record_demonstrations(
        ENV, folder, trajectories, expert=expert, task="t0", seed=seed, quiet=True
    )


def open_task(folder: Path) -> rl.RolloutTask:
    recording = open_demonstrations(folder)
    return recording.task(recording.open_stream())


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != "lock"
    }


class Halting(Oracle):
    """Is interrupted after so many episodes."""

    left = SHARD + 10

    def begin(self, vector_env: rl.VectorEnv, seed: int) -> None:
        if not self.left:
            raise KeyboardInterrupt
        self.left -= 1


def test_what_was_seen_done_and_paid_is_recorded_step_by_step(tmp_path: Path) -> None:
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
    assert recording.manifest.figures == {"return": LENGTH, "success": 1.0, "length": LENGTH}
    assert recording.manifest.versions["cue"] == "1.0"
    assert json.loads((tmp_path / "card.json").read_text())["figures"]["success"] == 1.0


def test_some_trajectories_are_read_from_the_shards_that_hold_them(tmp_path: Path) -> None:
    recording = record(tmp_path, SHARD + 3)
    whole = recording.read(0, SHARD + 3)
    some = recording.read(SHARD - 2, 4)
    assert torch.equal(some.seeds, whole.seeds[SHARD - 2 : SHARD + 2])
    assert torch.equal(
        some.observations["cue"], whole.observations["cue"][(SHARD - 2) * LENGTH : (SHARD + 2) * LENGTH]
    )
    with pytest.raises(DataError, match=f"has {SHARD + 3} trajectories, and {SHARD + 4} are wanted"):
        recording.read(SHARD, 4)


def test_an_interrupted_recording_goes_on_to_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record(tmp_path / "whole", 2 * SHARD + 20)
    with monkeypatch.context() as patched:
        patched.setattr(CueTask, "expert", lambda self, name: Halting())
        with pytest.raises(KeyboardInterrupt):
            record(tmp_path / "halted", 2 * SHARD + 20)
    assert read_manifest(tmp_path / "halted").recorded == SHARD
    with pytest.raises(
        DataError, match=f"has {SHARD} of its {2 * SHARD + 20} trajectories: it was interrupted"
    ):
        open_demonstrations(tmp_path / "halted")
    (tmp_path / "halted" / "shards" / ".00001.safetensors.0123abcd").write_text("half a file")
    record(tmp_path / "halted", 2 * SHARD + 20)
    assert contents(tmp_path / "halted") == contents(tmp_path / "whole")


def test_a_recording_that_is_made_longer_has_the_bytes_of_one_made_in_one_go(tmp_path: Path) -> None:
    record(tmp_path / "whole", SHARD + 20, "coin")
    for trajectories in (3, SHARD + 5, SHARD + 20, 2):
        record(tmp_path / "grown", trajectories, "coin")
    assert contents(tmp_path / "grown") == contents(tmp_path / "whole")
    assert read_manifest(tmp_path / "whole").shards[0].given_up > 0


def test_a_damaged_or_missing_shard_is_told_and_made_anew(tmp_path: Path) -> None:
    recording = record(tmp_path, SHARD + 5)
    before = contents(tmp_path)
    shard = tmp_path / "shards" / "00001.safetensors"
    shard.write_bytes(shard.read_bytes()[:-1] + b"!")
    recording.read(0, SHARD)
    with pytest.raises(
        DataError,
        match="the shard .*00001.safetensors is damaged .*; delete it, and sidetune collect makes it anew",
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
        ({"seed": "none"}, "the card is damaged: .*seed: expected int"),
        ({"env": {"name": "cue:Cues"}}, "names no env"),
        ({"task": "t7"}, "has no task 't7' to act in any more"),
        (
            {"inputs": {"cue": [3]}},
            r"has observations {'cue': \(3,\)}, and its env now gives {'cue': \(4,\)}",
        ),
    ],
)
def test_a_card_that_cannot_be_used_is_told(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    record(tmp_path, 2)
    manifest = json.loads((tmp_path / "card.json").read_text())
    (tmp_path / "card.json").write_text(json.dumps({**manifest, **changes}))
    with pytest.raises(DataError, match=message):
        open_task(tmp_path)


def test_what_is_no_recording_or_another_one_is_not_gone_on_with(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.png").write_text("")
    with pytest.raises(RunError, match="holds cat.png and no recording"):
        record(tmp_path / "photos", 2)
    with pytest.raises(DataError, match="holds no recording .* sidetune collect --env gym"):
        open_demonstrations(tmp_path / "photos")
    record(tmp_path / "there", 4)
    with pytest.raises(RunError, match="its env is {'seed': 0}, and {'seed': 1} is wanted"):
        record(tmp_path / "there", 4, seed=1)
    with pytest.raises(
        RunError, match="its env is {'options': {'hidden': 64}}, and {'options': {'hidden': 8}} is wanted"
    ):
        demonstrations.record_demonstrations(
            {**ENV, "hidden": 8}, tmp_path / "there", 4, task="t0", quiet=True
        )


def test_another_version_may_use_what_is_recorded_and_not_add_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record(tmp_path, 4)
    monkeypatch.setattr(CueTask, "versions", lambda self: {"cue": "2.0"})
    assert record(tmp_path, 4).manifest.versions["cue"] == "1.0"
    with pytest.raises(RunError, match="its versions is {'cue': '1.0'}, and {'cue': '2.0'} is wanted"):
        record(tmp_path, 5)


class Stumbling(Oracle):
    def act(self, observations: rl.Observations) -> Tensor | None:
        raise ValueError("no idea")


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
        (Lazy, "has given up 20 episodes in a row of cue t0, at trajectory 0"),
    ],
)
def test_an_expert_that_fails_is_told_with_its_trajectory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, expert: type[Any], message: str
) -> None:
    monkeypatch.setattr(CueTask, "expert", lambda self, name: expert())
    with pytest.raises(RunError, match=message):
        record(tmp_path, 2)


def test_the_policy_of_a_trained_run_is_recorded_as_it_acts(tmp_path: Path) -> None:
    env = {**ENV, "normalise_observations": True}
    run = sidetune_core.run(
        sidetune_core.RunSpec(base="mlp", learner="features", env=env, train={"batch": 16}), tmp_path / "run"
    )
    recording = demonstrations.record_demonstrations(
        None, tmp_path / "data", 3, expert=tmp_path / "run", task="t0", quiet=True
    )
    found = recording.read(0, 3)
    task = next(task for task in run.tasks if task.id == "t0")
    assert isinstance(task, CueTask)
    scores = run.predict(dict(task.prepare(found.observations)), "t0")
    assert torch.equal(found.actions[:, 0], scores[:, :2].argmax(1).float())
    assert recording.manifest.expert == "run"
    assert "mlp" in recording.manifest.about["composition"]
    assert str(tmp_path) not in (tmp_path / "data" / "card.json").read_text()
    with pytest.raises(
        OptionError, match="is a run, and acts in the env that it was trained in; leave out --env"
    ):
        record(tmp_path / "other", 3, tmp_path / "run")


class Wide(Oracle):
    def act(self, observations: rl.Observations) -> Tensor | None:
        return torch.zeros(1, 2)


def test_the_conformance_kit_asks_experts_to_act(monkeypatch: pytest.MonkeyPatch) -> None:
    def outcome() -> Any:
        findings = check_plugin("env", "cue:Cues", {**ENV_OPTIONS, "frames": 20})
        return next((one.outcome, one.message) for one in findings if one.check == "experts_act")

    assert outcome() == ("passed", "")
    monkeypatch.setattr(CueTask, "expert", lambda self, name: Wide())
    assert outcome() == ("failed", "task 't0': its expert 'oracle' gives (1, 2); give (1, 1), or None")


def test_trajectories_come_back_from_their_tensors(tmp_path: Path) -> None:
    found = record(tmp_path, 3).read(0, 3)
    again = Trajectories.from_tensors(found.to_tensors())
    for field in attrs.fields(Trajectories):
        one, other = getattr(found, field.name), getattr(again, field.name)
        assert torch.equal(one, other) if isinstance(one, Tensor) else one.keys() == other.keys()


def test_the_command_records_and_says_what_to_type_next(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = f"collect --env cue:Cues --env.episodes 4 --task t1 --out {tmp_path} --trajectories 3 --seed 2"
    assert main(words.split()) == 0
    captured = capsys.readouterr()
    assert (
        "3 trajectories of 'oracle' in cue t1, 15 steps (return 5.000, success 1.000, length 5.000)"
        in captured.out
    )
    assert f"try next    sidetune-run --env imitation --env.data {tmp_path}" in captured.out
    assert "recording oracle in cue t1: 0 of 3 trajectories are there" in captured.err
    assert read_manifest(tmp_path).seed == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            "--env cue:Cues",
            "env 'cue:Cues' has several tasks, and a recording is of one: name it with --task. There are: t0 (cue t0), t1",
        ),
        ("--env cue:Cues --task t9", "env 'cue:Cues' has no task 't9'"),
        (
            "--env cue:Cues --task t0 --expert oracl",
            "has no expert 'oracl' for cue t0, .* Did you mean 'oracle'",
        ),
        ("--env digits --task t0", "nobody acts in the tasks of env 'digits'"),
        (
            "--learner ewc --env cue:Cues",
            "a recording is of an env and an expert, so --learner has no use here",
        ),
        ("", "name the env in which is acted"),
    ],
)
def test_what_cannot_be_recorded_is_told_in_a_paragraph(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: str, message: str
) -> None:
    assert main(["collect", *words.split(), "--out", str(tmp_path)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    assert message.partition(" .* ")[0] in line
    assert message.partition(" .* ")[2] in line


def test_an_interrupted_command_says_how_to_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(CueTask, "expert", lambda self, name: Halting())
    assert (
        main(["collect", "--env", "cue:Cues", "--task", "t0", "--out", str(tmp_path), "--trajectories", "90"])
        == 130
    )
    assert (
        f"go on with: sidetune collect --env cue:Cues --out {tmp_path} --trajectories 90 --task t0"
        in capsys.readouterr().err
    )
