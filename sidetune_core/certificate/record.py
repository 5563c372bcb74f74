"""The contents of ``certificate.json``: what earlier tasks depend on, and whether later tasks changed it.

`issue.certify` computes them after each stage of the stream; `verify.verify` checks them later from the run
folder.
"""

from __future__ import annotations

import attrs

from sidetune_core.io.files import check_shapes

FORMAT = 3
"""Version of the keys. Files of format 1 lack the key ``format``; `read_certificate` translates them. Format
2 lacks what was measured, and replays in other batches and with another seed."""


@attrs.frozen
class Change:
    """Largest absolute difference of two tensors, and the same divided by the largest earlier magnitude."""

    absolute: float
    relative: float


@attrs.frozen
class Probes:
    """Stored inputs of a task, with the outputs for them right after it was trained."""

    file: str
    sha256: str
    examples: int
    same: bool
    """Whether the outputs are still bit-identical."""
    change: Change | None
    """None where it cannot be measured: outputs have another shape, or are not finite."""
    finite: bool = True
    """Whether the outputs were numbers, and still are."""
    cause: str = ""
    """Why the outputs are not reproducible: `RANDOM`, `BATCH`, `EVALUATION_TRAINS`, `OUTSIDE` or
    `CONDITIONS`; empty if they are."""


MAX_CLASSES = 2**17
"""Of a task whose head is built to check a certificate."""


@attrs.frozen
class TaskSketch:
    """A classification task without its data: enough to rebuild its learner."""

    title: str
    inputs: dict[str, list[int]]
    classes: int

    def __attrs_post_init__(self) -> None:
        """Nothing of an absurd size is allocated to check a certificate."""
        check_shapes(self.inputs)
        if not 0 < self.classes <= MAX_CLASSES:
            raise ValueError(f"a task cannot have {self.classes} classes")


@attrs.frozen
class TaskRecord:
    """The certificate of one task."""

    id: str
    after: int
    """Number of tasks trained up to and including its stage: the number of its checkpoint."""
    verdict: str
    scope: str
    """`ALL_TENSORS` or `TENSORS_READ` for the verdict `ZERO`, otherwise empty."""
    tensors: dict[str, str]
    changed: dict[str, Change | None]
    """Those of `tensors` that changed; None where the tensor or its checkpoint is missing, or the change is
    not finite."""
    newly_read: list[str]
    """Tensors that are read now and were not read right after the task was trained."""
    no_longer_read: list[str]
    probes: Probes
    sketch: TaskSketch | None
    """None where only the env can make the task's head."""
    measured: list[float | None] = attrs.field(factory=list)
    """The task's metric on the test split after its stage and after each later one; None where it was not
    finite. Empty in formats 1 and 2."""
    processor: str = ""
    """Of the computer that trained the task; empty where it is not known."""
    conditions: list[str] = attrs.field(factory=list)
    """What changed since then in what decides on rounding: machine, precision, versions, threads (see
    `conditions.History`)."""
    read_in_evaluation: dict[str, str] = attrs.field(factory=dict)
    """Tensors that the first evaluation after the task's stage read and its probes did not, each with its
    SHA-256 at that time: those that a learner routes only other inputs through. The file lacks the key where
    there are none, as in certificates of earlier versions."""

    @property
    def all_tensors(self) -> dict[str, str]:
        """What the task read right after it was trained, for its probes or in its evaluation."""
        return self.tensors | self.read_in_evaluation


@attrs.frozen
class Stage:
    """The tasks that were trained together, and the existing tensors that this changed or removed."""

    tasks: list[str]
    changed: list[str]


@attrs.frozen
class Certificate:
    """The contents of ``certificate.json``."""

    statement: str
    verdict: str
    trained: list[str]
    tasks: list[TaskRecord]
    stages: list[Stage]
    now: dict[str, str]
    files: dict[str, str] = attrs.field(factory=dict)
    """SHA-256 of task cards, documents and visualisations, by path in the run folder."""
    processor: str = ""
    """Of the computer that issued the certificate; empty where it is not known."""
    format: int = FORMAT
