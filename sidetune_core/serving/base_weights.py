"""The base of an adapter: named by its component, its options and a digest, and found again by them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from weakref import WeakKeyDictionary

import attrs
import torch
from torch import Tensor, nn

from sidetune_core.assembly.make import make_component, without_weights
from sidetune_core.config.options import describe, flat_options, unstructure
from sidetune_core.config.resolve import ResolvedComponent, ResolvedRun
from sidetune_core.errors import SidetuneError, WeightsError
from sidetune_core.hashing import fingerprint
from sidetune_core.interfaces.inputs import InputShapes
from sidetune_core.interfaces.networks import Base
from sidetune_core.seeding import seeded
from sidetune_core.serving.allocation import limited
from sidetune_core.serving.source import read_run
from sidetune_core.storage.run_folder import open_run
from sidetune_core.storage.weights import read_tensors

Tensors = Mapping[str, Tensor]

BASE_FILE = "base.safetensors"

WEIGHTS = "weights"
"""The option of a base that selects its weights, by convention; no part of its identity, which the tensors
are."""


@attrs.frozen
class BaseReference:
    """The base that an adapter needs and does not contain."""

    component: str
    """As in a spec: ``sidetune/resnet44``."""
    digest: str
    """See `base_digest`."""
    parameters: int
    bytes: int
    weights: str
    """Where they come from: ``component`` (its options give them again), ``file`` (one of the user's) or
    ``random``."""
    modules: tuple[str, ...] = ()
    """Modules of the learner that are this base, tensor by tensor."""
    tensors: Mapping[str, str] = attrs.field(factory=dict)
    """Further tensors of the learner that are the base's, with the base's name of each."""

    def names(self, base: Tensors) -> Iterator[tuple[str, str]]:
        """The names in the learner's state dict and in the base's of all tensors that are left out."""
        for module in self.modules:
            yield from ((f"{module}.{name}", name) for name in base)
        yield from self.tensors.items()


def base_digest(component: ResolvedComponent, tensors: Tensors) -> str:
    """SHA-256 over the name of a base, its options that differ from their defaults, and its tensors.

    It is the same for all runs on this base, and does not depend on the seed, on where the weights were read
    from, or on the precision they were stored in.
    """
    config = component.cls.Config
    given = flat_options(config, unstructure(component.config), component.owner, recorded=True)
    defaults = {info.name: info.default for info in describe(config)}
    options = {
        name: value for name, value in given.items() if name != WEIGHTS and value != defaults.get(name)
    }
    about = json.dumps([component.choice, options], sort_keys=True, default=str)
    return hashlib.sha256(f"{about}\n{fingerprint(_widened(tensors))}".encode()).hexdigest()


def state_tensors(module: nn.Module) -> dict[str, Tensor]:
    """The tensors of a state dict, apart from extra state."""
    return {name: value for name, value in module.state_dict().items() if isinstance(value, Tensor)}


def bases_in(learner: nn.Module) -> dict[str, Base]:
    """The modules of a learner that are bases, by name, without those inside of another."""
    found: dict[str, Base] = {}
    for name, module in learner.named_modules():
        if isinstance(module, Base) and not any(name.startswith(f"{outer}.") for outer in found):
            found[name] = module
    return found


def build_base(resolved: ResolvedRun, inputs: InputShapes, seed: int, pretrained: bool = True) -> Base:
    """A base by itself, in eval mode.

    Raises:
        SidetuneError: its weights cannot be loaded, or it does not fit the inputs.
    """
    component = resolved.components["base"]
    config = component.config if pretrained else without_weights(component)
    with seeded(seed, "build"), torch.no_grad():
        base: Base = make_component(component, config, inputs)
    return base.requires_grad_(False).eval()


@attrs.frozen(eq=False)
class Found:
    """A base in one of the places where `Bases` looks."""

    component: ResolvedComponent
    tensors: Tensors

    @property
    def digest(self) -> str:
        """See `base_digest`."""
        return base_digest(self.component, self.tensors)


class Bases:
    """Finds the tensors of the bases that adapters need, and keeps them: adapters on one base share them.

    Args:
        given: runs, adapter folders and files of weights in which to look.
        trust_local_code: import code that a run names.
    """

    def __init__(self, given: Sequence[Path | str] = (), trust_local_code: bool = False) -> None:
        self._given, self._trust = tuple(Path(path).expanduser() for path in given), trust_local_code
        self._tensors: dict[str, Tensors] = {}
        self._in_use: WeakKeyDictionary[Base, ResolvedComponent] = WeakKeyDictionary()
        self._digests: WeakKeyDictionary[Base, str] = WeakKeyDictionary()

    def find(
        self, reference: BaseReference, resolved: ResolvedRun, inputs: InputShapes, folder: Path
    ) -> Tensors:
        """The tensors of a base by name, whose digest is the one that is asked for.

        Args:
            reference: the base.
            resolved: the run of the adapter, with the component.
            inputs: shapes of the adapter's inputs.
            folder: of the adapter, for messages, and where ``base.safetensors`` may be.

        Raises:
            WeightsError: it is in none of the given files and cannot be built; the message has the digests.
        """
        if reference.digest not in self._tensors:
            found = self._search_in_use(reference.digest)
            self._tensors[reference.digest] = (
                found if found is not None else self._search(reference, resolved, inputs, folder)
            )
        return self._tensors[reference.digest]

    def offer(self, learner: nn.Module, component: ResolvedComponent | None) -> None:
        """Let adapters use the bases of a frozen learner, as long as it is in use, and keep no copies.

        Args:
            learner: has been filled with the tensors that were found, or is one of a run.
            component: its base; None if it has none.
        """
        self._tensors.clear()
        if component is not None:
            self._in_use.update(dict.fromkeys(bases_in(learner).values(), component))

    def _search_in_use(self, digest: str) -> Tensors | None:
        for base, component in list(self._in_use.items()):
            if base not in self._digests:
                self._digests[base] = base_digest(component, state_tensors(base))
            if self._digests[base] == digest:
                return state_tensors(base)
        return None

    def _search(
        self, reference: BaseReference, resolved: ResolvedRun, inputs: InputShapes, folder: Path
    ) -> Tensors:
        tried: list[str] = []
        for name, source in self._sources(reference, resolved, inputs, folder):
            before = len(tried)
            try:
                for base in source():
                    if base.digest == reference.digest:
                        return base.tensors
                    tried.append(f"{name} has base '{base.component.choice}' with SHA-256 {base.digest}")
            except (SidetuneError, OSError) as error:
                tried.append(f"{name}: {error}")
            if len(tried) == before:
                tried.append(f"{name} has no base")
        raise WeightsError(
            f"the adapter {folder} needs base '{reference.component}' with SHA-256 {reference.digest}"
            f"{_reason(reference, tried)}. Give the base with base=RUN_OR_FILE, or export the adapter "
            "with --with-base"
        )

    def _sources(
        self, reference: BaseReference, resolved: ResolvedRun, inputs: InputShapes, folder: Path
    ) -> Iterator[tuple[str, Callable[[], Iterable[Found]]]]:
        """Names of the places to look in, and functions that return the bases there."""
        component = resolved.components["base"]
        if (folder / BASE_FILE).is_file():
            yield BASE_FILE, lambda: [Found(component, read_tensors(folder / BASE_FILE))]
        for path in self._given:
            yield str(path), partial(_bases_at, path, resolved, inputs, self._trust)
        if reference.weights == "component":
            name = f"the installed base '{reference.component}'"
            yield name, lambda: [_build_limited(reference, resolved, inputs, folder)]


def _build_limited(
    reference: BaseReference, resolved: ResolvedRun, inputs: InputShapes, folder: Path
) -> Found:
    with limited(reference.parameters, str(folder)):
        return Found(resolved.components["base"], state_tensors(build_base(resolved, inputs, 0)))


def _bases_at(path: Path, resolved: ResolvedRun, inputs: InputShapes, trust: bool) -> Iterator[Found]:
    """The bases in a run, an adapter folder or a file of weights."""
    component = resolved.components["base"]
    if (path / BASE_FILE).is_file():
        yield Found(component, read_tensors(path / BASE_FILE))
        return
    if path.is_dir():
        yield from _bases_of_run(path, trust)
        return
    tensors = read_tensors(path)
    if tensors.keys() == state_tensors(build_base(resolved, inputs, 0, pretrained=False)).keys():
        yield Found(component, tensors)
        return
    if not any(field.name == WEIGHTS for field in attrs.fields(type(component.config))):
        raise WeightsError(f"state_dict mismatch: {path} has other tensors than {component.owner}")
    config = attrs.evolve(component.config, weights=str(path))
    reading = {**resolved.components, "base": attrs.evolve(component, config=config)}
    yield Found(component, state_tensors(build_base(attrs.evolve(resolved, components=reading), inputs, 0)))


def _bases_of_run(path: Path, trust: bool) -> Iterator[Found]:
    """The bases in a run's newest checkpoint: tensors with the names of its base, below any module; and the
    one that the run began with, since a learner may have put layers of its own around those of its base.
    """
    trained = read_run(open_run(path), trust)
    component, state = trained.resolved.components.get("base"), trained.state
    if component is None:
        return
    inputs = next(iter(trained.cards.values())).inputs
    names = list(state_tensors(build_base(trained.resolved, inputs, 0, pretrained=False)))
    first = names[0] if names else ""
    for prefix in [key.removesuffix(first) for key in state if key == first or key.endswith(f".{first}")]:
        tensors = {name: state.get(f"{prefix}{name}") for name in names}
        if all(isinstance(value, Tensor) for value in tensors.values()):
            yield Found(component, {name: value for name, value in tensors.items() if value is not None})
    yield Found(component, state_tensors(build_base(trained.resolved, inputs, trained.resolved.seed)))


def _reason(reference: BaseReference, tried: Sequence[str]) -> str:
    reasons = list(tried)
    if reference.weights == "random":
        reasons.append("its weights are random, so it cannot be built again")
    if reference.weights == "file":
        reasons.append("its weights are from a file of whoever trained it")
    return f" ({'; '.join(reasons)})" if reasons else ""


def _widened(tensors: Tensors) -> dict[str, Tensor]:
    """Tensors as float32 where they have fewer bits."""
    short = (torch.float16, torch.bfloat16)
    return {name: value.float() if value.dtype in short else value for name, value in tensors.items()}
