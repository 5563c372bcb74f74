"""Export of rooms as a Taskonomy data set: the public layouts, file formats and ranges."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image
from torch import Tensor

from sidetune_core.api import DataError

from .labels import TASKONOMY, make_labels
from .scene import Scene
from .shading import render

FOLDERS = {"curvature": "principal_curvature"}
"""Folder names of domains, where they differ from ours."""
NOT_EXPORTED = ("class_room", "mask")
"""Labels without files in Taskonomy."""
CHUNK = 16
"""Rooms rendered at once."""
Layout = Literal["buildings", "sample", "flat"]


def write_taskonomy(
    root: Path, buildings: Mapping[str, Sequence[Scene]], size: int, layout: Layout = "buildings"
) -> None:
    """Write the images of rooms with all labels; room k of a building is its point k, view 0.

    Files are ``root/DOMAIN/BUILDING/point_K_view_0.png`` in layout 'buildings',
    ``root/DOMAIN/point_K_view_0_domain_DOMAIN.png`` in 'sample' and ``root/point_K_view_0_domain_DOMAIN.png``
    in 'flat'; the last two are for a single building.

    - 8-bit PNG with three channels: ``rgb``, ``normal`` (127 is 0), and ``principal_curvature`` (127 is flat;
      the third channel is 127).
    - 8-bit PNG with one channel: ``reshading``, and the labels ``segment_semantic``.
    - 16-bit PNG with one channel: ``depth_zbuffer`` and ``depth_euclidean`` (1/512 m, 65535 if invalid),
      ``keypoints2d``, ``keypoints3d``, ``edge_texture`` and ``edge_occlusion``.
    - ``.npy`` of 1,000 float32: ``class_object``, the probabilities of the ImageNet classes.

    Args:
        root: folder of the data set, created if absent.
        buildings: rooms by building name.
        size: height and width of the images; Taskonomy's are 512.
        layout: see above.

    Raises:
        DataError: a file cannot be written.
        ValueError: more than one building in a layout for a single one.
    """
    if layout != "buildings" and len(buildings) > 1:
        raise ValueError(f"layout '{layout}' is for one building, not {len(buildings)}")
    try:
        for building, scenes in buildings.items():
            for first in range(0, len(scenes), CHUNK):
                chunk = scenes[first : first + CHUNK]
                for domain, values in make_labels(chunk, render(chunk, size), TASKONOMY).items():
                    if domain not in NOT_EXPORTED:
                        _write(root, building, FOLDERS.get(domain, domain), values, first, layout)
    except OSError as error:
        raise DataError(f"cannot write rooms into {root}: {error}") from error


def _write(root: Path, building: str, domain: str, values: Tensor, first: int, layout: Layout) -> None:
    """Write the images of one domain, starting at point `first`."""
    folder = {"buildings": root / domain / building, "sample": root / domain, "flat": root}[layout]
    folder.mkdir(parents=True, exist_ok=True)
    suffix = "" if layout == "buildings" else f"_domain_{domain}"
    for point, image in enumerate(values.numpy(), first):
        path = folder / f"point_{point}_view_0{suffix}"
        if image.ndim == 1:
            np.save(path.with_suffix(".npy"), image)
            continue
        if image.ndim == 3:
            planes = [*image, np.full_like(image[0], 127)] if len(image) == 2 else list(image)
            image = np.stack(planes, 2) if len(planes) == 3 else planes[0]
        Image.fromarray(image).save(path.with_suffix(".png"))
