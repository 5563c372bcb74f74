"""Export of adapters: everything that one task of a run needs besides the base, in a folder of its own.

``adapter.safetensors`` has the tensors of a learner that was started on the task alone, without those of the
base, which ``task.json`` names and identifies by a hash. Learners that train their base have a whole network
in it, and those whose tasks use earlier ones include these.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs

from sidetune_core import __version__
from sidetune_core.assembly.restore import choose_machine
from sidetune_core.certificate.certificate_file import read_certificate
from sidetune_core.certificate.probes import Stored
from sidetune_core.config.resolve import ResolvedRun
from sidetune_core.errors import FitError, PluginError, RunError, SidetuneError, WeightsError, suggest
from sidetune_core.interfaces.capabilities import HasHubName
from sidetune_core.interfaces.inputs import InputShapes
from sidetune_core.interfaces.networks import Base
from sidetune_core.serving.adapter_folder import (
    FILES,
    README,
    AdapterFiles,
    is_adapter,
    read_files,
)
from sidetune_core.serving.base_weights import (
    WEIGHTS,
    BaseReference,
    Tensors,
    base_digest,
    bases_in,
    build_base,
    state_tensors,
)
from sidetune_core.serving.model_card import model_card
from sidetune_core.serving.public_spec import (
    extended_command,
    is_path,
    kept_paths,
    public_spec,
    resolve_public,
)
from sidetune_core.serving.selection import Restored, refer_to_base, restore_all, select
from sidetune_core.serving.source import Trained, read_run
from sidetune_core.storage.atomic import make_folder, write_text, writing
from sidetune_core.storage.evaluations import read_evaluations
from sidetune_core.storage.run_files import CARDS, PROBES
from sidetune_core.storage.run_folder import RunFolder, open_run, resume_command


@attrs.frozen
class Exported:
    """An adapter that was written."""

    folder: Path
    task: str
    tasks: tuple[str, ...]
    """Those that the adapter contains, its own among them."""
    sizes: Mapping[str, int]
    """Bytes of each file of tensors."""
    base: BaseReference | None
    notes: tuple[str, ...]
    """What the user should know, in sentences."""


@attrs.frozen(eq=False)
class _Base:
    """The base of a run, if it was never trained."""

    reference: BaseReference
    tensors: Tensors
    notes: tuple[str, ...]
    hub_name: str
    """See `HasHubName`."""


def export_adapter(
    run: Path | str,
    task: str,
    out: Path | str,
    with_base: bool = False,
    all_tasks: bool = False,
    licence: str = "",
    trust_local_code: bool = False,
) -> Exported:
    """Write the adapter of a task of a run to a folder. Equal runs give equal bytes.

    Args:
        run: the run folder.
        task: id of a trained task.
        out: a new or empty folder, or that of an earlier adapter, which is replaced.
        with_base: include the base's tensors.
        all_tasks: include all tasks of the run.
        licence: of the adapter, for its card: an identifier such as ``mit``, or a name.
        trust_local_code: import code that the run names.

    Raises:
        RunError: the run has no such task, or no checkpoint; `out` has other files.
        SidetuneError: the learner cannot be restored from the run's checkpoint and cards.
    """
    return Exporter(run, trust_local_code).export(task, Path(out), with_base, all_tasks, licence)


class Exporter:
    """Exports tasks of a run, whose learner is restored once.

    Args:
        run: the run folder.
        trust_local_code: import code that the run names.

    Raises:
        SidetuneError: the learner cannot be restored from the run's checkpoint and cards.
    """

    def __init__(self, run: Path | str, trust_local_code: bool = False) -> None:
        self.folder, self.trust = open_run(Path(run)), trust_local_code
        self.about = self.folder.read_json("run.json")
        trained = read_run(self.folder, trust_local_code)
        self.spec, self.notes, self.run = _restore(trained, self.about, self.folder, trust_local_code)
        self.base = _find_base(self.folder, self.run)

    @property
    def tasks(self) -> tuple[str, ...]:
        """Ids of the trained tasks."""
        return tuple(self.run.tasks)

    def export(
        self,
        task: str,
        out: Path,
        with_base: bool = False,
        all_tasks: bool = False,
        licence: str = "",
    ) -> Exported:
        """See `export_adapter`."""
        if task not in self.run.tasks:
            hint, known = suggest(task, self.run.tasks), ", ".join(self.run.tasks)
            raise RunError(f"{self.folder.path} has trained no task '{task}'.{hint} Tasks: {known}")
        _check_free(out)
        selection = select(self.run, task, _read_probes(self.folder, task), all_tasks)
        notes = [*self.notes, *selection.reasons, *self._missing_card(task)]
        reference, state = None, dict(selection.state)
        if self.base is not None:
            reference, state = refer_to_base(selection, self.base.reference, self.base.tensors)
        if reference is not None and self.base is not None and not with_base:
            notes += self.base.notes
        included = (
            self.base.tensors if self.base is not None and with_base and reference is not None else None
        )
        files = AdapterFiles(
            task=task,
            cards={name: self.run.trained.cards[name] for name in selection.tasks},
            spec=self.spec,
            plugins=_table(self.about, "plugins"),
            versions={"sidetune": __version__, **_table(self.about, "versions")},
            base=reference,
            results=self._results(task, licence, reference is not None),
            state=state,
            task_states={
                name: value for name, value in self.run.trained.task_states.items() if name in selection.tasks
            },
        )
        with writing(out):
            make_folder(out)
        sizes = files.write(out, included)
        with writing(out / README):
            write_text(out / README, model_card(files, self.run.resolved, sizes))
        read_files(out)
        return Exported(out, task, selection.tasks, sizes, reference, tuple(notes))

    def _missing_card(self, task: str) -> list[str]:
        """A note where an earlier version made the run, which has no card of a task."""
        if (self.folder.path / CARDS / f"{task}.json").is_file():
            return []
        again = resume_command(self.folder.path, self.run.trained.resolved.needs_trust)
        return [
            f"an earlier version made the run, without a card of {task}, so the adapter takes tensors and no "
            f"raw inputs. Write the card where the data of the run is, and export again: {again}"
        ]

    def _results(self, task: str, licence: str, by_reference: bool) -> dict[str, Any]:
        """What readers want to know about a task, as far as the run folder has it."""
        card = self.run.trained.cards[task]
        value, after = _last_value(self.folder, task, card.metric)
        return {
            "metric": card.metric,
            "higher_is_better": card.higher_is_better,
            "split": "test",
            "value": value,
            "after": after,
            "command": extended_command(self.about, task, self.folder.path / "run.json", self.trust),
            "certificate": _verdict(self.folder, task),
            "base_model": self.base.hub_name if self.base is not None and by_reference else "",
            "licence": licence,
        }


def _restore(
    trained: Trained, about: Mapping[str, Any], folder: RunFolder, trust: bool
) -> tuple[dict[str, Any], list[str], Restored]:
    """The public spec of a run, notes about it, and the learner as others will restore it."""
    machine = choose_machine(trained.resolved)

    def attempt(keep_paths: bool, *notes: str) -> tuple[dict[str, Any], list[str], Restored]:
        spec = public_spec(trained.resolved, keep_paths)
        plugins, versions = _table(about, "plugins"), _table(about, "versions")
        resolved = resolve_public(spec, plugins, versions, folder.path / "run.json", trust)
        return spec, [*notes], restore_all(trained, resolved, machine, trust)

    paths = kept_paths(trained.resolved)
    try:
        return attempt(False)
    except (FitError, PluginError, WeightsError, RuntimeError):
        if not paths:
            raise
    note = f"the adapter names your path in {', '.join(paths)}, without which its networks cannot be built"
    return attempt(True, note)


def _find_base(folder: RunFolder, run: Restored) -> _Base | None:
    """The base of a run that trained other weights only; None if it has none, or trained it."""
    inputs = next(iter(run.tasks.values())).inputs
    names = state_tensors(build_base(run.resolved, inputs, run.resolved.seed, pretrained=False)).keys()
    base, problem = _build(run.resolved, inputs, run.resolved.seed) if names else (None, "")
    built = state_tensors(base) if base is not None else None
    tensors = _unchanged_base(folder, run, frozenset(names)) if names else None
    tensors = tensors if tensors is not None else built
    if tensors is None:
        return None
    component = run.resolved.components["base"]
    digest = base_digest(component, tensors)
    weights, notes = _origin(run, inputs, built), list[str]()
    if weights == "component" and problem:
        notes.append(f"it was not checked that the base can be built again ({problem})")
    elif weights == "component" and built is not None and base_digest(component, built) != digest:
        weights = "file"
        notes.append(f"{component.owner} as it is installed here has other weights than that of the run")
    if weights != "component":
        kind = "are random" if weights == "random" else "come from a file of yours"
        notes.append(
            f"the weights of the base {kind}, so others need it to load this adapter: export with "
            f"--with-base, or load it with base={folder.path}"
        )
    hub_name = base.hub_name if weights == "component" and isinstance(base, HasHubName) else ""
    return _Base(_refer(component.choice, digest, weights, tensors), tensors, tuple(notes), hub_name)


def _refer(component: str, digest: str, weights: str, tensors: Tensors) -> BaseReference:
    return BaseReference(
        component=component,
        digest=digest,
        parameters=sum(value.numel() for value in tensors.values() if value.is_floating_point()),
        bytes=sum(value.numel() * value.element_size() for value in tensors.values()),
        weights=weights,
    )


def _unchanged_base(folder: RunFolder, run: Restored, names: frozenset[str]) -> Tensors | None:
    """The tensors of a module of the learner that is a base, and that no task changed."""
    lines = folder.lines("moved.jsonl")
    if not lines:
        return None
    changed = {str(name) for line in lines for key in ("moved", "gone") for name in line.get(key, ())}
    state = run.trained.state
    for module in bases_in(run.learner):
        own = {f"{module}.{name}" for name in names}
        if own <= state.keys() - changed:
            return {name: state[f"{module}.{name}"] for name in sorted(names)}
    return None


def _build(resolved: ResolvedRun, inputs: InputShapes, seed: int) -> tuple[Base | None, str]:
    """The base with its weights, or why it cannot be built."""
    try:
        return build_base(resolved, inputs, seed), ""
    except (SidetuneError, OSError) as error:
        return None, str(error)


def _origin(run: Restored, inputs: InputShapes, built: Tensors | None) -> str:
    """See `BaseReference.weights`."""
    config = run.trained.resolved.components["base"].config
    choice = getattr(config, WEIGHTS, None)
    if choice == "none":
        return "random"
    if choice is not None:
        return "file" if is_path(choice) or Path(str(choice)).is_file() else "component"
    again, _ = _build(run.resolved, inputs, run.resolved.seed + 1)
    component = run.resolved.components["base"]
    if built is None or again is None:
        return "component"
    same = base_digest(component, built) == base_digest(component, state_tensors(again))
    return "component" if same else "random"


def _read_probes(folder: RunFolder, task: str) -> Stored | None:
    """The probes of a task, or None if the run has none."""
    path = folder.path / PROBES / f"{task}.safetensors"
    try:
        return Stored.read(path) if path.is_file() else None
    except WeightsError:
        return None


def _check_free(out: Path) -> None:
    """Check that nothing but an earlier adapter is replaced.

    Raises:
        RunError: it is a file, or has other files.
    """
    if out.exists() and not out.is_dir():
        raise RunError(f"{out} is a file; --out is a folder for the adapter")
    others = [path.name for path in out.iterdir() if path.name not in FILES] if out.is_dir() else []
    if others or (out.is_dir() and any(out.iterdir()) and not is_adapter(out)):
        raise RunError(f"{out} is not empty and no earlier adapter: choose another --out")


def _last_value(folder: RunFolder, task: str, metric: str) -> tuple[float | None, str]:
    """The task's metric on the test split in its latest evaluation, and the task trained last by then; None
    where there is a gap.
    """
    tasks = [str(one.get("id")) for one in folder.read_json("run.json").get("tasks", ())]
    try:
        rows = read_evaluations(folder).rows(tasks, "test", lambda line: line["figures"])
        position = tasks.index(task)
        last, metrics = max((row, metrics) for row, cells in rows.items() if (metrics := cells[position]))
        value = metrics[metric]
        return None if value is None else float(value), tasks[last]
    except (KeyError, TypeError, ValueError, IndexError):
        return None, ""


def _verdict(folder: RunFolder, task: str) -> str:
    """What the certificate says about a task; empty if there is none."""
    try:
        certificate = read_certificate(folder)
    except RunError:
        return ""
    records = certificate.tasks if certificate is not None else []
    return next((record.verdict for record in records if record.id == task), "")


def _table(about: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    table = about.get(name)
    return table if isinstance(table, Mapping) else {}
