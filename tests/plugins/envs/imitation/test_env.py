"""Env imitation: training and validation data, evaluation by rollouts, and errors."""

from __future__ import annotations

import json
import sys
from itertools import islice
from pathlib import Path
from typing import Any

import attrs
import gymnasium
import pytest
import torch
from torch import Tensor

import sidetune_core
from sidetune_core import api, demonstrations, rl
from sidetune_core.api import Batch, Inputs, Order
from sidetune_core.cli.main import main, main_run
from sidetune_core.config import registry
from sidetune_core.config.kinds import ENV
from sidetune_core.config.options import structure
from sidetune_core.errors import UntrustedCode
from sidetune_core.rl import Categorical, Gaussian

sys.path.insert(0, str(Path(__file__).parents[3] / "core" / "rl" / "rollouts"))

Imitation: Any = registry.load(registry.find(ENV, "imitation"))
CUES = {"name": "cue:Cues", "eval_episodes": 4, "num_envs": 2}
STEPS = 5
"""Of an episode of a cue."""
SMALL = {"val_trajectories": 4, "eval_episodes": 8, "num_envs": 4}
LEVEL = "BabyAI-GoToRedBallNoDists-v0"


@pytest.fixture(scope="module")
def cues(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Thirty trajectories of the oracle."""
    return demonstrations.record_demonstrations(
        CUES, tmp_path_factory.mktemp("cues"), 30, task="t0", quiet=True
    ).folder


def stream(*root: Path, **options: Any) -> Any:
    values = {"root": [str(folder) for folder in root], **SMALL, **options}
    env = Imitation(structure(Imitation.Config, values, "env 'imitation'"), 0)
    env.trust_local_code = True  # of the recorded env
    return env


def oracle(inputs: Inputs) -> Tensor:
    """Logits of a network that takes the action of the cue."""
    return 8.0 * inputs["cue"][:, :2]


def test_the_first_trajectories_are_held_out_and_the_next_ones_are_trained_on(cues: Path) -> None:
    whole = demonstrations.open_demonstrations(cues).read(0, 30)
    (few,) = stream(cues, max_trajectories=2).tasks()
    (all_,) = stream(cues).tasks()
    for task, count in ((few, 2), (all_, 26)):
        batches = list(islice(task.train(oracle, Order(0, STEPS)), count))  # one pass
        ids = torch.cat([batch.ids for batch in batches]).sort().values
        assert torch.equal(ids, torch.arange(4 * STEPS, (4 + count) * STEPS))
        for batch in batches:
            assert torch.equal(batch.inputs["cue"], whole.observations["cue"][batch.ids])
            assert torch.equal(batch.targets, whole.actions[batch.ids])
    assert few.steps_per_epoch(STEPS) == 2


def test_several_folders_are_a_stream_with_distinct_ids(cues: Path) -> None:
    first, second = stream(cues, cues).tasks()
    ids = [{*next(task.train(oracle, Order(0, 200))).ids.tolist()} for task in (first, second)]
    assert [task.id for task in (first, second)] == ["t0", "t1"]
    assert min(ids[1]) - min(ids[0]) == 30 * STEPS
    assert not ids[0] & ids[1]


def test_it_is_evaluated_by_rollouts_and_on_held_out_steps(cues: Path) -> None:
    (task,) = stream(cues).tasks()
    held_out: list[int] = []

    def predict(inputs: Inputs) -> Tensor:
        held_out.extend([] if inputs.ids is None else inputs.ids.tolist())
        return oracle(inputs)

    found = task.evaluate(predict)
    assert held_out == list(range(4 * STEPS))
    assert found["success"] == found["agreement"] == 1.0
    assert found["return"] == found["length"] == STEPS
    assert found["loss"] == pytest.approx(torch.nn.functional.softplus(torch.tensor(-8.0)).item(), abs=1e-6)
    assert task.metric == "success"
    wrong = task.evaluate(lambda inputs: -oracle(inputs))
    assert wrong["return"] < 1
    assert wrong["agreement"] == 0.0


@pytest.mark.parametrize("policy", [Gaussian(2), Categorical([2, 3])])
def test_the_loss_is_the_negative_log_likelihood_of_the_action(cues: Path, policy: rl.Policy) -> None:
    (task,) = stream(cues).tasks()
    task._rollout_task.policy = policy
    output, actions = (
        torch.randn(6, policy.size, generator=torch.Generator().manual_seed(0)),
        torch.tensor([[1.0, 0.0]]).repeat(6, 1),
    )
    if isinstance(policy, Gaussian):
        expected = -torch.distributions.Normal(output[:, :2], output[:, 2:].exp()).log_prob(actions).sum(1)
    else:
        chosen = zip(output.split([2, 3], 1), actions.long().unbind(1), strict=True)
        expected = torch.stack(
            [torch.nn.functional.cross_entropy(part, one, reduction="none") for part, one in chosen]
        ).sum(0)
    torch.testing.assert_close(task.loss(output, Batch(torch.arange(6), Inputs({}), actions)), expected)
    assert task.make_head((4, 3))(torch.zeros(6, 4, 3)).shape == (6, policy.size)


def test_vectors_are_standardised_by_the_training_data_if_the_recorded_env_does_so(tmp_path: Path) -> None:
    demonstrations.record_demonstrations(
        {**CUES, "ppo": {"normalise_observations": True}}, tmp_path, 10, task="t0", quiet=True
    )
    (task,) = stream(tmp_path).tasks()
    rows = next(task.train(oracle, Order(0, 30))).inputs["cue"]  # one pass
    torch.testing.assert_close(rows.mean(0), torch.zeros(4), atol=1e-5, rtol=0)
    torch.testing.assert_close(rows.std(0, correction=0), torch.ones(4), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("learner", "components"),
    [("finetune", {}), ("sidetune", {"side": "mlp", "merger": "alpha"}), ("features", {})],
)
def test_every_learner_clones_the_expert(tmp_path: Path, learner: str, components: dict[str, str]) -> None:
    data = demonstrations.record_demonstrations(
        {**CUES, "ppo": {"normalise_observations": True}}, tmp_path / "data", 24, task="t0", quiet=True
    ).folder
    env = {"name": "imitation", "root": [str(data)], **SMALL}
    spec = sidetune_core.RunSpec(
        trust_local_code=True,
        base="mlp",
        learner=learner,
        env=env,
        train={"steps": 80, "batch_size": 32, "lr": 1e-2},
        **components,
    )
    run = sidetune_core.run(spec, tmp_path / "run")
    assert run.results.metric == "success"
    before, after = (line["figures"] for line in run.folder.lines("eval.jsonl"))
    assert after["loss"] < 0.6 * before["loss"]
    assert after["return"] > before["return"]


def test_the_code_that_a_recording_names_is_not_imported(cues: Path) -> None:
    env = stream(cues)
    env.trust_local_code = False
    with pytest.raises(UntrustedCode, match="env 'cue:Cues' in .*card.json is code to import"):
        env.tasks()


@pytest.mark.parametrize("level", ["../../x", "-x", "", "a/b"])
def test_a_level_that_is_no_id_is_refused(level: str) -> None:
    with pytest.raises(api.OptionError, match="is no id of an environment"):
        stream(levels=[level]).tasks()


def test_the_fingerprint_depends_on_the_data(cues: Path) -> None:
    found = []
    for options in ({}, {}, {"max_trajectories": 3}):
        env = stream(cues, **options)
        env.tasks()
        found.append((env.fingerprint(), env.data_parts()))
    assert found[0] == found[1]
    assert found[0][0] != found[2][0]
    assert [name for name, part in found[0][1].items() if part != found[2][1][name]] == ["t0/train"]


def test_a_level_is_recorded_on_first_use_and_extended_when_more_is_requested(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SIDETUNE_HOME", str(tmp_path))
    printed: list[str] = []
    first = stream(levels=[LEVEL], max_trajectories=4)
    first.info = printed.append
    (task,) = first.tasks()
    assert task.inputs == {"image": (3, 28, 28)}
    assert printed[0].startswith(f"recording bot in {LEVEL}: 0 of 8 trajectories recorded, in {tmp_path}")
    shard = (tmp_path / "recordings" / LEVEL / "card.json").read_bytes()
    stream(levels=[LEVEL], max_trajectories=4).tasks()
    assert (tmp_path / "recordings" / LEVEL / "card.json").read_bytes() == shard
    stream(levels=[LEVEL], max_trajectories=5).tasks()
    assert capsys.readouterr() == ("", "")  # such as under --quiet
    manifest = demonstrations.open_demonstrations(tmp_path / "recordings" / LEVEL).manifest
    assert (manifest.recorded, manifest.metrics["success"]) == (9, 1.0)


def test_the_bot_s_recorded_actions_reproduce_the_recorded_trajectory(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gym = {"name": "gym", "ids": ["BabyAI-UnlockLocal-v0"], "inputs": ["image"]}
    recording = demonstrations.record_demonstrations(gym, tmp_path, 3, quiet=True)
    assert recording.manifest.versions.keys() >= {"gymnasium", "minigrid"}
    found = recording.read(1, 1)
    env = recording.open_stream(trust_local_code=True)
    vector_env = recording.task(env).make_vector_env(1)
    now = vector_env.reset(int(found.seeds))
    for number, action in enumerate(found.actions):
        assert torch.equal(now["image"][0], found.observations["image"][number])
        step = vector_env.step(action[None])
        now = step.observations
    assert step.ended.all()
    assert step.rewards.item() == found.rewards[-1]
    assert torch.equal(step.final_observations["image"], found.final["image"])
    vector_env.close()
    env.close()
    assert capsys.readouterr().out == ""  # BabyAI prints


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            "--env.ids MiniGrid-Empty-5x5-v0",
            "has no expert for MiniGrid-Empty-5x5-v0. Record the policy of a trained run: sidetune record",
        ),
        (f"--env.ids {LEVEL} --env.processes", "leave out --env.processes"),
        (f"--env.ids {LEVEL} --expert follower", f"env 'gym' has no expert 'follower' for {LEVEL}"),
    ],
)
def test_a_missing_bot_is_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: str, message: str
) -> None:
    assert main(["record", "--env", "gym", *options.split(), "--out", str(tmp_path)]) == 2
    assert message in capsys.readouterr().err


def test_unusable_demonstrations_are_an_error_before_training(
    cues: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = demonstrations.record_demonstrations(
        {"name": "gym", "ids": [LEVEL], "time_limit": 8}, tmp_path / "other", 2, quiet=True
    ).folder
    damaged = demonstrations.record_demonstrations(
        CUES, tmp_path / "damaged", 30, task="t0", quiet=True
    ).folder
    (damaged / "shards" / "00000.safetensors").write_bytes(b"")
    cases = {
        f"--env.root {tmp_path / 'none'}": "has no demonstrations (no card.json). Record them: sidetune "
        "record --env NAME",
        f"--env.root {cues} {other}": "demonstrations of a stream must have inputs of one shape",
        f"--env.root {cues} --env.max-trajectories 27": "has 30 trajectories, fewer than 20 for validation "
        "(--env.val-trajectories) plus 27 for training",
        f"--env.root {damaged}": "00000.safetensors is damaged",
        "--env.levels": "--env.levels is empty",
    }
    for argv, message in cases.items():
        words = f"{argv} --base mlp --learner features --out {tmp_path / 'run'} --trust-local-code"
        assert main_run(["--env", "imitation", *words.split()]) == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_demonstrations_whose_env_is_not_installed_are_an_error(cues: Path, tmp_path: Path) -> None:
    text = (cues / "card.json").read_text()
    for path in cues.glob("shards/*"):
        (tmp_path / "shards").mkdir(exist_ok=True)
        (tmp_path / "shards" / path.name).write_bytes(path.read_bytes())
    (tmp_path / "card.json").write_text(text.replace("cue:Cues", "acme/maze"))
    with pytest.raises(api.PluginError, match="no env named 'maze' in 'acme'"):
        stream(tmp_path).tasks()


def test_a_level_without_its_library_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "minigrid"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "minigrid", None)
    gym: Any = registry.load(registry.find(ENV, "gym"))
    with pytest.raises(api.DataError, match=r"BabyAI-X-v0 needs 'minigrid'.* pip install 'sidetune\[rl\]'"):
        gym(attrs.evolve(gym.Config(), ids=("BabyAI-X-v0",)), 0)


def make_card(task: Any) -> api.TaskCard:
    values = json.loads(json.dumps(task.card(), allow_nan=False))
    return api.TaskCard(
        "t0",
        task.title,
        "sidetune/imitation",
        task.inputs,
        task.outputs,
        "success",
        head="handler",
        values=values,
    )


def test_the_card_has_the_head_of_the_policy_and_the_recorded_env(cues: Path) -> None:
    (task,) = stream(cues, hidden_size=5).tasks()
    handler = Imitation.handler(make_card(task))
    head = handler.make_head((8,))
    assert task.card()["recorded_env"] == "cue:Cues"
    assert head.state_dict().keys() == task.make_head((8,)).state_dict().keys()
    assert head.actor[0].out_features == 5
    assert isinstance(handler, rl.PolicyHandler)


def test_a_policy_of_a_registered_env_takes_its_plain_observations(tmp_path: Path) -> None:
    env = {"name": "gym", "ids": [LEVEL], "view": "pixels", "inputs": ["image"], "eval_episodes": 2}
    folder = demonstrations.record_demonstrations(env, tmp_path / "level", 5, quiet=True).folder
    (task,) = stream(folder).tasks()
    handler = Imitation.handler(make_card(task))
    plain = gymnasium.make(LEVEL)
    observation, _ = plain.reset(seed=0)
    assert handler.preprocess([observation]).inputs["image"].shape == (1, 3, 28, 28)


def test_the_statistics_of_recorded_observations_are_the_state_of_the_task(
    cues: Path, tmp_path: Path
) -> None:
    normalised = {**CUES, "ppo": {"normalise_observations": True}}
    folder = demonstrations.record_demonstrations(
        normalised, tmp_path / "cues", 5, task="t0", quiet=True
    ).folder
    (task,) = stream(folder).tasks()
    handler = Imitation.handler(make_card(task))
    handler.set_state(task.state())
    batch = next(task.train(oracle, Order(0, STEPS)))
    recorded = demonstrations.open_demonstrations(folder).read(4, 1)
    found = handler.preprocess(list(recorded.observations["cue"].numpy())).inputs["cue"]
    assert torch.equal(found[batch.ids - batch.ids.min()], batch.inputs["cue"])


def test_played_episodes_are_those_of_the_evaluation(cues: Path) -> None:
    (task,) = stream(cues).tasks()
    returns = [episode.total_reward for episode in task.play(oracle, 8)]
    assert sum(returns) / 8 == task.evaluate(oracle)["return"]
