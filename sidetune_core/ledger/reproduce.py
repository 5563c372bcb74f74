"""Run a claim of the ledger again."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import attrs

from sidetune_core.config import argv
from sidetune_core.config.options import Renamed, describe, former_options
from sidetune_core.config.resolve import resolve
from sidetune_core.config.spec import MOVED_OPTIONS, RunSpec, from_values, respell_tables
from sidetune_core.errors import LedgerError, OptionError
from sidetune_core.ledger.claims import Claim
from sidetune_core.results.grouping import same_method
from sidetune_core.results.report import RunSummary, one_line
from sidetune_core.results.summary import summarise
from sidetune_core.storage.run_folder import RunFolder
from sidetune_core.training import run


@attrs.frozen
class Run:
    """A finished run of a claim."""

    summary: RunSummary
    about: dict[str, Any]
    """Its ``run.json``."""


def read_command(claim: Claim) -> RunSpec:
    """The spec that a claim's command means, without a seed.

    Raises:
        LedgerError: it is no ``sidetune-run``, or it sets what a claim leaves open.
    """
    program, *words = shlex.split(claim.command)
    set_here = [
        word
        for word in words
        if word.split("=")[0] in ("--seed", "--out", "--spec", "--resume", "--help", "-h")
    ]
    if program != argv.PROGRAM or set_here:
        raise LedgerError(
            f"a claim's command is {argv.PROGRAM} with parts and their options only, not: {claim.command}"
        )
    return argv.parse(words).spec


def placed(spec: RunSpec, places: Sequence[tuple[str, Any]]) -> RunSpec:
    """The spec with where things are on this machine, such as ``("env.archive", "cifar100.npz")``.

    Raises:
        OptionError: something else than a path, the device or the feature store would be set: that would be another claim.
    """
    components = resolve(spec).components
    for name, value in places:
        slot, _, option = name.replace("_", "-").partition(".")
        if slot in components:  # under its former name too
            config = type(components[slot].config)
            option = former_options(config).get(option, Renamed(option)).to
        paths = (
            {info.name for info in describe(type(components[slot].config)) if "path" in info.type}
            if slot in components
            else set()
        )
        if slot in ("device", "cache") or f"{slot}.{option}" in MOVED_OPTIONS:
            tables = respell_tables({slot: {option: value}})
            changed: dict[str, Any] = {table: {**getattr(spec, table), **tables[table]} for table in tables}
            spec = attrs.evolve(spec, **changed)
        elif option in paths:
            asked = spec.component(slot)
            assert asked is not None
            spec = spec.with_components(
                {slot: attrs.evolve(asked, options={**asked.options, option.replace("-", "_"): str(value)})}
            )
        else:
            raise OptionError(
                f"'{name}' belongs to the claim; only paths, device.… and cache.… can be set (env.archive=FILE)"
            )
    return spec


def carry_out(
    spec: RunSpec, seeds: Sequence[int], folder: Path, quiet: bool, info: Callable[[str], None]
) -> list[Run]:
    """A finished run of `spec` for each seed, in ``folder/seed-K``; what is there already is used, and gone on with if need be.

    Raises:
        SidetuneError: a run fails, or a folder holds another run than this.
    """
    runs = []
    for seed in seeds:
        path = folder / f"seed-{seed}"
        wanted = attrs.evolve(spec, seed=seed)
        found = RunFolder(path)
        if not (path / "run.json").is_file():
            run.run(wanted, path, quiet)
        else:
            _same(found, wanted)
            if found.status != "done":
                run.resume(path, quiet)
        summary = summarise(found)
        runs.append(Run(summary, found.read_json("run.json")))
        info(f"seed {seed}: {one_line(summary.results, percent=False)}, {summary.seconds:.0f} s, {path}")
    return runs


def _same(folder: RunFolder, spec: RunSpec) -> None:
    there = from_values(
        folder.read_json("run.json").get("resolved"), str(folder.path / "run.json"), recorded=True
    )
    if not same_method(resolve(there).to_spec(), resolve(spec).to_spec()):
        raise LedgerError(
            f"{folder.path} holds another run than the claim's; choose another --out, or remove it"
        )
