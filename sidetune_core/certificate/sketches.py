"""Tasks of a certificate without their data: from their cards, or in runs of earlier versions from the
certificate's sketches of classification tasks.
"""

from __future__ import annotations

from collections.abc import Sequence

from sidetune_core.assembly.cards import CardTask
from sidetune_core.assembly.parts import Part, card_tasks
from sidetune_core.certificate.record import Certificate, TaskSketch
from sidetune_core.errors import RunError
from sidetune_core.interfaces.cards import TaskCard
from sidetune_core.interfaces.outputs import Outputs
from sidetune_core.interfaces.tasks import Task
from sidetune_core.storage.run_folder import RunFolder


def sketched_card(
    task: str, sketch: TaskSketch, env: str, metric: str = "accuracy", higher_is_better: bool = True
) -> TaskCard:
    """The card of a sketched task, without the values of its env's handler."""
    return TaskCard(
        id=task,
        title=sketch.title,
        env=env,
        inputs={name: tuple(shape) for name, shape in sketch.inputs.items()},
        outputs=Outputs.of_classes(sketch.classes),
        metric=metric,
        higher_is_better=higher_is_better,
        head="linear",
    )


def tasks_without_data(folder: RunFolder, parts: Sequence[Part], certificate: Certificate) -> list[Task]:
    """The certified tasks with their heads; empty if one of these can only be made by its env.

    Args:
        folder: of the run.
        parts: of the run.
        certificate: of the run.
    """
    env = parts[0].resolved.components["env"].choice
    records = certificate.tasks
    if all(record.sketch is not None for record in records):
        return [
            CardTask(sketched_card(record.id, record.sketch, env))
            for record in records
            if record.sketch is not None
        ]
    try:
        tasks = {task.id: task for part in parts for task in card_tasks(folder, part)}
    except RunError:
        return []
    certified = [tasks[record.id] for record in records if record.id in tasks]
    known = all(isinstance(task, CardTask) and task.has_head for task in certified)
    return certified if known and len(certified) == len(records) else []
