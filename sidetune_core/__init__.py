"""Adapt a pretrained network to a stream of tasks with a light side network, next to the field's baselines.

    import sidetune_core

    run = sidetune_core.run(sidetune_core.RunSpec(learner="sidetune", env="digits"))
    run.results.rows                                # R
    model = sidetune_core.load(run.folder.path)
    model.predict(images, "t0")                     # predictions, without the data

Names are imported when they are first used, so that importing the package imports no torch. Plugin authors
find theirs in `sidetune_core.api`, `sidetune_core.rl`, `sidetune_core.demonstrations` and
`sidetune_core.testing`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sidetune_core.lazy import lazy_names

if TYPE_CHECKING:
    from sidetune_core.certificate.verify import Verification, verify
    from sidetune_core.config.choice import Choice
    from sidetune_core.config.spec import RunSpec
    from sidetune_core.interfaces.tasks import Task
    from sidetune_core.results.metrics import Results
    from sidetune_core.serving.evaluation import TaskEvaluation, evaluate
    from sidetune_core.serving.model import Model, load
    from sidetune_core.sweeps.runner import SweptRun, sweep
    from sidetune_core.training.callbacks import Callback, RowRecord, StepRecord
    from sidetune_core.training.extension import extend
    from sidetune_core.training.finished_run import Run
    from sidetune_core.training.resume import resume
    from sidetune_core.training.run import run

__version__ = "0.1.0"

__all__ = [
    "Callback",
    "Choice",
    "Model",
    "Results",
    "RowRecord",
    "Run",
    "RunSpec",
    "StepRecord",
    "SweptRun",
    "Task",
    "TaskEvaluation",
    "Verification",
    "__version__",
    "evaluate",
    "extend",
    "load",
    "resume",
    "run",
    "sweep",
    "verify",
]

__getattr__ = lazy_names(
    __name__,
    {
        "Callback": "training.callbacks",
        "Choice": "config.choice",
        "Model": "serving.model",
        "Results": "results.metrics",
        "RowRecord": "training.callbacks",
        "Run": "training.finished_run",
        "RunSpec": "config.spec",
        "StepRecord": "training.callbacks",
        "SweptRun": "sweeps.runner",
        "Task": "interfaces.tasks",
        "TaskEvaluation": "serving.evaluation",
        "Verification": "certificate.verify",
        "evaluate": "serving.evaluation",
        "extend": "training.extension",
        "load": "serving.model",
        "resume": "training.resume",
        "run": "training.run",
        "sweep": "sweeps.runner",
        "verify": "certificate.verify",
    },
)


def __dir__() -> list[str]:
    return [*__all__]
