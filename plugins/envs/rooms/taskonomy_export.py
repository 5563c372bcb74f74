"""Rooms as a Taskonomy data set on disk: the public layouts, file formats and ranges."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image
from torch import Tensor

from sidetune_core.api import DataError

from .labels import TASKONOMY, labelled
from .scene import Scene
from .shading import render

FOLDERS = {"curvature": "principal_curvature"}
"""Names of domains on disk, where they are others than ours."""
ABSENT = ("class_room", "mask")
"""What Taskonomy has no files of."""
CHUNK = 16
"""Rooms rendered before they are written."""
Layout = Literal["buildings", "sample", "flat"]


def write_taskonomy(
    root: Path, buildings: Mapping[str, Sequence[Scene]], size: int, layout: Layout = "buildings"
) -> None:
    """Write the pictures of rooms and all their labels; room k of a building is its point k, seen from view 0.

    Files are ``root/DOMAIN/BUILDING/point_K_view_0.png`` in layout 'buildings', ``root/DOMAIN/point_K_view_0_domain_DOMAIN.png`` in
    'sample' and ``root/point_K_view_0_domain_DOMAIN.png`` in 'flat'; the last two hold one building only.

    - PNG of three channels of 8 bits: ``rgb``, ``normal`` (127 is 0), and ``principal_curvature`` (127 is flat; the third channel is 127).
    - PNG of one channel of 8 bits: ``reshading``, and the labels ``segment_semantic``.
    - PNG of one channel of 16 bits: ``depth_zbuffer`` and ``depth_euclidean`` (1/512 m, 65535 where there is none), ``keypoints2d``,
      ``keypoints3d``, ``edge_texture`` and ``edge_occlusion``.
    - ``.npy`` of 1,000 float32: ``class_object``, the chances of ImageNet's classes.

    Args:
        root: the folder of the data set, made where it is absent.
        buildings: rooms by the name of their building.
        size: height and width of the pictures; Taskonomy's are 512.
        layout: see above.

    Raises:
        DataError: something cannot be written.
        ValueError: the layout holds one building only, and there are more.
    """
    if layout != "buildings" and len(buildings) > 1:
        raise ValueError(f"layout '{layout}' holds one building, not {len(buildings)}")
    try:
        for building, scenes in buildings.items():
            for first in range(0, len(scenes), CHUNK):
                some = scenes[first : first + CHUNK]
                for domain, values in labelled(some, render(some, size), TASKONOMY).items():
                    if domain not in ABSENT:
                        _write(root, building, FOLDERS.get(domain, domain), values, first, layout)
    except OSError as error:
        raise DataError(f"cannot write rooms into {root}: {error}") from error


def _write(root: Path, building: str, domain: str, values: Tensor, first: int, layout: Layout) -> None:
    """The images of some rooms in one domain, from point `first` on."""
    folder = {"buildings": root / domain / building, "sample": root / domain, "flat": root}[layout]
    folder.mkdir(parents=True, exist_ok=True)
    for number, image in enumerate(values.numpy(), first):
        path = folder / f"point_{number}_view_0{'' if layout == 'buildings' else f'_domain_{domain}'}"
        if image.ndim == 1:
            np.save(path.with_suffix(".npy"), image)
            continue
        if image.ndim == 3:
            planes = [*image, np.full_like(image[0], 127)] if len(image) == 2 else list(image)
            image = np.stack(planes, 2) if len(planes) == 3 else planes[0]
        Image.fromarray(image).save(path.with_suffix(".png"))
