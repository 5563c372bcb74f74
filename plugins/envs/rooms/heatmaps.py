"""Targets of few pixels, smoothed: keypoints and occlusion edges as heat maps."""

from __future__ import annotations

import torch
from torch import Tensor

from ..dense.geometry import smooth

THIN = ("keypoints2d", "edge_occlusion")
"""Domains most of whose pixels have the smallest value. The median of such targets is that value, and so is
the constant that minimises l1: at 64 x 64 pixels, 55 % and 76 % of the pixels have it, and no method did
better than the constant.
"""
REFERENCE_SIZE = 64
"""Height and width of the images of which `sigma` counts pixels."""


def heat_map(responses: Tensor, sigma: float) -> Tensor:
    """Responses (B, 1, S, S) uint16, smoothed by a Gaussian and scaled by ``1 + sigma``, as uint16.

    Args:
        responses: over the full 16-bit range.
        sigma: standard deviation in pixels of an image of `REFERENCE_SIZE`.
    """
    smoothed = smooth(responses.float(), sigma * responses.shape[-1] / REFERENCE_SIZE)
    return ((1 + sigma) * smoothed).clamp(0, 65535).round().to(torch.int32).to(torch.uint16)
