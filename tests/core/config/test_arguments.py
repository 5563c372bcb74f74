"""Options as a command line spells them, now and formerly."""

from __future__ import annotations

import shlex
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

import attrs
import pytest

from sidetune_core.config.arguments import make_spellings, split_arguments
from sidetune_core.config.option_tables import TABLES
from sidetune_core.config.options import (
    FormerSpelling,
    Renamed,
    at_least,
    describe,
    option,
    structure,
    unstructure,
    unsupported_options,
)
from sidetune_core.errors import OptionError


@attrs.frozen
class PPO:
    former_options: ClassVar[Mapping[str, Renamed]] = {"passes": Renamed("epochs")}
    clip: float = option(0.2, "clipping range", at_least(0))
    epochs: int = option(4, "epochs per rollout")
    normalise: bool = option(True, "normalise rewards")


@attrs.frozen
class Config:
    former_options: ClassVar[Mapping[str, Renamed]] = {
        "blind": Renamed("mask-images"),
        "seeing": Renamed("mask-images", {True: False, False: True}),
        "evaluate": Renamed("deterministic-eval", {"mode": True, "sample": False}),
        "weights": Renamed("weights", {"seed": "authors"}),
        "clip": Renamed("ppo.clip"),
        "map": Renamed("map-kind", {True: "depth", False: "none"}),
        "places": Renamed("scenes", separator=";"),
    }
    mask_images: bool = option(False, "zero the images")
    deterministic_eval: bool = option(True, "take the most likely action")
    weights: str = option("none", "weights")
    map_kind: Literal["none", "depth"] = option("none", "map")
    domains: tuple[str, ...] = option(("rgb",), "domains")
    sizes: tuple[int, ...] = option((), "sizes")
    roots: tuple[Path, ...] = option((), "folders")
    scenes: tuple[str, ...] = option((), "scenes")
    layout: bool | None = option(None, "layout")
    ppo: PPO = option(PPO(clip=0.1), "options of PPO")


def present(line: str) -> str:
    arguments = make_spellings({"env": Config, **TABLES}).present(split_arguments(shlex.split(line)))
    return shlex.join(word for argument in arguments for word in argument.words)


@pytest.mark.parametrize(
    ("former", "now"),
    [
        ("--env.blind", "--env.mask-images"),
        ("--env.no-blind", "--env.no-mask-images"),
        ("--env.blind=True", "--env.mask-images"),
        ("--env.blind false", "--env.no-mask-images"),
        ("--env.seeing", "--env.no-mask-images"),
        ("--env.evaluate sample", "--env.no-deterministic-eval"),
        ("--env.evaluate=mode", "--env.deterministic-eval"),
        ("--env.weights seed", "--env.weights authors"),
        ("--env.map", "--env.map-kind depth"),
        ("--env.no-map", "--env.map-kind none"),
        ("--env.clip 0.1", "--env.ppo.clip 0.1"),
        ("--env.clip=-1", "--env.ppo.clip=-1"),
        ("--env.ppo.passes 3", "--env.ppo.epochs 3"),
        ("--env.domains rgb,normal", "--env.domains rgb normal"),
        ("--env.domains=rgb,normal", "--env.domains rgb normal"),
        ("--env.places a,b;c", "--env.scenes a,b c"),
        ("--train.batch 8", "--train.batch-size 8"),
        ("--train.device cuda", "--device.name cuda"),
        ("--train.channels_last True", "--device.channels-last True"),
        ("--train.store-dir=x", "--cache.dir=x"),
    ],
)
def test_a_former_spelling_is_replaced_with_one_warning(former: str, now: str) -> None:
    with pytest.warns(FormerSpelling, match="the old spelling stops working in 0.3") as issued:
        assert present(former.replace(";", "\\;")) == now
    assert len(issued) == 1


@pytest.mark.parametrize(
    "line",
    [
        "--env.mask-images --env.weights none --quiet",
        "--env.ppo.no-normalise --train.lr=-1",
        "--env.domains a b --env.sizes 1 2 -h",
        "--nothing.known --",
    ],
)
def test_present_spellings_stay_as_they_are(line: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert present(line) == line


def test_the_warning_is_as_typed() -> None:
    with pytest.warns(FormerSpelling) as issued:
        present("--env.blind --env.evaluate sample")
    assert [str(warning.message) for warning in issued] == [
        "--env.blind is now --env.mask-images; the old spelling stops working in 0.3",
        "--env.evaluate sample is now --env.no-deterministic-eval; the old spelling stops working in 0.3",
    ]


def test_a_switch_with_a_third_value_needs_no_value() -> None:
    assert present("--env.layout") == "--env.layout True"
    assert present("--device.no-channels-last") == "--device.channels-last False"


def test_a_former_and_a_present_name_together_are_an_error() -> None:
    with pytest.raises(OptionError, match="--env.blind is the former name of --env.mask-images"):
        present("--env.blind --env.no-mask-images")


def config(**values: Any) -> Config:
    return structure(Config, values, "env 'x'")


def test_nested_options_are_tables_or_dotted_names_and_keep_the_defaults_of_their_class() -> None:
    assert config(ppo={"epochs": 2}).ppo == PPO(clip=0.1, epochs=2)
    assert config(**{"ppo.epochs": 2}).ppo == PPO(clip=0.1, epochs=2)
    assert config(ppo=PPO(epochs=5)).ppo == PPO(epochs=5)


def test_former_names_of_nested_options_are_accepted() -> None:
    with pytest.warns(FormerSpelling, match="env 'x': clip is now ppo.clip"):
        assert config(clip=0.3).ppo == PPO(clip=0.3)
    with pytest.warns(FormerSpelling):
        assert config(ppo={"passes": 3}).ppo.epochs == 3


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"ppo": {"clp": 1}}, r"no option 'ppo.clp'\. Did you mean 'ppo.clip'"),
        ({"ppo": {"clip": "x"}}, "ppo: clip: expected float, got 'x'"),
        ({"ppo": {"clip": -1.0}}, "ppo: clip must be at least 0, not -1"),
        ({"ppo": 3}, "'ppo' is a table of options, not 3"),
        ({"blnd": True}, r"Did you mean 'mask-images' \(formerly 'blind'\)"),
        ({"domains": [1]}, "domains: expected str, got 1"),
        ({"domains": 3}, "domains: expected a list, got 3"),
        ({"sizes": ["1"]}, "sizes: expected int, got '1'"),
    ],
)
def test_what_is_wrong_in_a_nested_option_or_a_list_is_named(values: Any, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        config(**values)


def test_a_list_makes_a_tuple_and_a_comma_string_is_its_former_spelling() -> None:
    assert config(domains=["a", "b"], sizes=[1, 2]).domains == ("a", "b")
    with pytest.warns(FormerSpelling, match='domains = "a, b" is now domains = '):
        assert config(domains="a, b").domains == ("a", "b")
    with pytest.warns(FormerSpelling):
        assert config(domains='["a", "b"]').domains == ("a", "b")
    with pytest.warns(FormerSpelling):
        assert config(sizes="1,2", roots="x,y") == Config(sizes=(1, 2), roots=(Path("x"), Path("y")))


def test_recorded_values_give_no_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        made = structure(Config, {"blind": True, "domains": "a,b"}, "env 'x'", recorded=True)
    assert made == Config(mask_images=True, domains=("a", "b"))


def test_plain_values_of_lists_and_nested_options_come_back() -> None:
    made = config(roots=["x"], ppo={"epochs": 1})
    plain = unstructure(made)
    assert (plain["roots"], plain["ppo"]["epochs"]) == (["x"], 1)
    assert config(**plain) == made


def test_nested_options_are_described_by_dotted_names_and_former_names_are_not() -> None:
    described = {info.name: info for info in describe(Config)}
    assert described["ppo.clip"].default == 0.1
    assert described["domains"].type == "list of str"
    assert not {"blind", "clip", "ppo"} & described.keys()


def test_options_of_unsupported_types_are_named() -> None:
    @attrs.define
    class Thawed:
        pass

    names = attrs.make_class(
        "Odd",
        {
            "names": attrs.field(default=frozenset(), type=set[str]),
            "pair": attrs.field(default=(1, 2), type=tuple[int, int]),
            "either": attrs.field(default=1, type=int | str),
            "nested": attrs.field(default=None, type=Thawed),
        },
        frozen=True,
    )
    unsupported = unsupported_options(names)
    assert [entry.partition(":")[0] for entry in unsupported] == ["names", "pair", "either", "nested"]
    assert unsupported_options(Config) == []
