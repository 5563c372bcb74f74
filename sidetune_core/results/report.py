"""Text about one run: its result matrix, its metrics, its report.

This module only formats: `metrics` computes, `summary` reads run folders, `cells` writes values, `tables`
typesets.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sidetune_core.config.plugin_record import PluginRecord
from sidetune_core.io.printable import counted
from sidetune_core.io.printable import one_line as escaped_line
from sidetune_core.results.anytime import ANYTIME
from sidetune_core.results.cells import (
    UNMEASURED,
    format_metric,
    format_value,
    in_mebibytes,
    in_percent,
    time_text,
)
from sidetune_core.results.matrix import LONG, how_to_read, matrix_cells, matrix_table, task_cells
from sidetune_core.results.metrics import (
    FURTHER,
    MAIN,
    Metric,
    Results,
    Row,
    average_accuracy,
    exactly_constant,
    forgetting,
    mean,
    meaningful,
    one_unit,
)
from sidetune_core.results.run_summary import ChangedTensors, RunSummary
from sidetune_core.results.scenarios import with_scenario
from sidetune_core.results.screen import FULL, Screen, wrapped
from sidetune_core.results.tables import Table, aligned, markdown, markdown_code, markdown_text
from sidetune_core.scenarios import CLASS, title
from sidetune_core.storage.status import DIVERGED

NOTHING_FORGOTTEN = "No forgetting was measured: every R[i][j], i >= j, is the same number bit for bit."
NOTHING_FORGOTTEN_CARRIED = (
    "No forgetting: every R[i][j], i >= j, is the same number bit for bit, where it was measured and where "
    "it was carried over."
)
SHOWN_GAPS = 10
"""Gaps that are listed one by one."""


def scenario_lines(summary: RunSummary) -> list[str]:
    """What R is in a scenario without task ids, and what it is with them; empty in the scenario ``task``."""
    known = summary.with_task_id
    if known is None:
        return []
    what = "all classes so far" if summary.spec.scenario == CLASS else "the classes of all tasks"
    line = f"{title(summary.spec.scenario)}: R is measured without task ids, among {what}"
    if not known.rows:
        return [line]
    percent = in_percent(summary.results)
    value = format_value(mean(known.rows[-1]), percent)
    return [
        line,
        f"With the task id, the average {summary.results.metric} is {value}{' %' if percent else ''}",
    ]


def gap_lines(summary: RunSummary) -> list[str]:
    """That the run has diverged, and each evaluation without metric; empty otherwise."""
    if not (summary.diverged or summary.gaps):
        return []
    reasons = summary.gaps or (summary.status.partition(": ")[2],)
    more = len(reasons) - SHOWN_GAPS
    return [
        f"{DIVERGED.capitalize()}; means over seeds and ranks leave this run out:",
        *(f"  {escaped_line(reason)}" for reason in reasons[:SHOWN_GAPS]),
        *([f"  and {more} more, see not_finite in eval.jsonl"] if more > 0 else []),
    ]


def results_lines(results: Results, screen: Screen, metrics: Sequence[Metric] = MAIN) -> str:
    """R and its metrics; of a single task, its value after training and before."""
    if len(results.tasks) == 1 and results.rows and not screen.long and metrics == MAIN:
        percent, unit = in_percent(results), " %" if in_percent(results) else ""
        before, after = (format_value(row[0], percent, 1) for row in (results.initial, results.rows[-1]))
        return f"{results.metric} {after}{unit} (untrained {before}{unit})"
    lines = metrics_lines(results, metrics, screen)
    return "\n".join([matrix_table(results, screen=screen), "", *lines])


def metrics_lines(results: Results, metrics: Sequence[Metric] = MAIN, screen: Screen = FULL) -> list[str]:
    """A line for each meaningful metric (see `metrics.meaningful`): name, value, meaning and convention."""
    table = _metrics_table(results, metrics, screen.long)
    indent = sum(max(len(row[column]) for row in table) + 3 for column in (0, 1))
    return wrapped(aligned(table, left={0, 2}, gap=3).splitlines(), screen, indent).splitlines()


def anytime_lines(summary: RunSummary) -> list[str]:
    """A line for each metric of evaluations within tasks; empty if there are none."""
    return aligned(table, left={0, 2}, gap=3).splitlines() if (table := _anytime_table(summary)) else []


def changed_lines(summary: RunSummary) -> list[str]:
    """Which tensors each task changed, with like tasks in one line, and whether anything was forgotten."""
    table: list[list[str]] = []
    for record in summary.changed:
        text = _changed_components(record, shorten=True) or "nothing"
        if table and table[-1][1] == text:
            table[-1][0] = f"{table[-1][0].split(' to ')[0]} to {record.task}"
            table[-1][2] = str(record.kept)
        else:
            table.append([record.task, text, str(record.kept)])
    lines = [
        f"{tasks} changed {text} (tensors); {kept} "
        f"{'other is' if kept == '1' else 'others are'} bit-identical"
        for tasks, text, kept in table
    ]
    constant = [_constant_line(summary)] if _nothing_forgotten(summary.results) else []
    plugins = [f"changed: {change}" for change in summary.plugin_changes]
    extensions = [f"extended: {line}" for line in (*summary.extensions, *summary.carried)]
    left_out = [f"left out: {line}" for line in summary.left_out]
    unchanged = [summary.unchanged] if summary.unchanged else []
    scenario = (*summary.task_confusions, *scenario_lines(summary)[1:])
    shown = (*scenario, *lines, *constant, *unchanged, *summary.certificate, *extensions, *plugins, *left_out)
    return [escaped_line(line) for line in shown]


def one_line(results: Results, percent: bool) -> str:
    """The results so far in one line: their average, or each task's result if tasks have different units."""
    if one_unit(results):
        average = format_value(average_accuracy(results), percent, 1)
        return f"average {results.metric} {average}{' %' if percent else ''}"
    last = results.rows[-1] if results.rows else results.initial
    cells = [f"{task} {format_value(cell, False)}" for task, cell in zip(results.tasks, last, strict=True)]
    return f"{results.metric} {', '.join(cells)}"


def run_report(summary: RunSummary) -> str:
    """The report of one run, in Markdown."""
    results = summary.results
    trained = f"{len(results.rows)} of {counted(len(results.tasks), 'task')} trained"
    metrics_table = [["metric", "value", "definition"], *_metrics_table(results, MAIN + FURTHER)]
    sections = [
        f"# {markdown_text(summary.name)}",
        markdown_text(with_scenario(summary.spec_line, summary.spec.scenario)),
        *([f"{summary.selection}, to select options."] if str(summary.selection) else []),
        f"Status: {DIVERGED if summary.diverged else markdown_text(summary.status)}, {trained}. "
        f"Folder: {markdown_code(summary.folder)}",
        "## Results",
        f"{how_to_read(results)} `{UNMEASURED}` was not measured"
        f"{', or is not finite' if summary.gaps else ''}.",
        markdown(
            task_cells(results, results.tasks)
            if len(results.tasks) > LONG
            else matrix_cells(results, rows=results.tasks, columns=results.tasks)
        ),
        markdown(metrics_table, left={0, 2}),
    ]
    if (known := summary.with_task_id) is not None:
        sections += ["## Without and with the task id", *(f"{line}." for line in scenario_lines(summary))]
        if len(results.tasks) <= LONG:
            sections.append(markdown(matrix_cells(known, rows=known.tasks, columns=known.tasks)))
        if summary.task_confusions:
            first, *rest = map(markdown_text, summary.task_confusions)
            sections.append("\n".join([first, "", *(f"- {line.strip()}" for line in rest)]))
    if anytime := _anytime_table(summary):
        header = ["metric within tasks", "value", "definition"]
        sections += ["## Within tasks", markdown([header, *anytime], left={0, 2})]
    if summary.training:
        sections += ["## Training", _bullets(summary.training)]
    if summary.unchanged:
        sections.append(f"{summary.unchanged}.")
    if extensions := (*summary.extensions, *summary.carried):
        sections.append("\n".join(f"- Extended: {markdown_text(line)}" for line in extensions))
    if gaps := gap_lines(summary):
        first, *rest = gaps
        sections += ["## Gaps", "\n".join([first, "", *(f"- {line.strip()}" for line in rest)])]
    if summary.classes:
        first, *rest = summary.classes
        nested = ["  " if line.startswith("    ") else "" for line in rest]
        listed = [
            f"{indent}- {markdown_text(line.strip())}" for indent, line in zip(nested, rest, strict=True)
        ]
        sections += ["## Classes", "\n".join([markdown_text(first), "", *listed])]
    if _nothing_forgotten(results):
        sections.append(_constant_line(summary))
    if summary.changed:
        sections += ["## Changed tensors", markdown(_changed_table(summary.changed), left={0, 1})]
    if summary.certificate:
        first, *rest = map(markdown_text, summary.certificate)
        sections += ["## Certificate", "\n".join([first, *(f"- {line.strip()}" for line in rest)])]
    if summary.plugins:
        sections += ["## Plugins", markdown(_plugin_table(summary.plugins), left={0, 1, 2, 3})]
    if summary.plugin_changes:
        sections.append("\n".join(f"- Changed: {markdown_text(change)}" for change in summary.plugin_changes))
    if summary.left_out:
        sections.append("\n".join(f"- Left out: {markdown_text(line)}" for line in summary.left_out))
    sections += ["## Cost", markdown([["cost", "amount"], *cost_lines(summary)])]
    return "\n\n".join(sections) + "\n"


def cost_lines(summary: RunSummary) -> list[list[str]]:
    """Name and amount of everything that the run cost."""
    costs = [[f"parameters, {name}", f"{count:,}"] for name, count in summary.parameters.items()]
    costs += _estimates(summary)
    costs += [[f"stored {name}", f"{size:,} bytes"] for name, size in summary.stored.items()]
    if summary.stored:
        costs.append(["memory budget (all that is stored)", f"{sum(summary.stored.values()):,} bytes"])
    costs += [["time", time_text(summary.seconds)], *_processor_and_memory(summary)]
    if summary.energy is not None:
        costs.append(["energy of the machine's processors", f"{summary.energy:,.0f} J"])
    return costs


def _nothing_forgotten(results: Results) -> bool:
    """The check is meaningful only if earlier tasks were re-evaluated, that is, if forgetting is defined."""
    return exactly_constant(results) and forgetting(results) is not None


def _constant_line(summary: RunSummary) -> str:
    return NOTHING_FORGOTTEN_CARRIED if summary.carried else NOTHING_FORGOTTEN


def _metrics_table(results: Results, metrics: Sequence[Metric], long: bool = True) -> Table:
    """Name, value and definition of each metric, without a header; with its source if `long`."""
    return [
        [
            metric.title(results.metric),
            format_metric(results, metric),
            f"{metric.meaning} ({metric.convention})" if long else metric.meaning,
        ]
        for metric in meaningful(metrics, [results])
    ]


def _anytime_table(summary: RunSummary) -> Table:
    """Name, value and definition of each metric of evaluations within tasks, without a header."""
    curves, results = summary.curves, summary.results
    if curves is None:
        return []
    percent = in_percent(results)
    table = []
    for metric in ANYTIME:
        value = metric.function(curves)
        shown = format_value(value, percent) + (" %" if value is not None and percent else "")
        name = metric.name.replace("accuracy", results.metric)
        table.append([name, shown, f"{metric.meaning} ({metric.convention})"])
    return table


def _bullets(lines: Sequence[str]) -> str:
    """A list, in which indented lines are items of the one above."""
    indents = ["  " if line.startswith(" ") else "" for line in lines]
    items = (f"{indent}- {markdown_text(line.strip())}" for indent, line in zip(indents, lines, strict=True))
    return "\n".join(items)


def _changed_table(records: Sequence[ChangedTensors]) -> Table:
    """For each task, the numbers of changed tensors, by component, and of bit-identical ones."""
    table = [["task", "changed", "bit-identical"]]
    for record in records:
        table.append([record.task, _changed_components(record) or "none", str(record.kept)])
    return table


def _plugin_table(plugins: Mapping[str, PluginRecord]) -> Table:
    """Package, version and source of each component."""
    rows = [
        [slot, record.name.rpartition("/")[2], record.origin, record.source[:12] or UNMEASURED]
        for slot, record in plugins.items()
    ]
    return [["slot", "component", "package", "source (SHA-256)"], *rows]


def _changed_components(record: ChangedTensors, shorten: bool = False) -> str:
    """E.g. "side 12, heads.t0 2"; without the task's own id if shortened."""
    suffix = f".{record.task}" if shorten else ""
    counts = {name.removesuffix(suffix): count for name, count in record.changed.items() if count}
    return ", ".join(f"{name} {count}" for name, count in counts.items())


def by_task(results: Results, columns: Sequence[tuple[str, Sequence[Row]]]) -> Table:
    """A line for each task, and a column for each name: the mean over its last rows of R."""
    table = [[f"final {results.metric}", *("\n".join(name.split()) for name, _ in columns)]]
    for index, task in enumerate(results.tasks):
        means = [mean(row[index] for row in rows) for _, rows in columns]
        table.append([task, *(format_value(value, False) for value in means)])
    return table


def _estimates(summary: RunSummary) -> list[list[str]]:
    """What was known of the cost of a task before the run."""
    size, step = summary.cache_bytes_per_example, summary.step_of_fine_tuning
    rows = []
    if size is not None:
        rows.append(["cache, bytes of an example", f"{size:,.0f}"])
    if step is not None:
        rows.append(["multiply-adds of a step, in those of fine-tuning", f"{step:.3g}"])
    return rows


def _processor_and_memory(summary: RunSummary) -> list[list[str]]:
    """Processor time and peak memory, if they were measured."""
    if summary.processor_seconds is None or summary.peak_memory is None:
        return []
    return [
        ["processor time", time_text(summary.processor_seconds)],
        ["peak memory", f"{in_mebibytes(summary.peak_memory)} MiB"],
    ]
