"""What a worker process hands over of a stage: what it has trained, and what there is to record about it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
from torch import Tensor, nn

from sidetune_core.assembly.evaluation import Evaluation
from sidetune_core.certificate.probes import Recorded
from sidetune_core.errors import WeightsError, shorten
from sidetune_core.interfaces.buffers import BufferDict
from sidetune_core.interfaces.tasks import Task
from sidetune_core.storage.ahead import read_ahead, write_ahead
from sidetune_core.storage.checkpoint import MidTaskState

if TYPE_CHECKING:
    from sidetune_core.training.recorder import Recorder

Call = tuple[str, tuple[Any, ...]]
"""The name of a method of `Recorder`, and its arguments."""


@attrs.frozen(eq=False)
class Handover:
    """A stage that a worker process has trained, or is training."""

    path: Path
    """Of its file."""
    since: int
    """Step of the run's own checkpoint within the stage, from which the worker continued; 0 for none."""
    calls: Sequence[Call]
    """What there is to record, in order."""
    state: Mapping[str, Any]
    """The entries of the learner's state dict that the stage has made."""
    tasks: Mapping[str, Any]
    """State of the tasks of the stage by id (see `HasState`)."""
    mid_task: MidTaskState | None = None
    """Where the training is; None when the stage is finished."""
    identity: Mapping[str, Any] | None = None
    """Of the run (see `Identity.to_json`)."""
    steps: int = 0
    """Optimiser steps of a finished stage."""
    seconds: float = 0.0
    """Processor time of a finished stage."""
    evaluations: Mapping[str, Mapping[str, Evaluation]] = attrs.field(factory=dict)
    """Of the tasks of a finished stage, by id and split."""
    probes: Mapping[str, Recorded] = attrs.field(factory=dict)
    """The first examples of these evaluations, by id."""

    def load(self, learner: nn.Module) -> None:
        """Load the state into a learner in which the stage was started; all else stays as it is.

        Raises:
            WeightsError: the learner has other tensors.
        """
        own = learner.state_dict()
        free = tuple(f"{name}." for name, one in learner.named_modules() if isinstance(one, BufferDict))
        wrong = [
            name
            for name, value in self.state.items()
            if not name.startswith(free)
            and (name not in own or (isinstance(value, Tensor) and value.shape != own[name].shape))
        ]
        if wrong:
            raise WeightsError(f"state_dict mismatch in {self.path}: {shorten(sorted(wrong))}")
        kept = {name: value for name, value in own.items() if free and name.startswith(free)}
        learner.load_state_dict({**kept, **self.state}, strict=False)

    def replay(self, recorder: Recorder, tasks: Sequence[Task]) -> None:
        """Record what the worker would have recorded."""
        by_id = {task.id: task for task in tasks}
        for name, arguments in self.calls:
            if name == "gap":
                recorder.gap(by_id[arguments[0]], *arguments[1:])
            else:
                getattr(recorder, name)(*arguments)

    def write(self) -> None:
        """Write the file.

        Raises:
            WriteError: the folder is not writable.
        """
        content = {
            **attrs.asdict(attrs.evolve(self, evaluations={}, probes={}), recurse=False),
            "mid_task": attrs.asdict(self.mid_task, recurse=False) if self.mid_task is not None else None,
            "calls": [list(call) for call in self.calls],
            "evaluations": {
                id: {split: attrs.asdict(one) for split, one in splits.items()}
                for id, splits in self.evaluations.items()
            },
            "probes": {id: attrs.asdict(one, recurse=False) for id, one in self.probes.items()},
        }
        del content["path"]
        write_ahead(self.path, content)


def read_handover(path: Path) -> Handover:
    """What `Handover.write` wrote.

    Raises:
        Unusable: the file is missing or damaged.
        RunError: it cannot be read at present.
    """
    content = dict(read_ahead(path))
    state, evaluations, probes = (content.pop(name) for name in ("mid_task", "evaluations", "probes"))
    return Handover(
        path=path,
        calls=[(name, tuple(arguments)) for name, arguments in content.pop("calls")],
        mid_task=MidTaskState(**state) if state is not None else None,
        evaluations={
            id: {split: Evaluation(**one) for split, one in splits.items()}
            for id, splits in evaluations.items()
        },
        probes={id: Recorded(**one) for id, one in probes.items()},
        **content,
    )
