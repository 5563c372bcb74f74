"""Task cards of a run folder, and tasks that are restored from cards without their data."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from sidetune_core.config.choice import Choice
from sidetune_core.config.resolve import ResolvedRun, resolve_env
from sidetune_core.errors import FitError, OptionError, RunError
from sidetune_core.interfaces.capabilities import HasTrainingSize
from sidetune_core.interfaces.cards import TaskCard
from sidetune_core.interfaces.handlers import HasCard, HasHandler, TaskHandler, make_head
from sidetune_core.interfaces.inputs import Shape
from sidetune_core.interfaces.tasks import Batch, Order, Predict, Task, TaskStream
from sidetune_core.rl.policy_handler import PolicyHandler
from sidetune_core.rl.rollout_task import RolloutTask
from sidetune_core.storage.atomic import sync_folders, writing
from sidetune_core.storage.run_files import CARDS
from sidetune_core.storage.run_folder import RunFolder
from sidetune_core.supervised.iterable_dataset import IterableSource
from sidetune_core.supervised.task import SupervisedTask


class DataNeeded(FitError):
    """A task is used in a way for which its card does not suffice."""


class MissingMember(DataNeeded, AttributeError):
    """A task is asked for a member that only its env gives it, such as a capability."""


def make_card(task: Task, resolved: ResolvedRun, data: str) -> TaskCard:
    """The card of a task; `data` is the fingerprint of the env's data."""
    env = resolved.components["env"]
    values = task.card() if isinstance(task, HasCard) else {}
    return TaskCard(
        id=task.id,
        title=task.title,
        env=env.choice,
        inputs={name: tuple(shape) for name, shape in task.inputs.items()},
        outputs=task.outputs,
        metric=task.metric,
        higher_is_better=task.higher_is_better,
        head=_head(task, values, env.cls),
        splits=_split_sizes(task),
        values=values,
        data=data,
    )


def write_cards(folder: RunFolder, cards: Sequence[TaskCard], done: Collection[str] = ()) -> None:
    """Write ``tasks/ID.json`` for each task, where it is not there already.

    Args:
        folder: of the run.
        cards: of its tasks.
        done: ids of tasks that are trained, whose cards are written only where they cannot be read.

    Raises:
        WriteError: the folder is not writable.
    """
    unsynced = set[Path]()
    for card in cards:
        written = _written(folder, card.id)
        if written is None or (written != card and card.id not in done):
            folder.write_json(f"{CARDS}/{card.id}.json", card.to_json(), unsynced)
    with writing(folder.path / CARDS):
        sync_folders(unsynced)


def read_cards(folder: RunFolder, tasks: Sequence[str]) -> dict[str, TaskCard]:
    """The cards of some tasks of a run, in their order.

    Raises:
        RunError: a card is missing, as in a run of an earlier version, or damaged.
    """
    cards = {}
    for task in tasks:
        name = f"{CARDS}/{task}.json"
        if not (folder.path / name).is_file():
            raise RunError(f"{folder.path} has no card of task {task} ({name}): an earlier version made it")
        try:
            cards[task] = TaskCard.from_json(folder.read_json(name))
            if cards[task].id != task:
                raise ValueError(f"its id is {cards[task].id!r}, and not that of its file")
        except ValueError as error:
            raise RunError(f"{folder.path / name} is damaged: {error}") from error
    return cards


def make_handler(card: TaskCard, source: Path, trust_local_code: bool = False) -> TaskHandler | None:
    """The handler of a task from its registered env; None where the env offers none, or the card has none of
    the values that it reads, as in runs of earlier versions. Rollout tasks have one in any case: the
    `PolicyHandler` of observations as their `VectorEnv` gives them.

    Args:
        card: of the task.
        source: where the card is, for messages.
        trust_local_code: import an env that the card names as ``module:Class``.

    Raises:
        UntrustedCode: the card names code, without `trust_local_code`.
        PluginError: the env is not installed.
        RunError: the card's values are not those of this env.
    """
    env = resolve_env(Choice(card.env, file="" if trust_local_code else str(source))).cls
    if not isinstance(env, HasHandler) and "policy" not in card.values:
        return None
    try:
        return env.handler(card) if isinstance(env, HasHandler) else PolicyHandler(card)
    except (ValueError, LookupError, TypeError, AttributeError, OptionError) as error:
        if not card.values:
            return None
        raise RunError(
            f"{source}: env '{card.env}' cannot use the card of task {card.id}: {error}"
        ) from error


class CardTask(Task):
    """A task without its data: it has a head, and cannot be trained or evaluated.

    Args:
        card: of the task.
        handler: of its env; None if the env offers none.
    """

    def __init__(self, card: TaskCard, handler: TaskHandler | None = None) -> None:
        self.id, self.title, self.inputs, self.metric = card.id, card.title, card.inputs, card.metric
        self.higher_is_better, self.outputs, self.splits = (
            card.higher_is_better,
            card.outputs,
            tuple(card.splits) or ("test",),
        )
        self._card, self._handler = card, handler
        self._state: Mapping[str, Any] = {}

    @property
    def handler(self) -> TaskHandler | None:
        """That of its env, with the state of the task."""
        if self._handler is not None and self._state:
            self._handler.set_state(self._state)
        return self._handler

    @property
    def has_head(self) -> bool:
        """Whether the card, or its env's handler, can make the task's head."""
        return self._card.head == "linear" or (self._card.head == "handler" and self._handler is not None)

    def make_head(self, shape: Shape) -> nn.Module:
        return make_head(self._card, shape) if self._handler is None else self._handler.make_head(shape)

    def steps_per_epoch(self, batch_size: int) -> int:
        raise self._needed()

    def train(self, predict: Predict, order: Order) -> Iterator[Batch]:
        raise self._needed()

    def loss(self, output: Tensor, batch: Batch) -> Tensor:
        raise self._needed()

    def evaluate(self, predict: Predict, split: str = "test") -> dict[str, float]:
        raise self._needed()

    def state(self) -> dict[str, Any]:
        """The state of the task in the run, which is kept as it is (see `HasState`)."""
        return dict(self._state)

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Keep the state that the task had."""
        self._state = state

    def __getattr__(self, name: str) -> Any:
        """A task without its data has no further members; `hasattr` says so too."""
        if name.startswith("_"):
            raise AttributeError(name)
        raise MissingMember(f"{self._needed()}: {name}", name=name, obj=self)

    def _needed(self) -> DataNeeded:
        return DataNeeded(f"task '{self.id}' was restored from its card, and this needs its data")


class CardStream(TaskStream):
    """The tasks of some cards; their inputs are those of the first."""

    def __init__(self, tasks: Sequence[Task]) -> None:
        self._tasks = tasks
        self.inputs = tasks[0].inputs

    def tasks(self) -> Sequence[Task]:
        return self._tasks


def _head(task: Task, values: Mapping[str, Any], env: type[Any]) -> str:
    """See `TaskCard.head`."""
    if isinstance(task, SupervisedTask) and type(task).make_head is SupervisedTask.make_head:
        return "linear"
    if isinstance(task, RolloutTask) and not isinstance(env, HasHandler):
        is_plain = type(task).make_head is RolloutTask.make_head
        return "handler" if values and is_plain else "env"
    return "handler" if isinstance(task, HasCard) else "env"


def _split_sizes(task: Task) -> Mapping[str, int | None]:
    sizes: dict[str, int | None] = (
        {"train": _training_size(task)} if isinstance(task, HasTrainingSize) else {}
    )
    return sizes | {
        split: _size(task, split) if isinstance(task, SupervisedTask) else None for split in task.splits
    }


def _training_size(task: HasTrainingSize) -> int | None:
    return _size(task, "train") if isinstance(task, SupervisedTask) else task.training_size()


def _size(task: SupervisedTask, split: str) -> int | None:
    """Number of examples of a split; None where a stream of examples does not tell it."""
    source = task.sources[split]
    return None if isinstance(source, IterableSource) and source.size is None else task.size(split)


def _written(folder: RunFolder, task: str) -> TaskCard | None:
    """The card of a task that is in the folder; None if it cannot be read."""
    try:
        return read_cards(folder, [task])[task]
    except RunError:
        return None
