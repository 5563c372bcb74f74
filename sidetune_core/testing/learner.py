"""Checks of learners: the kit's two tiny tasks are learnt in the core's own loop, with a witness in between."""

from __future__ import annotations

import functools
import signal
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from sidetune_core.assembly.predict import make_predict
from sidetune_core.config.spec import TrainOptions
from sidetune_core.feature_cache.cache import FeatureCache
from sidetune_core.interfaces.buffers import BufferDict
from sidetune_core.interfaces.inputs import Inputs
from sidetune_core.interfaces.learner import Components, Learner
from sidetune_core.interfaces.networks import Base, Merger, Side
from sidetune_core.interfaces.tasks import Batch, Order, Task
from sidetune_core.seeding import seeded
from sidetune_core.storage import run_folder
from sidetune_core.system.device import Machine
from sidetune_core.system.progress import Progress
from sidetune_core.system.signals import StopRequest, StopRequested
from sidetune_core.testing import sample
from sidetune_core.testing.findings import SEED, Broken, Finding, Make, examine
from sidetune_core.testing.state import building, changed, equal, named_tensors, random_state, snapshot
from sidetune_core.training.context import Session
from sidetune_core.training.loop import learn

SHAPE = (64,)
OPTIONS = TrainOptions(steps=3, batch_size=8, lr=0.01)
MACHINE = Machine(torch.device("cpu"), bf16=False, channels_last=False)


class Witness(Learner):
    """Hands everything on to a learner, looks at its penalties, and writes down what moves between `start` and `finish`.

    In step `last_step`, counted over all tasks, it asks the loop to stop.
    """

    Config: ClassVar[type[Any]] = sample.Config

    def __init__(self, learner: Learner, stop: StopRequest, last_step: int | None) -> None:
        super().__init__()
        self.learner = learner
        self._stop, self._left = stop, last_step
        self.joint = learner.joint  # type: ignore[misc]
        self._may_move: set[str] = set()
        self._may_fill: tuple[str, ...] = ()
        self.strays: list[str] = []
        """What moved without having been returned by `start`."""
        self.idle: list[str] = []
        """Tasks in which nothing moved that `start` had returned."""
        self.thawed: list[str] = []
        """What could get a gradient without having been returned by `start`."""
        self.early: dict[str, float] | None = None
        """The penalties of the very first batch that are not zero."""

    def start(self, task: Task) -> list[nn.Module | nn.Parameter]:
        given = torch.initial_seed()
        moving = self.learner.start(task)
        if torch.initial_seed() != given:
            raise Broken(
                "start() seeds PyTorch's global generator (torch.manual_seed); the core does that, so only draw from it"
            )
        owned = {id(tensor) for thing in moving for tensor in _within(thing)}
        now = {name for name, tensor in named_tensors(self.learner) if id(tensor) in owned}
        self._may_move = self._may_move | now if self.joint else now
        returned = {
            id(one)
            for thing in moving
            if isinstance(thing, nn.Module)
            for one in thing.modules()
            if isinstance(one, BufferDict)
        }
        filled = tuple(f"{name}." for name, one in self.learner.named_modules() if id(one) in returned)
        self._may_fill = self._may_fill + filled if self.joint else filled
        self._before = snapshot(self.learner)
        return moving

    def forward(self, inputs: Mapping[str, Tensor], task_id: str) -> Tensor:
        output: Tensor = self.learner(inputs, task_id)
        return output

    def penalty(self, batch: Batch) -> dict[str, Tensor]:
        self.thawed += [
            name
            for name, one in self.learner.named_parameters()
            if one.requires_grad and name not in self._may_move
        ]
        found = self.learner.penalty(batch)
        if self._left is not None:
            self._left -= 1
            if not self._left:
                self._stop.number = signal.SIGINT
        for name, value in found.items():
            if not isinstance(value, Tensor) or value.ndim:
                given = (
                    f"of shape {tuple(value.shape)}"
                    if isinstance(value, Tensor)
                    else f"a {type(value).__name__}"
                )
                raise Broken(f"penalty '{name}' is {given}; give a tensor without axes: sum or average it")
            if not value.isfinite():
                raise Broken(
                    f"penalty '{name}' is {float(value)}; give zero, or nothing, while there is no task to protect"
                )
        if self.early is None:
            self.early = {name: float(value.detach()) for name, value in found.items() if value}
        return found

    def finish(self, task: Task, batches: Iterator[Batch]) -> None:
        moved = changed(self._before, snapshot(self.learner))
        self.strays += [
            name for name in moved if name not in self._may_move and not name.startswith(self._may_fill)
        ]
        if not self._may_move.intersection(moved):
            self.idle.append(task.id)
        self.learner.finish(task, batches)

    def record(self) -> dict[str, float]:
        return self.learner.record()


def check_learner(cls: type[Any], config: Any) -> list[Finding]:
    """Findings about a learner, with the parts that it needs and, if it takes more, with all that it takes."""

    def using(slots: frozenset[str]) -> Make[Learner]:
        components = Components(
            sample.INPUTS, _base, _side if "side" in slots else None, _merger if "merger" in slots else None
        )

        def make(seed: int = SEED) -> Learner:
            with building(seed, "build"):
                learner: Learner = cls(config, components)
            return learner

        return make

    places = {
        f"with {', '.join(sorted(slots))}": using(slots)
        for slots in (cls.needs, cls.needs | cls.optional_components)
    }
    return examine(places, CHECKS)


def _base(pretrained: bool = True) -> Base:
    return sample.TinyBase(SHAPE)


def _side(beside: Base, pretrained: bool = True) -> Side:
    return sample.TinySide(beside.shape)


def _merger(beside: Base, count: int) -> Merger:
    return sample.TinyMerger(count)


def start_returns_parts_of_its_own(make: Make[Learner]) -> None:
    """What may move is a list of modules and parameters of the learner."""
    learner = make()
    for task in sample.tasks():
        with seeded(SEED, "start", task.id):
            moving = learner.start(task)
        own = {id(thing) for thing in (*learner.modules(), *learner.parameters())}
        for thing in moving:
            if id(thing) not in own:
                raise Broken(
                    f"start() returns a {type(thing).__name__} that is not the learner's; assign it to an attribute of self first"
                )


def learns_two_tasks(make: Make[Learner]) -> None:
    """Start, three steps, finish and evaluation of two tasks, with the feature store on; each penalty is a finite number."""
    learner = _learnt(make).learner
    if not all(output.isfinite().all() for output in _outputs(learner)):
        raise Broken("after three steps of training there are outputs that are infinite or NaN")


def moves_only_what_start_returned(make: Make[Learner]) -> None:
    """Parameters and buffers that `start` did not return are the same bit for bit when the steps of a task are done."""
    strays = _learnt(make).strays
    if strays:
        raise Broken(
            f"{', '.join(dict.fromkeys(strays))} changed in training; return them from start(), or change them in finish()"
        )


def gradients_go_only_where_start_says(make: Make[Learner]) -> None:
    """No parameter that `start` did not return asks for a gradient while a task is learnt."""
    if thawed := _learnt(make).thawed:
        raise Broken(
            f"{', '.join(dict.fromkeys(thawed))} require a gradient; return them from start(), and leave requires_grad alone"
        )


def penalty_is_zero_before_anything_is_learnt(make: Make[Learner]) -> None:
    """On the first batch of the first task there is nothing to protect."""
    if early := _learnt(make).early:
        words = ", ".join(f"'{name}' {value:.3g}" for name, value in early.items())
        raise Broken(
            f"the penalty of the very first batch is {words}; give zero, or nothing, while there is no task to protect"
        )


def learns_something_in_every_task(make: Make[Learner]) -> None:
    """Of what `start` returned, something moves in every task."""
    if idle := _learnt(make).idle:
        raise Broken(
            f"nothing moved in {', '.join(idle)}; return what is to be trained from start(), and let forward() depend on it"
        )


def one_seed_gives_one_result(make: Make[Learner]) -> None:
    """Learning twice under one seed gives the same weights bit for bit."""
    first, second = _learnt(make).learner, make()
    _learn(second)
    if names := changed(snapshot(first), snapshot(second)):
        raise Broken(
            f"{', '.join(names)} differ between two runs under one seed; draw from the global generators, and seed none yourself"
        )


def evaluation_changes_nothing(make: Make[Learner]) -> None:
    """Outputs without gradient leave parameters and buffers as they are."""
    learner = _learnt(make).learner
    before = snapshot(learner)
    _outputs(learner)
    if names := changed(before, snapshot(learner)):
        raise Broken(
            f"a forward pass in eval mode changes {', '.join(names)}; change state in training, or in finish()"
        )


def evaluation_draws_no_random_numbers(make: Make[Learner]) -> None:
    """Outputs without gradient leave the global random states as they are."""
    learner = _learnt(make).learner
    before = random_state()
    _outputs(learner)
    if random_state() != before:
        raise Broken(
            "a forward pass in eval mode draws random numbers or seeds a generator; draw only where self.training holds"
        )


def outputs_have_the_shape_of_the_head(make: Make[Learner]) -> None:
    """A batch of eight of a task of two classes gives (8, 2)."""
    learner = _learnt(make).learner
    for output in _outputs(learner):
        if tuple(output.shape) != (8, 2):
            raise Broken(
                f"a batch of 8 of a task of two classes gives {tuple(output.shape)}; give what the task's head gives, (8, 2)"
            )


def checkpoint_is_the_whole_state(make: Make[Learner]) -> None:
    """`start` for every task and then the state dict give a learner with the same outputs."""
    first, second = _learnt(make).learner, make(SEED + 1)
    for task in sample.tasks():
        with seeded(SEED + 1, "start", task.id):
            second.start(task)
    second.load_state_dict(first.state_dict())
    second.eval()
    if not equal(_outputs(first), _outputs(second)):
        raise Broken(
            "the same tasks and state dict give other outputs in a new learner; keep all state in parameters and buffers"
        )


def goes_on_as_if_never_stopped(make: Make[Learner]) -> None:
    """A run that is resumed after its first task ends where one without a break does, bit for bit."""
    straight, resumed = _learnt(make).learner, make()
    if straight.joint:
        return  # there is no boundary between its tasks
    with tempfile.TemporaryDirectory() as folder:
        _learn(make(), Path(folder) / "run", sample.tasks()[:1])
        _learn(resumed, Path(folder) / "run")
    if names := changed(snapshot(straight), snapshot(resumed)):
        raise Broken(
            f"{', '.join(names)} differ after a resume between the two tasks; what finish() estimates has to be kept in buffers"
        )


def goes_on_in_the_middle_of_a_task(make: Make[Learner]) -> None:
    """A run that is stopped within a task and resumed ends where one without a break does, bit for bit."""
    straight, resumed = make(), make()
    _learn(straight)
    with tempfile.TemporaryDirectory() as folder:
        with suppress(StopRequested):
            _learn(make(), Path(folder) / "run", last_step=OPTIONS.steps + 2)
        _learn(resumed, Path(folder) / "run")
    if names := changed(snapshot(straight), snapshot(resumed)):
        raise Broken(
            f"{', '.join(names)} differ after a resume within a task; keep all state in buffers, or give get_extra_state()"
        )


CHECKS = (
    start_returns_parts_of_its_own,
    learns_two_tasks,
    outputs_have_the_shape_of_the_head,
    moves_only_what_start_returned,
    gradients_go_only_where_start_says,
    penalty_is_zero_before_anything_is_learnt,
    learns_something_in_every_task,
    one_seed_gives_one_result,
    evaluation_changes_nothing,
    evaluation_draws_no_random_numbers,
    checkpoint_is_the_whole_state,
    goes_on_as_if_never_stopped,
    goes_on_in_the_middle_of_a_task,
)


@functools.lru_cache(maxsize=1)
def _learnt(make: Make[Learner]) -> Witness:
    """A learner that has learnt the kit's tasks; for checks that leave it as it is."""
    return _learn(make())


def _learn(
    learner: Learner,
    path: Path | None = None,
    tasks: Sequence[Task] | None = None,
    last_step: int | None = None,
) -> Witness:
    """Learn the kit's tasks as a run does, in the run folder `path` or one that is thrown away, until a step if one is given."""
    if path is None:
        with tempfile.TemporaryDirectory() as folder:
            return _learn(learner, Path(folder) / "run", tasks)
    stop = StopRequest()
    witness = Witness(learner, stop, last_step)
    run = run_folder.RunFolder(path) if path.exists() else run_folder.create(path, "check")
    store = FeatureCache(limit=2**26, keep_taps=learner.needs_taps, info=lambda _: None)
    session = Session(OPTIONS, SEED, MACHINE, run, store, Progress(quiet=True), lambda _, __: None, stop=stop)
    learn(witness, sample.tasks() if tasks is None else tasks, session)
    return witness


def _outputs(learner: Learner) -> list[Tensor]:
    """For the first training batch of every task."""
    found = []
    for task in sample.tasks():
        predict = make_predict(learner, task, MACHINE)
        batch = next(task.train(predict, Order(SEED, 8)))
        found.append(predict(Inputs(batch.inputs.tensors)))
    return found


def _within(thing: nn.Module | nn.Parameter) -> list[Tensor]:
    return [tensor for _, tensor in named_tensors(thing)] if isinstance(thing, nn.Module) else [thing]
