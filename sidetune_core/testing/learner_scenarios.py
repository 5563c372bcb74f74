"""Checks of learners: predictions without a task id, in the scenarios that they declare."""

from __future__ import annotations

import attrs
import torch

from sidetune_core.assembly.build import start_task
from sidetune_core.assembly.predict import make_predict
from sidetune_core.errors import FitError, OptionError
from sidetune_core.interfaces.learner import Learner
from sidetune_core.interfaces.tasks import Order, Task, mean_loss
from sidetune_core.scenarios import DEFAULT, SCENARIOS, Scenario
from sidetune_core.testing.findings import SEED, Broken, Skipped, requires
from sidetune_core.testing.state import building
from sidetune_core.testing.stream import network
from sidetune_core.testing.subject import Subject, first_inputs
from sidetune_core.training.trainable import freeze


@requires("trains_on_two_tasks")
def predicts_in_its_scenarios(subject: Subject) -> None:
    """In each of its `scenarios`, `predict` for task_id None returns finite logits of the classes of all
    started tasks, and for a task those of its classes, which are the first that `forward` returns."""
    declared = [one for one in SCENARIOS if one != DEFAULT and one in subject.cls.scenarios]
    if not declared:
        raise Skipped("the learner is defined with task ids only (`scenarios`)")
    refused = []
    for scenario in declared:
        components = attrs.evolve(subject.components, scenario=scenario)
        try:
            with building(SEED, "build"):
                learner: Learner = subject.cls(subject.config, components)
        except (OptionError, FitError) as error:  # these options need the task id
            refused.append(str(error))
            continue
        learner.scenario = scenario
        started: list[Task] = []
        for task in subject.tasks():
            start_task(learner, task, SEED, subject.machine)
            freeze(learner)
            started.append(task)
            _check(learner, started, scenario, subject)
    if len(refused) == len(declared):
        raise Skipped(refused[0])


def _check(learner: Learner, started: list[Task], scenario: Scenario, subject: Subject) -> None:
    sizes = [task.outputs.size or 0 for task in started]
    wide = sizes[-1] if scenario == "domain" else sum(sizes)
    where = f"in the scenario '{scenario}', after start() of {len(started)} tasks,"
    for task in started:
        inputs = first_inputs(task, subject.options.batch_size)
        count = len(next(iter(inputs.values())))
        output = make_predict(learner, task, subject.machine, known=False)(inputs)
        if tuple(output.shape) != (count, wide):
            raise Broken(
                f"{where} predict() for task_id None has outputs {tuple(output.shape)}; return the logits of "
                f"all classes, {(count, wide)}"
            )
        if not output.isfinite().all():
            raise Broken(f"{where} outputs of predict() for task_id None are not finite")
        alone = make_predict(learner, task, subject.machine, known=False)(inputs.rows(slice(1)))
        if not torch.allclose(alone, output[:1], rtol=1e-3, atol=1e-3):
            raise Broken(f"{where} predictions for task_id None depend on the others in the batch")
        own = make_predict(learner, task, subject.machine)(inputs)
        size = task.outputs.size or 0
        if tuple(own.shape) != (count, size):
            raise Broken(
                f"{where} predict() for task '{task.id}' has outputs {tuple(own.shape)}; return the logits "
                f"of its classes, {(count, size)}"
            )
        batch = next(task.train(network(task), Order(SEED, subject.options.batch_size)))
        with torch.no_grad():
            trained = learner(batch.inputs, task.id)
        if not mean_loss(task, trained, batch).isfinite():
            raise Broken(f"{where} the loss of forward() for task '{task.id}' is not finite")


CHECKS = (predicts_in_its_scenarios,)
