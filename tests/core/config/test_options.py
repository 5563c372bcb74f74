"""Options: declared once, checked everywhere."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

import attrs
import pytest

from sidetune_core.config.options import (
    FormerSpelling,
    Renamed,
    at_least,
    at_most,
    describe,
    more_than,
    option,
    structure,
    unstructure,
)
from sidetune_core.errors import OptionError


@attrs.frozen
class Config:
    coef: float = option(1e4, "weight of the penalty", at_least(0), at_most(1e9))
    kind_of: Literal["exact", "batched"] = option("exact", "estimator")
    count: int | None = option(None, "how many", more_than(0))
    flag: bool = option(True, "whether")
    path: Path | None = option(None, "where")


def take(**values: object) -> Config:
    return structure(Config, values, "learner 'ewc'")


def test_defaults_stand_where_nothing_is_set() -> None:
    assert take() == Config()


def test_dashes_and_underscores_are_the_same() -> None:
    assert take(**{"kind-of": "batched"}) == take(kind_of="batched")


def test_a_whole_number_does_for_a_float() -> None:
    assert take(coef=10).coef == 10.0


def test_an_unknown_option_is_answered_with_what_is_close() -> None:
    with pytest.raises(
        OptionError,
        match=r"learner 'ewc' has no option 'coeff'\. Did you mean 'coef'\? Its options: coef, count",
    ):
        take(coeff=1.0)


def test_an_owner_without_options_says_so() -> None:
    with pytest.raises(OptionError, match="merger 'sum' has no option 'x'. It has no options"):
        structure(attrs.make_class("Empty", {}, frozen=True), {"x": 1}, "merger 'sum'")


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"coef": -1.0}, "coef must be at least 0, not -1"),
        ({"coef": float("nan")}, "coef must be at least 0, not nan"),
        ({"coef": 1e10}, "coef must be at most 1000000000"),
        ({"count": 0}, "count must be more than 0"),
        ({"coef": "much"}, "coef: expected float, got 'much'"),
        ({"count": True}, "expected int, got True"),
        ({"count": 1.5}, "1.5"),
        ({"flag": 1}, "flag: expected bool, got 1"),
        ({"kind_of": "exakt"}, "'exakt'"),
    ],
)
def test_a_value_that_does_not_hold_is_refused_with_the_reason(values: dict[str, object], words: str) -> None:
    with pytest.raises(OptionError, match=rf"learner 'ewc': .*{words}"):
        take(**values)


def test_plain_values_come_back_as_the_same_config() -> None:
    config = take(coef=3.0, count=2, path="a/b")
    assert structure(Config, unstructure(config), "x") == config
    assert config.path == Path("a/b")


def test_a_description_has_name_type_default_and_help() -> None:
    first, second, third, *_ = describe(Config)
    assert (first.name, first.type, first.default, first.help) == (
        "coef",
        "float",
        1e4,
        "weight of the penalty",
    )
    assert (second.name, second.type) == ("kind-of", "exact | batched")
    assert third.type == "int | none"


@attrs.frozen
class Respelled:
    former_options: ClassVar[Mapping[str, Renamed]] = {
        "blind": Renamed("mask-images"),
        "evaluate": Renamed("deterministic", {"mode": True, "sample": False}),
        "weights": Renamed("weights", {"seed": "authors"}),
    }
    mask_images: bool = option(False, "zero the images")
    deterministic: bool = option(True, "take the most likely action")
    weights: str = option("none", "which weights")


@pytest.mark.parametrize(
    ("former", "now"),
    [
        ({"blind": True}, Respelled(mask_images=True)),
        ({"evaluate": "sample"}, Respelled(deterministic=False)),
        ({"weights": "seed"}, Respelled(weights="authors")),
    ],
)
def test_a_former_spelling_is_accepted_with_a_warning(former: dict[str, Any], now: Respelled) -> None:
    with pytest.warns(FormerSpelling, match="is now"):
        assert structure(Respelled, former, "env 'x'") == now


def test_a_former_name_next_to_the_new_one_is_an_error() -> None:
    with pytest.raises(OptionError, match="both are given"), pytest.warns(FormerSpelling):
        structure(Respelled, {"blind": True, "mask_images": False}, "env 'x'")
