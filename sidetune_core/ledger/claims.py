"""The ledger: claims, the commands that reproduce them, and recorded results.

A folder with one ``NAME.toml`` for each claim, written by a person:

    table = "iCIFAR"                       # claims of one table are compared with each other
    method = "EWC, exact Fisher"           # the method's name in the table
    command = "sidetune-run --env icifar --learner ewc"
    seeds = [0, 1, 2]
    tolerance = 0.01                       # of the mean over seeds, for a repetition on another machine;
                                           # losses of several tasks: of their mean relative difference
    search = "icifar-ewc"                  # searches/icifar-ewc.json, from which the options were selected
    former_commands = ["…"]                # earlier spellings of the command: their record stays valid
    metrics = ["exact"]                    # more metrics of the tasks to show in the table
    summary = "fine-tuning"                # the column in which the summary of all tables has this claim

    [[published]]                          # any number of published values of the average accuracy
    value = 0.7634
    source = "van de Ven et al. 2022, Table 3, another network"
    tolerance = 0.01                       # left out if the value is from another setting

and ``recorded/NAME.json``, written only by `sidetune reproduce NAME --record`: R of each seed, further
metrics of the tasks, numbers of parameters, cost, versions, commit. Every table is generated from these
files, so no result is typed by hand.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from statistics import fmean
from typing import Any

import attrs

from sidetune_core.config.options import structure
from sidetune_core.config.plugin_record import changes, read_segments
from sidetune_core.config.spec import RunSpec
from sidetune_core.config.spec_file import from_values
from sidetune_core.errors import LedgerError, OptionError, suggest
from sidetune_core.io import strict_json
from sidetune_core.io.files import read_text
from sidetune_core.ledger.searches import SearchRecord, check_chosen, read_search_record, search_lines
from sidetune_core.results.cells import format_value, in_percent
from sidetune_core.results.compare_methods import compare_methods
from sidetune_core.results.grouping import MethodRuns, in_present_names
from sidetune_core.results.metrics import Results, average_accuracy, one_unit
from sidetune_core.results.run_summary import RunSummary
from sidetune_core.results.tables import Layout, typeset
from sidetune_core.storage.atomic import write_text

LEDGER = Path("ledger")
PROTOCOL = "protocol.toml"
"""File of the searches by which options are selected; it is no claim."""


@attrs.frozen
class Published:
    """A value that others published."""

    value: float
    source: str
    tolerance: float | None = None
    """Largest difference at which our value counts as the same; None for a value from another setting."""


@attrs.frozen
class Claim:
    """A claim: a command, its seeds, and the expected result."""

    table: str
    method: str
    command: str
    seeds: list[int]
    tolerance: float
    published: list[Published] = attrs.field(factory=list)
    note: str = ""
    """A remark for readers of the table."""
    metrics: list[str] = attrs.field(factory=list)
    """Names of more metrics of the tasks to show in the table."""
    summary: str = ""
    """The column of the summary of all tables (`ledger.summary`) that has this claim; empty: none."""
    former_commands: list[str] = attrs.field(factory=list)
    """Earlier spellings of `command`: a record made with one of them is still this claim's record."""
    search: str = ""
    """The name of the search that selected its options (see `searches`); empty if they were not searched."""


@attrs.frozen
class Entry:
    """A claim with its name and its recorded runs, one for each seed; none if nothing is recorded."""

    name: str
    claim: Claim
    runs: tuple[RunSummary, ...]
    search: SearchRecord | None = None
    """That selected its options; None if they were not searched."""

    @property
    def recorded(self) -> float | None:
        """The recorded mean over seeds."""
        return mean_accuracy(self.runs) if self.runs else None


@attrs.frozen
class Verdict:
    """Whether a result agrees with a reference value."""

    holds: bool
    text: str


def names(folder: Path) -> list[str]:
    """The names of a ledger's claims.

    Raises:
        LedgerError: there are none.
    """
    claims = sorted(path.stem for path in folder.glob("*.toml") if path.name != PROTOCOL)
    if not claims:
        raise LedgerError(
            f"{folder} has no claims (*.toml). Run in the project's repository, or pass --ledger FOLDER"
        )
    return claims


def read_entry(folder: Path, name: str) -> Entry:
    """A claim and its record.

    Raises:
        LedgerError: there is no such claim, a file is damaged, or the record is of another command.
    """
    known = names(folder)
    if name not in known:
        raise LedgerError(f"no claim '{name}' in {folder}.{suggest(name, known)} Claims: {', '.join(known)}")
    path = folder / f"{name}.toml"
    try:
        values = _with_current_keys(tomllib.loads(read_text(path)))
        claim = structure(Claim, values, str(path))
    except (OSError, ValueError, RecursionError, OptionError) as error:
        raise LedgerError(f"cannot read the claim {path}: {error}") from error
    search = read_search_record(folder, claim.search) if claim.search else None
    if search is not None:
        check_chosen(claim.command, search, path)
    record = _record_path(folder, name)
    return Entry(name, claim, _read_record(record, claim) if record.is_file() else (), search)


def mean_accuracy(runs: Sequence[RunSummary]) -> float:
    """The average accuracy (or other metric of the tasks), averaged over complete runs.

    Raises:
        LedgerError: a run has diverged, or its last row of R has gaps.
    """
    for run in runs:
        if run.diverged:
            raise LedgerError(f"the ledger takes no run that has diverged; {run.folder} has {run.status}")
    values = [average_accuracy(run.results) for run in runs]
    defined = [value for value in values if value is not None]
    if len(defined) < len(values):
        raise LedgerError("the ledger takes complete runs only; the last row of R of one of these has gaps")
    return fmean(defined)


def verdicts(entry: Entry, runs: Sequence[RunSummary]) -> list[Verdict]:
    """Compare the mean of `runs` with the recorded mean, and with values published for the same setting.

    Losses of several tasks have no mean: the relative difference from the recorded loss is averaged over
    tasks.
    """
    mean = mean_accuracy(runs)
    if not one_unit(runs[0].results):
        return [_compare_losses(entry, runs)] if entry.runs else []
    references: list[tuple[float, float, str]] = []
    if entry.recorded is not None:
        references.append((entry.recorded, entry.claim.tolerance, "recorded"))
    for published in entry.claim.published:
        if published.tolerance is not None:
            references.append((published.value, published.tolerance, published.source))
    return [
        Verdict(
            abs(mean - reference) <= tolerance,
            f"{mean:.4f} vs. {reference:.4f} ± {tolerance:g} ({source})",
        )
        for reference, tolerance, source in references
    ]


def plugins_changed(entry: Entry, runs: Sequence[RunSummary]) -> list[str]:
    """The components of `runs` that are not those of the claim's record, if this has them."""
    recorded = entry.runs[0].plugins if entry.runs else {}
    return [str(change) for change in changes(recorded, runs[0].plugins)] if runs else []


def write_record(
    folder: Path, entry: Entry, spec: RunSpec, runs: Sequence[RunSummary], about: Sequence[Mapping[str, Any]]
) -> Path:
    """Replace the record of a claim.

    Args:
        spec: the spec of the claim's command.
        runs: one for each seed of the claim.
        about: ``run.json`` of each run, for machine, versions and commit.

    Raises:
        LedgerError: a run has diverged, or was made by uncommitted code.
    """
    mean_accuracy(runs)
    for run, origin in zip(runs, about, strict=True):
        if origin["git"] is None or origin["git"]["changed"]:
            raise LedgerError(
                f"{run.folder} was made by uncommitted code, so nobody can reproduce it; "
                "commit the changes and run it again in another --out"
            )
    path = _record_path(folder, entry.name)
    record = {
        "command": entry.claim.command,
        "spec": spec.to_json(),
        "runs": [
            {
                "seed": run.spec.seed,
                "results": attrs.asdict(run.results),
                "further": dict(run.other_metrics),
                "parameters": dict(run.parameters),
                **({"stored": dict(run.stored)} if run.stored else {}),
                "took": {
                    "seconds": run.seconds,
                    "processor seconds": run.processor_seconds,
                    "peak memory": run.peak_memory,
                    **({"joules": run.energy} if run.energy is not None else {}),
                },
                **{key: origin[key] for key in ("machine", "threads", "versions")},
                "commit": origin["git"]["commit"],
                "plugins": {slot: record.to_json() for slot, record in run.plugins.items()},
            }
            for run, origin in zip(runs, about, strict=True)
        ],
    }
    write_text(path, _one_row_per_line(strict_json.dumps(record, indent=1)) + "\n")
    return path


def methods_of(entries: Sequence[Entry]) -> list[MethodRuns]:
    """The methods of recorded claims, comparable where earlier versions had other names of options."""
    runs = iter(in_present_names([run for entry in entries for run in entry.runs]))
    return [MethodRuns(entry.claim.method, tuple(islice(runs, len(entry.runs))), ()) for entry in entries]


def write_up(entries: Sequence[Entry], layout: Layout) -> str:
    """The recorded results of one table's claims: a comparison of methods, then of published values."""
    recorded = [entry for entry in entries if entry.runs]
    sections = []
    if recorded:
        methods = methods_of(recorded)
        further = list(dict.fromkeys(name for entry in entries for name in entry.claim.metrics))
        work = all(run.peak_memory is not None for method in methods for run in method.runs)
        sections.append(compare_methods(methods, layout, seconds=False, further=further, work=work))
    comparison = [["method", "here", "published", "same within", "source"]]
    for entry in recorded:
        percent = in_percent(entry.runs[0].results)
        for published in entry.claim.published:
            values = [format_value(value, percent) for value in (entry.recorded, published.value)]
            same = _same_within(entry, published, percent)
            comparison.append([entry.claim.method, *values, same, published.source])
    if len(comparison) > 1:
        sections.append(typeset(comparison, layout, left={0, 4}))
    sections += search_lines([(entry.claim.method, entry.search) for entry in recorded])
    sections += _notes([entry.claim for entry in entries])
    missing = [entry.claim.method for entry in entries if not entry.runs]
    if missing:
        sections.append(f"No recorded runs: {'; '.join(missing)}.")
    return "\n\n".join(sections)


def _notes(claims: Sequence[Claim]) -> list[str]:
    """Each note once, preceded by the methods that it is about, unless these are all."""
    methods: dict[str, list[str]] = {}
    for claim in claims:
        if claim.note:
            methods.setdefault(claim.note, []).append(claim.method)
    return [
        note if 1 < len(claims) == len(noted) else f"{', '.join(noted)}: {note}"
        for note, noted in methods.items()
    ]


def update(text: str, tables: Mapping[str, str]) -> str:
    """A text with everything between ``<!-- ledger: TABLE -->`` and ``<!-- end -->`` replaced by that table;
    the table ``summary`` has a row for each of the others.

    Raises:
        LedgerError: the text has no such markers, or they name an unknown table.
    """

    def fill(match: re.Match[str]) -> str:
        name = match[1]
        if name not in tables:
            raise LedgerError(
                f"the ledger has no table '{name}'.{suggest(name, tables)} Tables: {', '.join(tables)}"
            )
        return f"<!-- ledger: {name} -->\n\n{tables[name]}\n\n<!-- end -->"

    filled, count = re.subn(r"<!-- ledger: (.+?) -->\n.*?<!-- end -->", fill, text, flags=re.DOTALL)
    if not count:
        raise LedgerError(
            "no markers for a table: add <!-- ledger: TABLE --> and <!-- end -->, each on its own line"
        )
    return filled


def _compare_losses(entry: Entry, runs: Sequence[RunSummary]) -> Verdict:
    rows = zip(_last_row(runs), _last_row(entry.runs), strict=True)
    difference = fmean(abs(new / recorded - 1) for new, recorded in rows)
    return Verdict(
        difference <= entry.claim.tolerance,
        f"losses differ by {difference:.4f} of the recorded ones on average (± {entry.claim.tolerance:g})",
    )


def _same_within(entry: Entry, published: Published, percent: bool) -> str:
    """``1.00: yes``, or nothing for a value from another setting."""
    if published.tolerance is None or entry.recorded is None:
        return ""
    same = abs(entry.recorded - published.value) <= published.tolerance
    return f"{format_value(published.tolerance, percent)}: {'yes' if same else 'no'}"


def _last_row(runs: Sequence[RunSummary]) -> list[float]:
    """The last row of R, averaged over complete runs."""
    return [
        fmean(cell or 0.0 for cell in column)
        for column in zip(*(run.results.rows[-1] for run in runs), strict=True)
    ]


def _one_row_per_line(text: str) -> str:
    """JSON with each innermost list, such as a row of R, in one line."""
    return re.sub(r"\[\s+([^\[\]{}]+?)\s+\]", lambda match: f"[{' '.join(match[1].split())}]", text)


def _with_current_keys(values: Mapping[str, Any]) -> dict[str, Any]:
    """A claim's table, with the former keys ``figures`` and ``published.figure`` renamed."""
    current = {"metrics" if key == "figures" else key: value for key, value in values.items()}
    published = current.get("published")
    if isinstance(published, list) and all(isinstance(entry, Mapping) for entry in published):
        current["published"] = [
            {"value" if key == "figure" else key: value for key, value in entry.items()}
            for entry in published
        ]
    return current


def _record_path(folder: Path, name: str) -> Path:
    return folder / "recorded" / f"{name}.json"


def _read_record(path: Path, claim: Claim) -> tuple[RunSummary, ...]:
    try:
        record = json.loads(read_text(path))
        if record["command"] not in (claim.command, *claim.former_commands):
            raise LedgerError(
                f"{path} was recorded with another command than the claim's; record it again "
                f"(sidetune reproduce {path.stem} --record)"
            )
        spec = from_values(record["spec"], str(path), recorded=True)
        runs = tuple(_summary(path.stem, attrs.evolve(spec, seed=run["seed"]), run) for run in record["runs"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError, OptionError) as error:
        raise LedgerError(f"cannot read the record {path}: {error!r}") from error
    return runs


def _summary(name: str, spec: RunSpec, run: Mapping[str, Any]) -> RunSummary:
    results, cost = run["results"], run.get("took", {})
    return RunSummary(
        name=f"{name}, seed {spec.seed}",
        spec=spec,
        spec_line=name,
        results=Results(
            tasks=tuple(results["tasks"]),
            rows=tuple(tuple(row) for row in results["rows"]),
            initial=tuple(results["initial"]),
            metric=results["metric"],
            higher_is_better=results["higher_is_better"],
        ),
        changed=(),
        parameters=run["parameters"],
        seconds=cost.get("seconds"),
        status="done",
        folder=name,
        processor_seconds=cost.get("processor seconds"),
        peak_memory=cost.get("peak memory"),
        stored=run.get("stored", {}),
        energy=cost.get("joules"),
        other_metrics=run.get("further", {}),
        plugins=read_segments(run)[0].plugins,
    )
