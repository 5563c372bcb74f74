"""Which weights may move while a task is learnt, and which have moved."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from sidetune_core import hashing
from sidetune_core.errors import PluginError
from sidetune_core.feature_cache.cache import FeatureCache
from sidetune_core.interfaces.learner import Learner
from sidetune_core.interfaces.tasks import Task
from sidetune_core.seeding import seeded
from sidetune_core.storage.run_folder import RunFolder
from sidetune_core.training.context import Session
from sidetune_core.training.optimizer import count_trainable
from sidetune_core.training.stage import Stage

Trainable = Sequence[nn.Module | nn.Parameter]
"""What `Learner.start` returns."""


def start_task(learner: Learner, task: Task, session: Session) -> Trainable:
    """Let the learner grow for a task; returns what it says may move.

    Raises:
        PluginError: something of that is not its own.
    """
    FeatureCache.detach(learner)
    with seeded(session.seed, "start", task.id):
        trainable = learner.start(task)
    session.machine.place(learner)
    own = {id(one) for one in (*learner.modules(), *learner.parameters())}
    for thing in trainable:
        if id(thing) not in own:
            raise PluginError(
                f"{type(learner).__name__}.start() returned a {type(thing).__name__} that is not a part of the learner"
            )
    return trainable


def set_trainable(learner: Learner, trainable: Trainable, session: Session) -> None:
    """Switch on what may move; everything else is frozen and in eval mode, and frozen bases are served by the feature store."""
    freeze(learner)
    for thing in trainable:
        thing.requires_grad_(True)
        if isinstance(thing, nn.Module):
            thing.train()
    if session.store is not None:
        session.store.attach(learner, session.machine.arithmetic)


def freeze(learner: Learner) -> None:
    """Freeze everything. Eval mode matters as much: batch norm would drift without any gradient."""
    learner.requires_grad_(False)
    learner.eval()


def digests(learner: Learner) -> dict[str, str]:
    """SHA-256 of every tensor of the learner's state, by name."""
    return hashing.digests(
        {name: value for name, value in learner.state_dict().items() if isinstance(value, Tensor)}
    )


def record_parameters(learner: Learner, stage: Stage, folder: RunFolder) -> None:
    """Write down how many parameters there are, and how many of them may move."""
    every = sum(parameter.numel() for parameter in learner.parameters())
    folder.append(
        "parameters.jsonl", {"task": stage.name, "trainable": count_trainable(learner), "all": every}
    )


def record_changed(learner: Learner, stage: Stage, before: Mapping[str, str], folder: RunFolder) -> None:
    """Write down which tensors changed since they had the digests `before`, and which are the same bit for bit."""
    after = digests(learner)
    moved = sorted(name for name in after if before.get(name) != after[name])
    folder.append(
        "moved.jsonl", {"task": stage.name, "moved": moved, "kept": sorted(after.keys() - set(moved))}
    )
