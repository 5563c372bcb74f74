"""Env 'imitation': behaviour cloning of recorded experts, evaluated by rollouts."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import ClassVar, Literal

import attrs

from sidetune_core.api import (
    DataError,
    DataPart,
    OptionError,
    Renamed,
    TaskCard,
    TaskHandler,
    TaskStream,
    at_least,
    home,
    option,
)
from sidetune_core.demonstrations import (
    Demonstrations,
    ImportedDemonstrations,
    check_downloaded,
    is_raw,
    open_demonstrations,
    open_file,
    open_labeller,
    record_demonstrations,
    recorded_handler,
)
from sidetune_core.rl import RolloutTask

from ..gymnasium.names import modules_of
from .task import CloningOptions, DAggerOptions, ImitationTask

LEVEL_INPUTS = {"image": (3, 28, 28)}
LEVEL_OPTIONS = {"inputs": ["image"], "view": "pixels", "time_limit": 128}
"""Options of env 'gym' for levels that are recorded on first use."""

LEVEL_TRAJECTORIES = 100
"""Default number of training trajectories of a level."""


def _modules_of_settings(settings: Iterable[str]) -> list[str]:
    """The values of options that name code: ``ids=module:Id-v0``."""
    return modules_of(setting.partition("=")[2] for setting in settings)


class Imitation(TaskStream):
    """Behaviour cloning on demonstrations of ``sidetune record``, one task for each folder, in their order.

    A network predicts the expert's action in each recorded step. The loss is the negative log-likelihood
    under the env's family of policies: cross-entropy for discrete actions, a Gaussian for continuous ones.
    Evaluations are rollouts in the recorded environment: R is the success rate (or the mean return) of
    ``eval-episodes`` episodes, the same in every run and none of them recorded. The first
    ``val-trajectories`` of each folder are held out; evaluations report the loss on them too. Training uses
    the next ``max-trajectories``, whatever the seed, so a small training set is a subset of a larger one.

    ``root`` may also be a data set of Minari (its folder, or its id if it is in Minari's own folder), or a
    file ``.npz`` or HDF5 with the observations and actions of the plain environment (the keys are in
    ``docs/imitation.md``). A data set of Minari names its environment; for others pass ``--env.of-options
    ids=ID``. Rewards are not needed.

    With ``dagger-rounds`` it is DAgger (Ross, Gordon & Bagnell, AISTATS 2011): before each round the policy
    plays ``dagger-episodes`` episodes, sampled or most likely as in evaluations, the expert labels every step
    that it visits, and training continues on all labelled steps together.

    With ``memory``, a GRU between encoding and actor carries a state through each episode. A batch is made of
    windows of ``memory-window`` steps, which gradients flow through; their first states are computed once in
    a pass.

    Without ``root``, levels of BabyAI are recorded on first use, with their bot, and kept in
    the folder ``recordings`` of the cache (see ``sidetune cache``). Missions are not an input:
    choose levels with the same mission in all episodes. The base's packaged weights take 28 x 28 pixels
    (``--env.view pixels`` when recording); for other inputs pass ``--base.weights none``.

    Raises:
        DataError: demonstrations are missing, incomplete, damaged, too few, of another version, or differ in
            their inputs.
    """

    @attrs.frozen
    class Config:
        """Options of `Imitation`."""

        former_options: ClassVar[Mapping[str, Renamed]] = {
            "data": Renamed("root"),
            "trajectories": Renamed("max-trajectories"),
            "held-out": Renamed("val-trajectories"),
            "episodes": Renamed("eval-episodes"),
            "envs": Renamed("num-envs"),
            "evaluate": Renamed("deterministic-eval", {"mode": True, "sample": False}),
            "hidden": Renamed("hidden-size"),
            "layers": Renamed("hidden-layers"),
        }

        root: tuple[Path, ...] = option(
            (), "folders of demonstrations, data sets of Minari, or files .npz or HDF5"
        )
        levels: tuple[str, ...] = option(
            ("BabyAI-UnlockLocal-v0",),
            "without root: ids of BabyAI levels, which are recorded on first use",
            imports=modules_of,
        )
        of: str = option(
            "gym",
            "env in which the policy of a file is evaluated",
            imports=lambda name: [name] if ":" in name else [],
        )
        of_options: tuple[str, ...] = option(
            (),
            "options of that env, as NAME=VALUE: ids=CartPole-v1 or frame-stack=4",
            imports=_modules_of_settings,
        )
        max_trajectories: int | None = option(
            None,
            f"training trajectories of each folder; None for all, or {LEVEL_TRAJECTORIES} of a level",
            at_least(1),
        )
        val_trajectories: int = option(
            20, "trajectories of each folder held out for the validation loss", at_least(1)
        )
        eval_episodes: int = option(100, "number of evaluation episodes", at_least(1))
        num_envs: int = option(8, "number of environments that run in parallel", at_least(1))
        deterministic_eval: bool = option(
            False, "evaluate with the most likely action; otherwise sample from the policy"
        )
        metric: Literal["success", "return"] = option("success", "the metric in R")
        dagger_rounds: int = option(
            0,
            "rounds of DAgger, in which the expert labels the steps that the policy visits; 0 for behaviour "
            "cloning",
            at_least(0),
        )
        dagger_interval: int = option(
            200, "training steps before the first round, and between two rounds", at_least(1)
        )
        dagger_episodes: int = option(10, "episodes that the policy plays in each round", at_least(1))
        expert: str | None = option(
            None,
            "expert of the rounds: a name, a run folder (its last task in this environment), or a policy "
            "file of stable-baselines3; None for the one that was recorded",
        )
        hidden_size: int = option(64, "units of each hidden layer of the actor", at_least(1))
        hidden_layers: int = option(1, "number of hidden layers of the actor", at_least(0))
        memory: int = option(
            0, "units of a GRU whose state is carried from step to step; 0 for a policy without", at_least(0)
        )
        memory_window: int = option(
            16, "steps of a trajectory that gradients of a policy with memory flow through", at_least(1)
        )

    recipe = {
        "steps": 1000,
        "batch_size": 64,
        "lr": 1e-3,
        "device.precision": "fp32",
        "learner.sidetune.begin": "base",  # docs/reinforcement-learning.md#how-a-side-begins
    }
    default_components = {"base": {"name": "conv", "weights": "packaged"}, "side": "conv"}

    def __init__(self, config: Config, seed: int) -> None:
        if config.memory and config.dagger_rounds:
            raise OptionError(
                "--env.memory trains on whole trajectories, which the steps that --env.dagger-rounds labels "
                "are not: leave out one of them"
            )
        self._config = config
        self._streams = ExitStack()
        self._fingerprint = ""
        self._parts: dict[str, DataPart] = {}
        paths = [path.expanduser() for path in config.root]
        check_downloaded(paths)
        self._folders = [self._open(path, seed) for path in paths]
        if not self._folders and not config.levels:
            raise OptionError(
                "env 'imitation': --env.levels is empty; name a level, such as BabyAI-UnlockLocal-v0, or "
                "pass --env.root"
            )
        self.inputs = self._folders[0].inputs if self._folders else LEVEL_INPUTS
        for demonstrations in self._folders:
            self._check_inputs(demonstrations)

    def tasks(self) -> Sequence[ImitationTask]:
        """One for each folder of demonstrations."""
        config, digest, tasks = self._config, hashlib.sha256(), list[ImitationTask]()
        options = CloningOptions(
            eval_episodes=config.eval_episodes,
            num_envs=config.num_envs,
            deterministic_eval=config.deterministic_eval,
            metric=config.metric,
            hidden_size=config.hidden_size,
            hidden_layers=config.hidden_layers,
            memory=config.memory,
            memory_window=config.memory_window,
        )
        first_id = 0
        for number, demonstrations in enumerate(self._folders or map(self._record_level, config.levels)):
            self._check_inputs(demonstrations)
            count = self._train_count(demonstrations)
            trusted = self.trust_local_code or not self._folders  # a level is named by this env's options
            stream = self._streams.enter_context(closing(demonstrations.open_stream(trusted)))
            validation = demonstrations.read(0, config.val_trajectories)
            training = demonstrations.read(config.val_trajectories, count)
            rollout_task = demonstrations.task(stream)
            env = str(demonstrations.env["name"])
            tasks.append(
                ImitationTask(
                    f"t{number}",
                    rollout_task,
                    training,
                    validation,
                    first_id,
                    options,
                    env,
                    self._dagger(demonstrations, rollout_task),
                )
            )
            digest.update(repr(dict(demonstrations.env)).encode())  # units and statistics depend on it
            for split, trajectories in (("val", validation), ("train", training)):
                first_id += len(trajectories.actions)
                own = hashlib.sha256()
                for name, value in sorted(trajectories.to_tensors().items()):
                    content = name.encode() + value.numpy().tobytes()
                    digest.update(content)
                    own.update(content)
                self._parts[f"t{number}/{split}"] = DataPart(len(trajectories.actions), own.hexdigest())
        self._fingerprint = digest.hexdigest()
        return tasks

    @classmethod
    def handler(cls, card: TaskCard) -> TaskHandler:
        """That of the recorded env."""
        return recorded_handler(card, str(card.values["recorded_env"]))

    def fingerprint(self) -> str:
        return self._fingerprint

    def data_parts(self) -> Mapping[str, DataPart]:
        """The recorded steps of each task and split."""
        return self._parts

    def close(self) -> None:
        self._streams.close()

    def _dagger(
        self, demonstrations: Demonstrations | ImportedDemonstrations, task: RolloutTask
    ) -> DAggerOptions:
        config = self._config
        if not config.dagger_rounds:
            if config.expert is not None:
                raise OptionError("--env.expert labels steps in rounds of DAgger: pass --env.dagger-rounds 5")
            return DAggerOptions()
        make_expert = self._streams.enter_context(
            open_labeller(demonstrations, task, config.expert, self.info, self.trust_local_code)
        )
        return DAggerOptions(
            config.dagger_rounds, config.dagger_interval, config.dagger_episodes, make_expert
        )

    def _open(self, path: Path, seed: int) -> Demonstrations | ImportedDemonstrations:
        """A folder of `sidetune record`, or a file of another tool."""
        if (path / "card.json").is_file() or not is_raw(path):
            return open_demonstrations(path)
        return open_file(path, self._config.of, self._config.of_options, seed, self.info)

    def _check_inputs(self, demonstrations: Demonstrations | ImportedDemonstrations) -> None:
        """Check that demonstrations have the inputs of the stream.

        Raises:
            DataError: they have others.
        """
        if demonstrations.inputs != self.inputs:
            raise DataError(
                "demonstrations of a stream must have inputs of one shape: the first have "
                f"{dict(self.inputs)}, and {demonstrations.folder} has {dict(demonstrations.inputs)}"
            )

    def _train_count(self, demonstrations: Demonstrations | ImportedDemonstrations) -> int:
        """Number of training trajectories.

        Raises:
            DataError: there are too few.
        """
        validation, requested = self._config.val_trajectories, self._config.max_trajectories
        available = demonstrations.recorded - validation
        if available < (requested or 1):
            count = demonstrations.recorded
            held_out = min(max(1, count // 5), count - (requested or 1))
            remedies = [f"hold out fewer: --env.val-trajectories {held_out}"] * (held_out > 0)
            if isinstance(demonstrations, Demonstrations):
                remedies.append("record more with sidetune record --trajectories N")
            elif not remedies:
                remedies.append("train on fewer: --env.max-trajectories N")
            raise DataError(
                f"{demonstrations.folder} has {count} trajectories, fewer than {validation} for validation "
                f"(--env.val-trajectories) plus {requested or 1} for training (--env.max-trajectories); "
                f"{', or '.join(remedies)}"
            )
        return requested or (available if self._folders else LEVEL_TRAJECTORIES)

    def _record_level(self, level: str) -> Demonstrations:
        """The stored demonstrations of a level, extended if they are too few."""
        count = self._config.val_trajectories + (self._config.max_trajectories or LEVEL_TRAJECTORIES)
        if not re.fullmatch(r"\w[\w.:-]{,199}", level):
            raise OptionError(f"env 'imitation': --env.levels {level!r} is no id of an environment")
        env = {"name": "gym", "ids": [level], **LEVEL_OPTIONS}
        folder = home() / "recordings" / level
        return record_demonstrations(env, folder, count, expert="bot", info=self.info)
