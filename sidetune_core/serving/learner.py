"""A restored learner: the outputs of its tasks."""

from __future__ import annotations

from pathlib import Path
from threading import RLock

import attrs
import torch
from torch import Tensor

from sidetune_core.assembly.cards import CardStream, CardTask, make_handler
from sidetune_core.assembly.restore import choose_machine, restore, run_precisions
from sidetune_core.config.resolve import ResolvedRun
from sidetune_core.config.spec import Trust
from sidetune_core.errors import InputError, OptionError
from sidetune_core.interfaces.cards import TaskCard
from sidetune_core.interfaces.handlers import TaskHandler
from sidetune_core.interfaces.inputs import Inputs
from sidetune_core.serving.allocation import count_elements, limited
from sidetune_core.serving.network import TaskNetwork, make_network
from sidetune_core.serving.shared_base import serve_bases
from sidetune_core.serving.source import Trained
from sidetune_core.serving.tensor_handler import TensorHandler
from sidetune_core.system import device
from sidetune_core.system.device import Machine
from sidetune_core.system.shortage import is_out_of_memory


class ServedLearner:
    """The learner of a run or adapter, frozen, on a device.

    A lock lets one thread at a time compute: a learner may replace modules or weights during a forward pass.

    Args:
        trained: what to restore.
        machine: the device.
        handlers: of all its tasks.

    Raises:
        FitError: only the env can make the head of a task, from its data.
        WeightsError: the state is not that of this learner.
    """

    def __init__(self, trained: Trained, machine: Machine, handlers: dict[str, TaskHandler]) -> None:
        tasks = [CardTask(card, handlers[task]) for task, card in trained.cards.items()]
        self.machine, self.tasks = machine, tuple(trained.cards)
        stream = CardStream(tasks)
        with limited(count_elements(trained.state), trained.source, len(trained.state)):
            self.learner = restore(
                trained.resolved, stream, tasks, trained.state, trained.source, machine, check=False
            )
        self.bases = serve_bases(self.learner, trained.resolved.components.get("base"))
        self._lock = RLock()

    def share_bases(self, others: list[ServedLearner]) -> None:
        """Use the tensors of other learners' bases where they are the same."""
        for base in self.bases:
            any(base.share(other) for learner in others for other in learner.bases)

    def predict(self, inputs: Inputs, task: str | None) -> Tensor:
        """The output (B, ...) of a task in float32, for inputs on the device, as the run's evaluations
        computed it; without a task, see `Learner.predict`.

        Raises:
            InputError: there is not enough memory for the batch.
        """
        try:
            with self._lock, torch.no_grad(), self.machine.autocast():
                output = self.learner.predict(attrs.evolve(inputs, task=task or self.tasks[-1]), task)
            return output.float()
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            count = len(next(iter(inputs.values())))
            raise InputError(
                f"not enough memory for a batch of {count} examples: pass a smaller batch_size"
            ) from error

    def make_network(self, task: str, card: TaskCard, handler: TaskHandler) -> TaskNetwork:
        """The network of one task, as a copy."""
        with self._lock:
            return make_network(self.learner, task, self.tasks, card, handler, self.machine.bf16)


def choose_device(resolved: ResolvedRun, name: str | None) -> Machine:
    """The device with a name; None for that of the run, or the CPU where this computer has no such device.

    Raises:
        OptionError: this computer has no such device.
    """
    if name is None:
        return choose_machine(resolved)
    try:
        chosen = attrs.evolve(resolved.device, name=name)
        return device.choose(chosen, preferred=run_precisions(resolved))
    except OptionError as error:
        raise OptionError(f"device '{name}': {str(error).partition(': ')[2]}") from error


def make_handlers(trained: Trained, trust_local_code: Trust) -> dict[str, TaskHandler]:
    """The handlers of all tasks, with the tasks' own states.

    Raises:
        UntrustedCode: a card names code, without `trust_local_code`.
        PluginError: an env is not installed.
        RunError: the values of a card are not those of its env.
    """
    return {
        task: _make_handler(trained, task, card, trust_local_code) for task, card in trained.cards.items()
    }


def make_joint_handler(trained: Trained, task: str, card: TaskCard, trust_local_code: Trust) -> TaskHandler:
    """The handler of predictions without a task id, for a card with the classes of all tasks: it preprocesses
    as that of `task` does. See `make_handlers` for what is raised."""
    return _make_handler(trained, task, card, trust_local_code)


def _make_handler(trained: Trained, task: str, card: TaskCard, trust_local_code: Trust) -> TaskHandler:
    own = make_handler(card, Path(trained.source), bool(trust_local_code))
    handler = own if own is not None else TensorHandler(card)
    if task in trained.task_states:
        handler.set_state(trained.task_states[task])
    return handler
