"""The public interface: what plugins are made of, and how a run is started from Python.

from sidetune_core import api

run = api.run(api.RunSpec(learner="sidetune", env="digits"))
run.results.rows        # R
run.predict({"image": images}, "t0")
"""

from __future__ import annotations

from sidetune_core.arrays import ClassTask, Examples
from sidetune_core.buffers import BufferDict
from sidetune_core.collecting import collect
from sidetune_core.engine import Run, resume, run
from sidetune_core.errors import (
    DataError,
    FitError,
    OptionError,
    PluginError,
    RunError,
    SidetuneError,
    WeightsError,
)
from sidetune_core.files import home
from sidetune_core.heads import ClassHead, Heads, normalise
from sidetune_core.learner import Learner, Parts
from sidetune_core.metrics import Results
from sidetune_core.options import at_least, at_most, more_than, option
from sidetune_core.parts import Base, Features, Inputs, InputShapes, Merger, Shape, Side, StagedSide
from sidetune_core.policies import Actor, Categorical, Gaussian, Policy
from sidetune_core.ppo import RolloutOptions
from sidetune_core.recordings import Recording, Trajectories, open_recording
from sidetune_core.rollouts import RolloutTask
from sidetune_core.seeding import derive_seed, seeded
from sidetune_core.spec import Choice, RunSpec
from sidetune_core.sweep import SweptRun, sweep
from sidetune_core.tasks import Act, Batch, Order, Task, TaskStream, shuffled
from sidetune_core.weights import Published, load_weights
from sidetune_core.worlds import Expert, Observations, Step, Worlds

__all__ = [
    "Act",
    "Actor",
    "Base",
    "Batch",
    "BufferDict",
    "Categorical",
    "Choice",
    "ClassHead",
    "ClassTask",
    "DataError",
    "Examples",
    "Expert",
    "Features",
    "FitError",
    "Gaussian",
    "Heads",
    "InputShapes",
    "Inputs",
    "Learner",
    "Merger",
    "Observations",
    "OptionError",
    "Order",
    "Parts",
    "PluginError",
    "Policy",
    "Published",
    "Recording",
    "Results",
    "RolloutOptions",
    "RolloutTask",
    "Run",
    "RunError",
    "RunSpec",
    "Shape",
    "Side",
    "SidetuneError",
    "StagedSide",
    "Step",
    "SweptRun",
    "Task",
    "TaskStream",
    "Trajectories",
    "WeightsError",
    "Worlds",
    "at_least",
    "at_most",
    "collect",
    "derive_seed",
    "home",
    "load_weights",
    "more_than",
    "normalise",
    "open_recording",
    "option",
    "resume",
    "run",
    "seeded",
    "shuffled",
    "sweep",
]
