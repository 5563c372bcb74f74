"""Imitation: behaviour cloning of a recorded expert, measured by acting."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Literal

import attrs

from sidetune_core.api import DataError, OptionError, TaskStream, at_least, home, option
from sidetune_core.demonstrations import Demonstrations, open_demonstrations, record_demonstrations

from .task import Acting, ImitationTask

LEVEL_INPUTS = {"image": (3, 28, 28)}
LEVEL_OPTIONS = {"inputs": "image", "view": "pixels", "time_limit": 128}
"""Of the env 'gym', for levels that are recorded on first use."""

LEVEL_TRAJECTORIES = 100
"""To learn from, where nothing is said."""


class Imitation(TaskStream):
    """Behaviour cloning on recordings that `sidetune collect` has made, one task for each, in their order.

    A network learns the expert's action in each recorded step, by the log-likelihood of the env's own kind of policy: cross-entropy for
    choices, a Gaussian for numbers. It is measured by acting in the environment that the recording names: R is the share of successes (or
    the mean return) of ``episodes`` episodes, the same in every run and none of the recorded ones. The first ``held_out`` trajectories of a
    recording are never learnt; evaluations give the loss on them too. ``trajectories`` takes the first so many after those, whatever
    the seed, so a small set is a part of each larger one.

    Without ``data``, levels of BabyAI are recorded on first use, with their bot, and kept in ``$SIDETUNE_HOME/recordings`` (by default
    ``~/.cache/sidetune/recordings``). Missions in words are no input: take levels that have one and the same for all episodes.
    The base's packaged weights read 28 x 28 pixels (``--env.view pixels`` of a recording); for others give ``--base.weights none``.

    Raises:
        DataError: a recording is missing, unfinished, damaged, too short, of another version, or has other inputs than the first.
    """

    @attrs.frozen
    class Config:
        """Options of `Imitation`."""

        data: str = option("", "folders of recordings, separated by commas")
        levels: str = option(
            "BabyAI-UnlockLocal-v0",
            "without 'data': ids of BabyAI levels that are recorded on first use, with commas",
        )
        trajectories: int | None = option(
            None,
            f"learn from the first so many of each; None for all of a recording, {LEVEL_TRAJECTORIES} of a level",
            at_least(1),
        )
        held_out: int = option(
            20, "trajectories of each that are not learnt, for the loss on others", at_least(1)
        )
        episodes: int = option(100, "episodes of an evaluation", at_least(1))
        envs: int = option(8, "environments that evaluate side by side", at_least(1))
        evaluate: Literal["mode", "sample"] = option(
            "sample", "in evaluation, take the most likely action or draw one"
        )
        metric: Literal["success", "return"] = option("success", "the figure that R is made of")
        hidden: int = option(64, "units of each layer between encoding and actions", at_least(1))
        layers: int = option(1, "how many such layers there are", at_least(0))

    recipe = {"steps": 1000, "batch_size": 64, "lr": 1e-3, "device.precision": "fp32"}
    default_components = {"base": {"name": "conv", "weights": "packaged"}, "side": "conv"}

    def __init__(self, config: Config, seed: int) -> None:
        self._config = config
        self._open = ExitStack()
        self._fingerprint = ""
        self._recordings = [open_demonstrations(Path(name).expanduser()) for name in _listed(config.data)]
        self._levels = [] if self._recordings else _listed(config.levels)
        if not self._recordings and not self._levels:
            raise OptionError(
                "env 'imitation': --env.levels is empty; name a level, such as BabyAI-UnlockLocal-v0, or give --env.data"
            )
        self.inputs = self._recordings[0].inputs if self._recordings else LEVEL_INPUTS
        for one in self._recordings:
            self._check(one)

    def tasks(self) -> Sequence[ImitationTask]:
        """One for each recording."""
        config, digest, made = self._config, hashlib.sha256(), list[ImitationTask]()
        acting = Acting(
            config.episodes, config.envs, config.evaluate, config.metric, config.hidden, config.layers
        )
        first_id = 0
        for number, recording in enumerate(self._recordings or map(self._record, self._levels)):
            self._check(recording)
            count = self._count(recording)
            stream = self._open.enter_context(closing(recording.open_stream()))
            held_out, learnt = recording.read(0, config.held_out), recording.read(config.held_out, count)
            made.append(
                ImitationTask(f"t{number}", recording.task(stream), learnt, held_out, first_id, acting)
            )
            digest.update(repr(recording.manifest.env).encode())  # by which goes what is made of observations
            for some in (held_out, learnt):
                first_id += len(some.actions)
                for name, value in sorted(some.observations.items()):
                    digest.update(name.encode() + value.numpy().tobytes())
        self._fingerprint = digest.hexdigest()
        return made

    def fingerprint(self) -> str:
        return self._fingerprint

    def close(self) -> None:
        self._open.close()

    def _check(self, recording: Demonstrations) -> None:
        """See that a recording has the inputs of the stream.

        Raises:
            DataError: it has others.
        """
        if recording.inputs != self.inputs:
            raise DataError(
                f"recordings of a stream must have inputs of one shape: here that is {dict(self.inputs)}, and {recording.folder} has "
                f"{dict(recording.inputs)}"
            )

    def _count(self, recording: Demonstrations) -> int:
        """How many trajectories are learnt.

        Raises:
            DataError: there are not so many.
        """
        there, wanted = recording.manifest.recorded - self._config.held_out, self._config.trajectories
        if there < (wanted or 1):
            raise DataError(
                f"{recording.folder} has {recording.manifest.recorded} trajectories; wanted are {self._config.held_out} that are held out "
                f"(--env.held-out) and {wanted or 1} to learn from (--env.trajectories). sidetune collect makes it longer, with more "
                "--trajectories"
            )
        return wanted or (LEVEL_TRAJECTORIES if self._levels else there)

    def _record(self, level: str) -> Demonstrations:
        """What is kept of a level, made long enough."""
        wanted = self._config.held_out + (self._config.trajectories or LEVEL_TRAJECTORIES)
        asked = {"name": "gym", "ids": level, **LEVEL_OPTIONS}
        return record_demonstrations(
            asked, home() / "recordings" / level, wanted, expert="bot", info=self.info
        )


def _listed(names: str) -> list[str]:
    return [name.strip() for name in names.split(",") if name.strip()]
