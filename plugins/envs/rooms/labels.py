"""What rooms teach: every domain of Taskonomy out of what is exactly known about each pixel, as images of 8 or 16 bits."""

from __future__ import annotations

from collections.abc import Sequence

import attrs
import torch
from torch import Tensor

from ..dense.geometry import keypoints, occlusion_edges, texture_edges
from .scene import Scene
from .shading import Views

CLASSES = 1000
"""Of ImageNet."""
UNSURE = 0.05
"""Share of the chances that is spread over all classes."""
SIGMA = 3.0
"""Scale of keypoints, in pixels of a picture of 128."""
GAIN = {"keypoints2d": 20.0, "keypoints3d": 10.0, "edge_texture": 4.0, "edge_occlusion": 2.0}
"""What brings most responses into [0, 1], where they are cut off."""


@attrs.frozen
class Scale:
    """How lengths become numbers: a depth of `farthest` metres is 2^16, and a curvature of 1 / `radius` is 127 steps above flat."""

    farthest: float
    radius: float


TASKONOMY = Scale(128.0, 0.03)
"""Depth in 1/512 m; the smallest radius of curvature that is told apart is 3 cm."""
INDOORS = Scale(12.0, 0.1)
"""What fills the range in rooms."""


def labelled(scenes: Sequence[Scene], views: Views, scale: Scale) -> dict[str, Tensor]:
    """Images of B rooms by domain, S x S pixels, in the formats of Taskonomy.

    - ``rgb`` (B, 3, S, S) uint8.
    - ``normal`` (B, 3, S, S) uint8: x right, y up, z towards the camera; 127 is 0, and 127 steps are 1.
    - ``curvature`` (B, 2, S, S) uint8: the principal curvatures, the greater first; 127 is flat, more is convex.
    - ``depth_zbuffer``, ``depth_euclidean`` (B, 1, S, S) uint16: along the optical axis, and from the camera's centre; 65535 is not known.
    - ``reshading`` (B, 1, S, S) uint8: a matt white room in the light of a lamp at the camera, which is the cosine between the normal and
      the direction to the camera.
    - ``edge_occlusion`` (B, 1, S, S) uint16: twice the jump of the inverse depth, see `occlusion_edges`.
    - ``edge_texture`` (B, 1, S, S) uint16: four times the gradient of the smoothed grey picture, see `texture_edges`.
    - ``keypoints2d`` (B, 1, S, S) uint16: where the grey picture has blobs and corners, by the determinant of its Hessian, the measure that
      SURF approximates; see `keypoints`. 20 times its square root is cut off at 1.
    - ``keypoints3d`` (B, 1, S, S) uint16: the same of the normals, summed over their components, 10 times: where surfaces bend in two
      directions. It stands for NARF (Steder et al., 2011), which looks for the same in range images.
    - ``segment_semantic`` (B, S, S) uint8: index into `SEMANTIC`.
    - ``class_object`` (B, 1000) float32: chances of ImageNet's classes, by the area that their furniture takes in the picture.
    - ``class_room`` (B,) uint8: index into `KINDS`.
    - ``mask`` (B, 1, S, S) uint8: 1 where there is a surface, 0 through windows.
    """
    right, up = views.rays()
    valid = views.valid
    length = (right * right + up * up + 1).sqrt()
    cosine = (views.normal[:, 2] - views.normal[:, 0] * right - views.normal[:, 1] * up) / length
    depth = torch.where(valid, views.depth, 0.0)
    sigma = SIGMA * depth.shape[-1] / 128
    images = {
        "rgb": _bytes(255 * views.rgb),
        "normal": _bytes(127 + 127 * views.normal),
        "curvature": _bytes(127 + 127 * (scale.radius * views.curvature).clamp(-1, 1)),
        "depth_zbuffer": _depth(depth, valid, scale),
        "depth_euclidean": _depth(depth * length, valid, scale),
        "reshading": _bytes(255 * cosine.clamp(min=0))[:, None],
        "edge_occlusion": _words(GAIN["edge_occlusion"] * occlusion_edges(depth)),
        "segment_semantic": views.semantic.to(torch.uint8),
        "class_object": _chances(views.object),
        "class_room": torch.tensor([scene.kind for scene in scenes], dtype=torch.uint8),
        "mask": valid[:, None].to(torch.uint8),
    }
    singly: dict[str, list[Tensor]] = {"edge_texture": [], "keypoints2d": [], "keypoints3d": []}
    for rgb, normal in zip(
        views.rgb[:, None], views.normal[:, :, None], strict=True
    ):  # alone: convolutions may depend on the batch
        bends = keypoints(normal / 2, sigma)
        singly["edge_texture"].append(texture_edges(rgb))
        singly["keypoints2d"].append(keypoints(rgb.mean(1, keepdim=True), sigma).sqrt())
        singly["keypoints3d"].append((bends[:1] + bends[1:2] + bends[2:]).sqrt())
    return images | {name: _words(GAIN[name] * torch.cat(values)) for name, values in singly.items()}


def _bytes(values: Tensor) -> Tensor:
    return values.round().to(torch.uint8)


def _words(shares: Tensor) -> Tensor:
    """(B, S, S), cut off at 1, to (B, 1, S, S) uint16."""
    return (65535 * shares.clamp(0, 1)).round().to(torch.int32).to(torch.uint16)[:, None]


def _depth(metres: Tensor, valid: Tensor, scale: Scale) -> Tensor:
    steps = (metres * (65536 / scale.farthest)).round().clamp(0, 65534)
    return torch.where(valid, steps, 65535.0).to(torch.int32).to(torch.uint16)[:, None]


def _chances(objects: Tensor) -> Tensor:
    """(B, S, S) classes or -1 to (B, 1000)."""
    chances = torch.full((len(objects), CLASSES), UNSURE / CLASSES)
    for row, seen in zip(chances, objects.flatten(1), strict=True):
        counts = torch.bincount(seen[seen >= 0], minlength=CLASSES)
        total = int(counts.sum())
        row += (1 - UNSURE) * (counts / total if total else torch.full((CLASSES,), 1 / CLASSES))
    return chances
