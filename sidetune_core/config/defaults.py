"""The component of each slot that neither the user, nor a spec, nor the env chooses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

DEFAULTS: Mapping[str, str] = {
    "base": "sidetune/resnet44",
    "side": "sidetune/fcn4",
    "merger": "sidetune/alpha",
    "learner": "sidetune/sidetune",
    "env": "sidetune/digits",
}
"""By slot. The distribution is part of each name, so that a package with a component of the same name changes
nothing."""

AUTO = "auto"
"""The name that leaves the side to `assembly.choose`, as if none was given."""

SIDES: Sequence[str] = (
    DEFAULTS["side"],
    "sidetune/ladder",
    "sidetune/ladder-text",
    "sidetune/conv",
    "sidetune/mlp",
    "sidetune/copy",
)
"""The sides that are tried in turn where none is chosen: the first that fits the base and has fewer
parameters is used, otherwise the smallest that fits; the default is used wherever it fits."""


FOR_OBJECTS: Mapping[str, str] = {"base": "sidetune/module", "env": "sidetune/datasets"}
"""The components that wrap objects which are given in Python in place of a name, by slot."""

OTHER_NAMES: Mapping[str, Sequence[tuple[str, str]]] = {
    "base": (
        (
            r"(resnet(18|34|50|101|152)|vgg\d+|densenet\d+|mobilenet|efficientnet|convnext|alexnet).*",
            "--base torchvision --base.model {}",
        ),
        (r"(vit|deit|swin|beit)[-_].*", "--base timm --base.model {}"),
        (r"(distil|ro|de)?bert(a)?[-_].*", "--base transformer --base.model {}"),
    ),
    "env": ((r"cifar-?100", "--env icifar"),),
    "learner": (
        (r"naive|sequential|fine-?tuning", "--learner finetune"),
        (r"side-?tuning", "--learner sidetune"),
    ),
}
"""What is meant by names of the field that are no components here, by slot: patterns, and the options, where
``{}`` is the name."""


def default_name(slot: str) -> str:
    """The short name of a default, for display: ``alpha``."""
    return DEFAULTS[slot].rpartition("/")[2]
