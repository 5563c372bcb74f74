"""Rooms: the twelve dense tasks on rendered indoor scenes, which need no download."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import attrs
import torch
from torch import Tensor

from sidetune_core.api import OptionError, TaskStream, at_least, derive_seed, option

from ._dense import DOMAINS, ORDERS, DenseTask, Domain, Frames
from ._rooms_labels import INDOORS, labelled
from ._rooms_layout import write_taskonomy
from ._rooms_render import render
from ._rooms_scene import KINDS, Scene, sample_scene

CLASS = Domain("class_room", "cross-entropy", len(KINDS), "labels", masked=False, whole=True)
"""What stands in the place of ``class_object``: which kind of room it is."""
CHUNK = 32
"""Rooms whose labels are made at once."""


class Rooms(TaskStream):
    """Procedural rooms, ``image`` (3, size, size) in [0, 1], and twelve tasks about them with exact labels: a stand-in for Taskonomy.

    Eight kinds of room (bathroom, bedroom, corridor, dining room, kitchen, living room, office, storeroom), furnished, lit and seen at
    random. Depth, normals, curvature, semantic classes and shading come from closed forms where rays meet boxes, ellipsoids and frusta;
    edges and keypoints from operators on those and on the picture (see `_rooms_labels.labelled`). The tasks, their orders, losses and
    masks are those of env 'taskonomy', but that the kind of room takes the place of ImageNet's classes, and that depth and curvature have
    scales that suit rooms: 12 m, and 1 / 10 cm, fill the range.

    A room is a function of (series, split, number) and not of the run's seed: every run sees the same rooms, and more training rooms
    contain fewer. ``--env.export DIR`` writes them as a Taskonomy data set too, which env 'taskonomy' reads.
    """

    @attrs.frozen
    class Config:
        """Options of the env."""

        order: Literal["12", "12cls", "12txtr", "12rgb"] = option("12", "order of the twelve tasks, by the original's names")
        domains: str | None = option(None, "only these tasks in this order, such as 'curvature,normal'; replaces 'order'")
        images: int = option(192, "rooms to train on", at_least(1))
        test_images: int = option(48, "rooms to test on", at_least(1))
        size: int = option(64, "height and width of the images, a multiple of 8", at_least(32))
        series: int = option(0, "which series of rooms", at_least(0))
        decoder: int = option(128, "channels of the widest layers of the tasks' decoders; the original has 1024", at_least(8))
        export: Path | None = option(
            None, "also write the rooms into this folder as a Taskonomy data set of the buildings 'train' and 'test'"
        )

    recipe = {"batch": 16, "steps": 40, "lr": 3e-3}
    parts = {"base": {"name": "taskonomy", "width": 16}, "side": "fcn5"}

    def __init__(self, config: Config, seed: int) -> None:
        if config.size % 8:
            raise OptionError(f"--env.size must be a multiple of 8, not {config.size}")
        self._config = config
        self._domains = _chosen(config.domains, config.order)
        self.inputs = {"image": (3, config.size, config.size)}
        self._fingerprint = ""

    def tasks(self) -> Sequence[DenseTask]:
        config = self._config
        counts = {"train": config.images, "test": config.test_images}
        rooms = {split: [sample_scene(derive_seed(config.series, split), k) for k in range(count)] for split, count in counts.items()}
        if config.export is not None:
            write_taskonomy(config.export.expanduser(), rooms, config.size)
        names = {domain.name for domain in self._domains} | {"rgb", "mask"}
        stored = _images([scene for scenes in rooms.values() for scene in scenes], config.size, names)
        digest = hashlib.sha256(b"rooms, divide by 255")
        digest.update(stored["rgb"].numpy().data)
        self._fingerprint = digest.hexdigest()
        rows = {"train": torch.arange(config.images), "test": config.images + torch.arange(config.test_images)}
        frames = Frames(stored, rows)
        return [DenseTask(domain, frames, config.decoder) for domain in self._domains]

    def fingerprint(self) -> str:
        return self._fingerprint


def _images(scenes: Sequence[Scene], size: int, names: set[str]) -> dict[str, Tensor]:
    """Some domains of rooms, as `Frames` stores them."""
    parts = []
    for first in range(0, len(scenes), CHUNK):
        some = scenes[first : first + CHUNK]
        parts.append(labelled(some, render(some, size), INDOORS))
    return {name: torch.cat([part[name] for part in parts]) for name in names}


def _chosen(names: str | None, order: str) -> list[Domain]:
    """The domains that are asked for, or those of a named order.

    Raises:
        OptionError: one is unknown, or there twice.
    """
    there = {**{name: domain for name, domain in DOMAINS.items() if not domain.whole}, CLASS.name: CLASS}
    if names is None:
        return [there.get(name, CLASS) for name in ORDERS[order]]
    words = [word.strip() for word in names.split(",") if word.strip()]
    if unknown := [word for word in words if word not in there]:
        raise OptionError(f"no domain '{unknown[0]}' (--env.domains); there are {', '.join(there)}")
    if not words or len(set(words)) < len(words):
        raise OptionError(f"--env.domains {names}: name one domain or more, each once")
    return [there[word] for word in words]
