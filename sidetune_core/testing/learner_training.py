"""Checks of learners: what a witness saw of training on the kit's tasks, in the core's own loop."""

from __future__ import annotations

import torch

from sidetune_core.assembly.build import restart_task
from sidetune_core.testing.advice import NOT_INDEPENDENT
from sidetune_core.testing.findings import SEED, Broken, requires
from sidetune_core.testing.state import changed, snapshot
from sidetune_core.testing.subject import Subject, outputs

STARTED = ("start_returns_its_own_modules", "learner_can_be_copied")


@requires(*STARTED)
def trains_on_two_tasks(subject: Subject) -> None:
    """Two tasks can be trained and evaluated, with the feature cache on; losses are finite scalars."""
    learner = subject.trained.learner
    if not all(output.isfinite().all() for output in outputs(learner, subject)):
        raise Broken(
            "outputs are infinite or NaN after three steps of training; check the losses and their gradients"
        )


@requires("trains_on_two_tasks")
def trains_only_what_start_returned(subject: Subject) -> None:
    """Losses change no parameter or buffer that `start` did not return: forward passes are pure."""
    witness = subject.trained
    if witness.made_in_training:
        raise Broken(
            f"{_listed(witness.made_in_training)} are made in training; "
            "make modules in __init__() or start(), so that they are trained and saved"
        )
    if witness.unexpected_changes:
        raise Broken(
            f"{_listed(witness.unexpected_changes)} changed in training; "
            "return them from start(), or change them in finish()"
        )


@requires("trains_on_two_tasks", "trains_only_what_start_returned")
def gradients_reach_only_what_start_returned(subject: Subject) -> None:
    """No parameter that `start` did not return requires a gradient during training."""
    if names := subject.trained.unexpected_gradients:
        raise Broken(
            f"{_listed(names)} require a gradient; return them from start(), and do not set requires_grad"
        )


@requires("trains_on_two_tasks")
def gradients_reach_all_that_start_returned(subject: Subject) -> None:
    """Every module and parameter that `start` returned gets a gradient in some step of its task."""
    if names := subject.trained.unreached:
        raise Broken(
            f"no gradient reaches {_listed(names)}, which start() returned; use it in losses(), without "
            "detach(). Where it changes the base's computation, pass the base dict(inputs), without ids: "
            "the feature cache does not know of it"
        )


@requires("trains_on_two_tasks", "gradients_reach_all_that_start_returned")
def every_task_trains_something(subject: Subject) -> None:
    """Some parameter that `start` returned changes in every task."""
    if tasks := subject.trained.untrained_tasks:
        raise Broken(
            f"nothing was trained in {', '.join(tasks)}; "
            "return the trainable modules from start(), and use them in forward()"
        )


@requires("trains_on_two_tasks")
def writes_to_tensors_are_recorded(subject: Subject) -> None:
    """No tensor is written to through ``.data`` or a NumPy view while it is not trained: values of R that did
    not change are carried over by PyTorch's record of writes.
    """
    if names := subject.trained.unseen_writes:
        raise Broken(
            f"{_listed(names)} are written to through .data or a NumPy view, which PyTorch does not record; "
            "write in place under torch.no_grad(), as with copy_()"
        )


@requires("trains_on_two_tasks")
def penalty_is_zero_on_the_first_batch(subject: Subject) -> None:
    """The deprecated penalty is zero for the first batch, since there is no earlier task to protect."""
    if penalties := subject.trained.first_penalties:
        values = ", ".join(f"'{name}' {value:.3g}" for name, value in penalties.items())
        raise Broken(
            f"the penalty for the first batch is {values}; return zero, or nothing, while there is no "
            "earlier task to protect, or override losses() instead of penalty()"
        )


@requires("trains_on_two_tasks")
def losses_change_no_inputs(subject: Subject) -> None:
    """Losses change neither inputs nor targets in place."""
    if names := subject.trained.changed_inputs:
        raise Broken(
            f"losses() changes {_listed(names)} in place, which others read too; "
            "make a new tensor (x * 2, not x.mul_(2) or x *= 2)"
        )


@requires("trains_on_two_tasks")
def losses_seed_no_generator(subject: Subject) -> None:
    """Random numbers of a step are other than those of the step before."""
    states = subject.trained.random_states
    for (_, first), (before, second) in zip(states, states[1:], strict=False):
        names = ("torch", "NumPy", "NumPy", "NumPy", "NumPy", "NumPy", "Python")
        drew = [one for one in range(len(names)) if second[one] != before[one]]
        if reset := [names[one] for one in drew if first[one] == second[one] and one != 3]:
            raise Broken(
                f"losses() seeds a global generator ({reset[0]}), so that every step draws the same random "
                "numbers; remove it: the core seeds, plugins draw"
            )


@requires("trains_on_two_tasks")
def training_flag_of_the_learner_is_not_read(subject: Subject) -> None:
    """Nothing depends on ``self.training`` of the learner, which the core never sets."""
    if lines := subject.trained.reads_of_training:
        raise Broken(
            f"reads self.training of the learner ({lines[0]}), which is never set: it sets that of what "
            "start() returned; use an nn.Dropout that start() returns, or override losses()"
        )


@requires("trains_on_two_tasks")
def memory_does_not_grow(subject: Subject) -> None:
    """No plain attribute keeps more tensors after every step."""
    witness = subject.trained
    grown = [
        name
        for name in {name for _, counts in witness.tensors_kept for name in counts}
        if all(
            after.get(name, 0) > before.get(name, 0)
            for (task, before), (same, after) in zip(
                witness.tensors_kept, witness.tensors_kept[1:], strict=False
            )
            if task == same
        )
    ]
    if grown and len(witness.tensors_kept) > len(subject.tasks()):
        raise Broken(
            f"{grown[0]} keeps more tensors after every step, with the graphs of their gradients, until "
            "memory is full; keep none, or detached numbers of a fixed count in a BufferDict"
        )


@requires("trains_on_two_tasks")
def one_seed_gives_one_result(subject: Subject) -> None:
    """Training twice with one seed gives bitwise equal weights."""
    first, second = subject.trained.learner, subject()
    subject.train(second)  # with as many forward passes: what counts them is named by another check
    if names := changed(snapshot(first), snapshot(second)):
        raise Broken(
            f"{', '.join(names)} differ between two runs with one seed; "
            "draw from the global generators, and do not seed them"
        )


@requires("trains_on_two_tasks")
def independent_tasks_are_independent(subject: Subject) -> None:
    """If the learner declares that its tasks are independent, the second one has the same bits whether the
    first was trained or only started, and its training changes nothing of the first.
    """
    learner = subject()
    if not learner.independent_tasks:
        return
    *earlier, last = subject.tasks()
    for task in earlier:
        restart_task(learner, task, SEED, subject.machine)
    started = snapshot(learner)
    subject.train_unrecorded(learner, [last])
    both, alone = snapshot(subject.trained.learner), snapshot(learner)
    if found := [name for name in started if alone.get(name) != started[name]]:
        raise Broken(f"training the last task changes {_listed(found)} of earlier ones; {NOT_INDEPENDENT}")
    new = both.keys() - started.keys()
    if found := sorted(name for name in new if alone.get(name) != both[name]):
        raise Broken(f"{_listed(found)} depend on the training of earlier tasks; {NOT_INDEPENDENT}")
    if not all(
        torch.equal(*pair)
        for pair in zip(
            outputs(learner, subject)[-1:], outputs(subject.trained.learner, subject)[-1:], strict=True
        )
    ):
        raise Broken(f"the last task's outputs depend on the training of earlier tasks; {NOT_INDEPENDENT}")


def _listed(names: list[str]) -> str:
    return ", ".join(dict.fromkeys(names))


CHECKS = (
    trains_on_two_tasks,
    trains_only_what_start_returned,
    writes_to_tensors_are_recorded,
    gradients_reach_only_what_start_returned,
    gradients_reach_all_that_start_returned,
    penalty_is_zero_on_the_first_batch,
    every_task_trains_something,
    losses_change_no_inputs,
    losses_seed_no_generator,
    training_flag_of_the_learner_is_not_read,
    memory_does_not_grow,
    one_seed_gives_one_result,
    independent_tasks_are_independent,
)
