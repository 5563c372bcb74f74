"""Taskonomy: twelve dense tasks on the same photographs of buildings."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import attrs
import torch
from torch import Tensor

from sidetune_core.api import (
    DataError,
    OptionError,
    TaskStream,
    at_least,
    at_most,
    derive_seed,
    more_than,
    option,
)

from .decoded_cache import What, decode
from .task import DOMAINS, ORDERS, DenseTask, Domain, Frames
from .taskonomy_files import View, find_views, read_splits, some

SPLIT_SEED = 0
"""Not the run's: every run is tested on the same images."""
READ: Mapping[str, What] = {"uint8": "uint8", "uint16": "uint16", "labels": "labels", "vector": "vector"}


class TaskonomyEnv(TaskStream):
    """Tasks of Taskonomy (Zamir et al., CVPR 2018), ``image`` (3, size, size) in [0, 1], from a folder in one of its public layouts.

    The layouts are ``DOMAIN/BUILDING/point_I_view_J….png`` and, for the sample of one building, ``DOMAIN/point_I_view_J_domain_DOMAIN.png``
    or all in one folder. Which buildings make a split is told by the data set's own table (``--env.csv``) or by name; one building alone is
    split by its points, the same way in every run. Losses, scaling and masks are those of the original side-tuning code; the mask is made
    from ``depth_zbuffer``.

    Everything is decoded before training begins, into arrays that are kept (``--env.cache``) and mapped into memory, so that a later run
    starts at once and no image has to fit into memory. An image that is missing, damaged or of another size than its fellows is named, and
    by default nothing is trained then.
    """

    @attrs.frozen
    class Config:
        """Options of the env."""

        root: Path | None = option(None, "folder of the data set")
        order: Literal["12", "12cls", "12txtr", "12rgb"] = option(
            "12", "order of the twelve tasks, by the original's names"
        )
        domains: str | None = option(
            None, "only these tasks in this order, such as 'curvature,normal'; replaces 'order'"
        )
        csv: Path | None = option(None, "the data set's table of splits (id,train,val,test)")
        train: str | None = option(
            None, "buildings to train on, such as 'hanson,merom'; replaces those of 'csv'"
        )
        val: str | None = option(None, "buildings of split 'val'")
        test: str | None = option(None, "buildings to test on")
        test_fraction: float = option(
            0.2,
            "share of the points that is tested on where there is one building",
            more_than(0),
            at_most(0.9),
        )
        images: int | None = option(
            None,
            "only so many training images, drawn by the run's seed; more of them contain fewer",
            at_least(1),
        )
        test_images: int | None = option(
            None, "only so many images of 'test' and of 'val', evenly over the split", at_least(1)
        )
        size: int = option(256, "height and width that images are brought to", at_least(16))
        masks: bool = option(True, "count valid pixels only; needs depth_zbuffer")
        faults: Literal["fail", "drop"] = option(
            "fail", "where images cannot be used: do not run, or leave their views out of all tasks"
        )
        decoder: int = option(
            1024, "channels of the widest layers of the tasks' decoders; the original has 1024", at_least(8)
        )
        cache: Path = option(
            Path("~/.cache/sidetune/decoded"),
            "folder for decoded images; about 1.5 MB for one in twelve domains at size 256",
        )

    recipe = {"batch_size": 32, "epochs": 3, "lr": 1e-4, "weight_decay": 2e-6}

    def __init__(self, config: Config, seed: int) -> None:
        if config.root is None:
            raise OptionError("env 'taskonomy' needs the data set: give --env.root DIR")
        self._root, self._config, self._seed = config.root.expanduser(), config, seed
        self._domains = chosen_domains(config.domains, config.order)
        self.inputs = {"image": (3, config.size, config.size)}
        self._fingerprint = ""

    def tasks(self) -> Sequence[DenseTask]:
        config = self._config
        if not self._root.is_dir():
            raise DataError(f"no folder {self._root} (--env.root)")
        frames = self._frames()
        return [DenseTask(domain, frames, config.decoder) for domain in self._domains]

    def fingerprint(self) -> str:
        return self._fingerprint

    def _frames(self) -> Frames:
        """Find, select, decode and check."""
        config = self._config
        names = list(dict.fromkeys(["rgb", *(domain.name for domain in self._domains)]))
        masked = config.masks and any(domain.masked for domain in self._domains)
        needed = list(dict.fromkeys([*names, *(["depth_zbuffer"] if masked else [])]))
        files = {name: find_views(self._root, name) for name in needed}
        if absent := [name for name in needed if not files[name]]:
            example = f"{absent[0]}/BUILDING/point_0_view_0.png"
            raise DataError(
                f"{self._root} has no images of {', '.join(absent)}; expected files such as {example}"
            )
        faults: list[str] = []
        splits = self._splits(sorted(set().union(*files.values())), faults)
        views = [view for split in splits.values() for view in split]
        bad: set[int] = set()
        for name, found in files.items():
            if missing := [place for place, view in enumerate(views) if view not in found]:
                faults.append(
                    f"{len(missing)} missing in {name}, such as {some([views[place] for place in missing])}"
                )
                bad.update(missing)
        there = [place for place in range(len(views)) if place not in bad]
        if not there:
            raise DataError(f"{self._root} has no view with all of {', '.join(needed)}: {'; '.join(faults)}")
        stored: dict[str, Tensor] = {}
        keys = {}
        told = {"mask"} if "depth_zbuffer" in names else set()  # its files have been looked at

        def read(name: str, what: What, channels: int, kept_as: str) -> None:
            decoded = decode(
                [files[name][views[place]] for place in there],
                what,
                config.size,
                channels,
                config.cache.expanduser(),
            )
            stored[kept_as] = decoded.values
            keys[kept_as] = decoded.key
            if decoded.faults and kept_as not in told:
                bad_files = [
                    f"{files[name][views[there[place]]]} {why}" for place, why in decoded.faults.items()
                ]
                faults.append(f"{len(bad_files)} unusable in {name}, such as {some(bad_files)}")
            bad.update(there[place] for place in decoded.faults)

        for name in names:
            domain = DOMAINS[name]
            read(name, "colour" if name == "rgb" else READ[domain.stored], domain.channels, name)
        if masked:
            read("depth_zbuffer", "mask", 1, "mask")
        if faults:
            said = f"{len(bad)} of {len(views)} views in {self._root} cannot be used: {'; '.join(faults)}"
            if config.faults == "fail":
                raise DataError(
                    f"{said}. Mend the data set, or leave these views out of all tasks with --env.faults drop"
                )
            warnings.warn(f"{said}. They are left out", stacklevel=2)
        row = {place: number for number, place in enumerate(there)}
        rows, first = {}, 0
        for split, members in splits.items():
            good = [row[place] for place in range(first, first + len(members)) if place not in bad]
            if not good:
                raise DataError(f"{self._root}: no usable images in split '{split}'")
            rows[split] = torch.tensor(good)
            first += len(members)
        self._fingerprint = f"taskonomy/{keys['rgb']}"  # of what networks see, whatever they are to predict
        return Frames(stored, rows)

    def _splits(self, views: Sequence[View], faults: list[str]) -> dict[str, list[View]]:
        """The views of each split, as many as are asked for; 'val' only where there is one."""
        config = self._config
        buildings = {
            split: _words(text)
            for split, text in (("train", config.train), ("val", config.val), ("test", config.test))
        }
        if config.csv is not None:
            table = read_splits(config.csv.expanduser())
            buildings = {split: words or table[split] for split, words in buildings.items()}
        there = sorted({view.building for view in views})
        named = [name for words in buildings.values() for name in words]
        if twice := sorted({name for name in named if named.count(name) > 1}):
            raise OptionError(f"{some(twice)} cannot be in two splits: what is trained on would be tested on")
        if not named:
            if len(there) > 1:
                raise OptionError(
                    f"{self._root} has {len(there)} buildings ({some(there)}): say which make a split, with --env.csv FILE or "
                    "--env.train A,B --env.test C"
                )
            components = self._split_points(views)
        else:
            if absent := sorted(set(named) - set(there)):
                faults.append(f"no images of {len(absent)} buildings, {some(absent)}")
            components = {
                split: [view for view in views if view.building in words]
                for split, words in buildings.items()
            }
        if not components["train"] or not components["test"]:
            empty = "test" if components["train"] else "train"
            raise DataError(f"{self._root}: no images in split '{empty}'; it has the buildings {some(there)}")
        train = components["train"]
        order = torch.randperm(
            len(train), generator=torch.Generator().manual_seed(derive_seed(self._seed, "images"))
        )
        kept = {"train": [train[place] for place in sorted(order[: config.images].tolist())]}
        for split in ("val", "test"):
            if members := components[split]:
                count = min(config.test_images or len(members), len(members))
                kept[split] = [members[number * len(members) // count] for number in range(count)]
        return kept

    def _split_points(self, views: Sequence[View]) -> dict[str, list[View]]:
        """One building: some of its points for testing, with all their views, since those overlap."""
        points = sorted({view.point for view in views})
        order = torch.randperm(len(points), generator=torch.Generator().manual_seed(SPLIT_SEED)).tolist()
        held = {points[place] for place in order[: max(1, round(self._config.test_fraction * len(points)))]}
        return {
            "train": [view for view in views if view.point not in held],
            "val": [],
            "test": [view for view in views if view.point in held],
        }


def chosen_domains(names: str | None, order: str) -> list[Domain]:
    """The domains that are asked for, or those of a named order.

    Raises:
        OptionError: one is unknown, or there twice.
    """
    words = _words(names) if names is not None else list(ORDERS[order])
    if unknown := [word for word in words if word not in DOMAINS]:
        raise OptionError(f"no domain '{unknown[0]}' (--env.domains); there are {', '.join(DOMAINS)}")
    if not words or len(set(words)) < len(words):
        raise OptionError(f"--env.domains {names}: name one domain or more, each once")
    return [DOMAINS[word] for word in words]


def _words(text: str | None) -> list[str]:
    return [word.strip() for word in (text or "").split(",") if word.strip()]
