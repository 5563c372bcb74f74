"""`sidetune record`: trajectories of an expert."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

from tyro.conf import Positional

from sidetune_core.cli.commands.shared import Switch
from sidetune_core.config import argv as arguments_of_run
from sidetune_core.config.arguments import split_arguments
from sidetune_core.errors import OptionError
from sidetune_core.io.printable import one_line


def record(
    argv: Positional[tuple[str, ...]] = (),
    out: Path = Path("recording"),
    trajectories: int = 100,
    expert: str | None = None,
    task: str | None = None,
    quiet: Switch = False,
    trust_local_code: Switch = False,
) -> int:
    """Record trajectories of an expert, for env 'imitation'.

    The environment is chosen with --env, --env.* and --seed as in sidetune-run. The expert is one that the
    env provides, the policy of a run, or a policy file of stable-baselines3 (.zip).

    sidetune record --env gym --env.ids BabyAI-GoToRedBall-v0 --env.inputs image --env.view pixels --out
    recordings/red-ball

    sidetune record --expert runs/x --out recordings/x

    sidetune record --env gym --env.ids CartPole-v1 --expert ppo.zip --trust-local-code --out recordings/x

    The same command resumes an interrupted recording and replaces deleted shards; with more --trajectories it
    extends the recording. The bytes are the same as those of an uninterrupted recording.

    Args:
        argv: options of sidetune-run.
        out: folder of the recording.
        trajectories: number of trajectories in the recording.
        expert: name of an expert of the env, a run folder, or a policy file of stable-baselines3; by
            default the first expert of the env.
        task: id of the task, if the env or the run has several.
        quiet: print no progress.
        trust_local_code: import code that the run of an expert names (module:Class), or run that of a policy
            file.
    """
    typed = split_arguments(argv)
    for argument in typed:
        if argument.typed and not _is_used(argument.name):
            raise OptionError(
                f"sidetune record uses an env and an expert, not {argument.typed}; "
                "pass --env, --env.* and --seed"
            )
    from sidetune_core.demonstrations.record import record_demonstrations

    spec = arguments_of_run.parse(argv).spec
    has_env = any(argument.name == "env" or argument.name.startswith("env.") for argument in typed)
    try:
        recording = record_demonstrations(
            spec.env if has_env else None,
            out,
            trajectories,
            expert=expert,
            task=task,
            seed=spec.seed,
            quiet=quiet,
            trust_local_code=trust_local_code,
        )
    except KeyboardInterrupt:
        options = {"--out": out, "--trajectories": trajectories, "--expert": expert, "--task": task}
        words = [word for name, value in options.items() if value is not None for word in (name, str(value))]
        words += ["--trust-local-code"] if trust_local_code else []
        command = shlex.join(["sidetune", "record", *argv, *words])
        print(f"\nInterrupted. Resume with: {one_line(command)}", file=sys.stderr)
        return 130
    manifest = recording.manifest
    metrics = ", ".join(f"{name} {value:.3f}" for name, value in manifest.metrics.items())
    print(
        one_line(
            f"{recording.folder}: {manifest.recorded} trajectories of '{manifest.expert}' in "
            f"{manifest.title}, {manifest.steps} steps ({metrics})"
        )
    )
    print(f"try next    sidetune-run --env imitation --env.root {one_line(recording.folder)}")
    return 0


def _is_used(name: str) -> bool:
    return name in ("env", "seed") or name.startswith("env.")
