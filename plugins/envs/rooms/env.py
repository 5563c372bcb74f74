"""Rooms: the twelve dense tasks on rendered indoor scenes, which need no download."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import attrs
import torch

from sidetune_core.api import OptionError, TaskStream, at_least, derive_seed, home, option

from ..dense.task import DOMAINS, ORDERS, DenseTask, Domain, Frames
from . import cache
from .scene import KINDS, sample_scene
from .taskonomy_export import write_taskonomy

CLASS = Domain("class_room", "cross-entropy", len(KINDS), "labels", masked=False, whole=True)
"""What stands in the place of ``class_object``: which kind of room it is."""
POOL = 1024
"""Training rooms that a run draws its own from, where it asks for no more than these."""


class Rooms(TaskStream):
    """Procedural rooms, ``image`` (3, size, size) in [0, 1], and twelve tasks about them with exact labels: a stand-in for Taskonomy.

    Eight kinds of room (bathroom, bedroom, corridor, dining room, kitchen, living room, office, storeroom), furnished, lit and seen at
    random. Depth, normals, curvature, semantic classes and shading come from closed forms where rays meet boxes, ellipsoids and frusta;
    edges and keypoints from operators on those and on the picture (see `labels.labelled`). The tasks, their orders, losses and
    masks are those of env 'taskonomy', but that the kind of room takes the place of ImageNet's classes, and that depth and curvature have
    scales that suit rooms: 12 m, and 1 / 10 cm, fill the range.

    A room is a function of (series, split, number). The run's seed draws the training rooms from the first 1024 of the series, an eighth
    of each kind, so that 25 rooms vary from seed to seed, and more of them contain fewer; where more than 1024 are asked for, these are
    the first of the series for every seed. Test rooms are always the same. What is rendered is kept under ``$SIDETUNE_HOME/rooms`` (by
    default ``~/.cache/sidetune/rooms``) for later runs. ``--env.export DIR`` writes the rooms as a Taskonomy data set too, which env
    'taskonomy' reads.
    """

    @attrs.frozen
    class Config:
        """Options of the env."""

        order: Literal["12", "12cls", "12txtr", "12rgb"] = option(
            "12", "order of the twelve tasks, by the original's names"
        )
        domains: str | None = option(
            None, "only these tasks in this order, such as 'curvature,normal'; replaces 'order'"
        )
        images: int = option(
            192,
            "rooms to train on; up to 1024 are drawn by the run's seed, and more of them contain fewer",
            at_least(1),
        )
        test_images: int = option(48, "rooms to test on", at_least(1))
        size: int = option(64, "height and width of the images, a multiple of 8", at_least(32))
        series: int = option(0, "which series of rooms", at_least(0))
        decoder: int = option(
            128, "channels of the widest layers of the tasks' decoders; the original has 1024", at_least(8)
        )
        cache: bool = option(
            True,
            "keep rendered rooms on disk for later runs, under $SIDETUNE_HOME/rooms; one of 64 x 64 takes 45 kB",
        )
        export: Path | None = option(
            None,
            "also write the rooms into this folder as a Taskonomy data set of the buildings 'train' and 'test'",
        )

    recipe = {"batch_size": 16, "steps": 40, "lr": 3e-3}
    default_components = {"base": {"name": "taskonomy", "width": 10, "weights": "packaged"}, "side": "fcn5"}

    def __init__(self, config: Config, seed: int) -> None:
        if config.size % 8:
            raise OptionError(f"--env.size must be a multiple of 8, not {config.size}")
        self._config, self._seed = config, seed
        self._domains = _chosen(config.domains, config.order)
        self.inputs = {"image": (3, config.size, config.size)}
        self._fingerprint = ""

    def tasks(self) -> Sequence[DenseTask]:
        config = self._config
        numbers = {
            "train": cache.drawn(config.images, POOL, self._seed),
            "test": list(range(config.test_images)),
        }
        if config.export is not None:
            scenes = {
                split: [sample_scene(derive_seed(config.series, split), k) for k in some]
                for split, some in numbers.items()
            }
            write_taskonomy(config.export.expanduser(), scenes, config.size)
        names = sorted({domain.name for domain in self._domains} | {"rgb", "mask"})
        folder = home() / "rooms" / cache.generator() if config.cache else None
        components = [
            cache.Rooms(config.series, split, config.size, folder).images(some, names, self.info)
            for split, some in numbers.items()
        ]
        stored = {name: torch.cat([part[name] for part in components]) for name in names}
        digest = hashlib.sha256(b"rooms, divide by 255")
        digest.update(stored["rgb"].numpy().data)
        self._fingerprint = digest.hexdigest()
        rows = {
            "train": torch.arange(config.images),
            "test": config.images + torch.arange(config.test_images),
        }
        frames = Frames(stored, rows)
        return [DenseTask(domain, frames, config.decoder) for domain in self._domains]

    def fingerprint(self) -> str:
        return self._fingerprint


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
