"""Every former option of an env leads to an option that exists, and is accepted with a warning."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import attrs
import pytest

from sidetune_core.config import kinds, registry
from sidetune_core.config.options import FormerSpelling, Renamed, respell

ENVS = ("cifar10", "digits", "icifar", "images", "rgbd", "rooms", "squad", "taskonomy")


def renames() -> Iterator[Any]:
    for name in ENVS:
        config = registry.load(registry.find(kinds.ENV, name)).Config
        for former, renamed in config.former_options.items():
            yield pytest.param(config, former, renamed, id=f"{name}-{former}")


@pytest.mark.parametrize(("config", "former", "renamed"), renames())
def test_a_former_option_leads_to_an_existing_one(config: Any, former: str, renamed: Renamed) -> None:
    options = {field.name.replace("_", "-"): field for field in attrs.fields(config)}
    assert renamed.to in options
    assert former not in options or renamed.to == former or renamed.values
    value = next(iter(renamed.values), "value")
    with pytest.warns(FormerSpelling, match=renamed.to) if former != renamed.to else nullcontext():
        respelled = respell(config, {former: value}, "env")
    present = renamed.values.get(value, value)
    if not renamed.separator:  # an entry of a tuple
        present = [present]
    assert respelled == {renamed.to.replace("-", "_"): present}
