"""``certificate.jsonl``: lines, and the certificate that they amount to."""

from __future__ import annotations

import json
from pathlib import Path

import attrs
import pytest

from sidetune_core.certificate.certificate_file import LOG, read_certificate, write_certificate
from sidetune_core.certificate.log import CertificateLog, Line, Table, fold
from sidetune_core.certificate.record import Change, Probes, Stage, TaskRecord
from sidetune_core.certificate.verdicts import ALL_TENSORS, LAST, NOT_ZERO, TENSORS_READ, ZERO
from sidetune_core.errors import RunError, WriteError
from sidetune_core.storage.run_folder import RunFolder

CHANGED = Change(1.0, 0.5)


def record_of(task: str, after: int, tensors: dict[str, str]) -> TaskRecord:
    examined = Probes(f"probes/{task}.safetensors", "p", 8, True, Change(0.0, 0.0))
    return TaskRecord(task, after, LAST, "", tensors, {}, [], [], examined, None)


def line(task: str, after: int, changed: tuple[str, ...] = (), *more: TaskRecord) -> Line:
    own = record_of(task, after, {"base": "b", task: task})
    table = Table({task: task, **dict.fromkeys(changed, f"by {task}")})
    files = Table({f"tasks/{task}.json": task})
    return Line([Stage([task], list(changed))], [own, *more], table, files, "cpu", [])


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    """A run of three tasks that have been trained."""
    folder = RunFolder(tmp_path)
    tasks = [{"id": f"t{k}", "metric": "accuracy"} for k in range(3)]
    folder.write_json("run.json", {"tasks": tasks, "metric": "accuracy"})
    for row in range(3):
        for task in range(row + 1):
            cell = {"after": row, "task": f"t{task}", "split": "test", "figures": {"accuracy": 0.5}}
            folder.append("eval.jsonl", cell)
    return folder


def test_lines_amount_to_the_certificate_of_the_log(folder: RunFolder) -> None:
    log = CertificateLog()
    log.append(folder, line("t0", 1))
    log.append(folder, line("t1", 2))
    log.append(folder, line("t2", 3, ("other",)))
    certificate = fold(folder)
    assert certificate == log.certificate(folder) == read_certificate(folder)
    assert certificate is not None
    assert certificate.trained == ["t0", "t1", "t2"]
    assert [record.verdict for record in certificate.tasks] == [ZERO, ZERO, LAST]
    assert [record.scope for record in certificate.tasks] == [TENSORS_READ, TENSORS_READ, ""]
    assert [record.measured for record in certificate.tasks] == [[0.5] * 3, [0.5] * 2, [0.5]]
    assert certificate.now == {"t0": "t0", "t1": "t1", "t2": "t2", "other": "by t2"}
    assert certificate.files == {f"tasks/t{k}.json": f"t{k}" for k in range(3)}


def test_a_claim_covers_all_tensors_where_no_stage_changed_one(folder: RunFolder) -> None:
    log = CertificateLog()
    log.append(folder, line("t0", 1))
    log.append(folder, line("t1", 2))
    assert [record.scope for record in log.certificate(folder).tasks] == [ALL_TENSORS, ""]


def test_a_later_record_of_a_task_replaces_its_first(folder: RunFolder) -> None:
    log = CertificateLog()
    log.append(folder, line("t0", 1))
    log.append(folder, line("t1", 2, ("base",), attrs.evolve(log.records["t0"], changed={"base": CHANGED})))
    certificate = fold(folder)
    assert certificate is not None
    assert [record.verdict for record in certificate.tasks] == [NOT_ZERO, LAST]


def test_a_line_is_as_long_after_many_stages(folder: RunFolder) -> None:
    log = CertificateLog()
    for number in range(100):
        log.append(folder, line(f"t{number:03d}", number + 1))
    lengths = list(map(len, (folder.path / LOG).read_text().splitlines()))
    assert max(lengths[2:]) - min(lengths[2:]) <= 2  # digits of a number


def test_tasks_that_read_a_tensor_are_found_by_its_name(folder: RunFolder) -> None:
    log = CertificateLog()
    log.append(folder, line("t0", 1))
    log.append(folder, line("t1", 2, (), attrs.evolve(log.records["t0"], newly_read=["extra"])))
    assert log.affected(["base"]) == {"t0", "t1"}
    assert log.affected(["t1", "extra"]) == {"t0", "t1"}
    assert log.affected(["t0", "unknown"]) == {"t0"}
    log.append(folder, line("t2", 3, (), attrs.evolve(log.records["t1"], read_in_evaluation={"rare": "r"})))
    assert log.affected(["rare"]) == {"t1"}
    log.drop(["t1"])
    assert log.affected(["base", "rare"]) == {"t0", "t2"}


def test_what_could_not_be_written_is_in_the_next_line(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = CertificateLog()
    log.append(folder, line("t0", 1))

    def refuse(*_: object) -> None:
        raise WriteError("no space")

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "append", refuse)
        with pytest.raises(WriteError):
            log.append(folder, line("t1", 2, ("base",)))
    log.drop(["t0"])
    log.append(folder, line("t2", 3))
    found = CertificateLog.read(folder)
    assert found is not None
    assert found.trained == ["t0", "t1", "t2"]
    assert found.records.keys() == {"t1", "t2"}
    assert (found.now, found.files, found.stages) == (log.now, log.files, log.stages)


def test_a_log_that_continues_a_certificate_writes_all_of_it_first(folder: RunFolder) -> None:
    first = CertificateLog()
    first.append(folder, line("t0", 1))
    first.append(folder, line("t1", 2))
    certificate = first.certificate(folder)
    (folder.path / LOG).unlink()
    log = CertificateLog(certificate)
    assert log.is_unwritten
    log.append(folder, line("t2", 3))
    assert fold(folder) == log.certificate(folder)
    assert log.trained == ["t0", "t1", "t2"]


def test_the_log_is_read_where_the_written_certificate_is_of_an_earlier_stage(folder: RunFolder) -> None:
    log = CertificateLog()
    log.append(folder, line("t0", 1))
    write_certificate(folder, log.certificate(folder, ""))
    written = read_certificate(folder)
    assert written == log.certificate(folder, "")
    log.append(folder, line("t1", 2))
    assert read_certificate(folder) == log.certificate(folder)


@pytest.mark.parametrize(
    ("text", "message"),
    [('{"format": 9}', "has format 9 in line 1"), ('{"format": 3, "stages": 5}', "damaged in line 1")],
)
def test_a_damaged_line_is_named(folder: RunFolder, text: str, message: str) -> None:
    (folder.path / LOG).write_text(text + "\n")
    with pytest.raises(RunError, match=message):
        read_certificate(folder)


def test_values_that_follow_from_others_are_not_in_a_line(folder: RunFolder) -> None:
    CertificateLog().append(folder, line("t0", 1))
    values = json.loads((folder.path / LOG).read_text())
    assert values["records"][0]["measured"] == []
    assert values["records"][0]["verdict"] == LAST
