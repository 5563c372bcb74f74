"""Taskonomy: twelve dense prediction tasks on the same photographs of buildings."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Literal

import attrs
import torch
from torch import Tensor

from sidetune_core.api import (
    DataError,
    DataPart,
    DataWarning,
    OptionError,
    Renamed,
    at_least,
    at_most,
    cache_path,
    derive_seed,
    more_than,
    option,
    shorten,
)

from .decoded_cache import Format, decode
from .task import DOMAINS, ORDERS, DenseStream, DenseTask, Domain, Frames
from .taskonomy_files import View, excluded, find_views, image_names, read_splits

SPLIT_SEED = 0
"""Independent of the run's seed: all runs share one test split."""
MAX_DEPTH = 65535 / 512
"""Metres of the largest value of a depth image, whose unit is 1/512 m."""
FORMATS: Mapping[str, Format] = {
    "uint8": "uint8",
    "uint16": "uint16",
    "labels": "labels",
    "vector": "vector",
}


class TaskonomyEnv(DenseStream):
    """Tasks of Taskonomy (Zamir et al., CVPR 2018), ``image`` (3, size, size) in [0, 1], in a public folder
    layout.

    The layouts are ``DOMAIN/BUILDING/point_I_view_J….png``, the component downloads of Omnidata and Taskonomy
    (see `taskonomy_files.find_views`) and, for the sample of one building,
    ``DOMAIN/point_I_view_J_domain_DOMAIN.png`` or all files in one folder. A split is a list of buildings,
    from the data set's split table (``--env.splits-file``) or by name (``--env.train-buildings``); a single
    building is split by its points, the same way in every run. Losses, scaling and masks are those of the
    original side-tuning code; the mask comes from ``depth_zbuffer``.

    All images are decoded before training into memory-mapped arrays (``--env.cache-dir``), so that later runs
    start immediately and the data set may exceed main memory. An image that is missing, damaged or of a
    different size than the others is reported, and stops the run by default.
    """

    @attrs.frozen
    class Config:
        """Options of the env."""

        former_options: ClassVar[Mapping[str, Renamed]] = {
            "csv": Renamed("splits-file"),
            "train": Renamed("train-buildings", {None: ()}),
            "val": Renamed("val-buildings", {None: ()}),
            "test": Renamed("test-buildings", {None: ()}),
            "images": Renamed("max-images"),
            "test-images": Renamed("max-test-images"),
            "size": Renamed("image-size"),
            "masks": Renamed("mask-invalid"),
            "faults": Renamed("on-error", {"fail": "raise", "drop": "skip"}),
            "decoder": Renamed("decoder-width"),
            "cache": Renamed("cache-dir"),
        }

        root: Path | None = option(None, "folder of the data set")
        order: Literal["12", "12cls", "12txtr", "12rgb"] = option(
            "12", "order of the twelve tasks, by the names of the original code"
        )
        domains: tuple[str, ...] | None = option(
            None, "tasks in this order, such as 'curvature normal'; replaces 'order'"
        )
        splits_file: Path | None = option(
            None, "split table of the data set: csv with columns id,train,val,test"
        )
        train_buildings: tuple[str, ...] = option(
            (), "buildings of the training split, such as 'hanson merom'; replaces those of 'splits-file'"
        )
        val_buildings: tuple[str, ...] = option((), "buildings of the validation split")
        test_buildings: tuple[str, ...] = option((), "buildings of the test split")
        exclude: tuple[str, ...] = option(
            (),
            "buildings left out of all splits; 'original' for those that the original code leaves out: two "
            "of all splits, and 13 that test other experiments of training",
        )
        test_fraction: float = option(
            0.2,
            "fraction of the points held out as the test split of a single building",
            more_than(0),
            at_most(0.9),
        )
        max_images: int | None = option(
            None,
            "limit on training images, drawn by the run's seed; "
            "a larger limit contains the images of a smaller one",
            at_least(1),
        )
        max_test_images: int | None = option(
            None, "limit on the images of 'test' and of 'val', evenly spaced over the split", at_least(1)
        )
        image_size: int = option(256, "height and width in pixels to which images are resized", at_least(16))
        mask_invalid: bool = option(
            True, "exclude pixels without a measured depth from the loss; needs depth_zbuffer"
        )
        on_error: Literal["raise", "skip"] = option(
            "raise", "unreadable or missing images: raise an error, or skip their views in all tasks"
        )
        decoder_width: int = option(
            1024, "channels of the widest decoder layers of each task; 1024 in the original", at_least(8)
        )
        cache_dir: Path = option(
            Path("~/.cache/sidetune/decoded"),
            "folder for decoded images; about 1.5 MB per image in twelve domains at size 256",
        )

    shared_ids = True
    recipe = {"batch_size": 32, "epochs": 3, "lr": 1e-4, "weight_decay": 2e-6}

    def __init__(self, config: Config, seed: int) -> None:
        if config.root is None:
            raise OptionError("env 'taskonomy' needs the data set: pass --env.root DIR")
        self._root, self._config, self._seed = config.root.expanduser(), config, seed
        names = ORDERS[config.order] if config.domains is None else config.domains
        self._domains = select_domains(names, DOMAINS)
        self.inputs = {"image": (3, config.image_size, config.image_size)}
        self._fingerprint = self._data_fingerprint = ""
        self._parts: dict[str, DataPart] = {}

    def tasks(self) -> Sequence[DenseTask]:
        config = self._config
        if not self._root.is_dir():
            raise DataError(f"no folder {self._root} (--env.root)")
        frames = self._frames()
        tasks = [
            DenseTask(domain, frames, config.decoder_width, max_depth=MAX_DEPTH) for domain in self._domains
        ]
        self.report_valid(tasks)
        return tasks

    def fingerprint(self) -> str:
        return self._fingerprint

    def data_fingerprint(self) -> str:
        """Of the names and sizes of the images, and of their split; their content is not read for it."""
        return self._data_fingerprint

    def data_parts(self) -> Mapping[str, DataPart]:
        """A part for each domain, by the names and sizes of its images."""
        return self._parts

    def _frames(self) -> Frames:
        """Find, select, decode and check the images."""
        names = list(dict.fromkeys(["rgb", *(domain.name for domain in self._domains)]))
        masked = self._config.mask_invalid and any(domain.masked for domain in self._domains)
        files = self._find(list(dict.fromkeys([*names, *(["depth_zbuffer"] if masked else [])])))
        faults: list[str] = []
        splits = self._splits(sorted(set().union(*files.values())), faults)
        views = [view for split in splits.values() for view in split]
        bad: set[int] = set()
        for name, paths in files.items():
            if missing := [index for index, view in enumerate(views) if view not in paths]:
                examples = shorten([views[index] for index in missing])
                faults.append(f"{len(missing)} missing in {name}, such as {examples}")
                bad.update(missing)
        complete = [index for index in range(len(views)) if index not in bad]
        if not complete:
            raise DataError(f"{self._root} has no view with all of {', '.join(files)}: {'; '.join(faults)}")
        stored: dict[str, Tensor] = {}
        keys: dict[str, str] = {}
        digest = hashlib.sha256()

        def read(name: str, format: Format, channels: int, stored_as: str) -> None:
            paths = [files[name][views[index]] for index in complete]
            decoded = decode(
                paths, format, self._config.image_size, channels, cache_path(self._config.cache_dir)
            )
            stored[stored_as] = decoded.values
            keys[stored_as] = decoded.key
            digest.update(f"{stored_as}/{decoded.files}\n".encode())
            self._parts[stored_as] = DataPart(len(paths), decoded.files)
            reported = stored_as == "mask" and "depth_zbuffer" in names  # the same files
            if decoded.faults and not reported:
                messages = [f"{paths[row]} {fault}" for row, fault in decoded.faults.items()]
                faults.append(f"{len(messages)} unusable in {name}, such as {shorten(messages)}")
            bad.update(complete[row] for row in decoded.faults)

        for name in names:
            domain = DOMAINS[name]
            read(name, "colour" if name == "rgb" else FORMATS[domain.stored], domain.channels, name)
        if masked:
            read("depth_zbuffer", "mask", 1, "mask")
        if faults:
            self._report(
                f"{len(bad)} of {len(views)} views in {self._root} are unusable: {'; '.join(faults)}"
            )
        row_of = {index: row for row, index in enumerate(complete)}
        rows, first = {}, 0
        for split, members in splits.items():
            good = [row_of[index] for index in range(first, first + len(members)) if index not in bad]
            if not good:
                raise DataError(f"{self._root}: no usable images in split '{split}'")
            rows[split] = torch.tensor(good)
            first += len(members)
        digest.update(repr({split: part.tolist() for split, part in rows.items()}).encode())
        self._data_fingerprint = digest.hexdigest()
        self._fingerprint = f"taskonomy/{keys['rgb']}"  # network inputs only, whatever the domains
        return Frames(stored, rows)

    def _find(self, names: Sequence[str]) -> dict[str, dict[View, Path]]:
        """The files of each domain."""
        files = {name: find_views(self._root, name) for name in names}
        if absent := [name for name in names if not files[name]]:
            seen = shorten(image_names(self._root))
            is_mask_only = absent == ["depth_zbuffer"] and all(
                domain.name != "depth_zbuffer" for domain in self._domains
            )
            remedy = (
                "train without masks: --env.no-mask-invalid"
                if is_mask_only
                else "choose others with --env.domains"
            )
            raise DataError(
                f"{self._root} has no images of {', '.join(absent)}; expected files such as "
                f"{absent[0]}/BUILDING/point_0_view_0.png, found {seen or 'no images'}. Download them, "
                f"or {remedy}"
            )
        return files

    def _report(self, message: str) -> None:
        if self._config.on_error == "raise":
            raise DataError(
                f"{message}. Repair the data set, or skip these views in all tasks with --env.on-error skip"
            )
        warnings.warn(f"{message}. They are skipped", DataWarning, stacklevel=2)

    def _splits(self, views: Sequence[View], faults: list[str]) -> dict[str, list[View]]:
        """The views of each split, up to the limits; 'val' only if it is not empty."""
        config = self._config
        available = sorted({view.building for view in views})
        by_split = self._select(views, available, faults)
        if not by_split["train"] or not by_split["test"]:
            empty = "test" if by_split["train"] else "train"
            raise DataError(
                f"{self._root}: no images in split '{empty}'; available buildings: {shorten(available)}"
            )
        train = by_split["train"]
        order = torch.randperm(
            len(train), generator=torch.Generator().manual_seed(derive_seed(self._seed, "images"))
        )
        limited = {"train": [train[index] for index in sorted(order[: config.max_images].tolist())]}
        for split in ("val", "test"):
            if members := by_split[split]:
                count = min(config.max_test_images or len(members), len(members))
                limited[split] = [members[k * len(members) // count] for k in range(count)]
        return limited

    def _select(
        self, views: Sequence[View], available: Sequence[str], faults: list[str]
    ) -> dict[str, list[View]]:
        """All views of each split."""
        config = self._config
        buildings: dict[str, Sequence[str]] = {
            "train": config.train_buildings,
            "val": config.val_buildings,
            "test": config.test_buildings,
        }
        if config.splits_file is not None:
            table = read_splits(config.splits_file.expanduser())
            buildings = {split: names or table[split] for split, names in buildings.items()}
        buildings = {split: excluded(names, split, config.exclude) for split, names in buildings.items()}
        selected = [name for names in buildings.values() for name in names]
        if duplicates := sorted({name for name in selected if selected.count(name) > 1}):
            raise OptionError(
                f"{shorten(duplicates)} cannot be in two splits: training images would be used for testing"
            )
        if selected:
            if absent := sorted(set(selected) - set(available)):
                faults.append(f"no images of {len(absent)} buildings, {shorten(absent)}")
            return {
                split: [view for view in views if view.building in names]
                for split, names in buildings.items()
            }
        if len(available) > 1:
            raise OptionError(
                f"{self._root} has {len(available)} buildings ({shorten(available)}): assign them to "
                "splits with --env.splits-file FILE or --env.train-buildings A B --env.test-buildings C"
            )
        return self._split_points(views)

    def _split_points(self, views: Sequence[View]) -> dict[str, list[View]]:
        """Split a single building by points: all views of a point overlap, so they are in the same split."""
        points = sorted({view.point for view in views})
        order = torch.randperm(len(points), generator=torch.Generator().manual_seed(SPLIT_SEED)).tolist()
        count = max(1, round(self._config.test_fraction * len(points)))
        held_out = {points[index] for index in order[:count]}
        return {
            "train": [view for view in views if view.point not in held_out],
            "val": [],
            "test": [view for view in views if view.point in held_out],
        }


def select_domains(names: Sequence[str], domains: Mapping[str, Domain]) -> list[Domain]:
    """The domains of these names, for option ``--env.domains``.

    Raises:
        OptionError: a name is unknown or repeated, or there is none.
    """
    if unknown := [name for name in names if name not in domains]:
        raise OptionError(f"no domain '{unknown[0]}' (--env.domains); available: {', '.join(domains)}")
    if not names or len(set(names)) < len(names):
        raise OptionError(f"--env.domains {' '.join(names)}: list one or more domains, each once")
    return [domains[name] for name in names]
