"""Verbs about the ledger of claims: `reproduce`, `ledger`."""

from __future__ import annotations

import sys
from pathlib import Path

from tyro.conf import Positional

from sidetune_core.cli.commands.shared import Switch, assignment
from sidetune_core.errors import LedgerError, suggest
from sidetune_core.results.tables import Layout
from sidetune_core.storage.atomic import write_text


def reproduce(
    claim: Positional[str],
    places: Positional[tuple[str, ...]] = (),
    ledger: Path = Path("ledger"),
    out: Path = Path("runs"),
    record: Switch = False,
    quiet: Switch = False,
) -> int:
    """Run a claim of the ledger again, with each of its seeds, and say whether it holds. Finished runs in --out are not run again.

    Args:
        claim: its name, such as icifar-ewc-exact; `sidetune ledger` shows what there is.
        places: where things are on this machine, such as env.archive=cifar100.npz or train.device=cuda.
        ledger: the folder with the claims.
        out: runs go to OUT/CLAIM/seed-K.
        record: replace what the ledger has recorded by these runs; they have to be of committed code.
        quiet: no progress.
    """
    from sidetune_core.ledger import reproduce as again
    from sidetune_core.ledger.claims import read_entry, verdicts, write_record

    entry = read_entry(ledger, claim)
    spec = again.read_command(entry.claim)
    there = again.placed(spec, [assignment(word) for word in places])
    print(f"{entry.claim.method}: {entry.claim.command}", file=sys.stderr)
    runs = again.carry_out(there, entry.claim.seeds, out / claim, quiet, print)
    summaries = [run.summary for run in runs]
    found = verdicts(entry, summaries)
    for verdict in found:
        print(f"{'holds' if verdict.holds else 'does not hold'}: {verdict.text}")
    if not found:
        print("nothing to compare with yet: nobody published it and nothing is recorded")
    if record:
        print(write_record(ledger, entry, spec, summaries, [run.about for run in runs]))
        return 0
    return 0 if all(verdict.holds for verdict in found) else 1


def show_ledger(
    table: Positional[str | None] = None,
    ledger: Path = Path("ledger"),
    format: Layout = "text",
    update: Path | None = None,
) -> int:
    """Show what the ledger has recorded, table by table.

    Args:
        table: only this one.
        ledger: the folder with the claims.
        format: of the tables.
        update: a Markdown file whose tables, between <!-- ledger: TABLE --> and <!-- end -->, are made anew.
    """
    from sidetune_core.ledger import claims as book

    entries = [book.read_entry(ledger, name) for name in book.names(ledger)]
    tables = {
        name: [entry for entry in entries if entry.claim.table == name]
        for name in dict.fromkeys(one.claim.table for one in entries)
    }
    if update is not None:
        text = update.read_text(encoding="utf-8")
        write_text(
            update,
            book.update(text, {name: book.write_up(ones, "markdown") for name, ones in tables.items()}),
        )
        print(update)
        return 0
    if table is not None and table not in tables:
        raise LedgerError(
            f"the ledger has no table '{table}'.{suggest(table, tables)} There are: {', '.join(tables)}"
        )
    for name, ones in tables.items():
        if table in (None, name):
            print(f"{name}  ({', '.join(entry.name for entry in ones)})\n\n{book.write_up(ones, format)}\n")
    return 0
