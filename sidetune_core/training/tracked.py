"""A learner that is followed from stage to stage, so that a task costs what it adds and changes.

Walking over the modules of a learner, hashing its tensors and building its state dict take longer with every
task that it has learned. A `TrackedLearner` does each once and then compares flat lists: the ids of members,
and for each tensor its address and how often it was written to (`torch.Tensor._version`), which takes about
a millisecond for a thousand modules. Only what differs is walked over and hashed.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import cast

import attrs
from torch import Tensor, nn

from sidetune_core.errors import PluginError, shorten
from sidetune_core.hashing import digests, tensor_digest
from sidetune_core.interfaces.learner import Learner
from sidetune_core.interfaces.networks import Base
from sidetune_core.interfaces.training import Trainable, members
from sidetune_core.storage.checkpoint_content import Changes
from sidetune_core.system.device import Machine
from sidetune_core.training.module_tree import Entry, ModuleTree, Node, parameters, position

SAMPLE = 8
"""Modules, of which a refresh hashes the tensors although they seem unchanged: others each time."""

ALWAYS_THOROUGH = 8
"""Stages at whose end all tensors are hashed; after them, whenever their number has doubled."""


SORTED_FRACTION = 16
"""Names are sorted where they are a smaller fraction of all, and looked for in the order of all otherwise."""


@attrs.frozen
class Difference:
    """Names of tensors, by what happened to them."""

    changed: frozenset[str] = frozenset()
    """They existed before, with other bits."""
    new: frozenset[str] = frozenset()
    gone: frozenset[str] = frozenset()

    def __bool__(self) -> bool:
        return bool(self.changed or self.new or self.gone)

    @property
    def replaced(self) -> frozenset[str]:
        """Names that existed and have no longer the bits that they had."""
        return self.changed | self.gone


class Journal:
    """What has changed since some moment, as a `TrackedLearner` notices it."""

    def __init__(self, before: Mapping[str, str | None] | None = None) -> None:
        self.before = dict(before or {})
        """The digest that a tensor had then, for those that were new, changed or gone at some time since;
        None if it did not exist."""

    def difference(self, now: Mapping[str, str]) -> Difference:
        """What differs now; a tensor that has its former bits again does not."""
        touched = [(name, before, now.get(name)) for name, before in self.before.items()]
        return Difference(
            frozenset(name for name, old, new in touched if None not in (old, new) and old != new),
            frozenset(name for name, old, new in touched if old is None and new is not None),
            frozenset(name for name, old, new in touched if old is not None and new is None),
        )


class Moment(Mapping[str, str]):
    """The digests of a state dict at some moment: those of now, with what a journal has noted since."""

    def __init__(self, now: Mapping[str, str], journal: Journal, tracked: TrackedLearner) -> None:
        self._now, self._journal, self._tracked = now, journal, tracked

    def __getitem__(self, name: str) -> str:
        if name in self._journal.before:
            before = self._journal.before[name]
            if before is None:
                raise KeyError(name)
            return before
        if name in self._tracked.transient:
            raise KeyError(name)
        return self._now[name]

    def __iter__(self) -> Iterator[str]:
        present = [key for key in self._tracked.state_keys if key in self]
        yield from present
        gone = self._journal.before.keys() - set(present) - self._tracked.transient
        yield from sorted(name for name in gone if self._journal.before[name] is not None)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __reduce__(self) -> tuple[type[dict[str, str]], tuple[dict[str, str]]]:
        return dict, (dict(self),)

    def end(self) -> None:
        """Follow the learner no longer: nothing is looked up any more."""
        self._tracked.forget(self._journal)


class TrackedLearner:
    """A learner's modules and tensors, and the digests of its tensors, kept up to date without walking over
    all of it after every task.

    Writes in place through ``.data`` or a NumPy view do not change a tensor's version. So a refresh also
    hashes what was trainable or in training mode, and a rotating sample of the rest; a thorough one hashes
    everything.

    Args:
        learner: to follow.
        always_thorough: hash all tensors in every refresh.
        is_hashed: hash them now; without it, `refresh` and what needs digests cannot be used.
    """

    def __init__(self, learner: Learner, always_thorough: bool = False, is_hashed: bool = True) -> None:
        self.learner = learner
        self.always_thorough = always_thorough
        self.digests: dict[str, str] = {}
        """SHA-256 by name of the tensors of the state dict and of non-persistent buffers, as of the last
        refresh."""
        self.writes_unseen: list[str] = []
        """Names of tensors that were written to through ``.data``, as far as that was found."""
        self.transient: set[str] = set()
        """Names of buffers that the state dict leaves out."""
        self._tree = ModuleTree(learner)
        self._active: dict[str, Node] = {}
        self._unplaced: dict[str, Node] = {}
        self._is_placed = False
        self._released: dict[str, Entry] = {}
        self._journals: list[Journal] = []
        self._was_thorough = True
        self._custom: dict[str, str] = {}
        self._custom_keys: list[str] = []
        if is_hashed:
            self.refresh(thorough=True)

    def close(self) -> None:
        """Follow the learner no longer."""
        self._tree.close()

    # What the learner consists of, as of the last look at it.

    @property
    def modules(self) -> list[nn.Module]:
        """Every module under each of its names, in the order of `nn.Module.named_modules`."""
        return [node.module for node in self._tree.nodes]

    @property
    def parameters(self) -> list[nn.Parameter]:
        """As `nn.Module.parameters` returns them."""
        tree = self._tree
        return parameters(tree.in_order(entry for entry in tree.entries.values() if entry.is_parameter))

    @property
    def tensors(self) -> Mapping[str, Tensor]:
        """Every parameter and buffer under each of its names, non-persistent ones included."""
        return self._tree.tensors

    @property
    def names_at(self) -> Mapping[int, list[str]]:
        """The names of the tensors in a storage, by its address."""
        return self._tree.names_at

    @property
    def bases(self) -> list[Base]:
        """Its bases, each once."""
        return list(dict.fromkeys(cast(Base, node.module) for node in self._tree.bases))

    @property
    def outermost_bases(self) -> list[Base]:
        """Those that are no part of another base."""
        nodes = (node for node in self._tree.bases if not _is_in_base(node))
        return list(dict.fromkeys(cast(Base, node.module) for node in nodes))

    @property
    def state_keys(self) -> Sequence[str]:
        """The keys of its state dict, in order."""
        return self._custom_keys if self._tree.custom else self._tree.keys

    @property
    def named_digests(self) -> Mapping[str, str]:
        """Digests of parameters and buffers only, which are all, unless a state dict has others."""
        if not self._tree.custom:
            return self.digests
        return {name: self.digests[name] for name in self._tree.tensors}

    @property
    def state_count(self) -> int:
        """Number of tensors of its state dict."""
        tree = self._tree
        return len(self._custom) if tree.custom else len(tree.keys) - len(tree.with_extra_state)

    @property
    def count(self) -> int:
        """Number of scalars in all parameters, each counted once."""
        return self._tree.count

    def with_bases(self, names: Collection[str]) -> set[str]:
        """Names of tensors, with those of all tensors of a base that one of them belongs to."""
        found = set(names)
        for node in self._tree.bases:
            below = f"{node.name}." if node.name else ""
            if any(name.startswith(below) for name in names):
                found.update(entry.name for part in node.walk() for entry in part.own)
        return found

    def state_digests(self) -> dict[str, str]:
        """Digests of the tensors of the state dict, in its order."""
        if self._tree.custom:
            return dict(self._custom)
        return {key: self.digests[key] for key in self._tree.keys if key in self.digests}

    def name_of(self, item: nn.Module | nn.Parameter) -> str | None:
        """A name of a module or parameter; None for one that is not the learner's."""
        tree = self._tree
        owners = tree.nodes_of(item) if isinstance(item, nn.Module) else tree.entries_of(item)
        return min((one.name for one in owners), default=None)

    def trainable(self) -> list[nn.Parameter]:
        """The parameters that require a gradient, in the order of `nn.Module.parameters`."""
        return parameters(self._tree.in_order(self._trainable()))

    def below(self, kind: type[nn.Module]) -> set[int]:
        """Ids of the trainable parameters that belong to a module of some class, or to a part of one."""
        return {
            id(entry.tensor)
            for entry in self._trainable()
            for alias in self._tree.entries_of(entry.tensor)
            if any(isinstance(node.module, kind) for node in alias.node.path())
        }

    def in_training(self) -> set[str]:
        """Names of the tensors that training may change now: what is trainable or in training mode."""
        self.look()
        return {
            entry.name
            for node in self._active.values()
            for entry in node.own
            if node.module.training or entry.tensor.requires_grad
        }

    # What is done to it.

    def look(self) -> None:
        """Notice which modules and tensors are other objects now, or new, or gone."""
        self._tree.update(self._active.values())
        self._take_new()

    def _take_new(self) -> None:
        for node in self._tree.take_new():
            self._unplaced[node.name] = self._active[node.name] = node

    def place(self, machine: Machine) -> None:
        """Move what is new to the device."""
        self.look()
        new, self._unplaced = self._unplaced, {}
        if self._tree.root.name in new and not self._is_placed:
            self._is_placed = True
            machine.place(self.learner)
            return
        for node in new.values():
            if not all(_is_placed(machine, entry.tensor) for entry in node.own):
                machine.place(node.module)

    def check_owned(self, trainable: Trainable, method: str) -> None:
        """Check what a method of the learner has returned.

        Raises:
            PluginError: an item is not the learner's.
        """
        for item in members(trainable):
            if self.name_of(item) is None:
                raise PluginError(
                    f"{type(self.learner).__name__}.{method}() returned a {type(item).__name__} that it does "
                    "not own; assign it to an attribute of the learner first"
                )

    def freeze(self) -> None:
        """No gradients, and eval mode: in training mode batch norm would drift even without a gradient."""
        self.look()
        self._note_released()
        for entry in self._trainable():
            entry.tensor.requires_grad_(False)
        for node in self._active.values():
            if node.module.training:
                node.decides_on_mode().module.eval()
        self._active = {}

    def set_trainable(self, trainable: Trainable) -> None:
        """Freeze the learner, then release some of its modules and parameters."""
        self.freeze()
        for item in members(trainable):
            item.requires_grad_(True)
            if isinstance(item, nn.Module):
                item.train()
                nodes = [part for node in self._tree.nodes_of(item) for part in node.walk()]
            else:
                nodes = [entry.node for entry in self._tree.entries_of(item)]
            self._active |= {node.name: node for node in nodes}
        self._note_released()

    # What has changed.

    def journal(
        self, before: Mapping[str, str] | None = None, now: Mapping[str, str] | None = None
    ) -> Journal:
        """A journal that the next refreshes keep.

        Args:
            before: digests at the moment to compare with, by name; None for the present.
            now: the present ones, those of the state dict by default.
        """
        journal = Journal()
        if before is not None:
            now = self.state_digests() if now is None else now
            for name in before.keys() | now.keys():
                if before.get(name) != now.get(name):
                    journal.before[name] = before.get(name)
        self._journals.append(journal)
        return journal

    def before(self) -> Mapping[str, str]:
        """The digests of the state dict as they are now, whatever changes later."""
        return self.state_digests() if self._tree.custom else Moment(self.digests, self.journal(), self)

    def forget(self, journal: Journal) -> None:
        """Keep a journal no longer."""
        self._journals = [one for one in self._journals if one is not journal]

    def refresh(
        self, thorough: bool = False, decides: bool = False, within: Collection[str] | None = None
    ) -> Difference:
        """Bring all of this up to date.

        Args:
            thorough: hash every tensor.
            decides: which values of R are carried over, at the end of a stage.
            within: names of tensors whose versions to look at, besides those of tensors that are new or in
                training; a write to another one is noticed by the next refresh. None for all.

        Returns:
            What differs from the last refresh.

        Raises:
            PluginError: a tensor was written to in a way that went unnoticed for some stages.
        """
        tree, every = self._tree, thorough or self.always_thorough or bool(self.writes_unseen)
        self.look()
        gone_seen, sample = tree.gone(), list[Entry]()
        if every:
            tree.rebuild()
            nodes = ((name, tree.node(name)) for name in self._active)
            self._active = {name: node for name, node in nodes if node is not None}
        else:
            sample = tree.look_closely(SAMPLE)
        self._take_new()
        every = every or bool(tree.custom)
        self._note_released()
        for entry in self._released.values():
            tree.move(entry)
        looked_at = None
        if within is not None and not every:
            active = (entry for node in self._active.values() for entry in node.own)
            named = (tree.entries[name] for name in within if name in tree.entries)
            looked_at = [*self._released.values(), *active, *sample, *named]
        seen = {entry.name: entry for entry in tree.written(looked_at)}
        seen |= {entry.name: entry for entry in tree.sharing(self._released.values())}
        others = tree.entries.values() if every else sample
        found = {entry.name: tensor_digest(entry.name, entry.tensor).hex() for entry in seen.values()}
        unseen = [name for name in tree.gone() - gone_seen if name in self.digests]
        for entry in others:
            if entry.name in seen or tree.entries.get(entry.name) is not entry:
                continue
            digest = tensor_digest(entry.name, entry.tensor).hex()
            tree.move(entry)
            if entry.name in self.digests and digest != self.digests[entry.name]:
                unseen.append(entry.name)
            found[entry.name] = digest
        gone = {name for name in tree.take_gone() if name in self.digests}
        if tree.custom or self._custom:
            state = self._custom_state()
            found |= {name: digest for name, digest in state.items() if name not in tree.tensors}
            gone |= self._custom.keys() - state.keys()
            self._custom = state
        self.transient |= {entry.name for entry in seen.values() if not entry.is_persistent}
        difference = self._adopt(found, frozenset(gone - found.keys() - tree.tensors.keys()))
        self._released = {}
        self._note_released()
        if unseen:
            self._report(unseen)
        if decides:
            self._was_thorough = every
        return difference

    def in_order(self, names: Collection[str]) -> list[str]:
        """Names of tensors that a state dict has or had, in its order."""
        present = [key for key in self.state_keys if key in names]
        return [*present, *sorted(set(names).difference(present) - self.transient)]

    def changes(self, journal: Journal) -> Changes | nn.Module:
        """What a checkpoint has to hold of the learner, after another one: all of it, if a module makes its
        part of the state dict by code of its own.

        Args:
            journal: what has changed since the other one.
        """
        if self._tree.custom:
            return self.learner
        tensors = dict(self._touched(journal))
        extra = self._tree.extra_state()
        of_extra = {key: value for key, value in extra.items() if isinstance(value, Tensor)}
        keys = self._tree.keys
        return Changes(
            tensors=tensors | of_extra,
            digests={key: self.digests[key] for key in tensors},
            gone=[name for name in journal.before if name not in tensors],
            extra={key: value for key, value in extra.items() if key not in of_extra},
            keys=keys,
        )

    def _touched(self, journal: Journal) -> Iterator[tuple[str, Tensor]]:
        """The tensors of the state dict that a journal names, in order."""
        entries = self._tree.entries
        if len(journal.before) * SORTED_FRACTION > len(entries):
            names = [key for key in self.state_keys if key in journal.before and key in entries]
        else:
            touched = [entries[name] for name in journal.before if name in entries]
            ordered = sorted((entry for entry in touched if entry.is_persistent), key=position)
            names = [entry.name for entry in ordered]
        for name in names:
            yield name, entries[name].tensor

    def _adopt(self, found: Mapping[str, str], gone: frozenset[str]) -> Difference:
        changed, new = set[str](), set[str]()
        for name, digest in found.items():
            before = self.digests.get(name)
            if before == digest:
                continue
            (new if before is None else changed).add(name)
            self._note(name, before)
            self.digests[name] = digest
        for name in gone:
            self._note(name, self.digests.pop(name, None))
        return Difference(frozenset(changed), frozenset(new), gone)

    def _note(self, name: str, before: str | None) -> None:
        for journal in self._journals:
            journal.before.setdefault(name, before)

    def _custom_state(self) -> dict[str, str]:
        """Digests of a state dict that a module makes by code of its own, whose tensors are not followed."""
        state = self.learner.state_dict()
        self._custom_keys = list(state)
        return digests({key: value for key, value in state.items() if isinstance(value, Tensor)})

    def _report(self, names: Collection[str]) -> None:
        """Tensors were written to, and their versions do not say so."""
        self.writes_unseen += [name for name in names if name not in self.writes_unseen]
        if self._was_thorough:
            return  # it was found at once, and from now on everything is hashed
        raise PluginError(
            f"{type(self.learner).__name__} writes to {shorten(sorted(names))} through .data or a NumPy "
            "view, which PyTorch does not record: values of R since all tensors were last hashed may be "
            "carried over from before such a write. Write in place under torch.no_grad() instead, or hash "
            "and measure everything after every task: --train.evaluate all"
        )

    def _trainable(self) -> list[Entry]:
        own = (entry for node in self._active.values() for entry in node.own)
        return [entry for entry in own if entry.is_parameter and entry.tensor.requires_grad]

    def _note_released(self) -> None:
        """Note the tensors that training may change now."""
        for node in self._active.values():
            for entry in node.own:
                if node.module.training or entry.tensor.requires_grad:
                    self._released[entry.name] = entry


def is_thorough(stage: int) -> bool:
    """Whether all tensors are hashed, and all probes replayed, after a stage.

    Args:
        stage: number of stages so far, from 1.
    """
    return stage <= ALWAYS_THOROUGH or not stage & (stage - 1)


def _is_in_base(node: Node) -> bool:
    return any(isinstance(above.module, Base) for above in node.path() if above is not node)


def _is_placed(machine: Machine, tensor: Tensor) -> bool:
    """Whether `Machine.place` would leave a tensor as it is."""
    if tensor.device != machine.device or tensor.ndim > 4:
        return False
    return tensor.ndim < 4 or tensor.is_contiguous(memory_format=machine.memory_format)
