"""What an adapter carries of a spec has no paths, and resolves without the run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sidetune_core import RunSpec
from sidetune_core.config.resolve import ResolvedRun, resolve
from sidetune_core.errors import RunError
from sidetune_core.serving.public_spec import (
    check_paths,
    command,
    is_path,
    kept_paths,
    public_spec,
    resolve_public,
)


def resolved(**components: Any) -> ResolvedRun:
    values: dict[str, Any] = {"learner": "features", "env": "digits", "base": "resnet44", **components}
    return resolve(RunSpec(**values))


@pytest.mark.parametrize(
    "value", ["/home/me", "~/x", "./x", "../x", "x.safetensors", "C:\\x", Path("x"), ("a", "/b")]
)
def test_paths_are_known(value: object) -> None:
    assert is_path(value)


@pytest.mark.parametrize(
    "value", ["packaged", "IMAGENET1K_V1", "vit_small.augreg_in21k", "owner/name", 3, None, ()]
)
def test_names_are_no_paths(value: object) -> None:
    assert not is_path(value)


def test_the_options_of_the_env_are_left_out() -> None:
    run = resolved(env={"name": "images", "root": "/home/me/photos"})
    assert public_spec(run)["env"] == {"name": "sidetune/images", "options": {}}


def test_named_weights_of_a_base_are_kept() -> None:
    assert public_spec(resolved())["base"]["options"]["weights"] == "packaged"


def test_a_file_of_weights_is_left_out() -> None:
    run = resolved(base={"name": "resnet44", "weights": "/home/me/w.safetensors"})
    assert "/home/me" not in json.dumps(public_spec(run))


def test_a_file_of_weights_of_a_head_is_left_out() -> None:
    learner = {"name": "distill", "head_weights": "/home/me/head.safetensors"}
    run = resolved(learner=learner, side="fcn4")
    assert public_spec(run)["learner"]["options"]["head_weights"] == "none"


def test_a_path_that_may_decide_on_the_network_can_be_kept() -> None:
    run = resolved(base={"name": "torchvision", "model": "/home/me/model"})
    assert kept_paths(run) == ["base.model"]
    assert public_spec(run, keep_paths=True)["base"]["options"]["model"] == "/home/me/model"


def test_a_file_of_weights_is_no_such_path() -> None:
    assert kept_paths(resolved(base={"name": "resnet44", "weights": "/home/me/w.pth"})) == []


def test_a_public_spec_resolves_to_the_same_networks() -> None:
    run = resolved()
    again = resolve_public(public_spec(run), {}, {}, Path("task.json"))
    assert again.components["base"].config == run.components["base"].config


def test_a_path_in_a_spec_from_elsewhere_is_refused(tmp_path: Path) -> None:
    run = resolved(base={"name": "torchvision", "model": str(tmp_path)})
    with pytest.raises(RunError, match=r"names the path .* in option base.model"):
        check_paths(run, Path("task.json"))


@pytest.mark.parametrize("env", ["squad", "icifar", "cifar10", "taskonomy"])
def test_an_env_whose_defaults_are_paths_is_loaded(env: str) -> None:
    spec = public_spec(resolved(env=env, base=None, learner="finetune"))
    check_paths(resolve_public(spec, {}, {}, Path("task.json")), Path("task.json"))


def test_another_path_of_such_an_env_is_refused() -> None:
    run = resolved(env={"name": "cifar10", "root": "/elsewhere"})
    with pytest.raises(RunError, match="names the path /elsewhere in option env.root"):
        check_paths(run, Path("task.json"))


def test_weights_that_are_a_file_here_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("secret").touch()
    with pytest.raises(RunError, match="names the path secret in option base.weights"):
        check_paths(resolved(base={"name": "resnet44", "weights": "secret"}), Path("task.json"))


def test_the_command_has_what_was_asked_for_without_paths() -> None:
    asked = {
        "base": {"name": "resnet44", "options": {"weights": "~/w.pth"}},
        "env": {"name": "images", "options": {"root": "/home/me/photos", "image_size": 64}},
        "train": {"steps": 5, "epochs": None},
        "seed": 3,
    }
    assert command(asked) == (
        "sidetune-run --base resnet44 --base.weights PATH --env images --env.root PATH --env.image-size 64 "
        "--train.steps 5 --seed 3"
    )
