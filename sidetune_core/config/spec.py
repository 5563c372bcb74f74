"""A run as data: the names of its components, their options, and the seed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import attrs

from sidetune_core.config.choice import Choice, choice
from sidetune_core.config.given import kind_of, listed_tasks
from sidetune_core.config.option_tables import TABLES, Tables, respell_tables
from sidetune_core.errors import OptionError
from sidetune_core.io.strict_json import as_text
from sidetune_core.scenarios import DEFAULT, Scenario, as_scenario

if TYPE_CHECKING:
    from sidetune_core.config.identity import Conditions
    from sidetune_core.config.plugin_record import PluginRecord


Trust = bool | Literal["spec"]
"""Whether names in files are imported as code: ``module:Class``, and options with `imports` (see `option`).

Those of no file, of all files, or ('spec') of the spec and ``run.json`` but not of the data that they name.
"""


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
    begun_in: str = attrs.field(default="", eq=False, repr=False, kw_only=True)
    """Read from a run folder: the folder that relative paths to its data begin in; empty if unknown."""
    moved: Mapping[str, Any] = attrs.field(factory=dict, eq=False, repr=False, kw_only=True)
    """Where the data of a recorded run are now: paths by option of its env."""
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
    "begun_in",
    "moved",
    "folder",
)


def _plain(value: Any) -> Any:
    """A value for JSON, which has no paths, no infinity and no NaN."""
    if isinstance(value, float):
        return as_text(value)
    return str(value) if isinstance(value, Path) else value
