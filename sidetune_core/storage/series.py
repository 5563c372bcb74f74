"""All checkpoints of a run, as their JSON describes them; tensors are read one at a time."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import chain as concatenate
from pathlib import Path

import attrs
from torch import Tensor

from sidetune_core.config.identity import Identity, read_identity
from sidetune_core.storage.chain import Chain
from sidetune_core.storage.chain_file import BASE, Step, read_step
from sidetune_core.storage.checkpoint import tensors_at
from sidetune_core.storage.marks import Marks
from sidetune_core.storage.nested_state import tensor_names
from sidetune_core.storage.unusable import Unusable


@attrs.frozen(eq=False)
class Recorded:
    """A checkpoint after a task without its tensors."""

    chain: Chain
    """The files up to it, and possibly later ones."""
    index: int
    """Of its file in the chain."""
    done: Sequence[str]
    """Ids of the tasks that are finished."""
    identity: Identity | None

    def __str__(self) -> str:
        return f"after task {self.done[-1]}"

    @property
    def step(self) -> Step:
        """Its file."""
        return self.chain.steps[self.index]

    @property
    def path(self) -> Path:
        """Of its tensors."""
        return self.step.path

    @property
    def marks(self) -> Marks:
        """Sizes of the run folder's ``.jsonl`` files then."""
        return self.step.marks

    def read(self, names: Iterable[str]) -> dict[str, Tensor]:
        """Tensors as they were then, without those that cannot be read any more."""
        return tensors_at(self.path, names, self.chain)

    def digest(self, name: str) -> str | None:
        """The SHA-256 of a tensor; None if there was none."""
        version = self.chain.tensors.find(name, self.index)
        return version[1] if version is not None else None


class Series:
    """The checkpoints of a run by number of finished tasks, in chains that are read once each.

    Args:
        paths: of the checkpoints' tensors by number, in order.
    """

    def __init__(self, paths: Mapping[int, Path]) -> None:
        self.by_count: dict[int, Recorded] = {}
        """Those whose JSON is intact, with that of all files before them."""
        self.chains: list[Chain] = []
        self._reasons: dict[Path, str] = {}
        self._dependents: dict[Path, list[str]] = {}
        for count, path in paths.items():
            try:
                self.by_count[count] = self._open(path)
            except Unusable as error:
                self._note(error, path.stem)

    def _open(self, path: Path) -> Recorded:
        step = read_step(path)
        chain = self.chains[-1] if self.chains else None
        before = step.predecessor
        if chain is not None and before is not None and before[0] == chain.steps[-1].name:
            chain.extend(step)
        else:
            chain = Chain.open(path) if before is not None else Chain(path.parent, [step])
            self.chains.append(chain)
        try:
            identity = read_identity(chain.identity)
        except TypeError as error:
            raise Unusable(path.with_suffix(".json"), f"is damaged ({error})") from error
        return Recorded(chain, chain.last, list(chain.done), identity)

    def check(self) -> dict[str, list[str]]:
        """Check the tensors of all files, one after the other; see `problems`.

        Returns:
            By name of a file, the tensors that it lacks, which a later one has replaced.

        Raises:
            RunError: a file cannot be read at present.
        """
        dropped: dict[str, list[str]] = {}
        for chain in self.chains:
            for index, step in enumerate(chain.steps):
                try:
                    if missing := chain.check_own(index):
                        dropped[step.name] = missing
                except Unusable as error:
                    for later in chain.steps[index:]:
                        self._note(error, later.name)
        return dropped

    def problems(self) -> Iterator[str]:
        """A sentence for each file that is missing or damaged, with the checkpoints that need it."""
        for path, reason in self._reasons.items():
            names = dict.fromkeys(name for name in self._dependents[path] if name != BASE)
            yield f"{reason}, so {', '.join(names)} cannot be used"

    def _note(self, error: Unusable, name: str) -> None:
        self._reasons.setdefault(error.path, str(error))
        self._dependents.setdefault(error.path, []).append(name)


def changed_tensors(before: Recorded, after: Recorded, inner: Collection[str]) -> set[str]:
    """Names of the learner's tensors that a later checkpoint has with other content, or lacks.

    `inner` are names of tensors that are not the learner's own (see `inner_tensors`).
    """
    if before.chain is after.chain:
        steps = after.chain.steps[before.index + 1 : after.index + 1]
        names = {name for step in steps for name in (*step.tensors.changed, *step.tensors.gone)}
    else:
        names = set(before.chain.tensors.at(before.index))
    own = names.difference(inner)
    return {name for name in own if before.digest(name) not in (None, after.digest(name))}


def inner_tensors(chains: Sequence[Chain]) -> set[str]:
    """Names of tensors that are no entries of the state dict, but inside of extra or tasks' state."""
    steps = concatenate.from_iterable(chain.steps for chain in chains)
    deltas = concatenate.from_iterable((step.extra, step.task_states) for step in steps)
    return tensor_names([plain for delta in deltas for plain in delta.changed.values()])
