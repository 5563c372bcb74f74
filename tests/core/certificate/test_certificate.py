"""The certificate says zero if no dependency of a task changed, otherwise what did; verify checks it."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import attrs
import pytest
import torch
from torch import Tensor, nn

import sidetune_core
from sidetune_core import api
from sidetune_core.assembly.predict import make_predict
from sidetune_core.certificate import certificate_file, record, verdicts
from sidetune_core.certificate.probes import EXAMPLES, CompilerReadTracker, ReadTracker, named_tensors
from sidetune_core.certificate.statements import STATEMENT
from sidetune_core.certificate.verify import verify
from sidetune_core.cli.main import main
from sidetune_core.config import registry
from sidetune_core.config.kinds import BASE
from sidetune_core.errors import RunError
from sidetune_core.hashing import tensor_digest
from sidetune_core.storage import checkpoint
from sidetune_core.storage.run_folder import RunFolder
from sidetune_core.storage.weights import read_tensors, write_tensors

sys.path.insert(0, str(Path(__file__).parent / "forgery"))

from sealing import seal  # noqa: E402

ACME = Path(__file__).parents[2] / "acme"
TRAIN = {"steps": 3, "batch": 8, "precision": "fp32"}


@pytest.fixture(autouse=True)
def acme(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes the third-party package importable: its env has three small tasks and needs no files."""
    monkeypatch.syspath_prepend(ACME)


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., RunFolder]:
    """Runs of three tasks, each made once and copied for each test."""
    made: dict[str, Path] = {}

    def run(learner: Any, folder: Path, **parts: Any) -> RunFolder:
        key = json.dumps([learner, parts])
        if key not in made:
            made[key] = tmp_path_factory.mktemp("run") / "run"
            env = {"name": "acme_sidetune.blobs:Blobs", "examples": 32}
            spec = sidetune_core.RunSpec(
                base={"name": "resnet20", "weights": "none"}, learner=learner, env=env, train=TRAIN, **parts
            )
            sidetune_core.run(spec, made[key])
        return RunFolder(Path(shutil.copytree(made[key], folder)))

    return run


def certificate_of(folder: RunFolder) -> record.Certificate:
    certificate = certificate_file.read_certificate(folder)
    assert certificate is not None
    return certificate


SIDE = {"name": "fcn4", "weights": "none"}


@pytest.mark.parametrize(
    ("learner", "parts"),
    [
        ("sidetune", {"side": SIDE}),
        ({"name": "sidetune", "dense": True}, {"side": SIDE}),
        ("features", {}),
        ("independent", {}),
        ({"name": "pnn", "dense": True}, {"side": SIDE}),
    ],
    ids=["sidetune", "sidetune-dense", "features", "independent", "pnn-dense"],
)
def test_a_learner_that_changes_no_shared_tensor_is_certified(
    learner: Any, parts: Any, make: Any, tmp_path: Path
) -> None:
    folder = make(learner, tmp_path / "run", **parts)
    certificate = certificate_of(folder)
    assert certificate.verdict == verdicts.ZERO
    expected = [(verdicts.ZERO, verdicts.ALL_TENSORS)] * 2
    assert [(task.verdict, task.scope) for task in certificate.tasks[:2]] == expected
    assert certificate.tasks[2].verdict == verdicts.LAST
    assert verify(folder, trust_local_code=True).problems == ()


@pytest.mark.parametrize(
    "learner",
    ["finetune", "bsp", "lwf", {"name": "ewc", "examples": 8}],
    ids=["finetune", "bsp", "lwf", "ewc"],
)
def test_a_learner_that_changes_shared_weights_is_reported_with_the_size_of_the_changes(
    learner: Any, make: Any, tmp_path: Path
) -> None:
    folder = make(learner, tmp_path / "run")
    certificate = certificate_of(folder)
    first = certificate.tasks[0]
    assert certificate.verdict == first.verdict == verdicts.NOT_ZERO
    before, after = (
        checkpoint.read(checkpoint.boundary(folder.checkpoints, count)).state for count in (1, 3)
    )
    name = "base.conv1.weight"
    apart = (after[name] - before[name]).abs().max()
    assert first.changed[name] == record.Change(
        pytest.approx(float(apart)), pytest.approx(float(apart / before[name].abs().max()))
    )
    now = certificate.now
    assert {name for name, digest in first.tensors.items() if now[name] != digest} == first.changed.keys()
    assert not first.probes.same
    assert first.probes.change.absolute > 0
    assert verify(folder, trust_local_code=True).problems == ()


def test_tensors_that_a_task_does_not_read_are_not_its_dependencies(make: Any, tmp_path: Path) -> None:
    folder = make({"name": "finetune", "batchnorm": "per-task"}, tmp_path / "run")
    tensors = certificate_of(folder).tasks[0].tensors
    assert "norms.t0.0.running_mean" in tensors
    assert not [name for name in tensors if name.startswith(("base.bn1", "norms.t1", "heads.t1"))]


def test_tasks_trained_together_leave_nothing_to_forget(make: Any, tmp_path: Path) -> None:
    folder = make("joint", tmp_path / "run")
    assert certificate_of(folder).verdict == verdicts.NOTHING_LATER
    assert verify(folder, trust_local_code=True).problems == ()


def test_a_learner_of_a_third_party_is_certified_without_a_line_of_its_own(make: Any, tmp_path: Path) -> None:
    folder = make("acme_sidetune.bitfit:BitFit", tmp_path / "run")
    first = certificate_of(folder).tasks[0]
    assert "base.bn1.weight" in first.changed
    assert "base.conv1.weight" in first.tensors.keys() - first.changed.keys()
    assert verify(folder, trust_local_code=True).problems == ()


class Rotating(api.Learner):
    """Scales the output of a head by the number of tasks, which is no tensor."""

    @attrs.frozen
    class Config:
        """No options."""

    def __init__(self, config: Config, parts: api.Components) -> None:
        super().__init__()
        self.base = parts.base()
        self.heads = api.Heads(self.base.shape)

    def start(self, task: api.Task) -> list[nn.Module | nn.Parameter]:
        return [self.heads.add_task(task)]

    def forward(self, inputs: Mapping[str, Tensor], task_id: str) -> Tensor:
        return self.heads.predict(self.base(inputs).encoding, task_id) * len(self.heads)


def test_probes_detect_a_change_outside_the_tensors(make: Any, tmp_path: Path) -> None:
    first = certificate_of(make(f"{__name__}:Rotating", tmp_path / "run")).tasks[0]
    assert first.changed == {}
    assert first.verdict == verdicts.NOT_REPRODUCIBLE
    assert first.probes.change is not None
    assert first.probes.change.relative == pytest.approx(2.0)


class Ensemble(Rotating):
    """Predicts the mean of all heads: a later task adds a tensor that an earlier one reads."""

    def forward(self, inputs: Mapping[str, Tensor], task_id: str) -> Tensor:
        encoding = self.base(inputs).encoding
        return torch.stack([self.heads.predict(encoding, other) for other in self.heads]).mean(0)


def test_newly_read_tensors_are_listed(make: Any, tmp_path: Path) -> None:
    first = certificate_of(make(f"{__name__}:Ensemble", tmp_path / "run")).tasks[0]
    assert first.newly_read == [
        f"heads.{task}.linear.{name}" for task in ("t1", "t2") for name in ("bias", "weight")
    ]
    assert first.verdict == verdicts.NOT_ZERO


class Diary(Rotating):
    """Has a parameter that every task changes and none reads in evaluation."""

    def __init__(self, config: Rotating.Config, parts: api.Components) -> None:
        super().__init__(config, parts)
        self.diary = nn.Parameter(torch.ones(2))

    def start(self, task: api.Task) -> list[nn.Module | nn.Parameter]:
        return [self.heads.add_task(task), self.diary]

    def forward(self, inputs: Mapping[str, Tensor], task_id: str) -> Tensor:
        return self.heads.predict(self.base(inputs).encoding, task_id)

    def penalty(self, batch: api.Batch) -> dict[str, Tensor]:
        return {"diary": self.diary.square().sum()}


def test_a_changed_tensor_that_no_task_reads_narrows_the_scope(make: Any, tmp_path: Path) -> None:
    folder = make(f"{__name__}:Diary", tmp_path / "run")
    first = certificate_of(folder).tasks[0]
    assert (first.verdict, first.scope) == (verdicts.ZERO, verdicts.TENSORS_READ)
    assert certificate_of(folder).stages[1].changed == ["diary"]
    assert verify(folder, trust_local_code=True).problems == ()


@pytest.mark.parametrize("tracker", [ReadTracker, CompilerReadTracker])
def test_reads_of_views_functions_and_buffers_are_tracked_without_gradient(
    tracker: type[ReadTracker],
) -> None:
    module = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 4)).eval()
    reads = tracker(dict(named_tensors(module)))
    with torch.no_grad(), reads:
        hidden = module[1](nn.functional.linear(torch.ones(2, 3), module[0].weight.t().t()))
        hidden @ module[2].weight[:2].T
    assert reads.names == {"0.weight", "1.weight", "1.bias", "1.running_mean", "1.running_var", "2.weight"}


def test_probes_are_the_first_test_examples_and_few(make: Any, tmp_path: Path) -> None:
    folder = make("features", tmp_path / "run")
    stored = read_tensors(folder.path / "probes" / "t0.safetensors")
    assert stored["input.image"].shape == (EXAMPLES, 3, 32, 32)
    assert stored["output"].shape == (EXAMPLES, 2)


def test_a_killed_run_ends_with_the_same_certificate(make: Any, tmp_path: Path) -> None:
    complete, killed = make("finetune", tmp_path / "complete"), make("finetune", tmp_path / "killed")
    for path in killed.checkpoints.glob("after-00[23].*"):
        path.unlink()
    (killed.path / "probes" / "t2.safetensors").unlink()
    sidetune_core.resume(killed.path, trust_local_code=True)
    assert certificate_of(killed) == certificate_of(complete)
    assert verify(killed, trust_local_code=True).problems == ()


def test_a_run_that_is_resumed_with_another_precision_does_not_accuse_the_learner(
    make: Any, tmp_path: Path
) -> None:
    folder = make("features", tmp_path / "run")
    for path in folder.checkpoints.glob("after-00[23].*"):
        path.unlink()
    about = folder.read_json("run.json")
    about["resolved"]["device"]["precision"] = "bf16"
    folder.write_json("run.json", about)
    sidetune_core.resume(folder.path, trust_local_code=True)
    first = certificate_of(folder).tasks[0]
    assert (first.verdict, first.probes.cause) == (verdicts.OTHER_CONDITIONS, verdicts.CONDITIONS)
    assert first.conditions == ["machine 'cpu, fp32, channels last' → 'cpu, bf16, channels last'"]
    assert verify(folder, trust_local_code=True).problems == ()


def test_the_report_and_the_command_line_print_the_verdict(
    make: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make("features", tmp_path / "run").path
    assert "Forgetting is zero by construction for t0 to t1" in (folder / "report.md").read_text()
    assert main(["report", str(folder)]) == 0
    assert "Forgetting is zero by construction for t0 to t1" in capsys.readouterr().out
    assert main(["verify", str(folder), "--trust-local-code"]) == 0
    assert f"The certificate of {folder} holds" in capsys.readouterr().out


def test_changed_tensors_are_in_the_report(make: Any, tmp_path: Path) -> None:
    text = (make("finetune", tmp_path / "run").path / "report.md").read_text()
    assert "not zero by construction" in text
    assert "- t0: " in text


def edited(change: Callable[[dict[str, Any]], None]) -> Callable[[RunFolder], None]:
    """A forgery: a change of the certificate's values."""

    def forge(folder: RunFolder) -> None:
        values = folder.read_json(certificate_file.FILE)
        change(values)
        folder.write_json(certificate_file.FILE, values)

    return forge


def claim_zero(values: dict[str, Any]) -> None:
    """Forges the verdicts alone."""
    values["verdict"] = verdicts.ZERO
    for task in values["tasks"][:-1]:
        task.update(verdict=verdicts.ZERO, scope=verdicts.ALL_TENSORS)


def claim_zero_throughout(values: dict[str, Any]) -> None:
    """Forges everything that a verdict is derived from, consistently."""
    claim_zero(values)
    for task in values["tasks"]:
        task.update(changed={}, tensors={name: values["now"][name] for name in task["tensors"]})
        task["probes"].update(same=True, change={"absolute": 0.0, "relative": 0.0})
    for stage in values["stages"]:
        stage["changed"] = []


def flip(path: Path) -> None:
    """Flips a bit of the last byte."""
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))


FORGERIES: dict[str, tuple[Callable[[RunFolder], None], str]] = {
    "a bit of the newest checkpoint": (
        lambda folder: flip(folder.checkpoints / "after-003.safetensors"),
        "its SHA-256 differs",
    ),
    "a bit of the checkpoint of the first task": (
        lambda folder: flip(folder.checkpoints / "after-001.safetensors"),
        "its SHA-256 differs",
    ),
    "a checkpoint gone": (
        lambda folder: (folder.checkpoints / "after-001.safetensors").unlink(),
        "after-001.safetensors is missing",
    ),
    "the newest checkpoint gone": (
        lambda folder: [path.unlink() for path in folder.checkpoints.glob("after-003.*")] and None,
        "the newest checkpoint is",
    ),
    "probes gone": (
        lambda folder: (folder.path / "probes" / "t0.safetensors").unlink(),
        "t0: no weights file",
    ),
    "a bit of the probes": (lambda folder: flip(folder.path / "probes" / "t0.safetensors"), "t0: the probes"),
    "the verdict of the run": (
        edited(lambda values: values.update(verdict=verdicts.ZERO)),
        "the verdicts on its tasks amount to",
    ),
    "the verdict of a task": (edited(claim_zero), "t0: verdict is 'zero by construction' in the certificate"),
    "everything that the verdict is made of": (
        edited(claim_zero_throughout),
        "has other hashes than the certificate",
    ),
    "a task left out": (edited(lambda values: values["tasks"].pop(0)), "the certificate"),
    "the size of a change": (
        edited(lambda values: values["tasks"][0]["probes"]["change"].update(relative=0.0)),
        "outputs for its probes",
    ),
    "a tensor left out": (
        edited(lambda values: values["tasks"][0]["tensors"].pop("base.conv1.weight")),
        "t0: newly read is nothing in the certificate",
    ),
}


@pytest.mark.parametrize("forgery", FORGERIES, ids=lambda name: name.replace(" ", "-"))
def test_a_forgery_is_detected(
    forgery: str, make: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    forge, message = FORGERIES[forgery]
    folder = make("finetune", tmp_path / "run")
    forge(folder)
    assert main(["verify", str(folder.path), "--trust-local-code"]) == 1
    out = capsys.readouterr().out
    assert message in out
    assert "does NOT hold" in out
    assert verdicts.ZERO not in out.splitlines()[-1]


def test_a_folder_that_disagrees_elsewhere_is_not_consistent(
    make: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make("finetune", tmp_path / "run").path
    (folder / "status").write_text("diverged")
    assert main(["verify", str(folder), "--trust-local-code"]) == 1
    assert capsys.readouterr().out.splitlines()[-1] == f"The run folder {folder} is NOT consistent."


def test_the_name_of_a_folder_stays_in_its_line(
    make: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make("finetune", tmp_path / "run\nThe certificate of good holds").path
    (folder / "status").write_text("diverged")
    assert main(["verify", str(folder), "--trust-local-code"]) == 1
    assert not [line for line in capsys.readouterr().out.splitlines() if line.startswith("The certificate")]


GONE = f"{certificate_file.FILE} is missing, although the newest checkpoint has its hash"


def test_a_deleted_certificate_is_missing(make: Any, tmp_path: Path) -> None:
    folder = make("finetune", tmp_path / "run")
    (folder.path / certificate_file.FILE).unlink()
    with pytest.raises(RunError, match=GONE):
        verify(folder, trust_local_code=True)


@pytest.mark.parametrize(
    ("name", "line"),
    [
        (certificate_file.FILE, GONE),
        (
            "probes/t0.safetensors",
            f"probes/t0.safetensors is missing, although {certificate_file.FILE} has its hash",
        ),
    ],
    ids=["certificate", "probes"],
)
def test_a_finished_run_that_is_resumed_names_what_is_missing(
    name: str, line: str, make: Any, tmp_path: Path
) -> None:
    folder = make("finetune", tmp_path / "run")
    (folder.path / name).unlink()
    sidetune_core.resume(folder.path, trust_local_code=True)
    assert f"warning: {line}" in (folder.path / "log.txt").read_text()


def test_a_checkpoint_forged_together_with_its_hash_is_detected(make: Any, tmp_path: Path) -> None:
    folder = make("features", tmp_path / "run")
    path = folder.checkpoints / "base.safetensors"
    tensors = read_tensors(path)
    tensors["base.conv1.weight"][0, 0, 0, 0] += 1
    write_tensors(path, tensors)
    digest = tensor_digest("base.conv1.weight", tensors["base.conv1.weight"]).hex()

    def replace(name: str, state: dict[str, Any]) -> None:
        if name == "base":
            state["tensors"]["changed"]["base.conv1.weight"] = digest

    seal(folder.checkpoints, replace)
    assert any("base.conv1.weight" in problem for problem in verify(folder, trust_local_code=True).problems)


KEYS_OF_FORMAT_1 = {"scope": "ground", "changed": "moved", "newly_read": "read_anew", "sketch": "outline"}
SCOPES_OF_FORMAT_1 = {"": "", verdicts.ALL_TENSORS: "everything", verdicts.TENSORS_READ: "what is read"}


def as_format_1(values: dict[str, Any]) -> None:
    """The certificate as sidetune 0.1 wrote it, with the first part of today's statement."""
    values["statement"] = STATEMENT
    for new in ("format", "files", "processor"):
        del values[new]
    values["learnt"] = values.pop("trained")
    if values["verdict"] == verdicts.NOTHING_LATER:
        values["verdict"] = "no task was learnt after another"
    for task in values["tasks"]:
        task["scope"] = SCOPES_OF_FORMAT_1[task["scope"]]
        del task["measured"], task["probes"]["cause"], task["probes"]["finite"]
        if task["verdict"] == verdicts.LAST:
            task["verdict"] = "nothing was learnt after it"
        for new, old in KEYS_OF_FORMAT_1.items():
            task[old] = task.pop(new)


def without_marks_of_the_certificate(folder: RunFolder) -> None:
    """A folder as earlier versions wrote it."""
    (folder.path / certificate_file.LOG).unlink()
    for name in (certificate_file.FILE, certificate_file.LOG):
        seal(folder.checkpoints, lambda _, state, name=name: state["marks"].pop(name, None))


@pytest.fixture
def one_statement(monkeypatch: pytest.MonkeyPatch) -> None:
    """Format 1 has the statement of today."""
    statements = {1: hashlib.sha256(STATEMENT.encode()).hexdigest()}
    monkeypatch.setattr("sidetune_core.certificate.accounts.FORMER_STATEMENTS", statements)


@pytest.mark.usefixtures("one_statement")
@pytest.mark.parametrize("learner", ["features", "finetune", "joint", f"{__name__}:Diary"])
def test_a_certificate_of_format_1_is_read_and_verified(learner: str, make: Any, tmp_path: Path) -> None:
    folder = make(learner, tmp_path / "run")
    certificate = certificate_of(folder)
    edited(as_format_1)(folder)
    without_marks_of_the_certificate(folder)
    assert "learnt" in folder.read_json(certificate_file.FILE)
    tasks = [attrs.evolve(task, measured=[]) for task in certificate.tasks]
    assert certificate_of(folder) == attrs.evolve(
        certificate, statement=STATEMENT, tasks=tasks, files={}, processor="", format=1
    )
    assert verify(folder, trust_local_code=True).problems == ()


@pytest.mark.usefixtures("one_statement")
def test_a_forged_certificate_of_format_1_is_detected(make: Any, tmp_path: Path) -> None:
    folder = make("finetune", tmp_path / "run")
    edited(claim_zero_throughout)(folder)
    edited(as_format_1)(folder)
    assert any(
        "has other hashes than the certificate" in problem
        for problem in verify(folder, trust_local_code=True).problems
    )


def test_a_claim_of_an_earlier_format_does_not_hold_where_r_differs(make: Any, tmp_path: Path) -> None:
    folder = make("features", tmp_path / "run")
    edited(as_format_1)(folder)
    lines = (folder.path / "eval.jsonl").read_text().splitlines()
    last = json.loads(next(line for line in reversed(lines) if '"task": "t0"' in line))
    last["figures"]["accuracy"] += 0.125
    (folder.path / "eval.jsonl").write_text("\n".join([*lines, json.dumps(last)]) + "\n")
    expected = "t0: a certificate of format 1 claims 'zero by construction', but R differs or has gaps"
    assert expected in verify(folder, trust_local_code=True).problems


def test_a_certificate_of_a_newer_format_is_refused(make: Any, tmp_path: Path) -> None:
    folder = make("features", tmp_path / "run")
    edited(lambda values: values.update(format=4))(folder)
    with pytest.raises(RunError, match="has format 4"):
        verify(folder, trust_local_code=True)


@pytest.mark.parametrize("damage", ["{", "[]", '{"verdict": 3}', '{"tasks": [5]}', '{"format": 2}'])
def test_a_certificate_that_cannot_be_read_is_bad_input(
    damage: str, make: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make("features", tmp_path / "run")
    (folder.path / certificate_file.FILE).write_text(damage)
    assert main(["verify", str(folder.path), "--trust-local-code"]) == 2
    (folder.path / certificate_file.FILE).unlink()
    assert main(["verify", str(folder.path), "--trust-local-code"]) == 2
    assert "certificate.json is missing, although the newest checkpoint" in capsys.readouterr().err
    assert main(["verify", str(tmp_path), "--trust-local-code"]) == 2


def test_neither_data_nor_initial_weights_are_needed(
    image_archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = tmp_path / "base.safetensors"
    cls = registry.load(registry.find(BASE, "resnet20"))
    write_tensors(weights, cls(cls.Config(weights="none"), {"image": (3, 32, 32)}).state_dict())
    env = {"name": "images", "archive": image_archive, "classes_per_task": 2}
    spec = sidetune_core.RunSpec(
        base={"name": "resnet20", "weights": str(weights)}, learner="features", env=env, train=TRAIN
    )
    folder = sidetune_core.run(spec, tmp_path / "run").folder
    weights.unlink()
    image_archive.unlink()
    assert verify(folder, trust_local_code=True).problems == ()


def test_differences_by_rounding_are_noted_and_no_problem(
    make: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make("features", tmp_path / "run")
    predict = make_predict

    def rounded(*args: Any) -> Any:
        exact = predict(*args)
        return lambda inputs: exact(inputs) * (1 + 1e-6)

    monkeypatch.setattr("sidetune_core.certificate.replay_checks.make_predict", rounded)
    monkeypatch.setattr("sidetune_core.certificate.conditions.processor", lambda: "another")
    verification = verify(folder, trust_local_code=True)
    assert verification.problems == ()
    assert "is as small as rounding" in verification.notes[1]


def test_outputs_are_compared_bit_for_bit_under_the_conditions_of_the_run(
    make: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make("features", tmp_path / "run")
    predict = make_predict

    def rounded(*args: Any) -> Any:
        exact = predict(*args)
        return lambda inputs: exact(inputs) * (1 + 1e-6)

    monkeypatch.setattr("sidetune_core.certificate.replay_checks.make_predict", rounded)
    assert any(
        "outputs for its probes changed by" in problem
        for problem in verify(folder, trust_local_code=True).problems
    )
