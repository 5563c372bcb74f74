"""The model card is valid for the hub, and says what an adapter is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import attrs
import pytest
from huggingface_hub import ModelCard

from sidetune_core.serving.adapter_folder import AdapterFiles, read_files
from sidetune_core.serving.export import export_adapter
from sidetune_core.serving.model_card import model_card
from sidetune_core.serving.public_spec import resolve_public

from .conftest import Train


def card(folder: Path, **changes: Any) -> str:
    """The card of an adapter with other values."""
    files = attrs.evolve(read_files(folder), **changes)
    resolved = resolve_public(files.spec, files.plugins, files.versions, folder)
    return model_card(files, resolved, {"adapter.safetensors": 100})


def with_title(folder: Path, title: str) -> str:
    files: AdapterFiles = read_files(folder)
    return card(folder, cards={"t1": attrs.evolve(files.cards["t1"], title=title)})


def test_the_front_matter_is_what_the_hub_reads(adapter: Path) -> None:
    data = ModelCard.load(adapter / "README.md").data
    assert (data.library_name, data.tags[:2], data.metrics) == (
        "sidetune",
        ["sidetune", "adapter"],
        ["accuracy"],
    )


def test_the_metric_is_an_evaluation_result(adapter: Path) -> None:
    data = ModelCard.load(adapter / "README.md").data
    (result,) = data.eval_results
    assert result.metric_value == read_files(adapter).results["value"]


@pytest.mark.parametrize(
    "title", ["a: b\n---\nlibrary_name: evil", '"quoted"', "- x", "#1 {x}", "\x1b[2J", "ants, bees"]
)
def test_no_title_breaks_the_front_matter(adapter: Path, title: str) -> None:
    data = ModelCard(with_title(adapter, title)).data
    assert data.library_name == "sidetune"


def test_a_title_is_no_markup(adapter: Path) -> None:
    assert "<script>" not in with_title(adapter, "<script>").partition("\n# ")[2]


def test_a_licence_identifier_is_one(adapter: Path) -> None:
    assert ModelCard(card(adapter, results={"licence": "mit", "value": None})).data.license == "mit"


def test_another_licence_has_a_name(adapter: Path) -> None:
    data = ModelCard(card(adapter, results={"licence": "Our licence", "value": None})).data
    assert (data.license, data.license_name) == ("other", "Our licence")


def test_published_weights_of_a_base_are_its_base_model(adapter: Path) -> None:
    results = {"base_model": "timm/resnet18.a1_in1k", "value": None}
    assert ModelCard(card(adapter, results=results)).data.base_model == "timm/resnet18.a1_in1k"


def test_other_bases_have_no_base_model(adapter: Path) -> None:
    assert ModelCard.load(adapter / "README.md").data.base_model is None


def test_without_a_licence_none_is_claimed(adapter: Path) -> None:
    text = (adapter / "README.md").read_text(encoding="utf-8")
    assert ModelCard(text).data.license is None
    assert "- Licence: not stated" in text


def test_without_a_metric_none_is_claimed(adapter: Path) -> None:
    text = card(adapter, results={"value": None})
    assert "accuracy not measured" in text
    assert not ModelCard(text).data.eval_results


@pytest.mark.parametrize(
    "fact",
    [
        "- Base: `--base sidetune/resnet20 --base.weights none`",
        "random weights; SHA-256 `",
        "- Outputs: 2 classes",
        "- Data: env `sidetune/images`, digest `",
        "examples: train 16, test 8",
        "--env.archive PATH",
        "- Certificate on forgetting of the run: zero by construction",
        'model.predict("new.jpg", task="t1")',
    ],
)
def test_the_card_says(adapter: Path, fact: str) -> None:
    assert fact in (adapter / "README.md").read_text(encoding="utf-8")


def test_a_whole_network_needs_no_base(train: Train, tmp_path: Path) -> None:
    folder = export_adapter(train(learner="finetune"), "t1", tmp_path / "t1").folder
    text = (folder / "README.md").read_text(encoding="utf-8")
    assert "It contains a whole network" in text
    assert "trained with the task and included in `adapter.safetensors`" in text


def test_a_long_list_of_classes_is_shortened(adapter: Path) -> None:
    task = read_files(adapter).cards["t1"]
    names = tuple(f"c{number}" for number in range(200))
    outputs = attrs.evolve(task.outputs, size=200, names=names)
    assert "c49 and 150 more" in card(adapter, cards={"t1": attrs.evolve(task, outputs=outputs)})
