"""Commands about the ledger of claims: `reproduce`, `ledger`."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

import attrs
from tyro.conf import Positional

from sidetune_core.cli.commands.shared import Switch, assignment
from sidetune_core.errors import LedgerError, suggest
from sidetune_core.io.printable import one_line
from sidetune_core.results.tables import Layout
from sidetune_core.storage.atomic import write_text


def reproduce(
    claim: Positional[str],
    places: Positional[tuple[str, ...]] = (),
    ledger: Path = Path("ledger"),
    out: Path = Path("runs"),
    record: Switch = False,
    quiet: Switch = False,
    trust_local_code: Switch = False,
) -> int:
    """Reproduce a claim of the ledger with each of its seeds, and check it. Finished runs in --out are used
    as they are.

    Args:
        claim: name of the claim, such as icifar-ewc-exact; `sidetune ledger` lists them.
        places: paths, device and cache on this machine, such as env.archive=cifar100.npz or device.name=cuda.
        ledger: folder of the claims.
        out: runs are written to OUT/CLAIM/seed-K.
        record: replace the recorded results of the claim by these runs, which must be of committed code.
        quiet: print no progress.
        trust_local_code: import code that the claim or its data names (module:Class).
    """
    from sidetune_core.ledger import reproduce as reproduction
    from sidetune_core.ledger.claims import plugins_changed, read_entry, verdicts, write_record

    entry = read_entry(ledger, claim)
    spec = reproduction.read_command(entry.claim, "" if trust_local_code else str(ledger / f"{claim}.toml"))
    spec = attrs.evolve(spec, trust_local_code=trust_local_code)
    spec_here = reproduction.placed(spec, [assignment(word) for word in places])
    print(one_line(f"{entry.claim.method}: {entry.claim.command}"), file=sys.stderr)
    runs = reproduction.carry_out(
        spec_here, entry.claim.seeds, out / claim, quiet, lambda line: print(one_line(line))
    )
    summaries = [run.summary for run in runs]
    if not record and any(summary.diverged for summary in summaries):
        print("does not hold: a run has diverged")
        return 1
    checked = verdicts(entry, summaries)
    for verdict in checked:
        print(f"{'holds' if verdict.holds else 'does not hold'}: {one_line(verdict.text)}")
    if not all(verdict.holds for verdict in checked):
        for change in plugins_changed(entry, summaries):
            print(f"likely cause: another plugin than in the record, {one_line(change)}")
    if not checked:
        print("no reference value yet (none published, none recorded)")
    if record:
        print(one_line(write_record(ledger, entry, spec, summaries, [run.about for run in runs])))
        return 0
    return 0 if all(verdict.holds for verdict in checked) else 1


def show_ledger(
    table: Positional[str | None] = None,
    ledger: Path = Path("ledger"),
    format: Layout = "text",
    update: Path | None = None,
    figure: Path | None = None,
) -> int:
    """Show the recorded results of the ledger, table by table.

    Args:
        table: name of the table; default: all.
        ledger: folder of the claims.
        format: format of the tables.
        update: a Markdown file whose tables, between <!-- ledger: TABLE --> and <!-- end -->, are
            regenerated; the table 'summary' has a row for each of the others.
        figure: plot the methods of the table, accuracy against trainable weights, to this file (.png, .svg,
            .pdf).
    """
    from sidetune_core.ledger import claims as book
    from sidetune_core.ledger.summary import summarize

    entries = [book.read_entry(ledger, name) for name in book.names(ledger)]
    tables = {
        name: [entry for entry in entries if entry.claim.table == name]
        for name in dict.fromkeys(entry.claim.table for entry in entries)
    }
    if update is not None:
        written = {name: book.write_up(rows, "markdown") for name, rows in tables.items()}
        written["summary"] = summarize(tables, "markdown")
        write_text(update, book.update(update.read_text(encoding="utf-8"), written))
        print(one_line(update))
        return 0
    if table is not None and table not in tables:
        raise LedgerError(
            f"the ledger has no table '{table}'.{suggest(table, tables)} Tables: {', '.join(tables)}"
        )
    if figure is not None:
        if table is None:
            raise LedgerError(f"--figure plots one table: name it, such as '{next(iter(tables))}'")
        from sidetune_core.results.figures import draw_by_scenario, draw_costs

        recorded = [entry for entry in tables[table] if entry.runs]
        labelled = {entry.claim.method for entry in recorded if entry.claim.summary}
        draw = partial(draw_costs, labelled=labelled)
        for file in draw_by_scenario(book.methods_of(recorded), figure, draw):
            print(one_line(file))
        return 0
    for name, rows in tables.items():
        if table in (None, name):
            print(f"{name}  ({', '.join(entry.name for entry in rows)})\n\n{book.write_up(rows, format)}\n")
    return 0
