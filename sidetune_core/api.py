"""The public interface for plugin authors: what bases, sides, mergers, learners and envs are made of.

    from sidetune_core.api import Heads, Learner, Task, option

It imports the interfaces and nothing above them. Reinforcement learning has `sidetune_core.rl`, recorded
experts have `sidetune_core.demonstrations`, conformance checks have `sidetune_core.testing`. To run something
from Python, use `sidetune_core.run`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sidetune_core.lazy import lazy_names

if TYPE_CHECKING:
    from sidetune_core.config.nested_env import NestedEnv
    from sidetune_core.config.options import Renamed, at_least, at_most, more_than, option
    from sidetune_core.errors import (
        DataError,
        DataWarning,
        FitError,
        InputError,
        OptionError,
        PluginError,
        RunError,
        SidetuneError,
        WeightsError,
        shorten,
    )
    from sidetune_core.interfaces.added_layers import (
        called_layers,
        largest_rank,
        low_rank_update,
        parallel_adapter,
    )
    from sidetune_core.interfaces.buffers import BufferDict
    from sidetune_core.interfaces.capabilities import (
        Continuable,
        DeclaresImageInput,
        DeclaresStored,
        FitsImages,
        HasDataParts,
        HasDocuments,
        HasHubName,
        HasState,
        HasSubsets,
        HasSummary,
        HasTrainingMetrics,
        HasTrainingSize,
        HasVersions,
        HasVisualisations,
        HasVocabulary,
        LosesState,
        MadeFromObject,
        ResumesAtSomeSteps,
        Truncatable,
        vocabulary_size,
    )
    from sidetune_core.interfaces.cards import TaskCard
    from sidetune_core.interfaces.continuation import Block, Continuation, select_blocks
    from sidetune_core.interfaces.handlers import HasCard, HasHandler, Prediction, Preprocessed, TaskHandler
    from sidetune_core.interfaces.heads import ClassHead, Heads, normalise
    from sidetune_core.interfaces.inputs import Features, ImageInput, Inputs, InputShapes, Shape
    from sidetune_core.interfaces.joint_scores import TaskRule, joint_scores, task_scores
    from sidetune_core.interfaces.layers import (
        IMAGENET_MEAN,
        IMAGENET_STD,
        flat_size,
        flatten_inputs,
        init_orthogonal,
        register_image_stats,
    )
    from sidetune_core.interfaces.learner import Components, Learner
    from sidetune_core.interfaces.missions import MISSION, MissionFiLM, has_mission, without_mission
    from sidetune_core.interfaces.networks import Base, Merger, Side, StagedSide
    from sidetune_core.interfaces.outputs import Outputs
    from sidetune_core.interfaces.predictions import (
        ClassPrediction,
        LabelsPrediction,
        MapPrediction,
        ValuesPrediction,
        class_predictions,
        label_predictions,
    )
    from sidetune_core.interfaces.tasks import (
        Batch,
        DataPart,
        Order,
        Predict,
        Task,
        TaskStream,
        mean_loss,
        shuffled,
    )
    from sidetune_core.interfaces.training import ParamGroup, Phase, Trainable, TrainingStep
    from sidetune_core.io.cache_folders import cache_path, home
    from sidetune_core.io.image_files import open_image
    from sidetune_core.scenarios import Scenario
    from sidetune_core.seeding import derive_seed, seeded
    from sidetune_core.storage.weights import Published, load_weights
    from sidetune_core.supervised.classification import ClassTask, Examples
    from sidetune_core.supervised.multi_label import MultiLabel
    from sidetune_core.supervised.objectives import Classification, Measurement, Objective
    from sidetune_core.supervised.regression import Regression
    from sidetune_core.supervised.sampling import class_weights
    from sidetune_core.supervised.sources import LoadedExamples, Request, Source
    from sidetune_core.supervised.task import SupervisedTask

__all__ = [
    "Base",
    "Batch",
    "Block",
    "BufferDict",
    "ClassHead",
    "ClassPrediction",
    "ClassTask",
    "Classification",
    "Components",
    "Continuable",
    "Continuation",
    "DataError",
    "DataPart",
    "DataWarning",
    "DeclaresImageInput",
    "DeclaresStored",
    "Examples",
    "Features",
    "FitError",
    "FitsImages",
    "HasCard",
    "HasDataParts",
    "HasDocuments",
    "HasHandler",
    "HasHubName",
    "HasState",
    "HasSubsets",
    "HasSummary",
    "HasTrainingMetrics",
    "HasTrainingSize",
    "HasVersions",
    "HasVisualisations",
    "HasVocabulary",
    "Heads",
    "IMAGENET_MEAN",
    "IMAGENET_STD",
    "ImageInput",
    "InputError",
    "InputShapes",
    "Inputs",
    "LabelsPrediction",
    "Learner",
    "LoadedExamples",
    "LosesState",
    "MISSION",
    "MadeFromObject",
    "MapPrediction",
    "Measurement",
    "Merger",
    "MissionFiLM",
    "MultiLabel",
    "NestedEnv",
    "Objective",
    "OptionError",
    "Order",
    "Outputs",
    "ParamGroup",
    "Phase",
    "PluginError",
    "Predict",
    "Prediction",
    "Preprocessed",
    "Published",
    "Regression",
    "Renamed",
    "Request",
    "ResumesAtSomeSteps",
    "RunError",
    "Scenario",
    "Shape",
    "Side",
    "SidetuneError",
    "Source",
    "StagedSide",
    "SupervisedTask",
    "Task",
    "TaskCard",
    "TaskHandler",
    "TaskRule",
    "TaskStream",
    "Trainable",
    "TrainingStep",
    "Truncatable",
    "ValuesPrediction",
    "WeightsError",
    "at_least",
    "at_most",
    "cache_path",
    "called_layers",
    "class_predictions",
    "class_weights",
    "derive_seed",
    "flat_size",
    "flatten_inputs",
    "has_mission",
    "home",
    "init_orthogonal",
    "joint_scores",
    "label_predictions",
    "largest_rank",
    "load_weights",
    "low_rank_update",
    "mean_loss",
    "more_than",
    "normalise",
    "open_image",
    "option",
    "parallel_adapter",
    "register_image_stats",
    "seeded",
    "select_blocks",
    "shorten",
    "shuffled",
    "task_scores",
    "vocabulary_size",
    "without_mission",
]

_MODULES = {
    "Base": "interfaces.networks",
    "Batch": "interfaces.tasks",
    "Block": "interfaces.continuation",
    "BufferDict": "interfaces.buffers",
    "ClassHead": "interfaces.heads",
    "ClassPrediction": "interfaces.predictions",
    "ClassTask": "supervised.classification",
    "Classification": "supervised.objectives",
    "Components": "interfaces.learner",
    "Continuable": "interfaces.capabilities",
    "Continuation": "interfaces.continuation",
    "DataError": "errors",
    "DataPart": "interfaces.tasks",
    "DataWarning": "errors",
    "DeclaresImageInput": "interfaces.capabilities",
    "DeclaresStored": "interfaces.capabilities",
    "Examples": "supervised.classification",
    "Features": "interfaces.inputs",
    "FitError": "errors",
    "FitsImages": "interfaces.capabilities",
    "HasCard": "interfaces.handlers",
    "HasDataParts": "interfaces.capabilities",
    "HasDocuments": "interfaces.capabilities",
    "HasHandler": "interfaces.handlers",
    "HasHubName": "interfaces.capabilities",
    "HasState": "interfaces.capabilities",
    "HasSubsets": "interfaces.capabilities",
    "HasSummary": "interfaces.capabilities",
    "HasTrainingMetrics": "interfaces.capabilities",
    "HasTrainingSize": "interfaces.capabilities",
    "HasVersions": "interfaces.capabilities",
    "HasVisualisations": "interfaces.capabilities",
    "HasVocabulary": "interfaces.capabilities",
    "Heads": "interfaces.heads",
    "IMAGENET_MEAN": "interfaces.layers",
    "IMAGENET_STD": "interfaces.layers",
    "ImageInput": "interfaces.inputs",
    "InputError": "errors",
    "InputShapes": "interfaces.inputs",
    "Inputs": "interfaces.inputs",
    "LabelsPrediction": "interfaces.predictions",
    "Learner": "interfaces.learner",
    "LoadedExamples": "supervised.sources",
    "LosesState": "interfaces.capabilities",
    "MISSION": "interfaces.missions",
    "MadeFromObject": "interfaces.capabilities",
    "MapPrediction": "interfaces.predictions",
    "Measurement": "supervised.objectives",
    "Merger": "interfaces.networks",
    "MissionFiLM": "interfaces.missions",
    "MultiLabel": "supervised.multi_label",
    "NestedEnv": "config.nested_env",
    "Objective": "supervised.objectives",
    "OptionError": "errors",
    "Order": "interfaces.tasks",
    "Outputs": "interfaces.outputs",
    "ParamGroup": "interfaces.training",
    "Phase": "interfaces.training",
    "PluginError": "errors",
    "Predict": "interfaces.tasks",
    "Prediction": "interfaces.handlers",
    "Preprocessed": "interfaces.handlers",
    "Published": "storage.weights",
    "Regression": "supervised.regression",
    "Renamed": "config.options",
    "Request": "supervised.sources",
    "ResumesAtSomeSteps": "interfaces.capabilities",
    "RunError": "errors",
    "Scenario": "scenarios",
    "Shape": "interfaces.inputs",
    "Side": "interfaces.networks",
    "SidetuneError": "errors",
    "Source": "supervised.sources",
    "StagedSide": "interfaces.networks",
    "SupervisedTask": "supervised.task",
    "Task": "interfaces.tasks",
    "TaskCard": "interfaces.cards",
    "TaskHandler": "interfaces.handlers",
    "TaskRule": "interfaces.joint_scores",
    "TaskStream": "interfaces.tasks",
    "Trainable": "interfaces.training",
    "TrainingStep": "interfaces.training",
    "Truncatable": "interfaces.capabilities",
    "ValuesPrediction": "interfaces.predictions",
    "WeightsError": "errors",
    "at_least": "config.options",
    "at_most": "config.options",
    "cache_path": "io.cache_folders",
    "called_layers": "interfaces.added_layers",
    "class_predictions": "interfaces.predictions",
    "class_weights": "supervised.sampling",
    "derive_seed": "seeding",
    "flat_size": "interfaces.layers",
    "flatten_inputs": "interfaces.layers",
    "has_mission": "interfaces.missions",
    "home": "io.cache_folders",
    "init_orthogonal": "interfaces.layers",
    "joint_scores": "interfaces.joint_scores",
    "label_predictions": "interfaces.predictions",
    "largest_rank": "interfaces.added_layers",
    "load_weights": "storage.weights",
    "low_rank_update": "interfaces.added_layers",
    "mean_loss": "interfaces.tasks",
    "more_than": "config.options",
    "normalise": "interfaces.heads",
    "open_image": "io.image_files",
    "option": "config.options",
    "parallel_adapter": "interfaces.added_layers",
    "register_image_stats": "interfaces.layers",
    "seeded": "seeding",
    "select_blocks": "interfaces.continuation",
    "shorten": "errors",
    "shuffled": "interfaces.tasks",
    "task_scores": "interfaces.joint_scores",
    "vocabulary_size": "interfaces.capabilities",
    "without_mission": "interfaces.missions",
}

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

__getattr__ = lazy_names(__name__, _MODULES, _FORMER_NAMES)


def __dir__() -> list[str]:
    return [*__all__]
