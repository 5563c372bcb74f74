"""Learners that cheat, or whose outputs are not reproducible: what certificate, verify and the kit answer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import attrs
import pytest

import sidetune_core
from sidetune_core.certificate.certificate_file import read_certificate
from sidetune_core.certificate.record import Certificate
from sidetune_core.certificate.verdicts import (
    BATCH,
    EVALUATION_TRAINS,
    NOT_FINITE,
    NOT_REPRODUCIBLE,
    NOT_ZERO,
    OUTSIDE,
    RANDOM,
    VALUES_DIFFER,
    ZERO,
)
from sidetune_core.certificate.verify import verify
from sidetune_core.storage.run_folder import RunFolder
from sidetune_core.testing.learner import check_learner

LEARNERS = Path(__file__).parent / "learners"


@attrs.frozen
class Answer:
    """What is said about a learner."""

    verdict: str
    cause: str = ""
    check: str = ""
    """The check of the kit that fails first; empty if none does."""
    verified: bool = True
    """Whether the certificate holds."""
    warned: bool = False
    """Whether the loop warns of its evaluations."""


ANSWERS: Mapping[str, Answer] = {
    "Sound": Answer(ZERO),
    "BatchStatistics": Answer(NOT_REPRODUCIBLE, BATCH, "examples_are_independent", warned=True),
    "BatchSize": Answer(NOT_REPRODUCIBLE, BATCH, "examples_are_independent", warned=True),
    "OrderOfExamples": Answer(NOT_REPRODUCIBLE, BATCH, "examples_are_independent", warned=True),
    "Dropout": Answer(NOT_REPRODUCIBLE, RANDOM, "evaluation_draws_no_random_numbers", warned=True),
    "PythonRandom": Answer(NOT_REPRODUCIBLE, RANDOM, "evaluation_draws_no_random_numbers", warned=True),
    "OwnGenerator": Answer(NOT_REPRODUCIBLE, OUTSIDE, "outputs_are_reproducible", warned=True),
    "Counter": Answer(NOT_REPRODUCIBLE, OUTSIDE, "outputs_are_reproducible", warned=True),
    "Clock": Answer(NOT_REPRODUCIBLE, OUTSIDE, "one_seed_gives_one_result", warned=True),
    "PlainTensor": Answer(NOT_REPRODUCIBLE, OUTSIDE, "outputs_depend_on_the_given_task"),
    "HiddenModule": Answer(NOT_REPRODUCIBLE, OUTSIDE, "outputs_depend_on_the_given_task"),
    "NotANumber": Answer(NOT_FINITE, "", "trains_on_two_tasks"),
    "Turncoat": Answer(NOT_REPRODUCIBLE, OUTSIDE, "examples_are_independent", warned=True),
    "LazyBuffer": Answer(
        NOT_ZERO, EVALUATION_TRAINS, "trains_only_what_start_returned", verified=False, warned=True
    ),
    "OverwritesBase": Answer(
        NOT_ZERO, EVALUATION_TRAINS, "trains_only_what_start_returned", verified=False, warned=True
    ),
}


@pytest.fixture(scope="module", autouse=True)
def learners() -> Iterator[Any]:
    """The module of the learners."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(LEARNERS)
        import unreproducible

        yield unreproducible


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., RunFolder]:
    """A run of three tasks for each learner, made once."""

    @cache
    def run(learner: str, env: str = "Points") -> RunFolder:
        spec = sidetune_core.RunSpec(
            base="unreproducible:Linear",
            learner=f"unreproducible:{learner}",
            env=f"unreproducible:{env}",
            device={"precision": "fp32"},
        )
        return sidetune_core.run(spec, tmp_path_factory.mktemp("run") / "run").folder

    return run


def certificate_of(folder: RunFolder) -> Certificate:
    certificate = read_certificate(folder)
    assert certificate is not None
    return certificate


@pytest.mark.parametrize("name", ANSWERS)
def test_the_certificate_claims_zero_for_the_sound_learner_only(name: str, trained: Any) -> None:
    certificate = certificate_of(trained(name))
    assert (certificate.verdict, certificate.tasks[0].probes.cause) == (
        ANSWERS[name].verdict,
        ANSWERS[name].cause,
    )


@pytest.mark.parametrize("name", ANSWERS)
def test_verify_recomputes_the_verdict(name: str, trained: Any) -> None:
    assert (verify(trained(name), trust_local_code=True).problems == ()) == ANSWERS[name].verified


@pytest.mark.parametrize("name", ANSWERS)
def test_the_loop_warns_once_of_outputs_that_are_not_reproducible(name: str, trained: Any) -> None:
    log = (trained(name).path / "log.txt").read_text()
    assert log.count("evaluated once more") == ANSWERS[name].warned


@pytest.mark.parametrize("name", ANSWERS)
def test_the_kit_names_the_fault(name: str, learners: Any) -> None:
    findings = check_learner(getattr(learners, name), learners.Config())
    failed = [finding.check for finding in findings if not finding.passed]
    assert failed[:1] == ([ANSWERS[name].check] if ANSWERS[name].check else [])


def test_an_evaluation_that_draws_neither_proves_zero_nor_accuses_the_learner(trained: Any) -> None:
    folder = trained("Sound", "SampledPoints")
    certificate = certificate_of(folder)
    assert certificate.verdict == VALUES_DIFFER
    assert certificate.tasks[0].probes.cause == ""
    assert verify(folder, trust_local_code=True).problems == ()
    assert "its evaluation is not reproducible" in (folder.path / "report.md").read_text()
