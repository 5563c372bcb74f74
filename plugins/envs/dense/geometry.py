"""Labels out of geometry: what a depth map and its camera say about normals, curvature and edges.

Depth maps are (B, H, W) along the optical axis (z-buffer), in any unit of length; 0 or less, infinite and NaN mean that nothing was
measured. The camera looks along +z, x is to the right and y down. The value of pixel (row, column) belongs to its middle.
"""

from __future__ import annotations

from math import tan

import attrs
import torch
from torch import Tensor
from torch.nn import functional


@attrs.frozen
class Camera:
    """A pinhole camera: focal lengths and principal point in pixels; the middle of the first pixel is at 0.5."""

    fx: float
    fy: float
    cx: float
    cy: float

    @classmethod
    def of_view(cls, angle: float, height: int, width: int) -> Camera:
        """With square pixels and a horizontal field of view of `angle` radians, looking through the middle."""
        focal = width / 2 / tan(angle / 2)
        return cls(focal, focal, width / 2, height / 2)

    def resized(self, by: float) -> Camera:
        """For images that are `by` times as large."""
        return attrs.evolve(self, fx=self.fx * by, fy=self.fy * by, cx=self.cx * by, cy=self.cy * by)

    def cropped(self, top: float, left: float) -> Camera:
        """For images without so many rows and columns at their beginning."""
        return attrs.evolve(self, cx=self.cx - left, cy=self.cy - top)

    def rays(self, height: int, width: int) -> Tensor:
        """(3, H, W): the direction of each pixel, with z = 1."""
        rows, columns = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
        return torch.stack(
            [(columns - self.cx) / self.fx, (rows - self.cy) / self.fy, torch.ones(height, width)]
        )


def euclidean(depth: Tensor, camera: Camera) -> Tensor:
    """(B, H, W): the distance from the camera's centre, out of that along the axis."""
    lengths: Tensor = camera.rays(*depth.shape[1:]).to(depth).norm(dim=0)
    return depth * lengths


def along_axis(distance: Tensor, camera: Camera) -> Tensor:
    """(B, H, W): the reverse of `euclidean`."""
    lengths: Tensor = camera.rays(*distance.shape[1:]).to(distance).norm(dim=0)
    return distance / lengths


def measured(depth: Tensor) -> Tensor:
    """(B, H, W) bool: where there is a depth."""
    return torch.isfinite(depth) & (depth > 0)


def points(depth: Tensor, camera: Camera) -> Tensor:
    """(B, 3, H, W): what each pixel sees, in the camera's frame."""
    return depth[:, None] * camera.rays(*depth.shape[1:]).to(depth)


def normals(depth: Tensor, camera: Camera, radius: int = 1, tolerance: float = 0.05) -> tuple[Tensor, Tensor]:
    """Surface normals that face the camera, (B, 3, H, W) of length 1, and where they are valid, (B, H, W) bool.

    A plane is a linear function of the image in inverse depth: ``1 / z = a u + b v + c``, with (u, v, 1) the ray. Its least-squares fit
    over the window of each pixel gives the normal ``-(a, b, c)``; it is exact on planes and of second order elsewhere. Pixels of the window
    whose inverse depth differs by more than `tolerance` of the middle one's are left out, so that a fit does not reach over an edge; and a
    normal is valid where three or more that are no line remain.

    Args:
        depth: (B, H, W).
        camera: of the depth maps.
        radius: of the window, (2 radius + 1) squared; larger for noisy depth.
        tolerance: share of the inverse depth.
    """
    rays = camera.rays(*depth.shape[1:]).to(depth)
    inside = measured(depth)
    inverse = torch.where(inside, 1 / torch.where(inside, depth, 1.0), 0.0)
    height, width = depth.shape[1:]
    padded = functional.pad(inverse, [radius] * 4)  # where nothing was measured it is 0, and never near
    zero = torch.zeros_like(inverse)
    count, u, v, w, uu, uv, vv, uw, vw = (
        zero.clone() for _ in range(9)
    )  # sums over the window, seen from its middle
    for down in range(2 * radius + 1):
        for right in range(2 * radius + 1):
            apart = padded[:, down : down + height, right : right + width] - inverse
            weight = (apart.abs() <= tolerance * inverse).to(depth)
            du, dv = (right - radius) / camera.fx, (down - radius) / camera.fy
            higher = weight * apart
            count += weight
            w += higher
            for total, share in ((u, du), (v, dv), (uu, du * du), (uv, du * dv), (vv, dv * dv)):
                total.add_(weight, alpha=share)
            for total, share in ((uw, du), (vw, dv)):
                total.add_(higher, alpha=share)
    some = count.clamp(min=1)
    uu, uv, vv = uu - u * u / some, uv - u * v / some, vv - v * v / some
    uw, vw = uw - u * w / some, vw - v * w / some
    determinant = uu * vv - uv * uv
    enough = inside & (determinant > 1e-3 * (uu + vv).square() / 4) & (count >= 3)
    safe = torch.where(enough, determinant, 1.0)
    a, b = (uw * vv - vw * uv) / safe, (vw * uu - uw * uv) / safe
    here = inverse + (w - a * u - b * v) / some  # the fitted inverse depth of the middle
    c = here - a * rays[0] - b * rays[1]
    found = -functional.normalize(torch.stack([a, b, c], 1), dim=1)
    facing = torch.tensor([0.0, 0.0, -1.0]).to(depth).view(3, 1, 1)
    return torch.where(enough[:, None], found, facing), enough


def principal_curvature(
    depth: Tensor, camera: Camera, radius: int = 1, tolerance: float = 0.05
) -> tuple[Tensor, Tensor]:
    """Principal curvatures (B, 2, H, W), the larger first, in 1 / length, and where they are valid, (B, H, W) bool.

    They are the eigenvalues of the shape operator ``dN = k dP``, with N the normal to the camera and P the point: positive where the
    surface bulges towards the camera (a ball of radius r has 1/r twice), 0 on planes. Derivatives are central differences, over `radius`
    pixels, and valid where all four neighbours and their normals are, without a depth edge between.
    """
    surface, good = normals(depth, camera, radius, tolerance)
    where = points(torch.where(measured(depth), depth, 0.0), camera)
    p_u, p_v, n_u, n_v = (_difference(maps, axis, radius) for maps in (where, surface) for axis in (3, 2))
    e, f, g = ((one * other).sum(1) for one, other in ((p_u, p_u), (p_u, p_v), (p_v, p_v)))
    uu, uv, vu, vv = ((one * other).sum(1) for one, other in ((n_u, p_u), (n_u, p_v), (n_v, p_u), (n_v, p_v)))
    uv = (uv + vu) / 2
    area = e * g - f * f
    safe = torch.where(area > 0, area, 1.0)
    mean = (e * vv - 2 * f * uv + g * uu) / (2 * safe)
    gauss = (uu * vv - uv * uv) / safe
    apart = (mean.square() - gauss).clamp(min=0).sqrt()
    beside = [(radius, 0), (-radius, 0), (0, radius), (0, -radius)]
    flat = [(torch.roll(depth, by, (1, 2)) - depth).abs() <= tolerance * radius * depth for by in beside]
    known = [torch.roll(good, by, (1, 2)) for by in beside]
    valid = torch.stack([good, *flat, *known]).all(0) & (area > 0) & _inner(depth, radius)
    curvatures = torch.stack([mean + apart, mean - apart], 1)
    return torch.where(valid[:, None], curvatures, 0.0), valid


def occlusion_edges(depth: Tensor, reach: int = 1) -> Tensor:
    """(B, H, W): how strongly depth breaks off at a pixel, 0 on planes of any slope.

    The inverse depth of a plane is linear in the image, so its second difference is 0; where one surface hides another, it is the jump.
    Given is the larger one of the two axes as a share of the pixel's own inverse depth: at a step from depth p to q, ``|1 - p / q|`` on the
    pixels of depth p beside it. 0 at the border, and where a depth that is needed was not measured.
    """
    inside = measured(depth)
    inverse = torch.where(inside, 1 / torch.where(inside, depth, 1.0), 0.0)
    strength = torch.zeros_like(depth)
    for axis in (1, 2):
        before, after = torch.roll(inverse, reach, axis), torch.roll(inverse, -reach, axis)
        known = inside & torch.roll(inside, reach, axis) & torch.roll(inside, -reach, axis)
        second = (before - 2 * inverse + after).abs() / torch.where(inside, inverse, 1.0)
        strength = torch.maximum(strength, torch.where(known, second, 0.0))
    return torch.where(_inner(depth, reach), strength, 0.0)


def reshading(depth: Tensor, surface: Tensor, camera: Camera) -> Tensor:
    """(B, H, W) in [0, 1]: how bright a matt white surface with normals `surface` (B, 3, H, W) is in the light of a lamp at the camera.

    The cosine between normal and direction to the camera, without fall-off.
    """
    towards = -functional.normalize(camera.rays(*depth.shape[1:]).to(depth), dim=0)
    return (surface * towards).sum(1).clamp(min=0)


def texture_edges(image: Tensor, sigma: float = 1.0) -> Tensor:
    """(B, H, W): the length of the gradient of the grey image, per pixel, after smoothing; `image` (B, 3, H, W) in [0, 1].

    It is the first half of Canny's detector (1986), before edges are thinned.
    """
    grey = smooth(_grey(image), sigma)
    return torch.hypot(_difference(grey, 3, 1), _difference(grey, 2, 1))[:, 0] / 2


def keypoints(maps: Tensor, sigma: float = 2.0) -> Tensor:
    """(B, H, W): the determinant of the Hessian of maps (B, 1, H, W) at scale `sigma` pixels, 0 where it is negative.

    The measure that SURF approximates (Bay et al. 2006): large on blobs and corners, 0 on edges and slopes. Times ``sigma**4``, so that it
    does not depend on the image's size.
    """
    level = smooth(maps, sigma)
    right, down = _difference(level, 3, 1) / 2, _difference(level, 2, 1) / 2
    xx, xy, yy = _difference(right, 3, 1) / 2, _difference(right, 2, 1) / 2, _difference(down, 2, 1) / 2
    return (sigma**4 * (xx * yy - xy * xy)).clamp(min=0)[:, 0]


def smooth(maps: Tensor, sigma: float) -> Tensor:
    """Gaussian smoothing of (B, C, H, W), with the border repeated."""
    radius = max(1, round(3 * sigma))
    offsets = torch.arange(-radius, radius + 1).to(maps)
    kernel = torch.softmax(-offsets.square() / (2 * sigma**2), 0).repeat(maps.shape[1], 1)
    padded = functional.pad(maps, [radius] * 4, mode="replicate")
    across = functional.conv2d(padded, kernel[:, None, None, :], groups=maps.shape[1])
    return functional.conv2d(across, kernel[:, None, :, None], groups=maps.shape[1])


def _grey(image: Tensor) -> Tensor:
    """(B, 1, H, W), by the weights of ITU-R BT.601."""
    weights = torch.tensor([0.299, 0.587, 0.114]).to(image).view(3, 1, 1)
    return (image * weights).sum(1, keepdim=True)


def _difference(maps: Tensor, axis: int, reach: int) -> Tensor:
    """``f(x + reach) - f(x - reach)`` along an axis of (B, C, H, W), with the border repeated."""
    pad = [reach, reach, 0, 0] if axis == 3 else [0, 0, reach, reach]
    padded = functional.pad(maps, pad, mode="replicate")
    length = maps.shape[axis]
    return padded.narrow(axis, 2 * reach, length) - padded.narrow(axis, 0, length)


def _inner(depth: Tensor, reach: int) -> Tensor:
    """(H, W) bool: all but the border."""
    inner = torch.zeros(depth.shape[1:], dtype=torch.bool, device=depth.device)
    inner[reach:-reach, reach:-reach] = True
    return inner
