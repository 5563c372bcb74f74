"""The page of each kind names every public member of the classes of its contract."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import pytest

from sidetune_core import api
from sidetune_core.interfaces.former_names import FormerMember

DOCS = Path(__file__).parents[2] / "docs"
OURS = "sidetune_core.interfaces."
PAGES: dict[str, Sequence[type]] = {
    "kinds/base.md": (
        api.Base,
        api.Features,
        api.Inputs,
        api.Truncatable,
        api.HasHubName,
        api.HasSummary,
        api.HasVocabulary,
        api.MadeFromObject,
        api.ImageInput,
        api.DeclaresImageInput,
        api.Continuable,
        api.Continuation,
        api.Block,
        api.MissionFiLM,
    ),
    "kinds/side.md": (api.Side, api.StagedSide),
    "kinds/merger.md": (api.Merger,),
    "kinds/learner.md": (
        api.Learner,
        api.Components,
        api.Heads,
        api.ClassHead,
        api.BufferDict,
        api.ParamGroup,
        api.Phase,
        api.TrainingStep,
        api.DeclaresStored,
    ),
    "kinds/env.md": (
        api.TaskStream,
        api.Task,
        api.Outputs,
        api.Batch,
        api.Inputs,
        api.Order,
        api.ClassTask,
        api.Examples,
        api.HasDocuments,
        api.HasVisualisations,
        api.HasTrainingMetrics,
        api.HasTrainingSize,
        api.HasState,
        api.HasSubsets,
        api.ResumesAtSomeSteps,
        api.LosesState,
        api.HasVersions,
        api.TaskCard,
        api.TaskHandler,
        api.Preprocessed,
        api.Prediction,
        api.ClassPrediction,
        api.LabelsPrediction,
        api.DataPart,
        api.ValuesPrediction,
        api.MapPrediction,
        api.HasCard,
        api.HasHandler,
        api.FitsImages,
        api.HasDataParts,
    ),
    "kinds/text.md": (api.HasVocabulary, api.HasDocuments),
}


def members(cls: type) -> set[str]:
    """Names of the public members that a class, or a class of ours that it derives from, defines."""
    return {
        name
        for base in cls.__mro__
        if base.__module__.startswith(OURS)
        for name in {**vars(base), **base.__dict__.get("__annotations__", {})}
        if not name.startswith("_") and not isinstance(vars(base).get(name), FormerMember)
    }


def named(page: str) -> set[str]:
    """The words that a page has in backticks, outside its blocks of code."""
    text = (DOCS / page).read_text(encoding="utf-8")
    prose = re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)
    return {word for code in re.findall(r"`([^`\n]+)`", prose) for word in re.findall(r"\w+", code)}


@pytest.mark.parametrize(
    ("page", "cls"),
    [(page, cls) for page, classes in PAGES.items() for cls in classes],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_a_page_names_every_member_of_a_class_of_its_contract(page: str, cls: type) -> None:
    missing = ({cls.__name__} | members(cls)) - named(page)
    assert not missing, f"docs/{page} does not describe {', '.join(sorted(missing))} of {cls.__name__}"


def test_a_page_of_a_kind_names_everything_of_the_public_interface() -> None:
    pages = set().union(*(named(f"kinds/{page.name}") for page in (DOCS / "kinds").glob("*.md")))
    assert sorted(set(api.__all__) - pages) == []


def test_every_class_of_the_interfaces_is_in_the_contract_of_a_kind() -> None:
    classes = {
        value
        for value in (getattr(api, name) for name in api.__all__)
        if isinstance(value, type) and value.__module__.startswith(OURS)
    }
    assert classes - set().union(*PAGES.values()) == set()


def test_members_are_those_of_a_class_and_not_of_pytorch() -> None:
    assert members(api.Phase) == {"name", "fraction"}
    assert {"shape", "forward", "cache", "Config"} <= members(api.Base)
    assert "register_buffer" not in members(api.Base)
    assert "shortened" not in members(api.Base)  # a former name
