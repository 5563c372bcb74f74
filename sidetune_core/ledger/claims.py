"""The ledger: what is claimed, how to see it again, and what was measured.

A folder with one ``NAME.toml`` for each claim, written by a person:

    table = "iCIFAR"                       # entries of one table are compared with each other
    method = "EWC, exact Fisher"           # how the table calls it
    command = "sidetune-run --env icifar --learner ewc"
    seeds = [0, 1, 2]
    tolerance = 0.01                       # how far the mean may be off when somebody else runs it; of losses of several tasks, what
                                           # share each may be off by, on average

    [[published]]                          # any number of these, for the same figure (average accuracy)
    figure = 0.7634
    source = "van de Ven et al. 2022, Table 3, another network"
    tolerance = 0.01                       # left out where the figure is shown for orientation only

    figures = ["exact"]                    # more figures of the tasks that the table shows; the claims of a table may each name some

and below it ``recorded/NAME.json``, written by `sidetune reproduce NAME --record` alone: R of each seed, further figures of the tasks,
numbers of parameters, what it took, versions, commit. Every table is made from these, so no figure is ever typed.
"""

from __future__ import annotations

import json
import math
import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import attrs

from sidetune_core.config.options import structure
from sidetune_core.config.spec import RunSpec, from_values
from sidetune_core.errors import LedgerError, OptionError, suggest
from sidetune_core.results.compare_methods import compare_methods
from sidetune_core.results.grouping import MethodRuns
from sidetune_core.results.metrics import Results, average_accuracy, one_unit
from sidetune_core.results.report import RunSummary, format_value, in_percent
from sidetune_core.results.tables import Layout, typeset
from sidetune_core.storage.atomic import write_text

LEDGER = Path("ledger")


@attrs.frozen
class Published:
    """A figure that others report."""

    figure: float
    source: str
    tolerance: float | None = None
    """How far ours may be off to count as the same; None for a figure from another setting, which proves nothing."""


@attrs.frozen
class Claim:
    """One entry: a command, its seeds, and what it should come to."""

    table: str
    method: str
    command: str
    seeds: list[int]
    tolerance: float
    published: list[Published] = attrs.field(factory=list)
    note: str = ""
    """What a reader of the table has to know."""
    figures: list[str] = attrs.field(factory=list)
    """More figures of the tasks that its table shows."""


@attrs.frozen
class Entry:
    """A claim with its name and what was recorded, one summary for each seed; none if it was never run."""

    name: str
    claim: Claim
    runs: tuple[RunSummary, ...]

    @property
    def recorded(self) -> float | None:
        """Mean over seeds of what was recorded."""
        return mean_accuracy(self.runs) if self.runs else None


@attrs.frozen
class Verdict:
    """Whether a mean is what it should be."""

    holds: bool
    text: str


def names(folder: Path) -> list[str]:
    """The claims of a ledger.

    Raises:
        LedgerError: there are none.
    """
    found = sorted(path.stem for path in folder.glob("*.toml"))
    if not found:
        raise LedgerError(
            f"{folder} holds no claims (*.toml). The ledger lies in the project's repository; --ledger says where else"
        )
    return found


def read_entry(folder: Path, name: str) -> Entry:
    """One claim and its record.

    Raises:
        LedgerError: there is no such claim, a file is damaged, or the record was made with another command.
    """
    known = names(folder)
    if name not in known:
        raise LedgerError(
            f"no claim '{name}' in {folder}.{suggest(name, known)} There are: {', '.join(known)}"
        )
    path = folder / f"{name}.toml"
    try:
        claim = structure(Claim, tomllib.loads(path.read_text(encoding="utf-8")), str(path))
    except (OSError, ValueError, OptionError) as error:
        raise LedgerError(f"cannot read the claim {path}: {error}") from error
    record = _record_path(folder, name)
    return Entry(name, claim, _read_record(record, claim) if record.is_file() else ())


def mean_accuracy(runs: Sequence[RunSummary]) -> float:
    """Average accuracy (or what the tasks' metric is), averaged over runs that are all complete."""
    figures = [average_accuracy(run.results) for run in runs]
    known = [figure for figure in figures if figure is not None]
    if len(known) < len(figures):
        raise LedgerError("a run without a complete last row cannot stand in the ledger")
    return fmean(known)


def verdicts(entry: Entry, runs: Sequence[RunSummary]) -> list[Verdict]:
    """The mean of `runs` against what was recorded, and against what was published for the same setting.

    Losses of several tasks have no mean: each is compared with what was recorded for it, as a share, and the tolerance is a share too.
    """
    mean = mean_accuracy(runs)
    if not one_unit(runs[0].results):
        if not entry.runs:
            return []
        off = fmean(
            abs(new / old - 1) for new, old in zip(_last_row(runs), _last_row(entry.runs), strict=True)
        )
        return [
            Verdict(
                off <= entry.claim.tolerance,
                f"losses are off by {off:.4f} of what was recorded (± {entry.claim.tolerance:g})",
            )
        ]
    against = [(entry.recorded, entry.claim.tolerance, "recorded")] if entry.recorded is not None else []
    against += [
        (one.figure, one.tolerance, one.source) for one in entry.claim.published if one.tolerance is not None
    ]
    return [
        Verdict(
            abs(mean - figure) <= tolerance, f"{mean:.4f} against {figure:.4f} ± {tolerance:g} ({source})"
        )
        for figure, tolerance, source in against
    ]


def write_record(
    folder: Path, entry: Entry, spec: RunSpec, runs: Sequence[RunSummary], about: Sequence[Mapping[str, Any]]
) -> Path:
    """Replace the record of a claim.

    Args:
        spec: what the command means.
        runs: one for each seed of the claim.
        about: ``run.json`` of each; machine, versions and commit are taken from it.

    Raises:
        LedgerError: a run was made with changes that no commit has.
    """
    mean_accuracy(runs)
    for run, origin in zip(runs, about, strict=True):
        if origin["git"] is None or origin["git"]["changed"]:
            raise LedgerError(
                f"{run.folder} was made by code that is in no commit, so nobody could see it again; commit, and run it anew"
            )
    path = _record_path(folder, entry.name)
    record = {
        "command": entry.claim.command,
        "spec": spec.to_json(),
        "runs": [
            {
                "seed": run.spec.seed,
                "results": attrs.asdict(run.results),
                "further": dict(run.further),
                "parameters": dict(run.parameters),
                "took": {
                    "seconds": run.seconds,
                    "processor seconds": run.processor_seconds,
                    "peak memory": run.peak_memory,
                },
                **{key: origin[key] for key in ("machine", "threads", "versions")},
                "commit": origin["git"]["commit"],
            }
            for run, origin in zip(runs, about, strict=True)
        ],
    }
    text = re.sub(
        r"\[\s+([^\[\]{}]+?)\s+\]",
        lambda found: f"[{' '.join(found[1].split())}]",
        json.dumps(record, indent=1),
    )
    write_text(path, text + "\n")  # a row of R in a line
    return path


def write_up(entries: Sequence[Entry], layout: Layout) -> str:
    """What was recorded for the claims of one table: the methods compared, then beside what others report."""
    recorded = [entry for entry in entries if entry.runs]
    sections = []
    if recorded:
        methods = [MethodRuns(entry.claim.method, entry.runs, ()) for entry in recorded]
        further = list(dict.fromkeys(name for entry in entries for name in entry.claim.figures))
        work = all(run.peak_memory is not None for method in methods for run in method.runs)
        sections.append(compare_methods(methods, layout, seconds=False, further=further, work=work))
    beside = [["method", "here", "published", "the same, within", "source"]]
    for entry in recorded:
        percent = in_percent(entry.runs[0].results)
        for one in entry.claim.published:
            figures = [format_value(figure, percent) for figure in (entry.recorded, one.figure)]
            beside.append([entry.claim.method, *figures, _sameness(entry, one, percent), one.source])
    if len(beside) > 1:
        sections.append(typeset(beside, layout, left={0, 4}))
    sections += _notes([entry.claim for entry in entries])
    missing = [entry.claim.method for entry in entries if not entry.runs]
    if missing:
        sections.append(f"Not run yet: {'; '.join(missing)}.")
    return "\n\n".join(sections)


def _notes(claims: Sequence[Claim]) -> list[str]:
    """Each note once, with the methods that have it in front; without them where all have it."""
    methods: dict[str, list[str]] = {}
    for claim in claims:
        if claim.note:
            methods.setdefault(claim.note, []).append(claim.method)
    return [
        note if 1 < len(claims) == len(own) else f"{', '.join(own)}: {note}" for note, own in methods.items()
    ]


def update(text: str, tables: Mapping[str, str]) -> str:
    """A text with everything between ``<!-- ledger: TABLE -->`` and ``<!-- end -->`` replaced by that table.

    Raises:
        LedgerError: it has no such place, or one for a table that there is not.
    """

    def fill(found: re.Match[str]) -> str:
        if found[1] not in tables:
            raise LedgerError(
                f"the ledger has no table '{found[1]}'.{suggest(found[1], tables)} There are: {', '.join(tables)}"
            )
        return f"<!-- ledger: {found[1]} -->\n\n{tables[found[1]]}\n\n<!-- end -->"

    filled, count = re.subn(r"<!-- ledger: (.+?) -->\n.*?<!-- end -->", fill, text, flags=re.DOTALL)
    if not count:
        raise LedgerError(
            "no place for a table: it is marked by <!-- ledger: TABLE --> and <!-- end -->, each on a line of its own"
        )
    return filled


def _sameness(entry: Entry, published: Published, percent: bool) -> str:
    """``1.00: yes``, or nothing where a figure is from another setting."""
    if published.tolerance is None or entry.recorded is None:
        return ""
    same = abs(entry.recorded - published.figure) <= published.tolerance
    return f"{format_value(published.tolerance, percent)}: {'yes' if same else 'no'}"


def _last_row(runs: Sequence[RunSummary]) -> list[float]:
    """What each task came to in the end, averaged over runs that are all complete."""
    return [
        fmean(cell or 0.0 for cell in column)
        for column in zip(*(run.results.rows[-1] for run in runs), strict=True)
    ]


def _record_path(folder: Path, name: str) -> Path:
    return folder / "recorded" / f"{name}.json"


def _read_record(path: Path, claim: Claim) -> tuple[RunSummary, ...]:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        if record["command"] != claim.command:
            raise LedgerError(
                f"{path} was recorded with another command than the claim has now; run it anew with --record"
            )
        spec = from_values(record["spec"], str(path))
        runs = tuple(_summary(path.stem, attrs.evolve(spec, seed=run["seed"]), run) for run in record["runs"])
    except (OSError, ValueError, KeyError, TypeError, OptionError) as error:
        raise LedgerError(f"cannot read the record {path}: {error!r}") from error
    return runs


def _summary(name: str, spec: RunSpec, run: Mapping[str, Any]) -> RunSummary:
    results = run["results"]
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
        moved=(),
        parameters=run["parameters"],
        seconds=run.get("took", {}).get("seconds", math.nan),
        status="done",
        folder=name,
        processor_seconds=run.get("took", {}).get("processor seconds"),
        peak_memory=run.get("took", {}).get("peak memory"),
        further=run.get("further", {}),
    )
