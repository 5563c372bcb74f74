"""The expert that labels what a policy visits: one that the user names, or the one that was recorded."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import attrs

from sidetune_core.demonstrations.dataset import RUN, Demonstrations, resolve_recorded_env
from sidetune_core.demonstrations.experts import open_trained
from sidetune_core.demonstrations.imported import ImportedDemonstrations, make_policy_handler
from sidetune_core.demonstrations.policy_file import is_policy_file, open_policy
from sidetune_core.demonstrations.relabel import MakeExpert
from sidetune_core.errors import OptionError, suggest
from sidetune_core.rl.rollout_task import RolloutTask

IDENTITY = ("weights", "sha256", "statistics")
"""What a manifest says about an expert that tells it from others: of a run, and of a policy file."""


@attrs.frozen
class _Selected:
    """An expert by name."""

    name: str
    """Of one of the task's experts, a run folder or a policy file."""
    task: str | None = None
    """Of a run; None for the last one of the recorded task's title."""
    about: Mapping[str, str] | None = None
    """What the manifest says about it; None for an expert that the user names."""


@contextmanager
def open_labeller(
    demonstrations: Demonstrations | ImportedDemonstrations,
    task: RolloutTask,
    name: str | None,
    info: Callable[[str], None],
    trust_local_code: bool = False,
) -> Iterator[MakeExpert]:
    """What makes the experts that label a task's episodes, for a block.

    Args:
        demonstrations: of the task.
        task: that the policy acts in.
        name: one of the task's experts, a run folder, or a policy file of stable-baselines3; None for the
            one that was recorded.
        info: prints a line.
        trust_local_code: import code that a run names, or run that of a policy file.

    Raises:
        OptionError: there is no such expert, or none was recorded, or it is not what it was.
        UntrustedCode: the expert brings code, without `trust_local_code`.
        SidetuneError: it cannot be loaded.
    """
    selected = _recorded(demonstrations, task) if name is None else _Selected(name)
    path = Path(selected.name)
    if selected.name in task.experts:
        yield lambda: task.expert(selected.name)
    elif is_policy_file(path):
        if isinstance(demonstrations, ImportedDemonstrations):
            component = demonstrations.component
        else:
            component = resolve_recorded_env(
                demonstrations.folder, demonstrations.manifest, trust_local_code=True
            )
        handler = make_policy_handler(component, task)
        expert, about = open_policy(path, handler, task.options.deterministic_eval, info, trust_local_code)
        _check_unchanged(selected, about, demonstrations.folder)
        yield expert.copy
    elif (path / "run.json").is_file():
        with open_trained(path, selected.task, trust_local_code, task.title) as session:
            _check_unchanged(selected, session.about, demonstrations.folder)
            if dict(session.task.inputs) != dict(task.inputs):
                raise OptionError(
                    f"--env.expert {path} acts on {dict(session.task.inputs)}, and the recorded task on "
                    f"{dict(task.inputs)}"
                )
            yield session.expert.copy  # type: ignore[attr-defined]
    else:
        raise OptionError(
            f"--env.expert {selected.name} is no run folder, no policy file (.zip), and no expert of "
            f"{task.title}{_offered(task)}.{suggest(selected.name, task.experts)}"
        )


def _recorded(demonstrations: Demonstrations | ImportedDemonstrations, task: RolloutTask) -> _Selected:
    """The expert that the manifest names.

    Raises:
        OptionError: it names none, or it is not here.
    """
    folder = demonstrations.folder
    if isinstance(demonstrations, ImportedDemonstrations):
        raise OptionError(f"{folder} is a file of another tool, which names no expert{_to_pass(task)}")
    manifest = demonstrations.manifest
    if demonstrations.expert is not None:
        if demonstrations.expert in task.experts:
            return _Selected(demonstrations.expert)
        raise OptionError(
            f"{folder} was recorded with expert '{manifest.expert}', which {task.title} no longer "
            f"has{_to_pass(task)}"
        )
    kind = "the policy of a run" if manifest.expert == RUN else "a policy file of stable-baselines3"
    if manifest.expert_file is None:
        raise OptionError(
            f"{folder} was recorded with {kind}, and its card.json, of an earlier version, does not say which"
            f"{_to_pass(task)}"
        )
    path = Path(os.path.normpath(folder.resolve() / manifest.expert_file.path))
    if not ((path / "run.json") if manifest.expert == RUN else path).is_file():
        raise OptionError(f"{folder} was recorded with {kind}, which is no longer at {path}{_to_pass(task)}")
    return _Selected(str(path), manifest.expert_file.task or None, manifest.about)


def _check_unchanged(selected: _Selected, about: Mapping[str, str], folder: Path) -> None:
    """Check that the recorded expert is what it was.

    Raises:
        OptionError: it has other weights.
    """
    recorded = selected.about
    if recorded is not None and any(recorded.get(key) != about.get(key) for key in IDENTITY):
        raise OptionError(
            f"{selected.name} has other weights than when {folder} was recorded with it. To label steps with "
            f"the present ones, pass --env.expert {selected.name}"
        )


def _to_pass(task: RolloutTask) -> str:
    return f". Pass one: --env.expert RUNFOLDER or --env.expert FILE.zip{_offered(task)}"


def _offered(task: RolloutTask) -> str:
    return f". Experts of {task.title}: {', '.join(task.experts)}" if task.experts else ""
