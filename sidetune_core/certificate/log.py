"""``certificate.jsonl``: what each stage adds to a run's certificate, and the certificate folded from it.

A line takes as long as the stage has changed: the records of its own tasks and of earlier ones that read a
changed tensor. ``certificate.json`` is written where all probes are replayed, by `issue.certify`: after each
of the first stages, whenever their number has doubled, and after the last one.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import attrs
import cattrs
import cattrs.errors

from sidetune_core.certificate.carried import statement
from sidetune_core.certificate.certificate_file import CONVERTER, LOG, as_json
from sidetune_core.certificate.measured import read_columns
from sidetune_core.certificate.record import FORMAT, Certificate, Stage, TaskRecord
from sidetune_core.certificate.statements import SAMPLED
from sidetune_core.certificate.verdicts import ALL_TENSORS, LAST, OUTSIDE, TENSORS_READ, ZERO, judge, overall
from sidetune_core.errors import RunError
from sidetune_core.storage.run_folder import RunFolder


@attrs.frozen
class Table:
    """How a table of digests differs from that of the line before."""

    changed: dict[str, str] = attrs.field(factory=dict)
    gone: list[str] = attrs.field(factory=list)

    @classmethod
    def between(cls, before: Mapping[str, str], now: Mapping[str, str]) -> Table:
        """The difference of two tables."""
        changed = {name: digest for name, digest in now.items() if before.get(name) != digest}
        return cls(changed, sorted(before.keys() - now.keys()))

    def apply(self, table: dict[str, str]) -> None:
        """Bring a table to the state after this difference."""
        table.update(self.changed)
        for name in self.gone:
            table.pop(name, None)


@attrs.frozen
class Line:
    """A line of the file: a stage, and stages before it that have no line."""

    stages: list[Stage]
    records: list[TaskRecord]
    """Of the stages' tasks, and those of earlier tasks that are others now. Verdict, scope and measured
    values are left out: they follow from the stages and from R."""
    now: Table
    """SHA-256 of the learner's tensors."""
    files: Table
    """SHA-256 of task cards, documents and visualisations."""
    processor: str
    replayed: list[str]
    """Ids of earlier tasks whose probes were replayed after the stage."""
    dropped: list[str] = attrs.field(factory=list)
    """Ids of tasks that have no record any more."""
    format: int = FORMAT


class CertificateLog:
    """A certificate as it grows, without verdicts and measured values.

    Args:
        certificate: to continue; None for none.
    """

    def __init__(self, certificate: Certificate | None = None) -> None:
        self.records: dict[str, TaskRecord] = {}
        """By id of a task."""
        self.stages: list[Stage] = []
        self.stage_numbers: dict[str, int] = {}
        """Index in `stages`, by id of a task."""
        self.now: dict[str, str] = {}
        self.files: dict[str, str] = {}
        self.processor = ""
        self.outside: set[str] = set()
        """Ids of the tasks whose outputs depend on state that is no tensor."""
        self.revised: list[str] = []
        """The id of each record that was added, replaced or dropped, in order."""
        self._readers: dict[str, list[str]] = {}
        self._unwritten: list[Line] = []
        if certificate is not None:
            # nothing of it is in the file yet, so that the next line has all of it
            self._add(
                Line(
                    stages=list(certificate.stages),
                    records=[bare(record) for record in certificate.tasks],
                    now=Table(dict(certificate.now)),
                    files=Table(dict(certificate.files)),
                    processor=certificate.processor,
                    replayed=[],
                )
            )

    @property
    def trained(self) -> list[str]:
        """Ids of the tasks so far, in order."""
        return list(self.stage_numbers)

    @property
    def is_unwritten(self) -> bool:
        """Whether something of it is not in the file yet, as where an earlier version began the run."""
        return bool(self._unwritten)

    def affected(self, names: Collection[str]) -> set[str]:
        """Ids of the tasks that read one of these tensors, right after they were trained or since, for their
        probes or in their first evaluation."""
        return {id for name in names for id in self._readers.get(name, ()) if id in self.records}

    def append(self, folder: RunFolder, line: Line) -> None:
        """Append a stage to the file, with those before it that could not be written.

        Raises:
            WriteError: the file cannot be written; the next line has this stage too.
        """
        self._add(line)
        folder.append(LOG, as_json(_joined(self._unwritten)))
        self._unwritten = []

    def drop(self, ids: Sequence[str]) -> None:
        """Drop records of tasks; the next line of the file says so."""
        if ids:
            self._add(Line([], [], Table(), Table(), self.processor, [], list(ids)))

    def certificate(self, folder: RunFolder, more: str = SAMPLED) -> Certificate:
        """The certificate after the last stage, with R from ``eval.jsonl``.

        Args:
            folder: of the run.
            more: what its statement has besides.

        Raises:
            RunError: ``run.json`` or ``eval.jsonl`` is damaged.
        """
        trained = self.trained
        columns = read_columns(folder, trained)
        changing = [number for number, stage in enumerate(self.stages) if stage.changed]
        last_change = changing[-1] if changing else -1
        records = []
        for number, stage in enumerate(self.stages):
            for task in stage.tasks:
                if (record := self.records.get(task)) is not None:
                    record = attrs.evolve(record, measured=columns[task][record.after - 1 :])
                    verdict = judge(record, number + 1 < len(self.stages))
                    scope = "" if verdict != ZERO else TENSORS_READ if last_change > number else ALL_TENSORS
                    records.append(attrs.evolve(record, verdict=verdict, scope=scope))
        return Certificate(
            statement(folder) + more,
            overall(trained, records),
            trained,
            records,
            list(self.stages),
            dict(self.now),
            dict(self.files),
            self.processor,
        )

    def _add(self, line: Line) -> None:
        self._unwritten.append(line)
        for stage in line.stages:
            self.stage_numbers.update(dict.fromkeys(stage.tasks, len(self.stages)))
            self.stages.append(stage)
        for record in line.records:
            self.records[record.id] = record
            (self.outside.add if record.probes.cause == OUTSIDE else self.outside.discard)(record.id)
            self.revised.append(record.id)
            for name in (*record.all_tensors, *record.newly_read):
                readers = self._readers.setdefault(name, [])
                if not readers or readers[-1] != record.id:
                    readers.append(record.id)
        for id in line.dropped:
            self.records.pop(id, None)
            self.outside.discard(id)
            self.revised.append(id)
        line.now.apply(self.now)
        line.files.apply(self.files)
        self.processor = line.processor

    @classmethod
    def read(cls, folder: RunFolder) -> CertificateLog | None:
        """The certificate in the file; None if there is no file, or no line.

        Raises:
            RunError: a line is damaged, or a newer version of sidetune wrote it.
        """
        log = cls()
        try:
            for number, values in enumerate(folder.lines(LOG, strict=True), 1):
                if values.get("format") != FORMAT:
                    raise RunError(
                        f"{folder.path / LOG} has format {values.get('format')!r} in line {number}, and this "
                        f"version of sidetune reads up to {FORMAT}"
                    )
                log._add(CONVERTER.structure(values, Line))
        except ValueError as error:
            raise RunError(f"{folder.path / LOG} is damaged: {error}") from error
        except (cattrs.errors.BaseValidationError, cattrs.errors.StructureHandlerNotFoundError) as error:
            details = "; ".join(cattrs.transform_error(error))[:300]
            raise RunError(f"{folder.path / LOG} is damaged in line {number}: {details}") from error
        log._unwritten = []
        return log if log.stages else None


def bare(record: TaskRecord) -> TaskRecord:
    """A record without what follows from stages and R."""
    return attrs.evolve(record, verdict=LAST, scope="", measured=[])


def fold(folder: RunFolder) -> Certificate | None:
    """The certificate that ``certificate.jsonl`` amounts to; None where there is no such file.

    Raises:
        RunError: a file is damaged.
    """
    log = CertificateLog.read(folder)
    return log.certificate(folder) if log is not None else None


def _joined(lines: Sequence[Line]) -> Line:
    """One line in place of several."""
    first, *others = lines
    for line in others:
        records = {record.id: record for record in (*first.records, *line.records)}
        now, files = _merged(first.now, line.now), _merged(first.files, line.files)
        first = attrs.evolve(
            line,
            stages=[*first.stages, *line.stages],
            records=[record for id, record in records.items() if id not in line.dropped],
            now=now,
            files=files,
            dropped=[*first.dropped, *line.dropped],
        )
    return first


def _merged(first: Table, second: Table) -> Table:
    changed = dict(first.changed)
    second.apply(changed)
    gone = (set(first.gone) | set(second.gone)) - changed.keys()
    return Table(changed, sorted(gone))
