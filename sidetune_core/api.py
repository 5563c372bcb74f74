"""The public interface: what plugins are made of, and how a run is started from Python.

from sidetune_core import api

run = api.run(api.RunSpec(learner="sidetune", env="digits"))
run.results.rows        # R
run.predict({"image": images}, "t0")
"""

from __future__ import annotations

from sidetune_core.config.options import at_least, at_most, more_than, option
from sidetune_core.config.spec import Choice, RunSpec
from sidetune_core.demonstrations.dataset import Recording, Trajectories, open_recording
from sidetune_core.demonstrations.record import collect
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
from sidetune_core.interfaces.learner import Learner, Parts
from sidetune_core.interfaces.networks import Base, Merger, Side, StagedSide
from sidetune_core.interfaces.tasks import Act, Batch, Order, Task, TaskStream, shuffled
from sidetune_core.results.metrics import Results
from sidetune_core.rl.distributions import Actor, Categorical, Gaussian, Policy
from sidetune_core.rl.ppo import RolloutOptions
from sidetune_core.rl.rollout_task import RolloutTask
from sidetune_core.rl.vector_env import Expert, Observations, Step, Worlds
from sidetune_core.seeding import derive_seed, seeded
from sidetune_core.storage.atomic import home
from sidetune_core.storage.weights import Published, load_weights
from sidetune_core.sweep.runner import SweptRun, sweep
from sidetune_core.training.run import Run, resume, run

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
