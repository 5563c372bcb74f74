"""Reproduce a claim of the ledger."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import attrs

from sidetune_core.assembly.restore import read_resolved
from sidetune_core.config import argv
from sidetune_core.config.argv_options import PROGRAM
from sidetune_core.config.extensions import extension_lines
from sidetune_core.config.option_tables import MOVED_OPTIONS, respell_tables
from sidetune_core.config.options import Renamed, describe, former_options
from sidetune_core.config.plugin_record import PluginChange
from sidetune_core.config.resolve import resolve
from sidetune_core.config.spec import RunSpec
from sidetune_core.errors import LedgerError, OptionError
from sidetune_core.ledger.claims import Claim
from sidetune_core.results.grouping import same_method
from sidetune_core.results.report import one_line
from sidetune_core.results.run_summary import RunSummary
from sidetune_core.results.summary import summarise
from sidetune_core.storage.run_folder import RunFolder
from sidetune_core.training import resume, run

NOT_IN_A_CLAIM = {
    "--seed",
    "--out",
    "--spec",
    "--resume",
    "--trust-local-code",
    "--trust-spec",
    "--help",
    "-h",
}
"""Options that `sidetune reproduce` sets itself, or that are no part of a composition."""


@attrs.frozen
class Run:
    """A finished run of a claim."""

    summary: RunSummary
    about: dict[str, Any]
    """Its ``run.json``."""


def read_command(claim: Claim, file: str = "the claim") -> RunSpec:
    """The spec of a claim's command, without a seed.

    Args:
        claim: the claim.
        file: its file, for messages, which can name no code to import; empty where it is trusted.

    Raises:
        UntrustedCode: the command names code.
        LedgerError: the command is not ``sidetune-run``, or it sets an option that is not the claim's.
    """
    program, *arguments = shlex.split(claim.command)
    names = {argument.split("=")[0].replace("_", "-") for argument in arguments}
    if program != PROGRAM or names & NOT_IN_A_CLAIM:
        raise LedgerError(
            f"a claim's command is {PROGRAM} with components and their options only, not: {claim.command}"
        )
    return argv.parse(arguments, file).spec


def placed(spec: RunSpec, places: Sequence[tuple[str, Any]]) -> RunSpec:
    """The spec with paths and devices of this machine, such as ``("env.archive", "cifar100.npz")``.

    Raises:
        OptionError: an option other than a path, the device or the feature cache is set: that is another
            claim.
    """
    components = resolve(spec).components
    for name, value in places:
        slot, _, option = name.replace("_", "-").partition(".")
        paths: set[str] = set()
        if slot in components:
            config = type(components[slot].config)
            option = former_options(config).get(option, Renamed(option)).to
            paths = {info.name for info in describe(config) if "path" in info.type}
        if slot in ("device", "cache") or f"{slot}.{option}" in MOVED_OPTIONS:
            tables = respell_tables({slot: {option: value}})
            changed: dict[str, Any] = {table: {**getattr(spec, table), **tables[table]} for table in tables}
            spec = attrs.evolve(spec, **changed)
        elif option in paths:
            requested = spec.component(slot)
            assert requested is not None
            values = {**requested.options, option.replace("-", "_"): str(value)}
            spec = spec.with_components({slot: attrs.evolve(requested, options=values)})
        else:
            raise OptionError(
                f"'{name}' belongs to the claim; set only paths, device.… and cache.…, e.g. env.archive=FILE"
            )
    return spec


def carry_out(
    spec: RunSpec, seeds: Sequence[int], folder: Path, quiet: bool, info: Callable[[str], None]
) -> list[Run]:
    """A finished run of `spec` for each seed, in ``folder/seed-K``. Unfinished runs are resumed.

    Raises:
        SidetuneError: a run fails or its loss diverges, or a folder holds a run of another spec.
    """
    runs = []
    for seed in seeds:
        path = folder / f"seed-{seed}"
        run_spec = attrs.evolve(spec, seed=seed)
        existing = RunFolder(path)
        if not (path / "run.json").is_file():
            run.run(run_spec, path, quiet)
        else:
            for change in _check_same(existing, run_spec):
                info(f"seed {seed}: {path} was made with another plugin than is installed: {change}")
            if not existing.finished:
                resume.resume(path, quiet, trust_local_code=spec.trust_local_code)
        summary = summarise(existing)
        runs.append(Run(summary, existing.read_json("run.json")))
        if summary.diverged:
            info(f"seed {seed}: {summary.status}")
        info(f"seed {seed}: {one_line(summary.results, percent=False)}, {summary.seconds or 0:.0f} s, {path}")
    return runs


def _check_same(folder: RunFolder, spec: RunSpec) -> list[PluginChange]:
    """Check that a folder holds a run of a spec; returns the plugins that have changed since."""
    recorded = read_resolved(folder, spec.trust_local_code)
    if not same_method(recorded.to_spec(), resolve(spec).to_spec()):
        raise LedgerError(
            f"{folder.path} holds a run of another spec than the claim's; choose another --out, or remove it"
        )
    if lines := extension_lines(folder.read_json("run.json")):
        raise LedgerError(
            f"{folder.path} holds a run to which tasks were added ({lines[0]}), which is no run of the "
            "claim; choose another --out, or remove it"
        )
    return recorded.plugin_changes()
