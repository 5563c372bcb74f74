"""Rooms: the twelve dense tasks on rendered indoor scenes, without a download."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Literal

import attrs
import torch

from sidetune_core.api import OptionError, Renamed, at_least, at_most, derive_seed, home, option

from ..dense.task import DOMAINS, ORDERS, DenseStream, DenseTask, Domain, Frames
from ..dense.taskonomy import select_domains
from . import cache
from .heatmaps import THIN, heat_map
from .labels import INDOORS
from .scene import KINDS, sample_scene
from .taskonomy_export import write_taskonomy

CLASS_ROOM = Domain(
    "class_room", "cross-entropy", len(KINDS), "labels", masked=False, per_image=True, names=KINDS
)
"""The kind of room; it replaces ``class_object``."""
POOL = 1024
"""Training rooms from which a run draws its own, up to this number."""


class Rooms(DenseStream):
    """Procedurally generated rooms, ``image`` (3, size, size) in [0, 1], with twelve exactly labelled dense
    tasks.

    They are a stand-in for Taskonomy. Eight kinds of room (bathroom, bedroom, corridor, dining room, kitchen,
    living room, office, storeroom) have random furniture, lighting and viewpoints. Depth, normals, curvature,
    semantic classes and shading come from closed forms of the ray intersections with boxes, ellipsoids and
    frusta; edges and keypoints from operators on these and on the image (see `labels.make_labels`). The
    tasks, their orders, losses and masks are those of env 'taskonomy', except that the kind of room replaces
    the ImageNet classes, and that depth and curvature have scales suited to rooms: 12 m, and 1 / 10 cm, fill
    the range.

    A room is a function of (series, split, index). The run's seed draws the training rooms from the first
    1024 of the series, an eighth of each kind: 25 rooms vary from seed to seed, and a larger sample contains
    a smaller one. Above 1024, they are the first rooms of the series for every seed. The test rooms never
    change. Rendered rooms are cached in the folder ``rooms`` of the cache (see ``sidetune cache``).
    ``--env.export DIR`` also writes the rooms as a Taskonomy data set for env 'taskonomy'.
    """

    @attrs.frozen
    class Config:
        """Options of the env."""

        former_options: ClassVar[Mapping[str, Renamed]] = {
            "images": Renamed("num-images"),
            "test-images": Renamed("num-test-images"),
            "size": Renamed("image-size"),
            "decoder": Renamed("decoder-width"),
        }

        order: Literal["12", "12cls", "12txtr", "12rgb"] = option(
            "12", "order of the twelve tasks, by the names of the original code"
        )
        domains: tuple[str, ...] | None = option(
            None, "tasks in this order, such as 'curvature normal'; replaces 'order'"
        )
        num_images: int = option(
            192,
            "training rooms; up to 1024 are drawn by the run's "
            "seed, and a larger sample contains a smaller one",
            at_least(1),
        )
        num_test_images: int = option(48, "test rooms", at_least(1))
        image_size: int = option(
            64, "height and width of the images in pixels, a multiple of 8", at_least(32)
        )
        heatmap_sigma: float = option(
            0.0,
            "smooth the targets of keypoints2d and edge_occlusion by this many pixels of a 64 x 64 image; "
            "with 0, the definition of the published results, methods predict a constant; 2 is advised",
            at_least(0),
            at_most(8),
        )
        series: int = option(0, "index of the series of rooms", at_least(0))
        decoder_width: int = option(
            128, "channels of the widest decoder layers of each task; 1024 in the original", at_least(8)
        )
        cache: bool = option(
            True,
            "cache rendered rooms for later runs (see sidetune cache); a 64 x 64 room takes 45 kB",
        )
        export: Path | None = option(
            None,
            "folder in which to write the rooms as a Taskonomy "
            "data set with the buildings 'train' and 'test'",
        )

    shared_ids = True
    recipe = {"batch_size": 16, "steps": 40, "lr": 3e-3}
    default_components = {"base": {"name": "taskonomy", "width": 10, "weights": "packaged"}, "side": "fcn5"}

    def __init__(self, config: Config, seed: int) -> None:
        if config.image_size % 8:
            raise OptionError(f"--env.image-size must be a multiple of 8, not {config.image_size}")
        self._config, self._seed = config, seed
        self._domains = _domains(config)
        self.inputs = {"image": (3, config.image_size, config.image_size)}
        self._fingerprint = self._data_fingerprint = ""

    def tasks(self) -> Sequence[DenseTask]:
        config = self._config
        indices = {
            "train": cache.sample_indices(config.num_images, POOL, self._seed),
            "test": list(range(config.num_test_images)),
        }
        if config.export is not None:
            scenes = {
                split: [sample_scene(derive_seed(config.series, split), index) for index in rooms]
                for split, rooms in indices.items()
            }
            write_taskonomy(config.export.expanduser(), scenes, config.image_size)
        names = sorted({domain.name for domain in self._domains} | {"rgb", "mask"})
        folder = home() / "rooms" / cache.source_digest() if config.cache else None
        splits = []
        for split, rooms in indices.items():
            room_cache = cache.RoomCache(config.series, split, config.image_size, folder)
            splits.append(room_cache.images(rooms, names, self.info))
        stored = {name: torch.cat([images[name] for images in splits]) for name in names}
        thin = [name for name in names if name in THIN]
        if config.heatmap_sigma:
            stored |= {name: heat_map(stored[name], config.heatmap_sigma) for name in thin}
        elif thin:
            self.info(
                f"{', '.join(thin)}: most pixels have the smallest value, so that a constant minimises the "
                "loss; --env.heatmap-sigma 2 smooths these targets"
            )
        digest = hashlib.sha256(b"rooms, divide by 255")
        digest.update(stored["rgb"].numpy().data)
        self._fingerprint = digest.hexdigest()
        for name in names:
            digest.update(name.encode())
            digest.update(stored[name].numpy().data)
        self._data_fingerprint = digest.hexdigest()
        rows = {
            "train": torch.arange(config.num_images),
            "test": config.num_images + torch.arange(config.num_test_images),
        }
        frames = Frames(stored, rows)
        tasks = [
            DenseTask(domain, frames, config.decoder_width, max_depth=INDOORS.last_depth)
            for domain in self._domains
        ]
        self.report_valid(tasks)
        return tasks

    def fingerprint(self) -> str:
        return self._fingerprint

    def data_fingerprint(self) -> str:
        """Of the images of all domains."""
        return self._data_fingerprint

    def content_fingerprint(self) -> str:
        """Of the series and the code that renders it: the run's seed draws the training rooms."""
        return f"rooms/{self._config.series}/{cache.source_digest()}"


def _domains(config: Rooms.Config) -> list[Domain]:
    """The requested domains, or those of the order with the kind of room for the object class.

    Raises:
        OptionError: a name is unknown or repeated.
    """
    available = {name: domain for name, domain in DOMAINS.items() if not domain.per_image}
    if config.domains is None:
        return [available.get(name, CLASS_ROOM) for name in ORDERS[config.order]]
    return select_domains(config.domains, {**available, CLASS_ROOM.name: CLASS_ROOM})
