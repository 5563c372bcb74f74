"""Former spellings of options of bases, sides, mergers and learners."""

from __future__ import annotations

from typing import Any

import pytest

from sidetune_core.config import kinds, registry
from sidetune_core.config.kinds import Kind
from sidetune_core.config.options import FormerSpelling, structure

RENAMED = [
    (kinds.BASE, "resnet44", {"weights": "seed"}, {"weights": "authors"}),
    (kinds.BASE, "taskonomy", {"weights": "seed"}, {"weights": "authors"}),
    (kinds.SIDE, "fcn4", {"weights": "seed"}, {"weights": "authors"}),
    (kinds.SIDE, "encoder", {"start": "new"}, {"init": "random"}),
    (kinds.MERGER, "alpha", {"per": "channel"}, {"granularity": "channel"}),
    *(
        (kinds.LEARNER, name, {"batchnorm": "moving"}, {"batchnorm": "trained"})
        for name in ("bsp", "ewc", "finetune", "joint", "lwf")
    ),
    (kinds.LEARNER, "ewc", {"tasks": 3}, {"stream_length": 3}),
    (kinds.LEARNER, "distill", {"weights": "head.pth"}, {"head_weights": "head.pth"}),
]


@pytest.mark.parametrize(("kind", "name", "former", "current"), RENAMED)
def test_a_former_spelling_is_accepted_with_a_warning(
    kind: Kind, name: str, former: dict[str, Any], current: dict[str, Any]
) -> None:
    config = registry.load(registry.find(kind, name)).Config
    with pytest.warns(FormerSpelling):
        respelled = structure(config, former, name)
    assert respelled == structure(config, current, name)
