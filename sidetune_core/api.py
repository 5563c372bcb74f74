"""The public interface for plugin authors: what bases, sides, mergers, learners and envs are made of.

    from sidetune_core.api import Heads, Learner, Task, option

It imports the interfaces and nothing above them. Reinforcement learning has `sidetune_core.rl`, recorded experts have
`sidetune_core.demonstrations`, conformance checks have `sidetune_core.testing`. To run something from Python, use
`sidetune_core.run`.
"""

from __future__ import annotations

import warnings
from pkgutil import resolve_name
from typing import Any

from sidetune_core.config.options import Renamed, at_least, at_most, more_than, option
from sidetune_core.errors import (
    DataError,
    FitError,
    OptionError,
    PluginError,
    RunError,
    SidetuneError,
    WeightsError,
)
from sidetune_core.interfaces.buffers import BufferDict
from sidetune_core.interfaces.classification import ClassTask, Examples
from sidetune_core.interfaces.heads import ClassHead, Heads, normalise
from sidetune_core.interfaces.inputs import Features, Inputs, InputShapes, Shape
from sidetune_core.interfaces.layers import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    flat_size,
    flatten_inputs,
    init_orthogonal,
    register_image_stats,
)
from sidetune_core.interfaces.learner import Components, Learner
from sidetune_core.interfaces.networks import Base, Merger, Side, StagedSide
from sidetune_core.interfaces.tasks import Batch, Order, Predict, Task, TaskStream, shuffled
from sidetune_core.seeding import derive_seed, seeded
from sidetune_core.storage.atomic import home
from sidetune_core.storage.weights import Published, load_weights

__all__ = [
    "Base",
    "Batch",
    "BufferDict",
    "ClassHead",
    "ClassTask",
    "Components",
    "DataError",
    "Examples",
    "Features",
    "FitError",
    "Heads",
    "IMAGENET_MEAN",
    "IMAGENET_STD",
    "InputShapes",
    "Inputs",
    "Learner",
    "Merger",
    "OptionError",
    "Order",
    "PluginError",
    "Predict",
    "Published",
    "Renamed",
    "RunError",
    "Shape",
    "Side",
    "SidetuneError",
    "StagedSide",
    "Task",
    "TaskStream",
    "WeightsError",
    "at_least",
    "at_most",
    "derive_seed",
    "flat_size",
    "flatten_inputs",
    "home",
    "init_orthogonal",
    "load_weights",
    "more_than",
    "normalise",
    "option",
    "register_image_stats",
    "seeded",
    "shuffled",
]

_FORMER_NAMES = {
    "Act": "sidetune_core.api:Predict",
    "Parts": "sidetune_core.api:Components",
    **{
        name: f"sidetune_core:{name}"
        for name in ("Choice", "Results", "Run", "RunSpec", "SweptRun", "resume", "run", "sweep")
    },
    **{
        name: f"sidetune_core.rl:{name}"
        for name in (
            "Actor",
            "Categorical",
            "Expert",
            "Gaussian",
            "Observations",
            "Policy",
            "RolloutTask",
            "Step",
        )
    },
    "RolloutOptions": "sidetune_core.rl:RolloutOptions",
    "Worlds": "sidetune_core.rl:VectorEnv",
    "Recording": "sidetune_core.demonstrations:Demonstrations",
    "Trajectories": "sidetune_core.demonstrations:Trajectories",
    "collect": "sidetune_core.demonstrations:record_demonstrations",
    "open_recording": "sidetune_core.demonstrations:open_demonstrations",
}
"""Names of version 0.1 and where they are now; the old ones are removed in version 0.3."""


def __getattr__(name: str) -> Any:
    if name not in _FORMER_NAMES:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    module, _, attribute = _FORMER_NAMES[name].partition(":")
    warnings.warn(f"{__name__}.{name} is now {module}.{attribute}", DeprecationWarning, stacklevel=2)
    return resolve_name(_FORMER_NAMES[name])
