"""A run as data: the names of its components, their options, and the seed."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import attrs

from sidetune_core.config.data_record import FILE as DATA
from sidetune_core.config.defaults import DEFAULTS, FOR_OBJECTS
from sidetune_core.config.given import KEYS, given_object, kind_of, listed_tasks
from sidetune_core.config.options import (
    Renamed,
    at_least,
    at_most,
    more_than,
    option,
    respell,
    structure,
    warn_former,
)
from sidetune_core.errors import OptionError
from sidetune_core.io.files import read_text
from sidetune_core.io.strict_json import as_text
from sidetune_core.scenarios import DEFAULT, Scenario, as_scenario

if TYPE_CHECKING:
    from sidetune_core.config.identity import Conditions
    from sidetune_core.config.plugin_record import PluginRecord


@attrs.frozen
class TrainOptions:
    """Optimisation of every task (``--train.*``). An env's recipe replaces these defaults, the user replaces
    both."""

    former_options: ClassVar[Mapping[str, Renamed]] = {
        "batch": Renamed("batch-size"),
        "clip": Renamed("grad-clip"),
        "eps": Renamed("adam-eps"),
    }
    steps: int = option(200, "optimiser steps per task", at_least(0))
    epochs: float | None = option(None, "epochs per task; replaces 'steps' where both are set", at_least(0))
    batch_size: int = option(
        128, "examples per batch, at most all that a task has", at_least(1), at_most(2**24)
    )
    accumulate: int = option(1, "batches whose gradients are averaged for one optimiser step", at_least(1))
    lr: float = option(1e-3, "learning rate; the peak where a schedule is set", at_least(0))
    optimizer: Literal["adam", "adamw", "sgd"] = option("adam", "optimiser, a new one for every task")
    adam_eps: float = option(
        1e-8, "epsilon of adam and adamw, added to the root of the second moment", more_than(0)
    )
    momentum: float = option(0.9, "Nesterov momentum of sgd", at_least(0), at_most(1))
    weight_decay: float = option(0.0, "weight decay; mergers have none", at_least(0))
    schedule: Literal["constant", "cosine", "one-cycle", "linear"] = option(
        "constant",
        "learning rate schedule of a task: constant, cosine decay to zero, or linear warm-up followed by "
        "cosine ('one-cycle') or linear ('linear') decay to zero",
    )
    warmup: float = option(
        0.15, "fraction of steps used for warm-up by 'one-cycle' and 'linear'", at_least(0), at_most(1)
    )
    grad_clip: float | None = option(
        1.0, "maximum gradient norm of an optimiser step; None for no clipping", more_than(0)
    )
    evaluate: Literal["changed", "all"] = option(
        "changed",
        "earlier tasks that are evaluated after each task: those that read something that training changed, "
        "and one other, whose values must be the same bit for bit; or all of them",
    )
    eval_every: int | None = option(
        None,
        "steps between two evaluations within a task, of the tasks trained so far and the present one; None "
        "evaluates between tasks only",
        at_least(1),
    )
    eval_split: Literal["auto", "val", "test"] = option(
        "auto", "split of the evaluations within a task; auto is val where a task has one, otherwise test"
    )
    eval_examples: int | None = option(
        None,
        "examples of each evaluation within a task, the same each time; None for the whole split",
        at_least(1),
    )
    patience: int | None = option(
        None,
        "stop training a task after this many evaluations on val without a better value; they are every "
        "--train.eval-every steps, or once per epoch",
        at_least(1),
    )
    select: Literal["last", "best"] = option(
        "last",
        "weights that a task ends with: those after the last step, or those of the best evaluation on val",
    )
    start_from: str | None = option(
        None,
        "id of an earlier task, with whose side, merger and head a task begins, and with its statistics of "
        "observations; None for the initialisation of the components",
    )

    @property
    def selects(self) -> bool:
        """Whether evaluations on val decide what a task ends with."""
        return self.patience is not None or self.select == "best"


WITHIN_TASK = ("eval_every", "eval_split", "eval_examples", "patience", "select", "start_from")
"""Training options that a spec has only where they are set, so that those without stay as they were."""

MEASURES = ("evaluate", "eval_every", "eval_split", "eval_examples")
"""Training options that decide what is measured; without `TrainOptions.selects`, they change no result."""


@attrs.frozen
class CacheOptions:
    """The cache of a frozen base's features (``--cache.*``)."""

    mode: Literal["memory", "disk", "off"] = option(
        "memory",
        "cache a frozen base's outputs on inputs that do not change: in memory for this run, on disk for "
        "later runs too, or not at all",
    )
    limit: float = option(
        2.0, "maximum size of the cache in GiB; outputs beyond it are re-computed", more_than(0)
    )
    dir: Path = option(Path("~/.cache/sidetune/store"), "folder of the cache on disk")


@attrs.frozen
class DeviceOptions:
    """Device, precision, memory layout and threads (``--device.*``)."""

    name: str = option("auto", "'auto' (a GPU if there is one), 'cpu', 'cuda', 'cuda:1', 'mps'")
    precision: Literal["auto", "fp32", "bf16"] = option(
        "auto",
        "arithmetic of all networks: auto is bf16 autocast where the hardware has bf16 units, on a CPU only "
        "for a base, and for trained networks, that are large enough to be faster in it; otherwise fp32; "
        "weights stay fp32",
    )
    base_precision: Literal["auto", "fp32", "bf16"] = option(
        "auto", "arithmetic of a frozen base; auto is that of --device.precision, if this is not auto too"
    )
    channels_last: bool | None = option(
        None, "channels-last layout of images and convolutions; None enables it where it is faster"
    )
    threads: int | None = option(
        None,
        "threads of an operation on the CPU; None is OMP_NUM_THREADS if set, otherwise as many as there are "
        "processors that other processes leave, adapted during the run",
        at_least(1),
        at_most(1024),
    )


TABLES: Mapping[str, type[Any]] = {"train": TrainOptions, "cache": CacheOptions, "device": DeviceOptions}
"""The option tables of a spec that belong to no component."""

MOVED_OPTIONS: Mapping[str, str] = {
    "train.device": "device.name",
    "train.precision": "device.precision",
    "train.channels-last": "device.channels-last",
    "train.store": "cache.mode",
    "train.store-limit": "cache.limit",
    "train.store-dir": "cache.dir",
}
"""Present names of options that moved from one table to another, by former name."""

Tables = dict[str, dict[str, Any]]
"""Options by table and name, with ``_``."""


def respell_tables(
    tables: Mapping[str, Mapping[str, Any]], owner: str = "", recorded: bool = False
) -> Tables:
    """The option tables under their present names.

    Args:
        tables: 'train', 'cache', 'device'; a name such as ``device.precision`` is an option of that table
            wherever it is.
        owner: who set them, for warnings: ``env 'gym': recipe``.
        recorded: see `structure`.

    Raises:
        OptionError: an option is set by its former and by its present name.
    """
    prefix = f"{owner}: " if owner else ""
    respelled: Tables = {table: {} for table in TABLES}
    moved: list[tuple[str, str, Any]] = []
    for table, values in tables.items():
        for key, value in values.items():
            name = key.replace("_", "-")
            former = f"{table}.{name}"
            if former in MOVED_OPTIONS:
                moved.append((former, MOVED_OPTIONS[former], value))
            elif name.partition(".")[0] in TABLES and "." in name:
                moved.append((name, name, value))
            else:
                respelled[table][key] = value
    for table in respelled:
        respelled[table] = respell(TABLES[table], respelled[table], f"{prefix}{table}", recorded)
    for former, present, value in moved:
        table, _, name = present.replace("-", "_").partition(".")
        if name in respelled[table] and respelled[table][name] != value:
            raise OptionError(f"{prefix}'{former}' and '{present}' are the same option; leave out '{former}'")
        if former != present and not recorded:
            warn_former(f"{prefix}{former}", present)
        respelled[table][name] = value
    return respelled


Trust = bool | Literal["spec"]
"""Whether names in files are imported as code: ``module:Class``, and options with `imports` (see `option`).

Those of no file, of all files, or ('spec') of the spec and ``run.json`` but not of the data that they name.
"""


@attrs.frozen
class Choice:
    """A component by name, with the options that are set; all others have their defaults."""

    name: str
    options: dict[str, Any] = attrs.field(factory=dict)
    file: str = attrs.field(default="", eq=False, repr=False, kw_only=True)
    """The file that it was read from, which can name no code; empty for the user's own words."""
    name_typed: bool = attrs.field(default=False, eq=False, repr=False, kw_only=True)
    """Whether the user has typed the name that the file gives too."""
    given: Any = attrs.field(default=None, eq=False, repr=False, kw_only=True)
    """The object that the component is made of, which no spec can hold; None for a component by name."""

    recorded: bool = attrs.field(default=False, eq=False, repr=False, kw_only=True)
    """Whether it was read from a run folder, with every option that its version had."""

    @property
    def may_be_local(self) -> bool:
        """Whether its name can be that of code in the current folder."""
        return not self.file or self.name_typed


def choice(value: Any, slot: str = "") -> Choice | None:
    """A `Choice` from a name or a table: ``"ewc"``, or ``{"name": "ewc", "coef": 10.0}``.

    Args:
        value: also an object, for slots that take one: a network as ``base``, a list of tasks as ``env``, or
            a table with it and with options: ``{"module": network, "encoding": "layer4"}``.
        slot: that it is for; empty if it cannot be an object.

    Raises:
        OptionError: it is none of these.
    """
    if value is None or isinstance(value, Choice):
        return value
    if isinstance(value, str):
        return Choice(value)
    if slot and not isinstance(value, Mapping):
        given = given_object(slot, value)
        return Choice(FOR_OBJECTS[slot], given=given)
    rest = dict(value)
    if (key := KEYS.get(slot)) in rest and "name" not in rest:
        given = given_object(slot, rest.pop(str(key)))
        return Choice(FOR_OBJECTS[slot], rest, given=given)
    if not isinstance(rest.get("name"), str):
        raise OptionError(
            f"a component needs a name, e.g. {{'name': 'ewc', 'coef': 10.0}}; got {dict(value)}"
        )
    name = rest.pop("name")
    nested = rest.pop("options", {})
    if not isinstance(nested, Mapping):
        raise OptionError(f"the options of '{name}' are a table of names and values, not {nested!r}")
    return Choice(name, {**nested, **rest})


def _table(values: Mapping[str, Any] | None) -> dict[str, Any]:
    if values is not None and not isinstance(values, Mapping):
        raise OptionError(f"train, cache and device are tables of options, not {values!r}")
    return dict(values or {})


def _base(value: Any) -> Choice | None:
    return choice(value, "base")


def _side(value: Any) -> Choice | None:
    return choice(value, "side")


def _merger(value: Any) -> Choice | None:
    return choice(value, "merger")


def _learner(value: Any) -> Choice | None:
    return choice(value, "learner")


def _env(value: Any) -> Choice | None:
    return choice(value, "env")


@attrs.frozen
class RecordedData:
    """The data of the run whose spec was read from its folder."""

    env: str
    """The name of its env, as the spec has it."""
    seed: int
    fingerprint: str
    """See `TaskStream.data_fingerprint`; empty if unknown."""
    file: Path
    """``data.json`` of the run, which need not exist."""


@attrs.frozen
class RunSpec:
    """Names of components, options and seed of one run. A slot that is None takes its default if the learner
    uses it.

    RunSpec(learner="ewc", env={"name": "icifar", "num_tasks": 3}, train={"lr": 1e-3}, device={"name": "cpu"},
    seed=1)

    A network can be the base, and a list of tasks the env: ``RunSpec(base=network, env=[task, …])``. They are
    no part of what `to_json` returns.
    """

    base: Choice | None = attrs.field(default=None, converter=_base)
    side: Choice | None = attrs.field(default=None, converter=_side)
    merger: Choice | None = attrs.field(default=None, converter=_merger)
    learner: Choice | None = attrs.field(default=None, converter=_learner)
    env: Choice | None = attrs.field(default=None, converter=_env)
    train: dict[str, Any] = attrs.field(factory=dict, converter=_table)
    cache: dict[str, Any] = attrs.field(factory=dict, converter=_table)
    device: dict[str, Any] = attrs.field(factory=dict, converter=_table)
    seed: int = 0
    scenario: Scenario = attrs.field(default=DEFAULT, converter=as_scenario)
    """See `sidetune_core.scenarios`."""
    recorded: bool = attrs.field(default=False, eq=False, repr=False, kw_only=True)
    """Read from a run folder: former spellings are accepted without a warning."""
    plugins: Mapping[str, PluginRecord] = attrs.field(factory=dict, eq=False, repr=False, kw_only=True)
    """Read from a run folder: the components that the run was made with, by slot."""
    conditions: Conditions | None = attrs.field(default=None, eq=False, repr=False, kw_only=True)
    """Read from a run folder: the conditions of that run, unless more than device and cache was changed; the
    number of threads is that of its beginning."""
    thread_changes: Mapping[tuple[str, int], int] = attrs.field(
        factory=dict, eq=False, repr=False, kw_only=True
    )
    """Read from a run folder: the numbers of threads from some steps on, by id of the task and step."""
    added: tuple[str, ...] = attrs.field(default=(), eq=False, repr=False, kw_only=True)
    """Read from a run folder: ids of the tasks that were added to that run, which the spec does not have."""
    data: RecordedData | None = attrs.field(default=None, eq=False, repr=False, kw_only=True)
    """Read from a run folder: the data of that run, unless the env or its options were changed."""
    trust_local_code: Trust = attrs.field(default=False, eq=False, repr=False, kw_only=True)
    """See `Trust`. A spec that is made in Python can name any code itself."""

    def __attrs_post_init__(self) -> None:
        """Give the tables their present names."""
        for table, values in respell_tables(self.tables, recorded=self.recorded).items():
            object.__setattr__(self, table, values)

    @property
    def tables(self) -> Tables:
        """The options of training, cache and device by table."""
        return {table: dict(getattr(self, table)) for table in TABLES}

    def component(self, slot: str) -> Choice | None:
        """The choice for the slot 'base', 'side', 'merger', 'learner' or 'env'."""
        chosen: Choice | None = getattr(self, slot)
        return chosen

    def with_components(self, components: Mapping[str, Choice | None]) -> RunSpec:
        """The same spec with other choices in some slots."""
        changes: dict[str, Any] = dict(components)
        return attrs.evolve(self, **changes)

    def to_json(self) -> dict[str, Any]:
        """Plain values; `from_values` reads them back."""
        return attrs.asdict(
            self,
            filter=lambda field, value: (
                field.name not in _NOT_IN_JSON and not (field.name == "scenario" and value == DEFAULT)
            ),
            value_serializer=lambda _, __, value: _plain(value),
        )


def make_spec(
    spec: RunSpec | None,
    components: Mapping[str, Any],
    tasks: Any = None,
    tables: Mapping[str, Mapping[str, Any] | None] | None = None,
    seed: int | None = None,
    scenario: str | None = None,
) -> RunSpec:
    """The spec of `sidetune_core.run`: as it is given, or from its parts.

    Args:
        spec: the whole; None to make it.
        components: by slot; None for those that are not chosen.
        tasks: in place of an env.
        tables: of training, cache and device.
        seed: None for 0.
        scenario: None for ``task``.

    Raises:
        OptionError: both are given, or nothing.
    """
    parts = {**components, "tasks": tasks, **(tables or {}), "seed": seed, "scenario": scenario}
    given = [name for name, value in parts.items() if value is not None]
    if spec is not None:
        if given:
            raise OptionError(
                f"run() got a spec and {', '.join(f'{name}=' for name in given)}: put them into "
                "the spec, as in "
                "RunSpec(learner='sidetune', seed=1), or leave the spec out"
            )
        return spec
    if not given:
        raise OptionError(
            "run() needs a spec, or its parts: run(base=network, tasks=[task], learner='sidetune')"
        )
    if tasks is not None and components.get("env") is not None:
        raise OptionError("run() got env= and tasks=: tasks are the env, so leave one of them out")
    if tasks is not None and listed_tasks(tasks) is None:
        raise OptionError(
            "tasks= is a list of tasks, as sidetune_core.Task.from_dataset(train=..., test=...) makes them; "
            f"got {kind_of(tasks)}"
        )
    values: dict[str, Any] = {**components, **{name: table or {} for name, table in (tables or {}).items()}}
    values["env"] = components.get("env") if tasks is None else tasks
    return RunSpec(**values, seed=seed or 0, scenario=scenario or DEFAULT)


_NOT_IN_JSON = (
    "recorded",
    "plugins",
    "conditions",
    "thread_changes",
    "added",
    "trust_local_code",
    "file",
    "name_typed",
    "given",
    "data",
)


def _plain(value: Any) -> Any:
    """A value for JSON, which has no paths, no infinity and no NaN."""
    if isinstance(value, float):
        return as_text(value)
    return str(value) if isinstance(value, Path) else value


def from_values(values: Any, source: str, recorded: bool = False, trust_local_code: Trust = False) -> RunSpec:
    """A spec from plain values.

    Args:
        values: a table of components, option tables and seed.
        source: where they come from, for messages.
        recorded: they come from a run folder, so former spellings are accepted without a warning.
        trust_local_code: see `Trust`.

    Raises:
        OptionError: a key is unknown or a value is of the wrong type.
    """
    if not isinstance(values, Mapping):
        raise OptionError(
            f"{source}: a spec is a table of {', '.join(DEFAULTS)}, {', '.join(TABLES)}, seed and scenario, "
            f"not {type(values).__name__}"
        )
    slots: dict[str, Any] = {}
    for slot, value in values.items():
        if slot not in DEFAULTS:
            continue
        if value is not None and not isinstance(value, str | Mapping):
            raise OptionError(f"{source}: {slot} is a name or a table with a name and options, not {value!r}")
        chosen = choice(value)
        if chosen is not None:
            chosen = attrs.evolve(chosen, file="" if trust_local_code else source, recorded=recorded)
        slots[slot] = chosen
    others = {key: value for key, value in values.items() if key not in DEFAULTS}
    rest = structure(_Rest, others, source)
    return RunSpec(
        **slots,
        train=rest.train,
        cache=rest.cache,
        device=rest.device,
        seed=rest.seed,
        scenario=rest.scenario,
        recorded=recorded,
        trust_local_code=trust_local_code,
    )


def read_spec(path: Path, trust_local_code: Trust = False) -> RunSpec:
    """A spec from a ``.toml`` or ``.json`` file, or from the ``run.json`` of a run (its resolved spec).

    Code that it names is not imported later, unless `trust_local_code`: see `Trust`.

    Raises:
        OptionError: the file is missing, damaged, or holds something else.
    """
    values = read_values(path)
    if isinstance(values, Mapping) and "resolved" in values:
        return recorded_spec(values, str(path), trust_local_code)
    return from_values(values, str(path), trust_local_code=trust_local_code)


def recorded_spec(about: Mapping[str, Any], source: str, trust_local_code: Trust = False) -> RunSpec:
    """The resolved spec of a run, with the plugins that it was made with last; `about` is its ``run.json``.

    Raises:
        OptionError: see `from_values`.
    """
    from sidetune_core.config.plugin_record import read_segments  # imports the registry

    spec = from_values(about.get("resolved"), source, True, trust_local_code)
    segments = read_segments(about)
    latest = attrs.evolve(segments[-1], threads=segments[0].threads)
    changes = {(one.task, one.step): one.threads for one in segments[1:] if one.threads}
    data = None
    if spec.env is not None:
        file = Path(source).with_name(DATA)
        data = RecordedData(spec.env.name, spec.seed, latest.data or str(about.get("data", "")), file)
    return attrs.evolve(
        spec,
        plugins=latest.plugins,
        conditions=latest,
        thread_changes=changes,
        added=_added(about),
        data=data,
    )


def _added(about: Mapping[str, Any]) -> tuple[str, ...]:
    extensions = about.get("extensions")
    added = (one.get("tasks") for one in (extensions if isinstance(extensions, list) else ()))
    return tuple(str(id) for tasks in added if isinstance(tasks, Mapping) for id in tasks)


def read_values(path: Path) -> Any:
    """The content of a ``.toml`` or ``.json`` file.

    Raises:
        OptionError: the file is missing or damaged.
    """
    try:
        text = read_text(path)
        return tomllib.loads(text) if path.suffix == ".toml" else json.loads(text)
    except (OSError, ValueError, RecursionError) as error:
        raise OptionError(f"cannot read the spec {path}: {error}") from error


@attrs.frozen
class _Rest:
    train: dict[str, Any] = attrs.field(factory=dict)
    cache: dict[str, Any] = attrs.field(factory=dict)
    device: dict[str, Any] = attrs.field(factory=dict)
    seed: int = 0
    scenario: str = DEFAULT
