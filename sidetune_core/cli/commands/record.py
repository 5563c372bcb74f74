"""`sidetune collect`: recordings of experts."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

from tyro.conf import Positional

from sidetune_core.cli.commands.shared import Switch
from sidetune_core.config import argv
from sidetune_core.errors import OptionError

OURS = ("--env", "--seed")
"""Of the options of sidetune-run, those that a recording has, besides --env.*."""


def collect(
    words: Positional[tuple[str, ...]] = (),
    out: Path = Path("recording"),
    trajectories: int = 100,
    expert: str | None = None,
    task: str | None = None,
    quiet: Switch = False,
) -> int:
    """Record an expert at work, for env 'imitation': --env, --env.* and --seed as of sidetune-run, or a trained run as the expert.

    sidetune collect --env gym --env.ids BabyAI-GoToRedBall-v0 --env.inputs image --env.view pixels --out recordings/red-ball

    sidetune collect --expert runs/x --out recordings/x

    The same command again goes on with what was interrupted, makes anew what is damaged, and with more --trajectories makes the recording
    longer; what is recorded then are the same bytes as in one go. What lies where is said in the docstring of sidetune_core.demonstrations.dataset.

    Args:
        words: options of sidetune-run.
        out: the folder of the recording.
        trajectories: how many there are to be in it.
        expert: a name that the env has for one, or the folder of a run; where it is left out, the env's usual one.
        task: the id of the task, where the env or the run has several.
        quiet: no progress.
    """
    foreign = [word for word in words if word.startswith("--") and not _is_ours(word)]
    if foreign:
        raise OptionError(
            f"a recording is of an env and an expert, so {foreign[0]} has no use here; give --env, --env.* and --seed"
        )
    from sidetune_core.demonstrations.record import record_demonstrations

    spec = argv.parse(words).spec
    named = any(word.split("=")[0] == "--env" or word.startswith("--env.") for word in words)
    try:
        recording = record_demonstrations(
            spec.env if named else None,
            out,
            trajectories,
            expert=expert,
            task=task,
            seed=spec.seed,
            quiet=quiet,
        )
    except KeyboardInterrupt:
        given = {"--out": out, "--trajectories": trajectories, "--expert": expert, "--task": task}
        options = [word for name, value in given.items() if value is not None for word in (name, str(value))]
        print(
            f"\ninterrupted; go on with: {shlex.join(['sidetune', 'collect', *words, *options])}",
            file=sys.stderr,
        )
        return 130
    manifest = recording.manifest
    figures = ", ".join(f"{name} {value:.3f}" for name, value in manifest.figures.items())
    print(
        f"{recording.folder}: {manifest.recorded} trajectories of '{manifest.expert}' in {manifest.title}, {manifest.steps} steps ({figures})"
    )
    print(f"try next    sidetune-run --env imitation --env.data {recording.folder}")
    return 0


def _is_ours(word: str) -> bool:
    name = word.split("=")[0]
    return name in OURS or name.startswith("--env.")
