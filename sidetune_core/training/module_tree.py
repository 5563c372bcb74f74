"""The modules and tensors of a network as flat lists, which follow it as it grows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain
from operator import attrgetter, methodcaller
from typing import Any, cast

from torch import Tensor, nn

from sidetune_core.interfaces.networks import Base

BLOCK = 64
"""Modules that are compared together."""

_version, _address = attrgetter("_version"), methodcaller("data_ptr")

_INFERENCE = -2
"""In place of the version of an inference tensor, which has none."""


class Entry:
    """A parameter or buffer under one of its names."""

    __slots__ = ("address", "is_parameter", "is_persistent", "name", "node", "storage", "tensor", "version")

    def __init__(
        self, name: str, tensor: Tensor, node: Node, is_parameter: bool, is_persistent: bool
    ) -> None:
        self.name, self.tensor, self.node = name, tensor, node
        self.is_parameter, self.is_persistent = is_parameter, is_persistent
        self.version = self.address = -1
        """As they were when the tensor was hashed."""
        self.storage = tensor.untyped_storage().data_ptr()


class Node:
    """A module under one of its names."""

    __slots__ = ("children", "entries", "is_stale", "keys", "module", "name", "nodes", "own", "parent")

    def __init__(self, module: nn.Module, name: str, parent: Node | None) -> None:
        self.module, self.name, self.parent = module, name, parent
        self.own: list[Entry] = []
        self.children: dict[str, Node] = {}
        self.entries: list[Entry] = []
        """Its own, then those of its children: the order of state dicts."""
        self.keys: list[str] = []
        self.nodes: list[Node] = []
        self.is_stale = True

    @property
    def prefix(self) -> str:
        return f"{self.name}." if self.name else ""

    def path(self) -> Iterator[Node]:
        """The module and those that contain it, up to the network."""
        node: Node | None = self
        while node is not None:
            yield node
            node = node.parent

    def decides_on_mode(self) -> Node:
        """The outermost module around this one that overrides `train` or `eval`; itself if none does."""
        own = [node for node in self.path() if _overrides(type(node.module), "train", "eval")]
        return own[-1] if own else self

    def is_as_recorded(self) -> bool:
        """Whether it has the same sub-modules and tensors as when it was read."""
        module = self.module
        return [(name, id(member)) for name, member in module._modules.items() if member is not None] == [
            (name, id(child.module)) for name, child in self.children.items()
        ] and [
            (name, id(member))
            for name, member in chain(module._parameters.items(), module._buffers.items())
            if member is not None
        ] == [(entry.name.rpartition(".")[2], id(entry.tensor)) for entry in self.own]

    def collect(self) -> None:
        """Bring the lists up to date."""
        if not self.is_stale:
            return
        children = self.children.values()
        for child in children:
            child.collect()
        own_keys = [entry.name for entry in self.own if entry.is_persistent]
        if _has_extra_state(self.module):
            own_keys.append(self.prefix + nn.modules.module._EXTRA_STATE_KEY_SUFFIX)
        self.entries = [*self.own, *chain.from_iterable(child.entries for child in children)]
        self.keys = [*own_keys, *chain.from_iterable(child.keys for child in children)]
        self.nodes = [self, *chain.from_iterable(child.nodes for child in children)]
        self.is_stale = False


class _Block:
    """Some modules, of which it is compared at once whether they have the same members."""

    def __init__(self, nodes: list[Node]) -> None:
        self.nodes = nodes
        self.record()

    def record(self) -> None:
        self._tables: list[Mapping[str, object]] = []
        for node in self.nodes:
            module = node.module
            self._tables += [module._modules, module._parameters, module._buffers]
        self._members = [table.values() for table in self._tables]  # views, which follow the tables
        self._recorded = self.state()

    def is_same(self) -> bool:
        return self.state() == self._recorded

    def state(self) -> tuple[list[str], list[int]]:
        return list(chain.from_iterable(self._tables)), list(map(id, chain.from_iterable(self._members)))


class ModuleTree:
    """The modules and tensors of a network, under all of their names.

    The objects are kept, so that no other one gets the id of one that was replaced.

    Args:
        network: to follow.
    """

    def __init__(self, network: nn.Module) -> None:
        self._network = network
        self.tensors: dict[str, Tensor] = {}
        self.names_at: dict[int, list[str]] = {}
        """Names of tensors by address of their storage."""
        self._by_name: dict[str, Entry] = {}
        self._gone: dict[str, None] = {}
        self._new: list[Node] = []
        self._updated: list[Node] = []
        self.custom = 0
        """Number of modules that make their part of a state dict by code of their own."""
        self._versions: list[int] = []
        self._addresses: list[int] = []
        self._root = Node(network, "", None)
        self.rebuild()

    def rebuild(self) -> None:
        """Read the whole network again."""
        known, pending = self._by_name, {id(node.module) for node in (*self._new, *self._updated)}
        self._blocks: list[_Block] = []
        self._unrecorded: list[_Block] = []
        self._new, self._updated = [], []
        self._root = Node(self._network, "", None)
        self._by_name, self.tensors, self.names_at, self.custom = {}, {}, {}, 0
        self._read(self._root, known)
        for name in known.keys() - self._by_name.keys():
            self._gone[name] = None
        if known:  # what is placed already need not be looked at
            self._new = [
                node
                for node in self._new
                if id(node.module) in pending or any(entry.version < 0 for entry in node.own)
            ]
        self._record_blocks()
        self._list()

    def update(self) -> bool:
        """Read modules whose members are others than before; returns whether there are any."""
        dirty = [
            (block, [node for node in block.nodes if not node.is_as_recorded()])
            for block in self._blocks
            if not block.is_same()
        ]
        if not dirty:
            return False
        removed = set[int]()
        for block, nodes in dirty:
            for node in nodes:
                if id(node) not in removed:
                    removed |= self._reread(node)
            self._unrecorded.append(block)
        if removed:
            self._blocks = [
                _Block(kept)
                for block in self._blocks
                if (kept := [node for node in block.nodes if id(node) not in removed])
            ]
        self._record_blocks()
        self._list()
        return True

    def written(self) -> list[Entry]:
        """Tensors that are new, or were written to since this was called last, as their versions say, and
        those that share memory with them."""
        versions = self._get_versions()
        addresses = list(map(_address, self.flat))
        if versions == self._versions and addresses == self._addresses and not self._inference:
            return []
        found = list[Entry]()
        for entry, version, address in zip(self.entries, versions, addresses, strict=True):
            if version != entry.version or address != entry.address or version == _INFERENCE:
                found.append(entry)
                if address != entry.address:
                    self._move(entry)
                entry.version, entry.address = version, address
        self._versions, self._addresses = versions, addresses
        return self.sharing(found)

    def sharing(self, entries: Iterable[Entry]) -> list[Entry]:
        """Tensors and those that share memory with them."""
        names = {
            name: None  # a dictionary keeps their order
            for entry in entries
            for name in (entry.name, *(self.names_at.get(entry.storage, ()) if entry.storage else ()))
        }
        return [self._by_name[name] for name in names if name in self._by_name]

    def snapshot(self) -> tuple[list[int], list[int], list[object]]:
        """What changes when a tensor is replaced, or changed in place."""
        states: list[object] = [block.state() for block in self._blocks]
        return self._get_versions(), list(map(_address, self.flat)), states

    def take_gone(self) -> list[str]:
        """Names of tensors that were removed since this was called last."""
        gone, self._gone = [name for name in self._gone if name not in self.tensors], {}
        return gone

    def take_new(self, is_placed: Callable[[Tensor], bool]) -> list[nn.Module]:
        """Modules that are new since this was called last, without their parts, and older ones with a tensor
        that is not where it belongs."""
        new, self._new = self._new, []
        updated, self._updated = self._updated, []
        ids = {id(node) for node in new}
        outermost = [node for node in new if node.parent is None or id(node.parent) not in ids]
        others = [node for node in updated if not all(is_placed(entry.tensor) for entry in node.own)]
        return [node.module for node in (*outermost, *others)]

    def parameters(self) -> list[nn.Parameter]:
        """Each once, in the order of the network's own method."""
        return distinct(entry for entry in self.entries if entry.is_parameter)

    def extra_state(self) -> dict[str, Any]:
        """What `get_extra_state` of modules returns, by key of the state dict."""
        suffix = nn.modules.module._EXTRA_STATE_KEY_SUFFIX
        return {node.prefix + suffix: node.module.get_extra_state() for node in self.with_extra_state}

    def _get_versions(self) -> list[int]:
        if self._inference:
            return [_INFERENCE if tensor.is_inference() else tensor._version for tensor in self.flat]
        return list(map(_version, self.flat))

    def _list(self) -> None:
        """Make the flat lists."""
        self._root.collect()
        self.entries, self.keys, self.nodes = self._root.entries, self._root.keys, self._root.nodes
        self.flat = [entry.tensor for entry in self.entries]
        self.modules = [node.module for node in self.nodes]
        self._inference = any(map(methodcaller("is_inference"), self.flat))
        self._versions = [entry.version for entry in self.entries]
        self._addresses = [entry.address for entry in self.entries]
        self.bases = [module for module in self.modules if isinstance(module, Base)]
        self.with_extra_state = [node for node in self.nodes if _has_extra_state(node.module)]

    def _read(self, node: Node, known: Mapping[str, Entry]) -> None:
        """Read a module that is new, and its parts."""
        self._new.append(node)
        self._add_to_block(node)
        self.custom += _is_custom(node.module)
        self._read_own(node, known)
        for name, child in node.module._modules.items():
            if child is not None:
                node.children[name] = Node(child, node.prefix + name, node)
                self._read(node.children[name], known)

    def _read_own(self, node: Node, known: Mapping[str, Entry]) -> None:
        module, prefix, own = node.module, node.prefix, list[Entry]()
        for name, tensor in chain(module._parameters.items(), module._buffers.items()):
            if tensor is None:
                continue
            is_parameter = name in module._parameters
            is_persistent = is_parameter or name not in module._non_persistent_buffers_set
            entry = known.get(prefix + name)
            if entry is None or entry.tensor is not tensor:
                entry = Entry(prefix + name, tensor, node, is_parameter, is_persistent)
            entry.node, entry.is_parameter, entry.is_persistent = node, is_parameter, is_persistent
            own.append(entry)
        node.own = own
        for entry in own:
            self._by_name[entry.name], self.tensors[entry.name] = entry, entry.tensor
            names = self.names_at.setdefault(entry.storage, [])
            if entry.name not in names:
                names.append(entry.name)

    def _reread(self, node: Node) -> set[int]:
        """Read a module whose members are others; returns ids of the nodes that are dropped."""
        before = {entry.name: entry for entry in node.own}
        for entry in node.own:
            self._drop(entry)
        self._read_own(node, before)
        removed = set[int]()
        former, node.children = node.children, {}
        added = list[Node]()
        for name, child in node.module._modules.items():
            if child is None:
                continue
            old = former.get(name)
            if old is not None and old.module is child:
                node.children[name] = former.pop(name)
            else:
                node.children[name] = Node(child, node.prefix + name, node)
                added.append(node.children[name])
        for old in former.values():
            old.collect()
            for part in old.nodes:
                removed.add(id(part))
                self.custom -= _is_custom(part.module)
            for entry in old.entries:
                self._drop(entry)
        for child_node in added:
            self._read(child_node, {})
        for parent in node.path():
            parent.is_stale = True
        self._updated.append(node)
        return removed

    def _drop(self, entry: Entry) -> None:
        self._gone[entry.name] = None
        self._by_name.pop(entry.name, None)
        self.tensors.pop(entry.name, None)
        self._leave(entry)

    def _leave(self, entry: Entry) -> None:
        names = self.names_at.get(entry.storage, [])
        if entry.name in names:
            names.remove(entry.name)
        if not names:
            self.names_at.pop(entry.storage, None)

    def _move(self, entry: Entry) -> None:
        """Note where the memory of a tensor is now."""
        storage = entry.tensor.untyped_storage().data_ptr()
        if storage != entry.storage:
            self._leave(entry)
            entry.storage = storage
            self.names_at.setdefault(storage, []).append(entry.name)

    def _add_to_block(self, node: Node) -> None:
        if not self._blocks or len(self._blocks[-1].nodes) >= BLOCK:
            self._blocks.append(_Block([]))
        self._blocks[-1].nodes.append(node)
        if not self._unrecorded or self._unrecorded[-1] is not self._blocks[-1]:
            self._unrecorded.append(self._blocks[-1])

    def _record_blocks(self) -> None:
        """Record blocks whose modules were read."""
        for block in self._unrecorded:
            block.record()
        self._unrecorded = []


def distinct(entries: Iterable[Entry]) -> list[nn.Parameter]:
    """Parameters, each once."""
    return [cast(nn.Parameter, tensor) for tensor in {id(one.tensor): one.tensor for one in entries}.values()]


def _overrides(cls: type, *methods: str) -> bool:
    return any(getattr(cls, method) is not getattr(nn.Module, method) for method in methods)


def _has_extra_state(module: nn.Module) -> bool:
    return _overrides(type(module), "get_extra_state")


def _is_custom(module: nn.Module) -> bool:
    """Whether a module's part of a state dict is made by other code than PyTorch's."""
    own = _overrides(type(module), "state_dict", "_save_to_state_dict")
    return own or bool(module._state_dict_hooks or module._state_dict_pre_hooks)
