"""The modules and tensors of a network, which are read once and then followed as the network grows.

PyTorch calls a hook wherever a module, parameter or buffer is registered, so that modules that stay the same
need not be looked at. Removals are noticed by the number of members, at the network itself, at its direct
parts, and at what is being trained; elsewhere, and where a table of members was written to directly, they are
noticed by `look_closely`, which goes through all modules in turn.
"""

from __future__ import annotations

import weakref
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import chain, compress, islice
from operator import attrgetter, is_, ne
from typing import Any, cast

from torch import Tensor, nn
from torch.nn.modules import module as registration

from sidetune_core.interfaces.networks import Base

_version = attrgetter("_version")

_UNKNOWN, _INFERENCE = -1, -2
"""In place of the version of a tensor that was not hashed yet, and of an inference tensor, which has none."""


class Entry:
    """A parameter or buffer under one of its names."""

    __slots__ = (
        "address",
        "index",
        "is_parameter",
        "is_persistent",
        "name",
        "node",
        "storage",
        "tensor",
        "version",
    )

    def __init__(self, name: str, tensor: Tensor, node: Node) -> None:
        self.name, self.tensor, self.node = name, tensor, node
        self.is_parameter = self.is_persistent = True
        self.version = _UNKNOWN
        """When it was hashed."""
        self.index = -1
        """Among the tensors whose versions are listed."""
        self.address, self.storage = tensor.data_ptr(), tensor.untyped_storage().data_ptr()


class Node:
    """A module under one of its names."""

    __slots__ = ("_keys", "_parts", "children", "module", "name", "own", "parent", "rank")

    def __init__(self, module: nn.Module, name: str, parent: Node | None) -> None:
        self.module, self.name, self.parent = module, name, parent
        self.own: list[Entry] = []
        self.children: dict[str, Node] = {}
        self.rank = 0
        """Among the children of its parent."""
        self._keys: list[str] | None = None
        self._parts: list[nn.Module] | None = None

    @property
    def prefix(self) -> str:
        return f"{self.name}." if self.name else ""

    def path(self) -> Iterator[Node]:
        """The module and those that contain it, up to the network."""
        node: Node | None = self
        while node is not None:
            yield node
            node = node.parent

    def walk(self) -> Iterator[Node]:
        """The module and its parts, in the order of `nn.Module.named_modules`."""
        yield self
        for child in self.children.values():
            yield from child.walk()

    def keys(self) -> list[str]:
        """Its keys of a state dict, in order."""
        if self._keys is None:
            own = [entry.name for entry in self.own if entry.is_persistent]
            if has_extra_state(self.module):
                own.append(self.prefix + EXTRA_STATE)
            children = self.children.values()
            self._keys = [*own, *chain.from_iterable([child.keys() for child in children])]
        return self._keys

    def add_child(self, name: str, module: nn.Module) -> Node:
        """A part that comes last."""
        child = Node(module, self.prefix + name, self)
        child.rank = len(self.children)
        self.children[name] = child
        return child

    def forget_members(self, added: Sequence[Node] | None = None) -> None:
        """The members of the module are others now: only those `added` at the end, if they are given."""
        keys = self._keys
        if added is None:
            self._parts = None
        elif self._parts is not None:
            self._parts += [child.module for child in added]
        for node in self.path():
            node._keys = None
        if added is not None and keys is not None:
            self._keys = [*keys, *chain.from_iterable([child.keys() for child in added])]

    def decides_on_mode(self) -> Node:
        """The outermost module around this one that overrides `train` or `eval`; itself if none does."""
        own = [node for node in self.path() if _overrides(type(node.module), "train", "eval")]
        return own[-1] if own else self

    def has_as_many(self) -> bool:
        """Whether it has as many members as when it was read."""
        module = self.module
        tensors = len(module._parameters) + len(module._buffers)
        return len(module._modules) == len(self.children) and tensors == len(self.own)

    def ends_with(self, names: Sequence[str]) -> bool:
        """Whether its last parts have these names, and nothing else was added or removed since it was read.

        A part that was replaced by writing to the table of parts directly is not noticed.
        """
        parts, own = self.module._modules, len(self.module._parameters) + len(self.module._buffers)
        return (
            len(parts) == len(self.children) + len(names)
            and own == len(self.own)
            and [*islice(reversed(parts), len(names))] == [*reversed(names)]
            and all(name not in self.children and parts[name] is not None for name in names)
        )

    def is_as_read(self) -> bool:
        """Whether it has the same members as when it was read."""
        module = self.module
        parts = module._modules
        if len(parts) != len(self.children):
            parts = {name: part for name, part in parts.items() if part is not None}
        if self._parts is None:
            self._parts = [child.module for child in self.children.values()]
        if list(parts) != list(self.children) or not all(map(is_, parts.values(), self._parts)):
            return False
        own = [(name, id(one)) for name, one in _named_own(module) if one is not None]
        return own == [(entry.name.rpartition(".")[2], id(entry.tensor)) for entry in self.own]


EXTRA_STATE = registration._EXTRA_STATE_KEY_SUFFIX
"""The end of the key of the extra state of a module."""


class ModuleTree:
    """The modules and tensors of a network, under all of their names.

    The objects are kept, so that no other one gets the id of one that was replaced.

    Args:
        network: to follow.
    """

    def __init__(self, network: nn.Module) -> None:
        self.network = network
        self.tensors: dict[str, Tensor] = {}
        self.names_at: dict[int, list[str]] = {}
        """Names of tensors by address of their storage."""
        self.custom: list[Node] = []
        """Modules that make their part of a state dict by code of their own."""
        self.bases: list[Node] = []
        self.with_extra_state: list[Node] = []
        self.count = 0
        """Number of scalars in all parameters, each counted once."""
        self._entries: dict[str, Entry] = {}
        self._nodes: dict[str, Node] = {}
        self._nodes_of: dict[int, list[Node]] = {}
        self._entries_of: dict[int, list[Entry]] = {}
        self._counted: dict[int, int] = {}
        self._gone: dict[str, None] = {}
        self._new: dict[str, Node] = {}
        self._registered: list[tuple[nn.Module, str, object]] = []
        self._unhashed: list[Entry] = []
        self._often: dict[str, Node] = {}
        self._queue: list[str] = []
        self._versions: list[int] = []
        self._has_inference = False
        self.rebuild()
        self._handles = _hook_registration(weakref.WeakMethod(self._note_registered))
        weakref.finalize(self, _remove, self._handles)

    def close(self) -> None:
        """Follow the network no longer."""
        _remove(self._handles)

    @property
    def entries(self) -> Mapping[str, Entry]:
        """Every parameter and buffer by name, non-persistent ones included."""
        return self._entries

    @property
    def keys(self) -> list[str]:
        """The keys of the state dict, in order."""
        return self.root.keys()

    @property
    def nodes(self) -> list[Node]:
        """Every module under each name, in the order of `nn.Module.named_modules`."""
        return list(self.root.walk())

    def rebuild(self) -> None:
        """Read the whole network again."""
        known = dict(self._entries)
        self._entries, self.tensors, self.names_at = {}, {}, {}
        self._nodes, self._nodes_of, self._entries_of = {}, {}, {}
        self.custom, self.bases, self.with_extra_state, self._registered = [], [], [], []
        self.count, self._counted = 0, {}
        self.root = Node(self.network, "", None)
        pending = set(self._new)
        self._read(self.root, known)
        if known:  # what was placed before is where it belongs
            self._new = {
                name: node
                for name, node in self._new.items()
                if name in pending or any(entry.name not in known for entry in node.own)
            }
        for name in known.keys() - self._entries.keys():
            self._gone[name] = None
        self._often = {node.name: node for node in (self.root, *self.root.children.values())}
        self._list_versions()

    def update(self, active: Iterable[Node] = ()) -> None:
        """Read modules whose members are others than before.

        Args:
            active: modules that are being trained.
        """
        registered = self._registered
        self._registered = []
        others = self._append_parts(registered)
        dirty = {node.name: node for module in others for node in self._nodes_of.get(id(module), ())}
        dirty |= {node.name: node for node in self._often.values() if not node.has_as_many()}
        dirty |= {node.name: node for node in active if self._nodes.get(node.name) is node}
        self._reread([node for node in dirty.values() if not node.is_as_read()])

    def look_closely(self, count: int) -> list[Entry]:
        """Read the next `count` modules of all, in turn, and return their tensors."""
        chosen = list[Node]()
        while self._queue and len(chosen) < count:
            node = self._nodes.get(self._queue.pop())
            if node is not None:
                chosen.append(node)
        if not self._queue:
            self._queue = list(self._nodes)
        self._reread([node for node in chosen if not node.is_as_read()])
        return [entry for node in chosen for entry in node.own]

    def written(self, within: Iterable[Entry] | None = None) -> list[Entry]:
        """Tensors that are new, or were written to since this was called last, as their versions say, and
        those that share memory with them.

        Args:
            within: look at these and the new ones only, so that others are returned by a later call.
        """
        new, self._unhashed = self._unhashed, []
        if within is not None:
            return self._written_of({entry.name: entry for entry in (*new, *within)})
        if self._has_inference:
            versions = [_INFERENCE if one.is_inference() else one._version for one in self._watched]
        else:
            versions = list(map(_version, self._watched))
        if versions == self._versions and not self._has_inference:
            return []
        found = []
        differs = map(ne, versions, self._versions)
        indices = list(compress(range(len(versions)), differs))
        if self._has_inference:
            indices += [index for index, version in enumerate(versions) if version == _INFERENCE]
        for index in indices:
            entry = self._watched_entries[index]
            entry.version = versions[index]
            self.move(entry)
            found.append(entry)
        self._versions = versions
        return self.sharing(found)

    def _written_of(self, entries: Mapping[str, Entry]) -> list[Entry]:
        """See `written`."""
        found = []
        for entry in entries.values():
            if self._entries.get(entry.name) is not entry:
                continue
            version = _INFERENCE if entry.tensor.is_inference() else entry.tensor._version
            if version != entry.version or version == _INFERENCE:
                self._versions[entry.index] = entry.version = version
                self.move(entry)
                found.append(entry)
        return self.sharing(found)

    def sharing(self, entries: Iterable[Entry]) -> list[Entry]:
        """Tensors and those that share memory with them."""
        names = dict[str, None]()  # a dictionary keeps their order
        for entry in entries:
            names[entry.name] = None
            if entry.storage:
                names.update(dict.fromkeys(self.names_at.get(entry.storage, ())))
        return [self._entries[name] for name in names if name in self._entries]

    def move(self, entry: Entry) -> bool:
        """Note where the memory of a tensor is now; returns whether it is elsewhere."""
        if self._entries.get(entry.name) is not entry:
            return False
        address = entry.tensor.data_ptr()
        storage = entry.tensor.untyped_storage().data_ptr()
        if (address, storage) == (entry.address, entry.storage):
            return False
        self._leave(entry)
        self._count(entry.tensor, entry.is_parameter)
        entry.address, entry.storage = address, storage
        self.names_at.setdefault(storage, []).append(entry.name)
        return True

    def gone(self) -> set[str]:
        """Names of tensors that were removed since `take_gone` was called."""
        return {name for name in self._gone if name not in self._entries}

    def take_gone(self) -> list[str]:
        """Names of tensors that were removed since this was called last."""
        gone, self._gone = [name for name in self._gone if name not in self._entries], {}
        return gone

    def take_new(self) -> list[Node]:
        """Modules that were read since this was called last, because they or their tensors are new."""
        new, self._new = [node for node in self._new.values() if self._nodes.get(node.name) is node], {}
        return new

    def node(self, name: str) -> Node | None:
        """A module by name."""
        return self._nodes.get(name)

    def nodes_of(self, module: nn.Module) -> list[Node]:
        """A module under its names; none if it is not the network's."""
        return self._nodes_of.get(id(module), [])

    def entries_of(self, tensor: Tensor) -> list[Entry]:
        """A tensor under its names; none if it is not the network's."""
        return self._entries_of.get(id(tensor), [])

    def in_order(self, entries: Iterable[Entry]) -> list[Entry]:
        """Parameters in the order of `nn.Module.parameters`, each once."""
        wanted = {other.name: other for entry in entries for other in self.entries_of(entry.tensor)}
        ordered = sorted((entry for entry in wanted.values() if entry.is_parameter), key=position)
        first = dict[int, Entry]()
        for entry in ordered:
            first.setdefault(id(entry.tensor), entry)
        return list(first.values())

    def extra_state(self) -> dict[str, Any]:
        """What `get_extra_state` of modules returns, by key of the state dict."""
        modules = {node.prefix + EXTRA_STATE: node.module for node in self.with_extra_state}
        return {key: modules[key].get_extra_state() for key in self.keys if key in modules} if modules else {}

    def _note_registered(self, module: nn.Module, name: str, value: object) -> None:
        if id(module) in self._nodes_of:
            self._registered.append((module, name, value))

    def _list_versions(self) -> None:
        self._watched_entries: list[Entry] = []
        self._watched: list[Tensor] = []
        self._versions = []
        self._has_inference = False
        self._watch(self._entries.values())

    def _watch(self, entries: Collection[Entry]) -> None:
        """List the versions of further tensors."""
        for index, entry in enumerate(entries, len(self._watched)):
            entry.index = index
        self._watched_entries += entries
        self._watched += [entry.tensor for entry in entries]
        self._versions += [entry.version for entry in entries]
        self._has_inference |= any(entry.tensor.is_inference() for entry in entries)

    def _append_parts(self, registered: Sequence[tuple[nn.Module, str, object]]) -> list[nn.Module]:
        """Read modules that were added to others as their last parts, without a look at the parts before;
        returns the modules to which something else was registered."""
        names: dict[int, dict[str, object]] = {}
        for module, name, value in registered:
            names.setdefault(id(module), {})[name] = value
        others = []
        for module in {id(module): module for module, *_ in registered}.values():
            nodes, added = self._nodes_of.get(id(module), ()), names[id(module)]
            if not all(isinstance(value, nn.Module) for value in added.values()) or not all(
                node.ends_with(list(added)) for node in nodes
            ):
                others.append(module)
                continue
            for node in list(nodes):
                parts = [node.add_child(name, cast(nn.Module, module._modules[name])) for name in added]
                for part in parts:
                    self._read(part, {})
                node.forget_members(parts)
                self._new[node.name] = self._often[node.name] = node
                self._watch([entry for part in parts for below in part.walk() for entry in below.own])
        return others

    def _read(self, node: Node, known: Mapping[str, Entry]) -> None:
        """Read a module that is new, and its parts."""
        self._new[node.name] = self._nodes[node.name] = node
        self._nodes_of.setdefault(id(node.module), []).append(node)
        for holds, nodes in (
            (_is_custom(node.module), self.custom),
            (isinstance(node.module, Base), self.bases),
            (has_extra_state(node.module), self.with_extra_state),
        ):
            if holds:
                nodes.append(node)
        self._read_own(node, known)
        for name, child in node.module._modules.items():
            if child is not None:
                self._read(node.add_child(name, child), known)

    def _read_own(self, node: Node, known: Mapping[str, Entry]) -> list[Entry]:
        """Read the tensors of a module itself; returns those that are new."""
        module, own, added = node.module, list[Entry](), list[Entry]()
        for name, tensor in _named_own(module):
            if tensor is None:
                continue
            entry = known.get(node.prefix + name)
            if entry is None or entry.tensor is not tensor:
                entry = Entry(node.prefix + name, tensor, node)
                added.append(entry)
                self._unhashed.append(entry)
            entry.node, entry.is_parameter = node, name in module._parameters
            entry.is_persistent = entry.is_parameter or name not in module._non_persistent_buffers_set
            own.append(entry)
            self._entries[entry.name], self.tensors[entry.name] = entry, tensor
            self._entries_of.setdefault(id(tensor), []).append(entry)
            self._count(tensor, entry.is_parameter)
            self.names_at.setdefault(entry.storage, []).append(entry.name)
        node.own = own
        return added

    def _reread(self, nodes: Iterable[Node]) -> None:
        """Read modules whose members are others."""
        added, dropped = list[Entry](), False
        for node in nodes:
            if self._nodes.get(node.name) is not node:
                continue  # it was dropped with the module that it belonged to
            former, before = node.children, {entry.name: entry for entry in node.own}
            for entry in node.own:
                self._drop(entry)
            added += self._read_own(node, before)
            dropped = dropped or any(self._entries.get(name) is not one for name, one in before.items())
            node.children, new = {}, list[Node]()
            for name, child in node.module._modules.items():
                if child is None:
                    continue
                if (old := former.get(name)) is not None and old.module is child:
                    old.rank = len(node.children)
                    node.children[name] = former.pop(name)
                else:
                    new.append(node.add_child(name, child))
            for part in (part for removed in former.values() for part in removed.walk()):
                dropped = True
                self._drop_node(part)
            for read in new:
                self._read(read, {})
                added += [entry for part in read.walk() for entry in part.own]
            self._new[node.name] = node
            self._often[node.name] = node
            node.forget_members()
        if dropped:
            self._list_versions()
        else:
            self._watch(added)

    def _drop_node(self, node: Node) -> None:
        for entry in node.own:
            self._drop(entry)
        if self._nodes.get(node.name) is node:
            del self._nodes[node.name]
        self._often.pop(node.name, None)
        _remove_from(self._nodes_of, id(node.module), node)
        for nodes in (self.custom, self.bases, self.with_extra_state):
            if node in nodes:
                nodes.remove(node)

    def _drop(self, entry: Entry) -> None:
        self._gone[entry.name] = None
        self._entries.pop(entry.name, None)
        self.tensors.pop(entry.name, None)
        _remove_from(self._entries_of, id(entry.tensor), entry)
        if id(entry.tensor) not in self._entries_of:
            self.count -= self._counted.pop(id(entry.tensor), 0)
        self._leave(entry)

    def _count(self, tensor: Tensor, is_parameter: bool) -> None:
        """Note the size of a tensor that is new, or may be in other memory."""
        if is_parameter:
            self.count += tensor.numel() - self._counted.get(id(tensor), 0)
            self._counted[id(tensor)] = tensor.numel()

    def _leave(self, entry: Entry) -> None:
        _remove_from(self.names_at, entry.storage, entry.name)


def has_extra_state(module: nn.Module) -> bool:
    """Whether a module has state besides its tensors."""
    return type(module).get_extra_state is not nn.Module.get_extra_state


def position(entry: Entry) -> tuple[int, ...]:
    """Where a tensor comes in the order of `nn.Module.named_parameters`, as a key for sorting."""
    ranks = [node.rank for node in entry.node.path()][-2::-1]  # the network itself is alone
    return (*ranks, -1, entry.node.own.index(entry))


def parameters(entries: Iterable[Entry]) -> list[nn.Parameter]:
    """The tensors of entries that are parameters."""
    return [cast(nn.Parameter, entry.tensor) for entry in entries]


def _named_own(module: nn.Module) -> Iterable[tuple[str, Tensor | None]]:
    return chain(module._parameters.items(), module._buffers.items())


def _overrides(cls: type, *methods: str) -> bool:
    return any(getattr(cls, method) is not getattr(nn.Module, method) for method in methods)


def _is_custom(module: nn.Module) -> bool:
    """Whether a module's part of a state dict is made by other code than PyTorch's."""
    own = _overrides(type(module), "state_dict", "_save_to_state_dict")
    return own or bool(module._state_dict_hooks or module._state_dict_pre_hooks)


def _remove_from(table: dict[int, list[Any]], key: int, value: object) -> None:
    values = table.get(key, [])
    if value in values:
        values.remove(value)
    if not values:
        table.pop(key, None)


def _hook_registration(note: weakref.WeakMethod[Any]) -> list[Any]:
    """Hooks that PyTorch calls before it registers something in any module."""

    def hook(module: nn.Module, name: str, value: object) -> None:
        if (method := note()) is not None:
            method(module, name, value)

    return [
        registration.register_module_parameter_registration_hook(hook),
        registration.register_module_buffer_registration_hook(hook),
        registration.register_module_module_registration_hook(hook),
    ]


def _remove(handles: Iterable[Any]) -> None:
    for handle in handles:
        handle.remove()
