"""Outputs are compared bit for bit only under the conditions of the run."""

from __future__ import annotations

import attrs
import torch

from sidetune_core.certificate.conditions import Conditions, History, of_run, running_as
from sidetune_core.config.identity import Identity

RUN = Conditions("cpu, fp32, channels last", "Pentium", 4, {"python": "3.11.7", "torch": "2.11.0"})


def test_equal_conditions_have_no_difference() -> None:
    assert RUN.differences(RUN) == []


def test_each_difference_is_named() -> None:
    present = Conditions("cpu, bf16", "Xeon", 2, {"python": "3.11.7", "torch": "2.12.0"})
    assert RUN.differences(present) == [
        "device cpu, fp32, channels last (now cpu, bf16)",
        "processor Pentium (now Xeon)",
        "threads 4 (now 2)",
        "torch 2.11.0 (now 2.12.0)",
    ]


def test_what_is_not_recorded_counts_as_a_difference() -> None:
    assert attrs.evolve(RUN, processor="").differences(RUN) == ["processor unrecorded"]


def test_the_precision_is_that_of_the_device_or_the_coarser_one() -> None:
    assert RUN.precision == "fp32"
    assert of_run({}, None, "").precision == "bf16"


def test_the_number_of_threads_of_the_run_is_used_for_a_block_only() -> None:
    before = torch.get_num_threads()
    with running_as(attrs.evolve(RUN, threads=1)):
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == before


def identity(machine: str) -> Identity:
    return Identity({}, "", [], True, {}, {"torch": "2.11.0"}, 4, 1, machine)


def test_what_changed_after_a_stage_includes_changes_that_were_taken_back() -> None:
    fine, coarse = identity("cpu, fp32"), identity("cpu, bf16")
    past = History({1: fine, 2: coarse, 3: fine}, {1: "Pentium", 2: "", 3: "Xeon"})
    assert past.changes(1) == ["machine 'cpu, fp32' → 'cpu, bf16'", "processor Pentium → Xeon"]
    assert past.changes(3) == []


def test_rounding_is_that_of_the_coarser_precision() -> None:
    past = History({1: identity("cpu, bf16"), 2: identity("cpu, fp32"), 3: None}, {})
    assert [past.rounding(count, 1e-3) for count in (1, 2, 3)] == [0.05, 1e-3, 1e-3]
