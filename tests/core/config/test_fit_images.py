"""An env of images follows the images that the base declares."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sidetune_core.assembly.build import build_stream
from sidetune_core.config.argv import parse
from sidetune_core.config.resolve import ResolvedRun, resolve
from sidetune_core.config.spec import RunSpec
from sidetune_core.config.spec_file import from_values
from sidetune_core.errors import WeightsError

ENV = """
import attrs
from sidetune_core.api import TaskStream, option

class Photos(TaskStream):
    @attrs.frozen
    class Config:
        image_size: int | None = option(None, "pixels")
        interpolation: str = option("auto", "filter")
        crop_fraction: float | None = option(None, "crop")

    def __init__(self, config, seed):
        self.inputs = {"image": (3, config.image_size, config.image_size)}

    def tasks(self):
        return []

    @classmethod
    def fit_images(cls, config, images):
        size, interpolation, crop = (32, "bilinear", 1.0) if images is None else attrs.astuple(images)
        return attrs.evolve(
            config,
            image_size=config.image_size or size,
            interpolation=interpolation if config.interpolation == "auto" else config.interpolation,
            crop_fraction=config.crop_fraction or crop,
        )
"""
BASE = {"name": "timm", "model": "vit_tiny_patch16_224", "weights": "none"}
FLAGS = ["--base", "timm", "--base.model", "vit_tiny_patch16_224", "--env", "own_env:Photos"]


@pytest.fixture(autouse=True)
def _own_env(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_env.py").write_text(ENV)
    monkeypatch.chdir(tmp_path)


def options(resolved: ResolvedRun | None) -> Any:
    assert resolved is not None
    return resolved.to_spec().to_json()["env"]["options"]


def test_the_options_are_those_of_the_base_that_the_user_does_not_set() -> None:
    expected = {"image_size": 224, "interpolation": "bicubic", "crop_fraction": 0.9}
    assert options(resolve(RunSpec(base=BASE, env="own_env:Photos"))) == expected
    assert options(parse(FLAGS).resolved) == expected
    assert options(parse([*FLAGS, "--env.image-size", "64"]).resolved) == {**expected, "image_size": 64}
    own = RunSpec(base=BASE, env={"name": "own_env:Photos", "crop_fraction": 0.5})
    assert options(resolve(own)) == {**expected, "crop_fraction": 0.5}


def test_a_base_that_declares_none_leaves_the_defaults() -> None:
    expected = {"image_size": 32, "interpolation": "bilinear", "crop_fraction": 1.0}
    assert options(resolve(RunSpec(base="conv", env="own_env:Photos"))) == expected


def test_a_recorded_env_keeps_its_options_and_lacks_none_of_the_base() -> None:
    values = {"base": BASE, "env": {"name": "own_env:Photos", "options": {"image_size": 48}}}
    recorded = from_values(values, "run.json", recorded=True, trust_local_code=True)
    assert options(resolve(recorded)) == {
        "image_size": 48,
        "interpolation": "bilinear",
        "crop_fraction": 1.0,
    }
    again = resolve(RunSpec(base=BASE, env="own_env:Photos")).to_spec().to_json()
    assert options(resolve(from_values(again, "run.json", True, True))) == again["env"]["options"]


def test_a_new_env_in_a_recorded_spec_follows_the_base() -> None:
    recorded = from_values({"base": BASE, "env": "digits"}, "run.json", recorded=True)
    resolved = parse(["--env", "own_env:Photos"], start=recorded).resolved
    assert options(resolved)["image_size"] == 224


def test_the_composition_names_the_network_of_a_library() -> None:
    resolved = resolve(RunSpec(base=BASE, learner="features"))
    assert str(resolved) == "digits · timm vit_tiny_patch16_224 · features · seed 0"
    assert resolved.former_composition == "digits · timm · features · seed 0"
    hub = resolve(RunSpec(base={"name": "hf-vision", "model": "/home/me/models/vit/"}, learner="features"))
    assert str(hub) == "digits · hf-vision vit · features · seed 0"


def test_an_env_whose_base_cannot_be_asked_can_be_shown_and_not_opened(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def unreachable(config: Any) -> None:
        raise WeightsError("no connection")

    monkeypatch.setattr(resolve(RunSpec(base=BASE)).components["base"].cls, "image_input", unreachable)
    resolved = resolve(RunSpec(base=BASE, env="own_env:Photos"))
    assert options(resolved)["image_size"] is None
    with pytest.raises(WeightsError, match="^no connection$"):
        build_stream(resolved)
