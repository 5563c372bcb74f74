"""Checks of learners: training on the kit's two tiny tasks in the core's own loop, observed by a wrapper."""

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
from sidetune_core.interfaces.learner import Components, Learner, has_former_penalty
from sidetune_core.interfaces.networks import Base, Merger, Side
from sidetune_core.interfaces.tasks import Batch, Order, Task
from sidetune_core.interfaces.training import Phase, Trainable, TrainingStep, members
from sidetune_core.seeding import seeded
from sidetune_core.storage import run_folder
from sidetune_core.storage.run_folder import Clock
from sidetune_core.system.device import Machine
from sidetune_core.system.progress import Progress
from sidetune_core.system.signals import StopRequest, StopRequested
from sidetune_core.testing import sample
from sidetune_core.testing.advice import DRAWS_IN_EVAL, SEEDED_BY_CORE
from sidetune_core.testing.findings import SEED, Broken, Finding, Make, examine
from sidetune_core.testing.state import building, changed, equal, named_tensors, random_state, snapshot
from sidetune_core.training.context import Context
from sidetune_core.training.loop import learn
from sidetune_core.training.recorder import RunRecorder

SHAPE = (64,)
OPTIONS = TrainOptions(steps=3, batch_size=8, lr=0.01)
MACHINE = Machine(torch.device("cpu"), bf16=False, channels_last=False)
NO_PENALTY_YET = "return zero, or nothing, while there is no earlier task to protect"


class Witness(Learner):
    """Wraps a learner, checks its penalties, and records what changes between `start` and `finish`.

    In step `last_step`, counted over all tasks, it requests a stop.
    """

    Config: ClassVar[type[Any]] = sample.Config

    def __init__(self, learner: Learner, stop: StopRequest, last_step: int | None) -> None:
        super().__init__()
        self.learner = learner
        self._stop, self._steps_left = stop, last_step
        self.joint = learner.joint  # type: ignore[misc]
        self._trainable: set[str] = set()
        self._filled_buffers: tuple[str, ...] = ()
        self.unexpected_changes: list[str] = []
        """Tensors that changed and that `start` did not return."""
        self.untrained_tasks: list[str] = []
        """Tasks in which nothing changed that `start` returned."""
        self.unexpected_gradients: list[str] = []
        """Parameters that require a gradient and that `start` did not return."""
        self.first_penalties: dict[str, float] | None = None
        """Nonzero penalties of the first batch."""

    def start(self, task: Task) -> Trainable:
        seed = torch.initial_seed()
        trainable = self.learner.start(task)
        if torch.initial_seed() != seed:
            raise Broken(f"start() seeds {SEEDED_BY_CORE}")
        self._watch(trainable)
        self._before = snapshot(self.learner)
        return trainable

    def phases(self, task: Task) -> Sequence[Phase]:
        return self.learner.phases(task)

    def start_phase(self, task: Task, phase: Phase) -> Trainable | None:
        trainable = self.learner.start_phase(task, phase)
        if trainable is not None:
            self._watch(trainable)
        return trainable

    def _watch(self, trainable: Trainable) -> None:
        """Note what may change from now on."""
        returned_members = members(trainable)
        tensors = {id(tensor) for returned in returned_members for tensor in _tensors(returned)}
        names = {name for name, tensor in named_tensors(self.learner) if id(tensor) in tensors}
        self._trainable = self._trainable | names if self.joint else names
        modules = [returned for returned in returned_members if isinstance(returned, nn.Module)]
        buffers = {
            id(child) for module in modules for child in module.modules() if isinstance(child, BufferDict)
        }
        filled = tuple(f"{name}." for name, module in self.learner.named_modules() if id(module) in buffers)
        self._filled_buffers = self._filled_buffers + filled if self.joint else filled

    def forward(self, inputs: Mapping[str, Tensor], task_id: str) -> Tensor:
        output: Tensor = self.learner(inputs, task_id)
        return output

    def predict(self, inputs: Mapping[str, Tensor], task_id: str | None) -> Tensor:
        return self.learner.predict(inputs, task_id)

    def losses(self, batch: Batch, task: Task, step: TrainingStep) -> Mapping[str, Tensor]:
        return {**self.learner.losses(batch, task, step), **self._penalties(batch)}

    def after_backward(self, task: Task, step: TrainingStep) -> None:
        self.learner.after_backward(task, step)

    def after_step(self, task: Task, step: TrainingStep) -> None:
        self.learner.after_step(task, step)

    def _penalties(self, batch: Batch) -> dict[str, Tensor]:
        self.unexpected_gradients += [
            name
            for name, parameter in self.learner.named_parameters()
            if parameter.requires_grad and name not in self._trainable
        ]
        penalties = self.learner.penalty(batch) if has_former_penalty(self.learner) else {}
        if self._steps_left is not None:
            self._steps_left -= 1
            if not self._steps_left:
                self._stop.number = signal.SIGINT
        for name, value in penalties.items():
            _check_penalty(name, value)
        if self.first_penalties is None:
            self.first_penalties = {name: float(value.detach()) for name, value in penalties.items() if value}
        return penalties

    def finish(self, task: Task, batches: Iterator[Batch]) -> None:
        names = changed(self._before, snapshot(self.learner))
        self.unexpected_changes += [
            name
            for name in names
            if name not in self._trainable and not name.startswith(self._filled_buffers)
        ]
        if self._trainable and not self._trainable.intersection(names):
            self.untrained_tasks.append(task.id)
        self.learner.finish(task, batches)

    def record(self) -> dict[str, float]:
        return self.learner.record()


def _check_penalty(name: str, value: object) -> None:
    if not isinstance(value, Tensor):
        raise Broken(f"penalty '{name}' is a {type(value).__name__}; return a tensor without axes")
    if value.ndim:
        shape = tuple(value.shape)
        raise Broken(f"penalty '{name}' has shape {shape}; return a tensor without axes: sum or average it")
    if not value.isfinite():
        raise Broken(f"penalty '{name}' is {float(value)}; {NO_PENALTY_YET}")


def check_learner(cls: type[Any], config: Any) -> list[Finding]:
    """Findings about a learner with its required components, and with its optional ones too if it has any."""

    def using(kinds: frozenset[str]) -> Make[Learner]:
        side, merger = _side if "side" in kinds else None, _merger if "merger" in kinds else None
        components = Components(sample.INPUTS, _base, side, merger)

        def make(seed: int = SEED) -> Learner:
            with building(seed, "build"):
                learner: Learner = cls(config, components)
            return learner

        return make

    setups = {
        f"with {', '.join(sorted(kinds))}": using(kinds)
        for kinds in (cls.needs, cls.needs | cls.optional_components)
    }
    return examine(setups, CHECKS)


def _base(pretrained: bool = True) -> Base:
    return sample.TinyBase(SHAPE)


def _side(base: Base, pretrained: bool = True) -> Side:
    return sample.TinySide(base.shape)


def _merger(base: Base, count: int) -> Merger:
    return sample.TinyMerger(count)


def start_returns_its_own_modules(make: Make[Learner]) -> None:
    """`start` returns modules and parameters of the learner itself."""
    learner = make()
    for task in sample.tasks():
        with seeded(SEED, "start", task.id):
            trainable = learner.start(task)
        own = {id(member) for member in (*learner.modules(), *learner.parameters())}
        for returned in members(trainable):
            if id(returned) not in own:
                raise Broken(
                    f"start() returns a {type(returned).__name__} that is not part of the learner; "
                    "assign it to an attribute of self first"
                )


def trains_on_two_tasks(make: Make[Learner]) -> None:
    """Two tasks can be trained and evaluated, with the feature cache on; penalties are finite scalars."""
    learner = _trained(make).learner
    if not all(output.isfinite().all() for output in _outputs(learner)):
        raise Broken(
            "outputs are infinite or NaN after three steps of training; check the loss and its gradients"
        )


def trains_only_what_start_returned(make: Make[Learner]) -> None:
    """Parameters and buffers that `start` did not return are bitwise unchanged after the steps of a task."""
    if names := _trained(make).unexpected_changes:
        raise Broken(
            f"{', '.join(dict.fromkeys(names))} changed in training; "
            "return them from start(), or change them in finish()"
        )


def gradients_reach_only_what_start_returned(make: Make[Learner]) -> None:
    """No parameter that `start` did not return requires a gradient during training."""
    if names := _trained(make).unexpected_gradients:
        raise Broken(
            f"{', '.join(dict.fromkeys(names))} require a gradient; "
            "return them from start(), and do not set requires_grad"
        )


def penalty_is_zero_on_the_first_batch(make: Make[Learner]) -> None:
    """The penalty for the first batch is zero, since there is no earlier task to protect."""
    if penalties := _trained(make).first_penalties:
        values = ", ".join(f"'{name}' {value:.3g}" for name, value in penalties.items())
        raise Broken(f"the penalty for the first batch is {values}; {NO_PENALTY_YET}")


def every_task_trains_something(make: Make[Learner]) -> None:
    """Something that `start` returned changes in every task, if it returned anything."""
    if tasks := _trained(make).untrained_tasks:
        raise Broken(
            f"nothing was trained in {', '.join(tasks)}; "
            "return the trainable modules from start(), and use them in forward()"
        )


def one_seed_gives_one_result(make: Make[Learner]) -> None:
    """Training twice with one seed gives bitwise equal weights."""
    first, second = _trained(make).learner, make()
    _train(second)
    if names := changed(snapshot(first), snapshot(second)):
        raise Broken(
            f"{', '.join(names)} differ between two runs with one seed; "
            "draw from the global generators, and do not seed them"
        )


def evaluation_changes_nothing(make: Make[Learner]) -> None:
    """A forward pass in eval mode changes no parameter or buffer."""
    learner = _trained(make).learner
    before = snapshot(learner)
    _outputs(learner)
    if names := changed(before, snapshot(learner)):
        raise Broken(
            f"a forward pass in eval mode changes {', '.join(names)}; "
            "change state in training mode, or in finish()"
        )


def evaluation_draws_no_random_numbers(make: Make[Learner]) -> None:
    """A forward pass in eval mode does not change the global random states."""
    learner = _trained(make).learner
    before = random_state()
    _outputs(learner)
    if random_state() != before:
        raise Broken(DRAWS_IN_EVAL)


def outputs_have_the_shape_of_the_head(make: Make[Learner]) -> None:
    """The output for eight examples of a task of two classes has shape (8, 2)."""
    learner = _trained(make).learner
    for output in _outputs(learner):
        if tuple(output.shape) != (8, 2):
            raise Broken(
                f"the output for 8 examples of a task of two classes has shape {tuple(output.shape)}; "
                "return the output of the task's head, (8, 2)"
            )


def checkpoint_holds_all_state(make: Make[Learner]) -> None:
    """A new learner with the same tasks started and the state dict loaded has the same outputs."""
    first, second = _trained(make).learner, make(SEED + 1)
    for task in sample.tasks():
        with seeded(SEED + 1, "start", task.id):
            second.start(task)
    second.load_state_dict(first.state_dict())
    second.eval()
    if not equal(_outputs(first), _outputs(second)):
        raise Broken(
            "a new learner with the same tasks and state dict has other outputs; "
            "keep all state in parameters and buffers"
        )


def resumes_exactly_between_tasks(make: Make[Learner]) -> None:
    """A run resumed after its first task ends with the same weights as an uninterrupted run, bit for bit."""
    uninterrupted, resumed = _trained(make).learner, make()
    if uninterrupted.joint:
        return  # its tasks have no boundary
    with tempfile.TemporaryDirectory() as folder:
        _train(make(), Path(folder) / "run", sample.tasks()[:1])
        _train(resumed, Path(folder) / "run")
    if names := changed(snapshot(uninterrupted), snapshot(resumed)):
        raise Broken(
            f"{', '.join(names)} differ after resuming between the two tasks; "
            "keep in buffers what finish() estimates"
        )


def resumes_exactly_within_a_task(make: Make[Learner]) -> None:
    """A run resumed within a task ends with the same weights as an uninterrupted run, bit for bit."""
    uninterrupted, resumed = make(), make()
    _train(uninterrupted)
    with tempfile.TemporaryDirectory() as folder:
        with suppress(StopRequested):
            _train(make(), Path(folder) / "run", last_step=OPTIONS.steps + 2)
        _train(resumed, Path(folder) / "run")
    if names := changed(snapshot(uninterrupted), snapshot(resumed)):
        raise Broken(
            f"{', '.join(names)} differ after resuming within a task; "
            "keep all state in buffers, or define get_extra_state()"
        )


CHECKS = (
    start_returns_its_own_modules,
    trains_on_two_tasks,
    outputs_have_the_shape_of_the_head,
    trains_only_what_start_returned,
    gradients_reach_only_what_start_returned,
    penalty_is_zero_on_the_first_batch,
    every_task_trains_something,
    one_seed_gives_one_result,
    evaluation_changes_nothing,
    evaluation_draws_no_random_numbers,
    checkpoint_holds_all_state,
    resumes_exactly_between_tasks,
    resumes_exactly_within_a_task,
)


@functools.lru_cache(maxsize=1)
def _trained(make: Make[Learner]) -> Witness:
    """A learner trained on the kit's tasks, for checks that do not change it."""
    return _train(make())


def _train(
    learner: Learner,
    path: Path | None = None,
    tasks: Sequence[Task] | None = None,
    last_step: int | None = None,
) -> Witness:
    """Train on the kit's tasks like a run, in folder `path` or a temporary one, up to `last_step`."""
    if path is None:
        with tempfile.TemporaryDirectory() as folder:
            return _train(learner, Path(folder) / "run", tasks)
    stop = StopRequest()
    witness = Witness(learner, stop, last_step)
    run = run_folder.RunFolder(path) if path.exists() else run_folder.create(path, "check")
    store = FeatureCache(limit=2**26, keep_taps=learner.needs_taps, info=lambda _: None)
    recorder = RunRecorder(run, Progress(quiet=True), Clock(run, MACHINE.peak_memory))
    context = Context(OPTIONS, SEED, MACHINE, cache=store, stop=stop)
    learn(witness, sample.tasks() if tasks is None else tasks, context, recorder)
    return witness


def _outputs(learner: Learner) -> list[Tensor]:
    """Outputs for the first training batch of every task."""
    outputs = []
    for task in sample.tasks():
        predict = make_predict(learner, task, MACHINE)
        batch = next(task.train(predict, Order(SEED, 8)))
        outputs.append(predict(Inputs(batch.inputs.tensors)))
    return outputs


def _tensors(returned: nn.Module | nn.Parameter) -> list[Tensor]:
    if isinstance(returned, nn.Module):
        return [tensor for _, tensor in named_tensors(returned)]
    return [returned]
