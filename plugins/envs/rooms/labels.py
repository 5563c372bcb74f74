"""Labels of rendered rooms: all Taskonomy domains from exact geometry, as 8-bit and 16-bit images."""

from __future__ import annotations

from collections.abc import Sequence

import attrs
import torch
from torch import Tensor

from ..dense.geometry import keypoints, occlusion_edges, texture_edges
from .scene import Scene
from .shading import Views

IMAGENET_CLASSES = 1000
LABEL_SMOOTHING = 0.05
"""Probability mass spread over all classes."""
KEYPOINT_SIGMA = 3.0
"""Scale of keypoints, in pixels of a 128 x 128 image."""
GAIN = {"keypoints2d": 20.0, "keypoints3d": 10.0, "edge_texture": 4.0, "edge_occlusion": 2.0}
"""Gains that scale most responses into [0, 1], to which they are clamped."""


@attrs.frozen
class LabelScale:
    """Quantisation: `max_depth` metres are 2^16, a curvature of 1 / `min_radius` is 127 steps."""

    max_depth: float
    min_radius: float

    @property
    def last_depth(self) -> float:
        """Metres of the largest 16-bit value."""
        return self.max_depth * 65535 / 65536


TASKONOMY = LabelScale(128.0, 0.03)
"""Taskonomy's: depth in 1/512 m, radii of curvature from 3 cm."""
INDOORS = LabelScale(12.0, 0.1)
"""Uses the full range in rooms."""


def make_labels(scenes: Sequence[Scene], views: Views, scale: LabelScale) -> dict[str, Tensor]:
    """Images of B rooms by domain, S x S pixels, in the formats of Taskonomy.

    - ``rgb`` (B, 3, S, S) uint8.
    - ``normal`` (B, 3, S, S) uint8: x right, y up, z towards the camera; 127 is 0, and 127 steps are 1.
    - ``curvature`` (B, 2, S, S) uint8: the principal curvatures, the greater first; 127 is flat, more is
      convex.
    - ``depth_zbuffer``, ``depth_euclidean`` (B, 1, S, S) uint16: along the optical axis, and from the camera
      centre; 65535 is invalid.
    - ``reshading`` (B, 1, S, S) uint8: Lambertian shading of white surfaces lit from the camera, the cosine
      between normal and view direction.
    - ``edge_occlusion`` (B, 1, S, S) uint16: twice the jump of the inverse depth, see `occlusion_edges`.
    - ``edge_texture`` (B, 1, S, S) uint16: four times the gradient of the smoothed grey image, see
      `texture_edges`.
    - ``keypoints2d`` (B, 1, S, S) uint16: blobs and corners of the grey image, 20 times the square root of
      the determinant of its Hessian (the response that SURF approximates, see `keypoints`).
    - ``keypoints3d`` (B, 1, S, S) uint16: the same for the normals, summed over their components, times 10:
      large where surfaces bend in two directions. It replaces NARF (Steder et al., 2011), which detects the
      same in range images.
    - ``segment_semantic`` (B, S, S) uint8: index into `SEMANTIC`; only window openings are uncertain.
    - ``class_object`` (B, 1000) float32: probabilities of ImageNet classes, by the image area of their
      furniture.
    - ``class_room`` (B,) uint8: index into `KINDS`.
    - ``mask`` (B, 1, S, S) uint8: 1 on surfaces, 0 in window openings.
    """
    right, up = views.rays()
    valid = views.valid
    length = (right * right + up * up + 1).sqrt()
    cosine = (views.normal[:, 2] - views.normal[:, 0] * right - views.normal[:, 1] * up) / length
    depth = torch.where(valid, views.depth, 0.0)
    sigma = KEYPOINT_SIGMA * depth.shape[-1] / 128
    images = {
        "rgb": _to_uint8(255 * views.rgb),
        "normal": _to_uint8(127 + 127 * views.normal),
        "curvature": _to_uint8(127 + 127 * (scale.min_radius * views.curvature).clamp(-1, 1)),
        "depth_zbuffer": _depth(depth, valid, scale),
        "depth_euclidean": _depth(depth * length, valid, scale),
        "reshading": _to_uint8(255 * cosine.clamp(min=0))[:, None],
        "edge_occlusion": _to_uint16(GAIN["edge_occlusion"] * occlusion_edges(depth)),
        "segment_semantic": views.semantic.to(torch.uint8),
        "class_object": _class_probabilities(views.object),
        "class_room": torch.tensor([scene.kind for scene in scenes], dtype=torch.uint8),
        "mask": valid[:, None].to(torch.uint8),
    }
    per_image: dict[str, list[Tensor]] = {"edge_texture": [], "keypoints2d": [], "keypoints3d": []}
    # image by image: results of convolutions may depend on the batch
    for rgb, normal in zip(views.rgb[:, None], views.normal[:, :, None], strict=True):
        response = keypoints(normal / 2, sigma)
        per_image["edge_texture"].append(texture_edges(rgb))
        per_image["keypoints2d"].append(keypoints(rgb.mean(1, keepdim=True), sigma).sqrt())
        per_image["keypoints3d"].append((response[:1] + response[1:2] + response[2:]).sqrt())
    return images | {name: _to_uint16(GAIN[name] * torch.cat(values)) for name, values in per_image.items()}


def _to_uint8(values: Tensor) -> Tensor:
    return values.round().to(torch.uint8)


def _to_uint16(values: Tensor) -> Tensor:
    """(B, S, S), clamped to [0, 1], to (B, 1, S, S) uint16."""
    return (65535 * values.clamp(0, 1)).round().to(torch.int32).to(torch.uint16)[:, None]


def _depth(metres: Tensor, valid: Tensor, scale: LabelScale) -> Tensor:
    steps = (metres * (65536 / scale.max_depth)).round().clamp(0, 65534)
    return torch.where(valid, steps, 65535.0).to(torch.int32).to(torch.uint16)[:, None]


def _class_probabilities(objects: Tensor) -> Tensor:
    """(B, S, S) classes or -1 to (B, 1000)."""
    probabilities = torch.full((len(objects), IMAGENET_CLASSES), LABEL_SMOOTHING / IMAGENET_CLASSES)
    for row, seen in zip(probabilities, objects.flatten(1), strict=True):
        counts = torch.bincount(seen[seen >= 0], minlength=IMAGENET_CLASSES)
        total = int(counts.sum())
        row += (1 - LABEL_SMOOTHING) * (
            counts / total if total else torch.full((IMAGENET_CLASSES,), 1 / IMAGENET_CLASSES)
        )
    return probabilities
