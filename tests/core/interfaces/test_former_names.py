"""Plugins written against version 0.1 work, and their authors are warned."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sidetune_core.api import (
    Base,
    ClassHead,
    ClassTask,
    Examples,
    Features,
    Heads,
    Side,
    StagedSide,
    TaskStream,
)
from sidetune_core.config.kinds import SIDE
from sidetune_core.config.registry import find, load
from sidetune_core.interfaces.former_names import former_members

FORMER = "the former spelling stops working in version 0.3"
ACME_FORMER = Path(__file__).parents[2] / "acme_former"
CHECK_AND_RUN = """
import sys
from sidetune_core.cli.main import main, main_run
learner, env = "acme_sidetune.bitfit:BitFit", "acme_sidetune.blobs:Blobs"
run = ["--learner", learner, "--env", env, "--base", "resnet20", "--base.weights", "none"]
sys.exit(
    main(["check", "learner", learner])
    or main(["check", "env", env])
    or main_run([*run, "--train.steps", "2", "--quiet"])
)
"""

FORMER_CHAIN = """
import attrs
from sidetune_core.api import StagedSide

class Chain(StagedSide):
    @attrs.frozen
    class Config:
        pass

    def enter(self, inputs): ...
    def stages(self): ...
    def leave(self, activation): ...
"""


def examples() -> Examples:
    return Examples(
        {split: torch.zeros(4, 3) for split in ("train", "test")},
        {split: torch.arange(4) % 2 for split in ("train", "test")},
    )


def make(cls: type[ClassTask]) -> ClassTask:
    return cls("t0", "two classes", examples(), (0, 1), input="x", transform=torch.clone)


def test_a_package_for_version_0_1_conforms_runs_and_is_warned(tmp_path: Path) -> None:
    variables = {**os.environ, "PYTHONPATH": str(ACME_FORMER), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-W", "default::DeprecationWarning", "-c", CHECK_AND_RUN],
        cwd=tmp_path,
        env=variables,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "FAIL" not in done.stdout
    assert f"DeprecationWarning: Heads.start is now add_task; {FORMER}" in done.stderr
    assert f"{ACME_FORMER / 'acme_sidetune' / 'bitfit.py'}:" in done.stderr
    assert "sidetune_core.api.Parts is now sidetune_core.api.Components" in done.stderr


def test_a_former_method_overrides_the_new_one_and_reaches_it_with_super() -> None:
    with pytest.warns(DeprecationWarning, match=FORMER) as warned:

        class Wide(ClassTask):
            lost_within = "the mood"

            def head(self, shape: tuple[int, ...]) -> nn.Module:
                return nn.Sequential(super().head(shape), nn.Softmax(1))  # type: ignore[misc]

    assert {Path(warning.filename) for warning in warned} == {Path(__file__)}
    assert sorted(str(warning.message).partition("Wide.")[2] for warning in warned) == [
        "head is now make_head; the former spelling stops working in version 0.3",
        "lost_within is now not_restored; the former spelling stops working in version 0.3",
    ]
    task = make(Wide)
    assert task.not_restored == "the mood"
    with pytest.warns(DeprecationWarning, match="SupervisedTask.head is now make_head") as warned:
        linear, softmax = task.make_head((5,))  # type: ignore[misc]
    assert Path(warned[0].filename) == Path(__file__)
    assert isinstance(linear, ClassHead)
    assert isinstance(softmax, nn.Softmax)


def test_a_caller_of_a_former_method_reaches_the_new_one() -> None:
    task, heads = make(ClassTask), Heads((5,))
    with pytest.warns(DeprecationWarning, match="head is now make_head"):
        assert isinstance(task.head((5,)), ClassHead)  # type: ignore[attr-defined]
    with pytest.warns(DeprecationWarning, match="Heads.start is now add_task"):
        assert heads.start(task) is heads["t0"]  # type: ignore[operator]


def test_a_subclass_in_new_names_of_one_in_former_names_overrides_it() -> None:
    with pytest.warns(DeprecationWarning, match=FORMER):

        class Former(ClassTask):
            def can_go_on(self, step: int, batch_size: int) -> bool:
                return step % 2 == 0

    class New(Former):
        def can_resume_at(self, step: int, batch_size: int) -> bool:
            return super().can_resume_at(step, batch_size) and step > 2

    assert [make(New).can_resume_at(step, 8) for step in (2, 3, 4)] == [False, False, True]
    with pytest.warns(DeprecationWarning, match=FORMER):
        assert make(New).can_go_on(2, 8) is False  # type: ignore[attr-defined]


def test_abstract_methods_are_implemented_under_their_former_names() -> None:
    with pytest.warns(DeprecationWarning, match=FORMER):

        class Chain(StagedSide):
            stage_shapes = ((2,),)

            def enter(self, inputs: Mapping[str, Tensor]) -> Tensor:
                return inputs["x"]

            def stages(self) -> Sequence[tuple[nn.Module, nn.Module]]:
                return [(nn.Identity(), nn.ReLU())]

            def leave(self, activation: Tensor) -> Tensor:
                return activation + 1

    side: Any = Chain()
    assert side({"x": torch.tensor([[-1.0, 2.0]])}, Features(torch.zeros(1, 2))).tolist() == [[1.0, 3.0]]


def test_the_registry_accepts_a_class_in_former_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "former_chain.py").write_text(FORMER_CHAIN)
    monkeypatch.chdir(tmp_path)
    with pytest.warns(DeprecationWarning, match=r"former_chain.Chain.\w+ is now"):
        assert load(find(SIDE, "former_chain:Chain", trust_local_code=True)).__name__ == "Chain"


def test_class_attributes_and_properties_are_read_under_their_new_names() -> None:
    with pytest.warns(DeprecationWarning, match=FORMER):  # noqa: PT031 - two classes

        class Words(TaskStream):
            parts = {"base": "transformer"}

            @property
            def vocabulary(self) -> int:
                return 7

            def tasks(self) -> list[Any]:
                self.say("reading")  # type: ignore[attr-defined]
                return []

        class Lateral(Side):
            uses_taps = True

    assert Words.default_components == {"base": "transformer"}
    assert Lateral.needs_taps is True
    stream, lines = Words(), []
    stream.info = lines.append  # type: ignore[method-assign]
    assert stream.vocabulary_size == 7
    with pytest.warns(DeprecationWarning, match="TaskStream.say is now info"):
        stream.tasks()
    assert lines == ["reading"]


def test_what_a_constructor_sets_under_a_former_name_is_read_under_the_new_one() -> None:
    class Reader(Base):
        def __init__(self) -> None:
            super().__init__()
            self.vocabulary = 9

        def forward(self, inputs: Mapping[str, Tensor]) -> Features:
            raise NotImplementedError

    with pytest.warns(DeprecationWarning, match="Base.vocabulary is now vocabulary_size"):
        assert Reader().vocabulary_size == 9


def test_a_class_that_defines_both_names_is_left_as_it_is() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")

        class Both(ClassTask):
            lost_within = not_restored = "the mood"

        assert make(Both).lost_within == "the mood"


def test_members_renamed_in_a_subclass_add_to_those_of_its_parent() -> None:
    @former_members(make_worlds="make_vector_env")
    class Rollout(ClassTask):
        def make_vector_env(self) -> str:
            return "ours"

    with pytest.warns(DeprecationWarning, match=FORMER) as warned:

        class Cue(Rollout):
            lost_within = "episodes"

            def make_worlds(self) -> str:
                return "theirs after " + super().make_worlds()  # type: ignore[misc]

    assert len(warned) == 2
    with pytest.warns(DeprecationWarning, match=FORMER):
        assert make(Cue).make_vector_env() == "theirs after ours"  # type: ignore[attr-defined]
    assert make(Cue).not_restored == "episodes"
