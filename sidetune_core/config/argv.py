"""The command line of ``sidetune-run``: first the names of components, then the options that these declare.

Two stages, because the options depend on the names. The first reads the names only; in the second, tyro reads
everything into a class that is made of the ``Config`` classes of the named components.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any, Literal

import attrs

from sidetune_core.config import registry
from sidetune_core.config.arguments import Argument, make_spellings, split_arguments
from sidetune_core.config.argv_extension import check_fixed, extended_spec
from sidetune_core.config.argv_names import options_of, owner_of, respelled, shown_name, with_names
from sidetune_core.config.argv_options import PROGRAM, RESUMABLE, TRUST_SPEC
from sidetune_core.config.argv_request import Request, first_stage
from sidetune_core.config.argv_unknown import check_values, check_words, unknown_arguments
from sidetune_core.config.argv_values import second_stage, set_options
from sidetune_core.config.choice import Choice
from sidetune_core.config.defaults import AUTO, DEFAULTS
from sidetune_core.config.differences import flatten, merged
from sidetune_core.config.kinds import KINDS
from sidetune_core.config.option_tables import TABLES, TrainOptions
from sidetune_core.config.options import structure
from sidetune_core.config.resolve import (
    Loaded,
    ResolvedComponent,
    ResolvedRun,
    check_imports,
    completed,
    fitted,
    is_open,
    load_components,
    recorded_version_named,
    structured_tables,
)
from sidetune_core.config.scenario_check import check_scenario
from sidetune_core.config.selection import Selection
from sidetune_core.config.spec import RunSpec, Trust
from sidetune_core.config.spec_file import read_spec
from sidetune_core.errors import OptionError


@attrs.frozen
class Arguments:
    """The arguments of ``sidetune-run``."""

    spec: RunSpec
    """What was asked for."""
    resolved: ResolvedRun | None
    """The same with components loaded and options checked; None with ``--resume``."""
    out: Path | None = None
    resume: Path | None = None
    extend: Path | None = None
    """The run to which tasks of the env are added."""
    tasks: tuple[str, ...] = ()
    """Ids of these tasks; all of the env's if empty."""
    dry_run: bool = False
    quiet: bool = False
    save_every: str | None = None
    workers: str | None = None
    """Processes that train tasks side by side (see `training.run.run`)."""
    allow_changed: tuple[str, ...] = ()
    """What may have changed since a run was begun: 'spec', 'data', 'plugins'."""
    trust_local_code: Trust = False
    keep: Literal["all", "last"] = "all"
    """What earlier checkpoints keep (see `training.run.run`)."""
    moved: Mapping[str, Any] = attrs.field(factory=dict)
    """Where the data of a resumed run are now: paths by option of its env."""
    selection: Selection = Selection()
    """What is measured (see `training.run.run`)."""


def parse(
    argv: Sequence[str], file: str = "", start: RunSpec | None = None, corrects: bool = False
) -> Arguments:
    """Read the arguments of ``sidetune-run``, load the components and check their options.

    Prints help and exits where that is requested.

    Args:
        argv: the arguments.
        file: the file that they were read from, which can name no code to import; empty for the words that
            the user typed.
        start: the spec to start from where no ``--spec`` is given; None for the defaults.
        corrects: the arguments are a command line of `PROGRAM`, so that errors can have a corrected one.

    Raises:
        UntrustedCode: a file names code, without ``--trust-local-code``.
        SidetuneError: a component or an option does not exist, or they do not fit together.
    """
    arguments = split_arguments(argv)

    def corrected(words: Sequence[str]) -> Arguments:
        return parse(words, file, start, corrects)

    if corrects:
        check_words(arguments, corrected)
    request = first_stage(arguments)
    if request.resume and request.extend:
        raise OptionError(
            f"--resume continues an extension that was interrupted, and --extend begins one; leave out "
            f"--extend {request.extend} or --resume {request.resume}"
        )
    if request.workers is not None and request.extend is not None:
        raise OptionError(
            f"--extend trains the tasks that it adds one after another; leave out --workers {request.workers}"
        )
    if request.resume and not request.help:
        return _resume_only(request, arguments)
    if request.allow_changed and not (request.help or request.extend):
        flag = next(argument.typed for argument in arguments if argument.name.startswith("allow-changed"))
        raise OptionError(f"{flag} goes with --resume or --extend: a new run uses the installed plugins")
    if request.help and not request.names and request.spec is None:
        _print_short_help()
    trust = request.trust_local_code
    if request.extend is not None:
        spec = extended_spec(request, request.extend, arguments, file)
    else:
        spec = start or RunSpec(trust_local_code=trust)
        if request.spec is not None:
            spec = read_spec(request.spec, trust)
        spec = with_names(spec, request.names, file)
    with redirect_stdout(sys.stderr):  # standard output is for results, whatever a plugin prints
        loaded = load_components(spec)
    spec = respelled(completed(spec, loaded), loaded)
    defaults: dict[str, Any] = {}
    for slot, (_, cls) in loaded.items():
        with recorded_version_named(spec, slot):
            defaults[slot] = structure(
                cls.Config, options_of(spec, slot), owner_of(spec, slot), spec.recorded
            )
    defaults |= structured_tables(spec, *loaded["env"])
    configs = {slot: type(config) for slot, config in defaults.items()}
    spellings = make_spellings(configs)
    arguments = spellings.present(arguments)
    if corrects:
        check_values(arguments, spellings)
    arguments = [argument for argument in arguments if argument.name != TRUST_SPEC]
    parsed, unknown = second_stage(arguments, spec, defaults, _long_description(spec, loaded))
    if unknown:
        raise unknown_arguments(arguments, unknown, configs, spec, spellings, corrected if corrects else None)
    changed = set_options(arguments, spellings, parsed)
    if parsed.tasks and request.extend is None:
        first = " ".join(parsed.tasks)
        hint = f"; for the first tasks of the env: --first-tasks {first}" if first.isdecimal() else ""
        raise OptionError(f"--tasks goes with --extend{hint}. See {PROGRAM} --help")
    selection = Selection(parsed.measure, parsed.first_tasks)
    if request.extend is not None and str(selection):
        raise OptionError("--measure and --first-tasks are for a new run, not for --extend; leave them out")
    if request.extend is not None:
        check_fixed(spec, changed)
    for slot in loaded:
        _check_imports(spec, slot, getattr(parsed, slot), changed.get(slot, {}), file)
    spec, resolved = _combined(spec, loaded, parsed, changed)
    return Arguments(
        spec,
        resolved,
        parsed.out,
        parsed.resume,
        request.extend,
        parsed.tasks,
        parsed.dry_run,
        parsed.quiet,
        parsed.save_every,
        parsed.workers,
        allow_changed=request.allow_changed,
        trust_local_code=trust,
        keep=parsed.keep,
        selection=selection,
    )


def _resume_only(request: Request, arguments: Sequence[Argument]) -> Arguments:
    """``--resume`` takes everything else from the run."""
    assert request.resume is not None
    spec = request.resume / "run.json"
    moved = {
        argument.name.removeprefix("env."): argument.values if argument.values[1:] else argument.values[0]
        for argument in arguments
        if argument.name.startswith("env.") and argument.values
    }
    for argument in arguments:
        if argument.typed and argument.name.removeprefix("env.") not in (*RESUMABLE, *moved):
            raise OptionError(
                f"--resume continues a run with its own options, so {argument.typed} cannot be set; "
                f"to change it, start a new run: {PROGRAM} --spec {spec} {argument.typed} …"
            )
    return Arguments(
        RunSpec(),
        None,
        resume=request.resume,
        quiet=request.quiet,
        save_every=request.save_every,
        workers=request.workers,
        allow_changed=request.allow_changed,
        trust_local_code=request.trust_local_code,
        moved=moved,
    )


def _check_imports(spec: RunSpec, slot: str, config: Any, changed: Mapping[str, Any], file: str) -> None:
    """Check that no file gives an option of a component that names code.

    Raises:
        UntrustedCode: one does.
    """
    chosen = spec.component(slot)
    typed = {name.replace("_", "-") for name in flatten(changed)}
    if file:
        chosen, typed = (
            Choice(shown_name(spec, slot), merged(options_of(spec, slot), changed), file=file),
            set(),
        )
    check_imports(config, chosen, owner_of(spec, slot), typed)


def _combined(
    spec: RunSpec, loaded: Mapping[str, Loaded], parsed: Any, changed: Mapping[str, dict[str, Any]]
) -> tuple[RunSpec, ResolvedRun]:
    """The spec with the options of the command line, and the run that it resolves to."""
    choices: dict[str, Any] = {}
    open_side = is_open(spec) and "side" in loaded and "side" not in changed
    for slot in loaded:
        chosen = spec.component(slot)
        if chosen is None or (slot == "side" and chosen.name == AUTO):
            chosen = Choice(DEFAULTS[slot])
        choices[slot] = attrs.evolve(chosen, options=merged(chosen.options, changed.get(slot, {})))
    tables: dict[str, Any] = {table: merged(getattr(spec, table), changed.get(table, {})) for table in TABLES}
    components = {
        slot: ResolvedComponent(plugin, cls, getattr(parsed, slot)) for slot, (plugin, cls) in loaded.items()
    }
    train: TrainOptions = parsed.train
    set_here = changed.get("train", {})
    if "steps" in set_here and "epochs" not in set_here:
        tables["train"]["epochs"] = None
        train = attrs.evolve(train, epochs=None)
    same_run = (parsed.seed, parsed.scenario) == (spec.seed, spec.scenario)
    is_same = changed.keys() <= {"cache", "device"} and same_run
    conditions = spec.conditions if is_same else None
    data = spec.data if "env" not in changed else None
    spec = attrs.evolve(
        spec,
        **choices,
        **tables,
        seed=parsed.seed,
        scenario=parsed.scenario,
        conditions=conditions,
        data=data,
    )
    check_scenario(loaded["learner"][0].name, loaded["learner"][1], spec.scenario)
    fitted_components, unfitted = fitted(components, spec)
    return spec, ResolvedRun(
        fitted_components,
        train,
        parsed.seed,
        parsed.cache,
        parsed.device,
        requested=spec,
        open_side=open_side,
        unfitted=unfitted,
        scenario=spec.scenario,
    )


def _print_short_help() -> None:
    """General help with names from metadata; no plugin is imported. Exits."""
    lines = ["Train a base, a side and a merger on a stream of tasks, and write the run folder.", ""]
    for known in KINDS:
        names = [plugin.name for plugin in registry.installed(known)]
        lines += [f"{known.plural}: {', '.join(names)}", ""]
    lines += [f"For the options of a component, name it: {PROGRAM} --learner finetune --env icifar --help"]
    tables = {table: config() for table, config in TABLES.items()}
    second_stage([Argument("--help")], RunSpec(), tables, "\n".join(lines))


def _long_description(spec: RunSpec, loaded: Mapping[str, Loaded]) -> str:
    chosen = ", ".join(f"{slot} {shown_name(spec, slot)}" for slot in loaded)
    return f"Train on a stream of tasks, and write the run folder. Components: {chosen}"
