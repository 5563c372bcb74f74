"""Text about one run: its result matrix, its metrics, its report.

This module only formats: `metrics` computes, `summary` reads run folders, `tables` typesets.

An accuracy in [0, 1] is printed in percent, any other metric with four significant digits; `·` marks cells
that were not measured and metrics that are undefined.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os.path import commonprefix

import attrs

from sidetune_core.config.plugin_record import PluginRecord
from sidetune_core.config.selection import Selection
from sidetune_core.config.spec import RunSpec
from sidetune_core.io.printable import counted
from sidetune_core.io.printable import one_line as escaped_line
from sidetune_core.results.anytime import ANYTIME, Curves
from sidetune_core.results.metrics import (
    FURTHER,
    MAIN,
    Metric,
    Results,
    Row,
    average_accuracy,
    exactly_constant,
    forgetting,
    learning_accuracy,
    mean,
    meaningful,
    one_unit,
)
from sidetune_core.results.run_data import EnvData
from sidetune_core.results.scenarios import with_scenario
from sidetune_core.results.screen import FULL, Screen, wrapped
from sidetune_core.results.tables import (
    Format,
    Table,
    aligned,
    comma_separated,
    markdown,
    markdown_code,
    markdown_text,
    typeset,
)
from sidetune_core.scenarios import CLASS, TASK_AWARE, title
from sidetune_core.storage.run_folder import DIVERGED, has_diverged, has_ended

UNMEASURED = "·"
PERCENTAGES = ("accuracy", "balanced_accuracy")
"""Metrics in [0, 1] that are printed in percent."""
NOTHING_FORGOTTEN = "No forgetting was measured: every R[i][j], i >= j, is the same number bit for bit."
NOTHING_FORGOTTEN_CARRIED = (
    "No forgetting: every R[i][j], i >= j, is the same number bit for bit, where it was measured and where "
    "it was carried over."
)
SHOWN_GAPS = 10
"""Gaps that are listed one by one."""
LONG = 25
"""Tasks up to which R is shown as a matrix."""
TRAINABLE = "trainable per task"
"""Key of `RunSummary.parameters` for the number of trainable parameters of a typical task."""


@attrs.frozen
class ChangedTensors:
    """The tensors that training one task changed."""

    task: str
    changed: Mapping[str, int]
    """Number of changed tensors by component, such as ``base`` or ``heads.t0``."""
    kept: int
    """Number of bit-identical tensors."""


@attrs.frozen
class RunSummary:
    """Everything that is reported about one run."""

    name: str
    spec: RunSpec
    """The resolved spec: every component and option."""
    spec_line: str
    """The spec in a line: "icifar · resnet44 + fcn4 · mlp2 · sidetune · seed 0"."""
    results: Results
    changed: tuple[ChangedTensors, ...]
    parameters: Mapping[str, int]
    """Numbers of parameters: ``"all"`` and `TRAINABLE`."""
    seconds: float | None
    """None if they were not measured."""
    status: str
    folder: str
    certificate: tuple[str, ...] = ()
    """The certificate in lines."""
    processor_seconds: float | None = None
    peak_memory: int | None = None
    """In bytes."""
    cache_bytes_per_example: float | None = None
    """Of the feature cache; None if unknown."""
    step_of_fine_tuning: float | None = None
    """Multiply-adds of a training step of side-tuning, in those of fine-tuning the base; None if unknown."""
    gaps: tuple[str, ...] = ()
    """Evaluations without metric, because a value is not finite: which task, when, and why."""
    other_metrics: Mapping[str, float] = attrs.field(factory=dict)
    """All metrics of the tasks at the end of the run, averaged over tasks."""
    plugins: Mapping[str, PluginRecord] = attrs.field(factory=dict)
    """The components with which the run began, by slot."""
    plugin_changes: tuple[str, ...] = ()
    """Plugins and conditions that are others than those of its spec, and what changed while the run was
    interrupted, in lines."""
    extensions: tuple[str, ...] = ()
    """The tasks that were added when the run had finished, in lines."""
    network: str = ""
    """Class and digest of the network that Python gave as base; empty if it was chosen by name."""
    carried: tuple[str, ...] = ()
    """The values of R that an earlier version carried over to an extension, in lines."""
    unchanged: str = ""
    """How many values of R are those of the row before, in a sentence; empty if none is."""
    classes: tuple[str, ...] = ()
    """Classes that are recognised badly, and confusions, at the end of the run, in lines."""
    data: tuple[EnvData, ...] = ()
    """The data of each of its envs; empty if unknown."""
    with_task_id: Results | None = None
    """R of predictions with the task id, in a scenario in which `results` are those without."""
    task_confusions: tuple[str, ...] = ()
    """Between which tasks predictions without the task id are confused, in lines."""
    stored: Mapping[str, int] = attrs.field(factory=dict)
    """Bytes of weights, exemplars and statistics that the learner stores at the end; empty if unknown."""
    energy: float | None = None
    """Of the machine's processors during the run, in joules; None if unknown."""
    curves: Curves | None = None
    """The evaluations within its tasks; None if there are none, or they cannot be averaged."""
    training: tuple[str, ...] = ()
    """Where training stopped early, which weights were kept, and whether an epoch was a single pass, in
    lines."""
    titles: tuple[str, ...] = ()
    """Of its tasks, such as their class names; empty if unknown."""
    left_out: tuple[str, ...] = ()
    """Damaged files, in lines; what they have is missing here."""
    selection: Selection = Selection()
    """The tasks of the env that were trained, and the split of R."""

    @property
    def diverged(self) -> bool:
        """Whether a loss, an output or a metric was not finite: means and ranks leave the run out."""
        return has_diverged(self.status)

    @property
    def ended(self) -> bool:
        """Whether the run is done or has diverged."""
        return has_ended(self.status)


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


def matrix_table(results: Results, full: bool = False, screen: Screen = FULL) -> str:
    """R for a terminal: a row for the untrained learner and for each trained task, a column for each task.

    The last row ends with its mean, unless tasks have different units. Ids are shortened so that ten tasks
    fit in 80 columns. Of more than `LONG` tasks, or where the matrix is wider than the screen, a row for each
    task, unless the matrix is asked for.
    """
    by_task = f"{aligned(_by_task(results, _short(results.tasks, 12)))}\n{_how_long(results)}"
    if len(results.tasks) > LONG and not full:
        return by_task
    matrix = _matrix(results, rows=_short(results.tasks, 12), columns=_short(results.tasks, 6))
    for gap in (2, 1):
        text = aligned(matrix, gap=gap)
        if full or screen.width is None or max(map(len, text.splitlines())) <= screen.width:
            return text
    return by_task


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
        f"{_how_to_read(results)} `{UNMEASURED}` was not measured"
        f"{', or is not finite' if summary.gaps else ''}.",
        markdown(
            _by_task(results, results.tasks)
            if len(results.tasks) > LONG
            else _matrix(results, rows=results.tasks, columns=results.tasks)
        ),
        markdown(metrics_table, left={0, 2}),
    ]
    if (known := summary.with_task_id) is not None:
        sections += ["## Without and with the task id", *(f"{line}." for line in scenario_lines(summary))]
        if len(results.tasks) <= LONG:
            sections.append(markdown(_matrix(known, rows=known.tasks, columns=known.tasks)))
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


# Contents of the tables


def _nothing_forgotten(results: Results) -> bool:
    """The check is meaningful only if earlier tasks were re-evaluated, that is, if forgetting is defined."""
    return exactly_constant(results) and forgetting(results) is not None


def _constant_line(summary: RunSummary) -> str:
    return NOTHING_FORGOTTEN_CARRIED if summary.carried else NOTHING_FORGOTTEN


def _matrix(results: Results, rows: Sequence[str], columns: Sequence[str]) -> Table:
    """R with row labels and column headers."""
    percent = in_percent(results)
    table = [[_title(results, percent), *columns]]
    measured = [results.initial, *results.rows]  # fewer rows than labels in an unfinished run
    for label, row in zip(["untrained", *rows], measured, strict=False):
        table.append([label, *(format_value(cell, percent, 1) for cell in row)])
    if one_unit(results):
        average = format_value(average_accuracy(results), percent, 1) if results.rows else ""
        for line, cell in zip(table, ["mean", *[""] * (len(table) - 2), average], strict=True):
            line.append(cell)
    return table


def _by_task(results: Results, labels: Sequence[str]) -> Table:
    """The diagonal of R, its last row, and that of the untrained learner: a row for each task."""
    percent, rows = in_percent(results), results.rows
    last = rows[-1] if rows else (None,) * len(results.tasks)
    after = results.tasks[len(rows) - 1] if rows else "training"
    table = [[_title(results, percent), "untrained", "after its training", f"after {after}"]]
    for index, label in enumerate(labels):
        trained = rows[index][index] if index < len(rows) else None
        cells = (results.initial[index], trained, last[index])
        table.append([label, *(format_value(cell, percent, 1) for cell in cells)])
    if one_unit(results):
        means = mean(results.initial), learning_accuracy(results), average_accuracy(results)
        table.append(["mean", *(format_value(value, percent, 1) for value in means)])
    return table


def _how_to_read(results: Results) -> str:
    metric = markdown_text(results.metric)
    if len(results.tasks) <= LONG:
        return f"Row i, column j: {metric} on task j after training task i."
    return f"{metric.capitalize()} on each task. {_how_long(results)}"


def _how_long(results: Results) -> str:
    """What is shown of a long R, and how to get all of it."""
    return (
        f"R of {len(results.tasks):,} tasks is shown by its diagonal and its first and last rows. All rows: "
        "sidetune report RUN --full"
    )


def full_matrix(results: Results, format: Format) -> str:
    """All rows of R in a format; in CSV with all digits."""
    if format == "csv":
        rows = zip(["untrained", *results.tasks], [results.initial, *results.rows], strict=False)
        return comma_separated([[results.metric, *results.tasks], *([label, *row] for label, row in rows)])
    if format == "text":
        return matrix_table(results, full=True)
    return typeset(_matrix(results, results.tasks, results.tasks), format)


def _title(results: Results, percent: bool) -> str:
    """The header of R."""
    return f"{results.metric}{' %' if percent else ''} {'↑' if results.higher_is_better else '↓'}"


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


# Formatting of cells


def in_percent(results: Results) -> bool:
    """Whether the results are accuracies in [0, 1]."""
    return results.metric.removesuffix(TASK_AWARE) in PERCENTAGES and results.in_unit_range


def format_value(value: float | None, percent: bool, decimals: int = 2) -> str:
    """The value without a unit: a percentage with `decimals`, or four significant digits. Never "-0.0"."""
    if value is None:
        return UNMEASURED
    return f"{100 * value:z.{decimals}f}" if percent else f"{value:z.4g}"


def with_unit(metric: str, value: float | None) -> str:
    """A value of a metric with its unit: 96.7 % for an accuracy of 0.967."""
    known = value is not None and 0 <= value <= 1 and metric.removesuffix(TASK_AWARE) in PERCENTAGES
    return format_value(value, known, 1) + (" %" if known else "")


def format_int(number: int | None) -> str:
    """With a separator for thousands."""
    return UNMEASURED if number is None else f"{number:,}"


def format_metric(results: Results, metric: Metric) -> str:
    """The value of a metric with its unit; ratios are in percent."""
    value, percent = metric.function(results), metric.unitless or in_percent(results)
    return format_value(value, percent) + (" %" if value is not None and percent else "")


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


def in_mebibytes(size: float) -> str:
    """A size in bytes, in MiB."""
    return f"{size / 2**20:,.0f}"


def time_text(seconds: float | None) -> str:
    """In at most two units: "8.4 s", "3 min 20 s", "2 h 05 min"."""
    if seconds is None:
        return UNMEASURED
    if round(seconds, 1) < 60:
        return f"{seconds:.1f} s"
    minutes, remainder = divmod(round(seconds), 60)
    return f"{minutes} min {remainder:02} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02} min"


def _short(ids: Sequence[str], width: int) -> Sequence[str]:
    """Distinct labels of at most `width` characters.

    The first possible of: the ids, the ids without their common prefix of whole words, their beginnings,
    their ends, their indices.
    """
    prefix = commonprefix(list(ids))
    while prefix and prefix[-1].isalnum():  # whole words: task-10 and task-11 become 10 and 11, not 0 and 1
        prefix = prefix[:-1]
    candidates = (
        ids,
        [name[len(prefix) :] for name in ids],
        [name if len(name) <= width else f"{name[: width - 1]}…" for name in ids],
        [name if len(name) <= width else f"…{name[1 - width :]}" for name in ids],
    )
    for labels in candidates:
        if len(set(labels)) == len(ids) and all(0 < len(label) <= width for label in labels):
            return labels
    return [str(index) for index in range(len(ids))]
