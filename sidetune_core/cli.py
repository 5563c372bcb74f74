"""The command line: `sidetune-run` composes and runs, `sidetune` has the verbs. Torch is imported only where something is computed."""

from __future__ import annotations

import inspect
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import attrs
from tyro.conf import FlagCreatePairsOff, Positional
from tyro.extras import SubcommandApp

from sidetune_core import arguments, kinds, registry
from sidetune_core.compose import compose
from sidetune_core.errors import EndedElsewhere, Interrupted, LedgerError, OptionError, RunError, SidetuneError, suggest
from sidetune_core.files import write_text
from sidetune_core.methods import Method, group, same_stream
from sidetune_core.metrics import MAIN, Metric
from sidetune_core.options import describe as describe_options
from sidetune_core.report import COMPARED, RunSummary, against, comparison, matrix_table, metrics_lines, moved_lines
from sidetune_core.runs import open_run, resume_command
from sidetune_core.summary import summarise
from sidetune_core.tables import Format, Layout

Switch = Annotated[bool, FlagCreatePairsOff]

verbs = SubcommandApp()


def main_run(argv: Sequence[str] | None = None) -> int:
    """``sidetune-run``; returns the exit status."""
    words = list(sys.argv[1:] if argv is None else argv)
    return _guarded(lambda: _run(words), debug="--debug" in words)


def main(argv: Sequence[str] | None = None) -> int:
    """``sidetune``; returns the exit status."""
    words = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in words
    words = [word for word in words if word != "--debug"]
    description = "Look at registered parts and at runs. To run something: sidetune-run --help"

    def act() -> int:
        status = verbs.cli(prog="sidetune", description=description, args=words or ["--help"])
        return status if isinstance(status, int) else 0

    return _guarded(act, debug)


def _guarded(act: Callable[[], int], debug: bool) -> int:
    """Run a command; what the user can mend becomes one paragraph and status 2."""
    try:
        return act()
    except SidetuneError as error:
        if debug:
            raise
        if isinstance(error, EndedElsewhere):
            return 2
        print(f"error: {error}", file=sys.stderr)
        return 2
    except Interrupted as stop:
        if stop.told:
            print(f"\ninterrupted; go on with: {resume_command(stop.folder)}", file=sys.stderr)
        return 128 + stop.number
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of a pipe has enough
        sys.stderr.close()
        return 0


def _run(argv: list[str]) -> int:
    asked = arguments.parse(argv)
    if asked.dry_run:
        composition = compose(asked.spec)
        print(composition, file=sys.stderr)
        print(json.dumps(composition.resolved().to_json(), indent=2))
        return 0
    from sidetune_core import engine

    if asked.resume:
        run = engine.resume(asked.resume, asked.quiet, asked.save_every)
    else:
        run = engine.run(asked.spec, asked.out, asked.quiet, asked.save_every or engine.SAVE_EVERY)
    if not run.folder.writes:
        return 0  # of several processes, the first one tells
    summary = summarise(run.folder)
    folder = run.folder.path
    print(f"\n{matrix_table(summary.results)}\n")
    print("\n".join(metrics_lines(summary.results)))
    print("\n" + "\n".join(moved_lines(summary)))
    print(f"\nrun folder  {folder}  (report.md, TensorBoard in tb/)")
    print(f"try next    sidetune-run --spec {folder / 'run.json'} --learner finetune    # the same stream, another method")
    print(f"            sidetune report {folder.parent}/*    # compare runs")
    return 0


@verbs.command(name="list")
def list_plugins(kind: Positional[str | None] = None, json: Switch = False) -> int:
    """List the registered parts, from package metadata only.

    Args:
        kind: bases, sides, mergers, learners or envs; all where it is left out.
        json: print JSON.
    """
    chosen = [kinds.kind(kind)] if kind else list(kinds.KINDS)
    found = {one.plural: registry.installed(one) for one in chosen}
    if json:
        without_kind = attrs.filters.exclude("kind")
        _print_json({name: [attrs.asdict(plugin, filter=without_kind) for plugin in plugins] for name, plugins in found.items()})
        return 0
    for one in chosen:
        print(f"{one.plural} ({one.summary})")
        for plugin in found[one.plural]:
            print(f"  {plugin.name:<14}{plugin.origin}")
        if not found[one.plural]:
            print("  none")
    return 0


@verbs.command
def describe(kind: Positional[str], name: Positional[str]) -> int:
    """Show what a part is and which options it has.

    Args:
        kind: base, side, merger, learner or env.
        name: as it is registered.
    """
    plugin = registry.find(kinds.kind(kind), name)
    cls = registry.load(plugin)
    print(f"{plugin.title}: {plugin.target}\n\n{inspect.getdoc(cls)}\n")
    for slot, word in (("needs", "needs"), ("takes", "can use")):
        if getattr(cls, slot, None):
            print(f"{word}: {', '.join(sorted(getattr(cls, slot)))}")
    if getattr(cls, "recipe", None):
        print("training defaults: " + ", ".join(f"--train.{key} {value}" for key, value in cls.recipe.items()))
    options = describe_options(cls.Config)
    print("options:" if options else "no options")
    for option in options:
        print(f"  --{plugin.kind.name}.{option.name}  {option.type}, default {option.default}\n      {option.help}")
    return 0


@verbs.command
def check(
    kind: Positional[str | None] = None,
    name: Positional[str | None] = None,
    options: Positional[tuple[str, ...]] = (),
    distribution: str | None = None,
    json: Switch = False,
) -> int:
    """Check that a part keeps the contract of its kind, or all parts of a package. Exit status 1 where one does not.

    Args:
        kind: base, side, merger, learner or env.
        name: as it is registered.
        options: such as ``weights=none`` or ``tasks=2``, where the defaults need files that are not there.
        distribution: check every part of this installed package instead; options follow as KIND and NAME would.
        json: print JSON.
    """
    if distribution is not None:
        options = (*filter(None, (kind, name)), *options)
    from sidetune_core import testing

    values = dict(map(_assignment, options))
    if distribution is not None:
        checked = testing.check_distribution(distribution, values)
    elif kind is None or name is None:
        raise OptionError("name what to check: sidetune check learner sidetune, or sidetune check --distribution PACKAGE")
    else:
        checked = [testing.Checked(kinds.kind(kind).name, name, tuple(testing.check_plugin(kind, name, values)))]
    passed = all(one.passed for one in checked)
    if json:
        _print_json({"passed": passed, "plugins": [one.to_json() for one in checked]})
    else:
        blocks = [f"{one.kind} '{one.name}'\n{testing.report(one.findings)}" for one in checked]
        print("\n\n".join(blocks) if distribution is not None else testing.report(checked[0].findings))
    return 0 if passed else 1


@verbs.command(name="new")
def new_package(kind: Positional[str], name: Positional[str], out: Path | None = None) -> int:
    """Write a package with a part of your own to go on from: metadata, class, options, test.

    Args:
        kind: base, side, merger, learner or env.
        name: what the part is to be called, such as my_method.
        out: folder of the package, empty or absent; sidetune-NAME where it is left out.
    """
    from sidetune_core.scaffold import create_package

    one = kinds.kind(kind)
    folder = create_package(one, name, out)
    print(folder)
    print(f"try next    pip install -e {folder} && sidetune check {one.name} {name} && sidetune-run --{one.name} {name}")
    return 0


@verbs.command
def report(
    runs: Positional[tuple[Path, ...]],
    by: Literal["auto", "run", "method"] = "auto",
    reference: Path | None = None,
    format: Format = "text",
    figure: Path | None = None,
) -> int:
    """Show one run, or compare several. Everything is computed from the run folders.

    Runs that differ only in the seed, the device or the feature store are one method. A line for a method has means over seeds,
    95 % intervals and the average rank over tasks; what it is called is what tells it from the others.

    Args:
        runs: run folders.
        by: a line for each run or for each method; auto is by method where one has several seeds.
        reference: a finished run of joint training: adds intransigence against the last row of its R.
        format: of the table: csv has plain numbers in full precision, latex needs the package booktabs.
        figure: draw to a .png, .svg or .pdf file instead: R of one run, or each task over time for several methods.
    """
    if not runs:
        raise SidetuneError("name at least one run: sidetune report runs/*")
    summaries = _summaries(runs)
    extra = _against(reference, summaries) if reference is not None else ()
    single = len(summaries) == 1 and by == "auto"
    if single and figure is None and format == "text":
        (one,) = summaries
        print(f"{one.spec_line}\n\n{matrix_table(one.results)}\n")
        print("\n".join(metrics_lines(one.results, (*MAIN, *extra))) + "\n\n" + "\n".join(moved_lines(one)))
        return 0
    methods = group(summary for summary in summaries if summary.status == "done")
    if by == "auto":
        by = "method" if any(len(method.runs) > 1 for method in methods) else "run"
    if figure is not None:
        from sidetune_core.figure import draw, draw_methods

        if single:
            draw(summaries[0], figure)
        else:
            draw_methods(_complete(methods, summaries), figure)
        print(figure)
    elif by == "run":
        print(comparison(summaries, format, (*COMPARED, *extra)))
    else:
        from sidetune_core.comparison import compare_methods

        print(compare_methods(_complete(methods, summaries), format, (*COMPARED, *extra)))
    return 0


def _summaries(runs: Sequence[Path]) -> list[RunSummary]:
    """The runs that can be read; `runs/*` may hold other things."""
    summaries = []
    for path in runs:
        try:
            summaries.append(summarise(open_run(path)))
        except RunError as error:
            if len(runs) == 1:
                raise
            print(f"left out: {error}", file=sys.stderr)
    if not summaries:
        raise SidetuneError("none of these folders holds a run")
    return summaries


def _against(reference: Path, summaries: Sequence[RunSummary]) -> tuple[Metric]:
    """The metric that a reference adds, if it was measured as the runs were."""
    joint = summarise(open_run(reference))
    for summary in summaries:
        if not same_stream([joint, summary]):
            raise RunError(f"{reference} cannot be a reference for {summary.folder}: env, tasks or metric are others")
    return (against(joint),)


def _complete(methods: Sequence[Method], summaries: Sequence[RunSummary]) -> Sequence[Method]:
    """The methods, having said which runs they leave out."""
    for summary in summaries:
        if summary.status != "done":
            print(f"left out: {summary.folder} is not finished ({summary.status})", file=sys.stderr)
    for method in methods:
        for run in method.repeats:
            print(f"left out: {run.folder} repeats seed {run.spec.seed} of {method.name}", file=sys.stderr)
    if not methods:
        raise SidetuneError("none of these runs is finished; compare them as they are with --by run")
    return methods


@verbs.command
def export(run: Positional[Path], part: str = "base", out: Path | None = None) -> int:
    """Write the weights of a part of a run's newest checkpoint to a file, for ``--base.weights`` or ``--side.weights``.

    Args:
        run: the run folder.
        part: 'base', 'side', 'sides.t0', …; an unknown one is answered with what there is.
        out: a .safetensors file; PART.safetensors where it is left out.
    """
    from sidetune_core import checkpoint
    from sidetune_core.weights import write_tensors

    folder = open_run(run)
    path = checkpoint.latest(folder.checkpoints)
    if path is None:
        raise SidetuneError(f"{run} has no checkpoint yet")
    tensors = checkpoint.read_part(path, part)
    out = out or Path(f"{part}.safetensors")
    if out.suffix != ".safetensors":
        raise SidetuneError(f"weights are written as .safetensors, not '{out.name}'")
    write_tensors(out, tensors, {"composition": str(folder.read_json("run.json")["composition"]), "part": part})
    print(f"{out}: {len(tensors)} tensors, {sum(tensor.numel() for tensor in tensors.values()):,} numbers")
    return 0


@verbs.command(name="verify")
def verify_run(run: Positional[Path]) -> int:
    """Check the certificate of a run, which says whether anything was forgotten, from the run's folder alone.

    The hashes in it are compared with the checkpoints, the learner is built again from the newest one, and the stored probes are sent
    through it. Exit status 0 where the certificate holds, whatever it says, and 1 where it does not.

    Args:
        run: the run folder.
    """
    from sidetune_core import certificate
    from sidetune_core.verify import verify

    found = verify(open_run(run))
    for line in (*found.problems, *(f"note: {note}" for note in found.notes)):
        print(line)
    if found.problems:
        print(f"The certificate of {run} does NOT hold.")
        return 1
    print("\n".join(certificate.lines(found.certificate) or [f"Nothing could be forgotten: {found.certificate.verdict}."]))
    print(f"The certificate of {run} holds: the hashes and probes of {len(found.certificate.tasks)} tasks were checked.")
    return 0


@verbs.command
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
    from sidetune_core import reproduce as again
    from sidetune_core.ledger import read_entry, verdicts, write_record

    entry = read_entry(ledger, claim)
    spec = again.read_command(entry.claim)
    there = again.placed(spec, [_assignment(word) for word in places])
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


@verbs.command(name="ledger")
def show_ledger(
    table: Positional[str | None] = None, ledger: Path = Path("ledger"), format: Layout = "text", update: Path | None = None
) -> int:
    """Show what the ledger has recorded, table by table.

    Args:
        table: only this one.
        ledger: the folder with the claims.
        format: of the tables.
        update: a Markdown file whose tables, between <!-- ledger: TABLE --> and <!-- end -->, are made anew.
    """
    from sidetune_core import ledger as book

    entries = [book.read_entry(ledger, name) for name in book.names(ledger)]
    tables = {name: [entry for entry in entries if entry.claim.table == name] for name in dict.fromkeys(one.claim.table for one in entries)}
    if update is not None:
        text = update.read_text(encoding="utf-8")
        write_text(update, book.update(text, {name: book.write_up(ones, "markdown") for name, ones in tables.items()}))
        print(update)
        return 0
    if table is not None and table not in tables:
        raise LedgerError(f"the ledger has no table '{table}'.{suggest(table, tables)} There are: {', '.join(tables)}")
    for name, ones in tables.items():
        if table in (None, name):
            print(f"{name}  ({', '.join(entry.name for entry in ones)})\n\n{book.write_up(ones, format)}\n")
    return 0


def _assignment(word: str) -> tuple[str, Any]:
    """``weights=none`` as a name and a value."""
    name, equals, value = word.partition("=")
    if not equals:
        raise OptionError(f"an option is written NAME=VALUE, such as weights=none; got '{word}'")
    return name, _plain(value)


def _plain(text: str) -> Any:
    """``2`` as a number and ``true`` as a truth value, anything else as text."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def _print_json(values: Any) -> None:
    print(json.dumps(values, indent=2))
