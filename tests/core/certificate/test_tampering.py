"""What verify answers to alterations of a run folder, one field of one file each, and what it cannot see."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import sidetune_core
from sidetune_core.certificate.certificate_file import FILE, LOG
from sidetune_core.certificate.verdicts import ALL_TENSORS, NOT_ZERO, RANDOM, TENSORS_READ, ZERO
from sidetune_core.certificate.verify import verify
from sidetune_core.errors import RunError
from sidetune_core.hashing import file_digest
from sidetune_core.results.report import run_report
from sidetune_core.results.report_check import check_report
from sidetune_core.results.summary import summarise
from sidetune_core.storage.run_folder import RunFolder
from sidetune_core.storage.weights import read_tensors, write_tensors

sys.path.insert(0, str(Path(__file__).parent / "forgery"))

from sealing import seal as reseal  # noqa: E402

LEARNERS = Path(__file__).parent / "learners"

Alter = Callable[[Path], object]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Path]]:
    """A run of three tasks, and another one with another seed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(LEARNERS)
        folder = tmp_path_factory.mktemp("runs")
        for name, seed in (("run", 0), ("other", 1)):
            spec = sidetune_core.RunSpec(
                base="unreproducible:Linear",
                learner="unreproducible:Sound",
                env="unreproducible:DocumentedPoints",
                device={"precision": "fp32"},
                seed=seed,
            )
            sidetune_core.run(spec, folder / name)
        yield folder / "run", folder / "other"


@pytest.fixture
def copy(runs: tuple[Path, Path], tmp_path: Path) -> Path:
    """A copy of the run, next to one of the other run."""
    shutil.copytree(runs[1], tmp_path / "other")
    return Path(shutil.copytree(runs[0], tmp_path / "copy"))


def answer(path: Path) -> list[str]:
    """The problems that `sidetune verify` prints."""
    try:
        problems = [*verify(RunFolder(path), trust_local_code=True).problems]
    except RunError as error:
        return [str(error)]
    return problems + check_report(RunFolder(path))[0]


def text(name: str, change: Callable[[str], str]) -> Alter:
    """Edits a file as text."""

    def alter(path: Path) -> None:
        before = (path / name).read_text()
        after = change(before)
        assert after != before
        (path / name).write_text(after)

    return alter


def lines(name: str, change: Callable[[list[str]], list[str]]) -> Alter:
    """Edits the lines of a file."""
    return text(name, lambda content: "".join(change(content.splitlines(keepends=True))))


def values(name: str, change: Callable[[Any], object]) -> Alter:
    """Edits the values of a JSON file."""

    def alter(path: Path) -> None:
        content = json.loads((path / name).read_text())
        before = json.dumps(content)
        change(content)
        assert json.dumps(content) != before
        (path / name).write_text(json.dumps(content, indent=2))

    return alter


def about(**fields: Any) -> Alter:
    """Replaces fields of ``run.json``."""
    return values("run.json", lambda content: content.update(fields))


def certificate(change: Callable[[Any], object]) -> Alter:
    return values(FILE, change)


def task_of(content: Any, **fields: Any) -> None:
    """Replaces fields of the first task of a certificate."""
    content["tasks"][0].update(fields)


def remove(name: str) -> Alter:
    return lambda path: (path / name).unlink()


def copied(*names: str) -> Alter:
    """Takes files from the other run."""

    def alter(path: Path) -> None:
        for name in names:
            shutil.copy(path.parent / "other" / name, path / name)

    return alter


def excused_option(run: Any) -> None:
    """Another option, next to a segment with the spec of the checkpoints."""
    before = json.loads(json.dumps(run["resolved"]))
    run["resolved"]["train"]["lr"] = 0.5
    run["segments"] = [{"spec": before, "task": run["tasks"][0]["id"], "step": 0}]


def accepted_title(run: Any) -> None:
    run["tasks"][0]["title"] = "cats"
    run["segments"] = [{"accepted": ["title of task t0 'x' → 'cats'"]}]


def excused_versions(run: Any) -> None:
    run["segments"] = [{"task": run["tasks"][1]["id"], "step": 1, "versions": dict(run["versions"])}]
    run["versions"]["torch"] = "9.9"


def interrupted_with_more_of_r(path: Path) -> None:
    (path / "status").write_text("interrupted\n")
    with (path / "eval.jsonl").open("a") as file:
        file.write((path / "eval.jsonl").read_text().splitlines(keepends=True)[0])


def one_picture(path: Path) -> Path:
    """The first visualisation of the run."""
    return min((path / "pictures").rglob("*.png"))


def replace_digest(checkpoint: str, state: dict[str, Any]) -> None:
    """Another digest of a tensor of the first task."""
    if checkpoint == "after-001":
        name = next(iter(state["tensors"]["changed"]))
        state["tensors"]["changed"][name] = "0" * 64


def flip(path: Path) -> None:
    """Flips a bit of the last byte."""
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))


def replace_hash(content: Any) -> None:
    """Another hash of a tensor, wherever the certificate has it."""
    name = next(iter(content["tasks"][0]["tensors"]))
    for table in (content["now"], *(task["tensors"] for task in content["tasks"])):
        if name in table:
            table[name] = "0" * 64


def edit_probes(key: str) -> Alter:
    """Another value in the probes of the first task, with their hash in the certificate."""

    def alter(path: Path) -> None:
        file = path / "probes" / "t0.safetensors"
        tensors = read_tensors(file)
        tensors[key] = tensors[key] + 1
        write_tensors(file, tensors)
        certificate(lambda content: content["tasks"][0]["probes"].update(sha256=file_digest(file)))(path)

    return alter


def swap(entries: list[Any], first: int, second: int) -> list[Any]:
    entries[first], entries[second] = entries[second], entries[first]
    return entries


def one_digit(content: str) -> str:
    """The last digit of the last value of R."""
    head, _, tail = content.rpartition('"accuracy": 0.')
    return f'{head}"accuracy": 0.{(int(tail[0]) + 1) % 10}{tail[1:]}'


def swap_rows(content: list[str]) -> list[str]:
    """R[1] and R[2] exchange their values."""
    parsed = [json.loads(line) for line in content]
    rows = [[line for line in parsed if line["after"] == after and line["task"] == "t0"] for after in (1, 2)]
    rows[0][0]["after"], rows[1][0]["after"] = 2, 1
    return [json.dumps(line) + "\n" for line in parsed]


def resolved_seed(content: Any) -> None:
    content["resolved"]["seed"] = 7


CHANGED = "lines were changed or are missing"
RUN = "run.json has other "
REPORT = "report.md is not what the folder says"
NEWEST = "checkpoints/after-003"

VISIBLE: dict[str, tuple[Alter, str]] = {
    "one digit of R": (
        text("eval.jsonl", one_digit),
        f"eval.jsonl is not what it was after task t2: {CHANGED}",
    ),
    "rows of R swapped": (lines("eval.jsonl", swap_rows), "eval.jsonl is not what it was after task t1"),
    "a cell of R deleted": (lines("eval.jsonl", lambda old: old[:-1]), "eval.jsonl is not what it was"),
    "a cell of R appended": (
        lines("eval.jsonl", lambda old: [*old, old[-1]]),
        "no checkpoint of the run knows",
    ),
    "a value of R null": (
        text("eval.jsonl", lambda old: old[: old.rindex("0.")] + "null}}\n"),
        "eval.jsonl is not what",
    ),
    "a tensor of moved.jsonl left out": (
        text("moved.jsonl", lambda old: old.replace('"moved": ["heads.t1.linear.bias", ', '"moved": [')),
        "moved.jsonl is not what it was after task t1",
    ),
    "a loss": (
        lines("metrics.jsonl", lambda old: [old[0].replace("0.", "1.", 1), *old[1:]]),
        "metrics.jsonl is not",
    ),
    "the first training line deleted": (
        lines("metrics.jsonl", lambda old: old[1:]),
        "metrics.jsonl is not what",
    ),
    "a number of parameters": (
        text("parameters.jsonl", lambda old: old.replace('"all": ', '"all": 1', 1)),
        "parameters.jsonl is not what it was after task t0",
    ),
    "parameters.jsonl deleted": (remove("parameters.jsonl"), "parameters.jsonl is not what it was"),
    "a title": (
        values("run.json", lambda run: run["tasks"][0].update(title="x")),
        f"{RUN}tasks, titles or metrics",
    ),
    "the composition": (about(composition="icifar · x"), "has the composition 'icifar · x'"),
    "a task's metric": (
        values("run.json", lambda run: run["tasks"][0].update(metric="f1")),
        "is damaged: KeyError",
    ),
    "the metric": (about(metric="f1"), "has the metric 'f1', which is not that of its tasks"),
    "the direction": (about(higher_is_better=False), f"{RUN}direction of the metric"),
    "the version of torch": (
        values("run.json", lambda run: run["versions"].update(torch="9.9")),
        f"{RUN}versions of libraries",
    ),
    "the version of sidetune": (
        values("run.json", lambda run: run["versions"].update(sidetune="9.9")),
        f"{RUN}versions of libraries",
    ),
    "a plugin's version": (
        values("run.json", lambda run: run["plugins"]["learner"].update(version="9.9")),
        f"{RUN}plugins",
    ),
    "a plugin's source": (
        values("run.json", lambda run: run["plugins"]["learner"].update(source="0" * 64)),
        f"{RUN}plugins",
    ),
    "the seed": (values("run.json", resolved_seed), f"{RUN}options (resolved)"),
    "an option": (
        values("run.json", lambda run: run["resolved"]["train"].update(lr=0.5)),
        f"{RUN}options (resolved)",
    ),
    "the number of threads": (about(threads=77), f"{RUN}threads"),
    "the number of processes": (about(processes=8), f"{RUN}processes"),
    "the device": (about(machine="cuda"), f"{RUN}device or precision (machine)"),
    "the fingerprint of the data": (about(data="0"), f"{RUN}data"),
    "tasks swapped": (
        values("run.json", lambda run: swap(run["tasks"], 0, 1)),
        "but the certificate t0, t1, t2",
    ),
    "a task added": (
        values("run.json", lambda run: run["tasks"].append({**run["tasks"][0], "id": "t3"})),
        "the status is 'done', but 3 of 4 tasks have a checkpoint",
    ),
    "diverged as a status": (
        text("status", lambda _: "diverged: x\n"),
        "but every value of eval.jsonl is finite",
    ),
    "the statement": (
        certificate(lambda one: one.update(statement="All is well.")),
        "the statement in certificate.json",
    ),
    "the verdict of the run": (
        certificate(lambda one: one.update(verdict=NOT_ZERO)),
        "amount to 'zero by construction'",
    ),
    "the verdict of a task": (
        certificate(lambda one: (task_of(one, verdict=NOT_ZERO, scope=""), one.update(verdict=NOT_ZERO))),
        "t0: verdict is 'not zero by construction' in the certificate, but recomputed",
    ),
    "the scope": (
        certificate(lambda one: task_of(one, scope=TENSORS_READ)),
        f"but recomputed as '{ALL_TENSORS}'",
    ),
    "a hash, consistently in the certificate": (
        certificate(replace_hash),
        "t0: its checkpoint has other hashes",
    ),
    "a measured value of the certificate": (
        certificate(lambda one: task_of(one, measured=[0.9, 0.9, 0.9])),
        "t0: measured is 0.9",
    ),
    "a cause": (
        certificate(lambda one: one["tasks"][2]["probes"].update(cause=RANDOM)),
        "t2: the certificate says that its outputs are not reproducible",
    ),
    "a task left out of the certificate": (
        certificate(lambda one: (one["tasks"].pop(), one["trained"].pop())),
        "certificate.json has other tasks than certificate.jsonl",
    ),
    "a record in certificate.jsonl": (
        lines(LOG, lambda old: [old[0].replace('"same": true', '"same": false'), *old[1:]]),
        "certificate.json and certificate.jsonl have other tasks",
    ),
    "the last line of certificate.jsonl deleted": (
        lines(LOG, lambda old: old[:-1]),
        "but the certificate was issued after t0, t1",
    ),
    "certificate.json deleted": (
        remove(FILE),
        "certificate.json is missing, although the newest checkpoint has its hash",
    ),
    "the processor": (
        certificate(lambda one: one.update(processor="x")),
        "certificate.json is not what it was",
    ),
    "an older format of the certificate": (certificate(lambda one: one.update(format=2)), "the statement in"),
    "an input of probes, with its hash": (edit_probes("input.image"), "t0: outputs for its probes changed"),
    "an output of probes, with its hash": (
        edit_probes("output"),
        "t0: the certificate says that its outputs",
    ),
    "probes deleted": (remove("probes/t1.safetensors"), "t1: no weights file"),
    "probes of the other run": (copied("probes/t1.safetensors"), "t1: the probes"),
    "a checkpoint of the other run": (
        copied("checkpoints/after-002.safetensors", "checkpoints/after-002.json"),
        "after-002.json is damaged (it follows another after-001 than that of this folder), so after-002",
    ),
    "a checkpoint deleted": (remove("checkpoints/after-002.safetensors"), "after-002.safetensors is missing"),
    "a bit in the middle of the chain": (
        lambda path: flip(path / "checkpoints/after-002.safetensors"),
        "after-002.safetensors is damaged (its SHA-256 differs",
    ),
    "a bit of the base": (
        lambda path: flip(path / "checkpoints/base.safetensors"),
        "base.safetensors is damaged (its SHA-256 differs",
    ),
    "the base deleted": (remove("checkpoints/base.safetensors"), "base.safetensors is missing"),
    "the JSON of the base deleted": (remove("checkpoints/base.json"), "base.json is missing"),
    "the base of the other run": (
        copied("checkpoints/base.safetensors", "checkpoints/base.json"),
        "after-001.json is damaged (it follows another base than that of this folder)",
    ),
    "tensors of another checkpoint": (
        lambda path: shutil.copy(
            path / "checkpoints/after-001.safetensors", path / "checkpoints/after-002.safetensors"
        ),
        "after-002.safetensors is damaged",
    ),
    "a checkpoint, sealed": (
        lambda path: reseal(path / "checkpoints", replace_digest),
        "after-001.safetensors is damaged (its SHA-256 differs",
    ),
    "a tensor added to a checkpoint": (
        lambda path: write_tensors(
            path / "checkpoints/after-002.safetensors",
            {**read_tensors(path / "checkpoints/after-002.safetensors"), "x": torch.ones(1)},
        ),
        "after-002.safetensors is damaged (its JSON does not list x)",
    ),
    "the tensors of a checkpoint removed": (
        lambda path: write_tensors(path / "checkpoints/after-002.safetensors", {}),
        "after-002.safetensors is damaged (it lacks",
    ),
    "the newest checkpoint deleted": (
        lambda path: [one.unlink() for one in path.glob(f"{NEWEST}.*")],
        "the newest checkpoint is",
    ),
    "a bit of a checkpoint": (lambda path: flip(path / f"{NEWEST}.safetensors"), "its SHA-256 differs"),
    "a mark in a checkpoint": (
        values(f"{NEWEST}.json", lambda one: one["state"]["marks"].pop("eval.jsonl")),
        "its SHA-256 differs",
    ),
    "the identity in a checkpoint": (
        values("checkpoints/after-001.json", lambda one: one["state"]["identity"].update(threads=8)),
        "its SHA-256 differs",
    ),
    "an option, and a segment that excuses it": (
        values("run.json", excused_option),
        f"{RUN}options (resolved)",
    ),
    "a title, and a segment that accepts it": (
        values("run.json", accepted_title),
        "segments that do not follow each other",
    ),
    "versions, and a segment that excuses them": (
        values("run.json", excused_versions),
        f"{RUN}versions of libraries",
    ),
    "a key that no run writes": (about(accuracy=0.99), "keys that no run writes: accuracy"),
    "a number of another type": (about(higher_is_better=1), f"{RUN}direction of the metric"),
    "lines of R, and an unfinished status": (interrupted_with_more_of_r, "eval.jsonl has lines that no"),
    "the title of the report": (
        lines("report.md", lambda old: ["# copy, 99 %\n", *old[1:]]),
        REPORT,
    ),
    "the folder in the report": (
        text("report.md", lambda old: old.replace("Folder: `", "Folder: `x`, 99 % of `", 1)),
        REPORT,
    ),
    "a number in the report": (text("report.md", lambda old: old.replace("| t1 |", "| t9 |", 1)), REPORT),
    "the claim in the report": (
        text("report.md", lambda old: old.replace("bit-identical", "nearly so")),
        REPORT,
    ),
    "the run's time": (text("seconds.jsonl", lambda old: old.replace('"seconds": ', '"seconds": 9')), REPORT),
    "the classes in a task card": (
        text("tasks/t1.json", lambda old: old.replace('"title": "', '"title": "not ')),
        "are changed or missing: tasks/t1.json",
    ),
    "a task card deleted": (remove("tasks/t1.json"), "are changed or missing: tasks/t1.json"),
    "a document": (
        text("documents/t1-test/predictions.json", lambda _: "x"),
        "are changed or missing: documents/t1",
    ),
    "a document deleted": (
        remove("documents/t1-test/predictions.json"),
        "are changed or missing: documents/t1",
    ),
    "a document added": (
        lambda path: (path / "documents" / "t1-test" / "more.txt").write_text("x"),
        "are not those of the last stage: documents/t1-test/more.txt",
    ),
    "a bit of a visualisation": (
        lambda path: flip(one_picture(path)),
        "are changed or missing: pictures/t0",
    ),
}
"""Alterations, with a part of verify's answer."""


def seal(path: Path) -> None:
    """Makes every other file agree with the ``.jsonl`` files and the certificate: a forger's full rewrite."""

    def mark(checkpoint: str, state: dict[str, Any]) -> None:
        for name, (size, _) in state["marks"].items():
            content = (path / name).read_bytes()
            if checkpoint != "after-003" and name != FILE:
                content = content[:size]
            state["marks"][name] = [len(content), hashlib.sha256(content).hexdigest()]

    reseal(path / "checkpoints", mark)
    (path / "report.md").write_text(run_report(summarise(RunFolder(path))))


def rewrite_r(path: Path) -> None:
    """Another value for task t2, in R, the certificate, the checkpoints, and the report."""
    text("eval.jsonl", one_digit)(path)
    value = json.loads((path / "eval.jsonl").read_text().splitlines()[-1])["figures"]["accuracy"]
    certificate(lambda one: one["tasks"][2].update(measured=[value]))(path)
    seal(path)


def replace_run(path: Path) -> None:
    """The other run, in this one's folder."""
    shutil.rmtree(path)
    shutil.copytree(path.parent / "other", path)


INVISIBLE: dict[str, Alter] = {
    "a loss, with marks and hash of every checkpoint": lambda path: (
        text("metrics.jsonl", lambda old: old.replace("0.", "1."))(path),
        seal(path),
    ),
    "R, with certificate, checkpoints and report": rewrite_r,
    "the whole run, replaced by another": replace_run,
    "the spec as it was asked for": values("run.json", lambda run: run["asked"].update(seed=3)),
    "the commit": about(git={"commit": "0", "changed": False}),
    "interrupted as a status": lambda path: (
        (path / "status").write_text("interrupted\n"),
        (path / "report.md").write_text(
            (path / "report.md").read_text().replace("Status: done", "Status: interrupted")
        ),
    ),
}
"""Alterations that leave no contradiction; the published digest shows them."""

BY_PRODUCTS: dict[str, Alter] = {
    "the log": text("log.txt", lambda old: old + "x\n"),
    "TensorBoard files": lambda path: shutil.rmtree(path / "tb"),
    "the name of the folder": lambda path: None,
}
"""What the digest does not depend on."""


@pytest.mark.parametrize("alteration", VISIBLE)
def test_an_alteration_is_named(alteration: str, copy: Path) -> None:
    alter, part = VISIBLE[alteration]
    alter(copy)
    problems = answer(copy)
    assert [problem for problem in problems if part in problem], problems


@pytest.mark.parametrize("alteration", INVISIBLE)
def test_a_consistent_rewrite_leaves_no_contradiction_but_another_digest(
    alteration: str, copy: Path, runs: tuple[Path, Path]
) -> None:
    INVISIBLE[alteration](copy)
    assert answer(copy) == []
    assert (
        verify(RunFolder(copy), trust_local_code=True).digest
        != verify(RunFolder(runs[0]), trust_local_code=True).digest
    )


@pytest.mark.parametrize("alteration", BY_PRODUCTS)
def test_the_digest_depends_neither_on_the_folder_nor_on_by_products(
    alteration: str, copy: Path, runs: tuple[Path, Path]
) -> None:
    BY_PRODUCTS[alteration](copy)
    assert answer(copy) == []
    assert (
        verify(RunFolder(copy), trust_local_code=True).digest
        == verify(RunFolder(runs[0]), trust_local_code=True).digest
    )


def test_an_unaltered_folder_has_no_problem_and_no_note(runs: tuple[Path, Path]) -> None:
    verification = verify(RunFolder(runs[0]), trust_local_code=True)
    assert (verification.problems, verification.notes) == ((), ())
    assert verification.certificate.verdict == ZERO
