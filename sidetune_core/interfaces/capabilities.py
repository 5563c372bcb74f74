"""What a component can do beyond the contract of its kind. The core asks with ``isinstance``; a component has
a capability by defining its members, and derives from nothing.

| capability | of | the core then |
|---|---|---|
| `HasDocuments` | tasks | saves the documents of each evaluation in the run folder |
| `HasVisualisations` | tasks | saves images of predictions after each task |
| `HasTrainingSize` | tasks | makes no batch larger than the training examples |
| `HasSubsets` | tasks | evaluates some of the examples within a task (``--train.eval-examples``) |
| `DeclaresStored` | modules of learners | counts their tensors as weights, exemplars or statistics |
| `HasTrainingMetrics` | tasks | logs more scalars in training |
| `HasState` | tasks | saves the task's own state in checkpoints |
| `ResumesAtSomeSteps` | tasks | writes checkpoints at these steps only |
| `LosesState` | tasks | says what is lost when it resumes within the task |
| `HasDataParts` | tasks | records what the data consist of, and says which of it has changed |
| `HasVersions` | tasks | records the versions of libraries that define the task |
| `HasVocabulary` | bases and envs of tokens | checks that tokenizer and embeddings belong together |
| `HasHubName` | bases | names the published weights in the model cards of adapters |
| `DeclaresImageInput` | bases | fills in the options of envs of images (`FitsImages`) |
| `FitsImages` | envs | asks for options that fit the base |
| `MadeFromObject` | bases and envs | makes them of objects that are given in Python |
| `HasSummary` | bases | shows what they found in a network in the header of a run |
| `Truncatable` | bases | nothing; sides start from the first layers |
| `Continuable` | bases | nothing; sides continue from a tap |

Tasks that collect experience derive from `sidetune_core.rl.RolloutTask`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

from torch import Tensor

if TYPE_CHECKING:
    from sidetune_core.interfaces.continuation import Block, Continuation
    from sidetune_core.interfaces.inputs import ImageInput
    from sidetune_core.interfaces.networks import Base
    from sidetune_core.interfaces.tasks import DataPart, Predict, Task


@runtime_checkable
class HasDocuments(Protocol):
    """A task that leaves texts, such as its predictions."""

    def documents(self) -> Mapping[str, str]:
        """Texts of the latest `evaluate` by file name (letters, digits, ``.``, ``-`` and ``_``)."""


@runtime_checkable
class HasVisualisations(Protocol):
    """A task that shows predictions as images."""

    def visualisations(self, predict: Predict) -> dict[str, Tensor]:
        """Images of predictions for some examples, (3, H, W) in [0, 1], by name (letters, digits and ``-``).

        The core calls this after each task of a stream, and writes the images to the run folder and
        TensorBoard.
        """


@runtime_checkable
class HasTrainingSize(Protocol):
    """A task with a fixed set of training examples."""

    def training_size(self) -> int:
        """Number of training examples. The core asks for no batch of more."""


@runtime_checkable
class HasSubsets(Protocol):
    """A task that can be evaluated on some of a split's examples."""

    def evaluate_subset(self, predict: Predict, split: str, examples: int) -> dict[str, float] | None:
        """`Task.evaluate` on that many examples of a split, the same ones each time; None if it cannot, so
        that the whole split is evaluated."""


StoredKind = Literal["weights", "exemplars", "statistics"]
"""What a learner stores: networks, examples, or what it has computed of earlier tasks."""


@runtime_checkable
class DeclaresStored(Protocol):
    """A module that says what kind of memory its tensors are, where the rules of `assembly.stored` do not
    know it: a buffer of features that are replayed."""

    stores: StoredKind
    """Of all its tensors, and those of the modules in it."""


@runtime_checkable
class HasTrainingMetrics(Protocol):
    """A task that has more to log in training than its loss."""

    def record(self) -> dict[str, float]:
        """Scalars of the latest steps by name, such as the return of the latest episodes."""


@runtime_checkable
class HasState(Protocol):
    """A task with a state of its own, such as running means of observations."""

    def state(self) -> dict[str, Any]:
        """Plain values and tensors for checkpoints."""

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Restore what `state` returned."""


@runtime_checkable
class ResumesAtSomeSteps(Protocol):
    """A task whose order of examples cannot begin at every step, as within a rollout."""

    def can_resume_at(self, step: int, batch_size: int) -> bool:
        """Whether `Task.train` can begin at a step; the core writes checkpoints at such steps only."""


@runtime_checkable
class LosesState(Protocol):
    """A task with state that no checkpoint holds, such as that of a simulator."""

    not_restored: str
    """What is lost when a run resumes within this task, in a sentence for the user."""


@runtime_checkable
class HasDataParts(Protocol):
    """A task that knows what its data consist of."""

    def data_parts(self) -> Mapping[str, DataPart]:
        """The parts by a name within the task, such as ``train/cat``; empty if they are unknown."""


@runtime_checkable
class HasVersions(Protocol):
    """A task that libraries of its own define, such as those of a simulator."""

    def versions(self) -> Mapping[str, str]:
        """Versions of these libraries by name; a run and its checkpoints record them."""


@runtime_checkable
class HasVocabulary(Protocol):
    """A base or an env whose inputs are tokens."""

    @property
    def vocabulary_size(self) -> int | None:
        """Number of tokens: of a base those with an embedding, of an env those of its tokenizer.

        Raises:
            DataError: the tokenizer is missing or damaged.
        """


@runtime_checkable
class HasHubName(Protocol):
    """A base whose weights are published on the Hugging Face Hub."""

    @property
    def hub_name(self) -> str:
        """``owner/name`` of the model; empty if these weights are not published there."""


@runtime_checkable
class DeclaresImageInput(Protocol):
    """A base that knows, before it is built, which images it was pretrained on."""

    @classmethod
    def image_input(cls, config: Any) -> ImageInput | None:
        """The images for these options; None where any size will do.

        Raises:
            OptionError: there is no such network.
        """


@runtime_checkable
class FitsImages(Protocol):
    """An env of images with options that can follow the base."""

    @classmethod
    def fit_images(cls, config: Any, images: ImageInput | None) -> Any:
        """The options with everything that the user leaves to the base filled in; no base declares its
        images if `images` is None."""


@runtime_checkable
class MadeFromObject(Protocol):
    """A component that wraps an object of the user's, which no spec can hold.

    `sidetune_core.run` passes the object, as in ``run(base=my_module)``; a spec records the component and its
    options, and the object is to be given again where the run is continued.
    """

    @classmethod
    def from_object(cls, given: Any, config: Any, *arguments: Any) -> Any:
        """The component, for the object and the arguments that its class takes."""


@runtime_checkable
class HasSummary(Protocol):
    """A base that has something to say about the network that was built."""

    def summary(self) -> str:
        """One line, such as its encoding and its taps."""


@runtime_checkable
class Truncatable(Protocol):
    """A base whose first layers are a network too; it initialises sides."""

    def first_layers(self, layers: int) -> Base:
        """A copy of the first `layers` layers, with an encoding of the same shape.

        Raises:
            FitError: the base has fewer layers, or cannot be truncated.
        """


@runtime_checkable
class Continuable(Protocol):
    """A base that is a chain: after each tap, its encoding depends on nothing else that it computed before.

    Its numbers of blocks are indices into `blocks`.
    """

    def blocks(self) -> Sequence[Block]:
        """Its blocks in order. What lies between two blocks, or after the last, belongs to no block and is
        always kept."""

    def continued(self, tap: int, keep: Collection[int] | None = None) -> Continuation:
        """A copy of what follows a tap, on the device of the base, in its mode, requiring gradients.

        Args:
            tap: index of the tap. Without a block left out, the copy computes the base's encoding from it.
            keep: numbers of the blocks to keep, of those with ``after >= tap``; None for all.

        Raises:
            FitError: there is no such tap, `keep` leaves out a block that is not optional or names one that
                does not follow the tap, or the encoding depends on more than the tap.
        """


def vocabulary_size(component: object) -> int | None:
    """The vocabulary size of a base or an env; None if its inputs are not tokens."""
    return component.vocabulary_size if isinstance(component, HasVocabulary) else None


def task_state(task: Task) -> dict[str, Any]:
    """A task's own state; empty if it has none."""
    return task.state() if _has_state(task) else {}  # type: ignore[attr-defined]


def set_task_state(task: Task, state: Mapping[str, Any]) -> None:
    """Restore what `task_state` returned."""
    if _has_state(task):
        task.set_state(state)  # type: ignore[attr-defined]


def _has_state(task: Task) -> bool:
    """``isinstance(task, HasState)``, which takes twenty times as long; all tasks are asked after each."""
    return hasattr(task, "state") and hasattr(task, "set_state")


def task_states(tasks: Sequence[Task]) -> dict[str, Any]:
    """The `task_state` of each task by id, without empty ones."""
    with_state = [
        task for task in tasks if hasattr(task, "state") and _has_state(task)
    ]  # without a call each
    return {task.id: state for task in with_state if (state := task_state(task))}
