"""Labels from geometry: normals, curvature and edges of a depth map with known camera intrinsics.

Depth maps are (B, H, W) along the optical axis (z-buffer), in any unit of length; values of 0 or less,
infinity and NaN mark missing measurements. The camera looks along +z, x points right and y down. Pixel values
are sampled at the pixel centres.
"""

from __future__ import annotations

from math import tan

import attrs
import torch
from torch import Tensor
from torch.nn import functional


@attrs.frozen
class Camera:
    """Pinhole intrinsics: focal lengths and principal point in pixels; the first pixel centre is at 0.5."""

    fx: float
    fy: float
    cx: float
    cy: float

    @classmethod
    def from_fov(cls, angle: float, height: int, width: int) -> Camera:
        """Intrinsics for square pixels, a horizontal field of view in radians, a centred principal point."""
        focal = width / 2 / tan(angle / 2)
        return cls(focal, focal, width / 2, height / 2)

    def resized(self, factor: float) -> Camera:
        """Intrinsics of images scaled by `factor`."""
        return attrs.evolve(
            self, fx=self.fx * factor, fy=self.fy * factor, cx=self.cx * factor, cy=self.cy * factor
        )

    def cropped(self, top: float, left: float) -> Camera:
        """Intrinsics of images without their first `top` rows and `left` columns."""
        return attrs.evolve(self, cx=self.cx - left, cy=self.cy - top)

    def rays(self, height: int, width: int) -> Tensor:
        """(3, H, W): the ray direction of each pixel, with z = 1."""
        rows, columns = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
        return torch.stack(
            [(columns - self.cx) / self.fx, (rows - self.cy) / self.fy, torch.ones(height, width)]
        )


def euclidean(depth: Tensor, camera: Camera) -> Tensor:
    """(B, H, W): distance from the camera centre, from depth along the axis."""
    lengths: Tensor = camera.rays(*depth.shape[1:]).to(depth).norm(dim=0)
    return depth * lengths


def along_axis(distance: Tensor, camera: Camera) -> Tensor:
    """(B, H, W): the inverse of `euclidean`."""
    lengths: Tensor = camera.rays(*distance.shape[1:]).to(distance).norm(dim=0)
    return distance / lengths


def valid_depth(depth: Tensor) -> Tensor:
    """(B, H, W) bool: whether a pixel has a measured depth."""
    return torch.isfinite(depth) & (depth > 0)


def points(depth: Tensor, camera: Camera) -> Tensor:
    """(B, 3, H, W): the point cloud in the camera frame."""
    return depth[:, None] * camera.rays(*depth.shape[1:]).to(depth)


def normals(depth: Tensor, camera: Camera, radius: int = 1, tolerance: float = 0.05) -> tuple[Tensor, Tensor]:
    """Surface normals facing the camera, (B, 3, H, W) of length 1, and their validity, (B, H, W) bool.

    The inverse depth of a plane is linear in the image: ``1 / z = a u + b v + c``, with (u, v, 1) the ray.
    Its least-squares fit over the window around each pixel gives the normal ``-(a, b, c)``; it is exact on
    planes and of second order elsewhere. Pixels of the window whose inverse depth differs from the centre's
    by more than the relative `tolerance` are excluded, so that a fit does not cross a depth edge. A normal is
    valid if three or more non-collinear pixels remain.

    Args:
        depth: (B, H, W).
        camera: intrinsics of the depth maps.
        radius: window radius in pixels, for (2 radius + 1)^2 pixels; larger for noisy depth.
        tolerance: fraction of the inverse depth.
    """
    rays = camera.rays(*depth.shape[1:]).to(depth)
    known = valid_depth(depth)
    inverse = torch.where(known, 1 / torch.where(known, depth, 1.0), 0.0)
    height, width = depth.shape[1:]
    padded = functional.pad(inverse, [radius] * 4)  # an inverse depth of 0 is outside the tolerance
    zero = torch.zeros_like(inverse)
    # sums over the window, relative to its centre
    count, u, v, w, uu, uv, vv, uw, vw = (zero.clone() for _ in range(9))
    for row in range(2 * radius + 1):
        for column in range(2 * radius + 1):
            difference = padded[:, row : row + height, column : column + width] - inverse
            weight = (difference.abs() <= tolerance * inverse).to(depth)
            du, dv = (column - radius) / camera.fx, (row - radius) / camera.fy
            weighted = weight * difference
            count += weight
            w += weighted
            for total, factor in ((u, du), (v, dv), (uu, du * du), (uv, du * dv), (vv, dv * dv)):
                total.add_(weight, alpha=factor)
            for total, factor in ((uw, du), (vw, dv)):
                total.add_(weighted, alpha=factor)
    n = count.clamp(min=1)
    uu, uv, vv = uu - u * u / n, uv - u * v / n, vv - v * v / n
    uw, vw = uw - u * w / n, vw - v * w / n
    determinant = uu * vv - uv * uv
    valid = known & (determinant > 1e-3 * (uu + vv).square() / 4) & (count >= 3)
    safe = torch.where(valid, determinant, 1.0)
    a, b = (uw * vv - vw * uv) / safe, (vw * uu - uw * uv) / safe
    fitted = inverse + (w - a * u - b * v) / n  # inverse depth of the centre
    c = fitted - a * rays[0] - b * rays[1]
    fit = -functional.normalize(torch.stack([a, b, c], 1), dim=1)
    facing = torch.tensor([0.0, 0.0, -1.0]).to(depth).view(3, 1, 1)
    return torch.where(valid[:, None], fit, facing), valid


def principal_curvature(
    depth: Tensor, camera: Camera, radius: int = 1, tolerance: float = 0.05
) -> tuple[Tensor, Tensor]:
    """Principal curvatures (B, 2, H, W), the larger first, in 1 / length, and their validity, (B, H, W) bool.

    They are the eigenvalues of the shape operator ``dN = k dP``, with N the normal towards the camera and P
    the point: positive where the surface bulges towards the camera (both are 1/r on a ball of radius r), 0 on
    planes. Derivatives are central differences over `radius` pixels. They are valid if all four neighbours
    and their normals are, without a depth edge in between.
    """
    surface, good = normals(depth, camera, radius, tolerance)
    cloud = points(torch.where(valid_depth(depth), depth, 0.0), camera)
    p_u, p_v = _difference(cloud, 3, radius), _difference(cloud, 2, radius)
    n_u, n_v = _difference(surface, 3, radius), _difference(surface, 2, radius)
    # first (e, f, g) and second (uu, uv, vv) fundamental form
    e, f, g = _dot(p_u, p_u), _dot(p_u, p_v), _dot(p_v, p_v)
    uu, uv, vu, vv = _dot(n_u, p_u), _dot(n_u, p_v), _dot(n_v, p_u), _dot(n_v, p_v)
    uv = (uv + vu) / 2
    area = e * g - f * f
    safe = torch.where(area > 0, area, 1.0)
    mean = (e * vv - 2 * f * uv + g * uu) / (2 * safe)
    gauss = (uu * vv - uv * uv) / safe
    spread = (mean.square() - gauss).clamp(min=0).sqrt()
    shifts = [(radius, 0), (-radius, 0), (0, radius), (0, -radius)]
    smooth_depth = [
        (torch.roll(depth, shift, (1, 2)) - depth).abs() <= tolerance * radius * depth for shift in shifts
    ]
    neighbours = [torch.roll(good, shift, (1, 2)) for shift in shifts]
    valid = torch.stack([good, *smooth_depth, *neighbours]).all(0) & (area > 0) & _interior(depth, radius)
    curvatures = torch.stack([mean + spread, mean - spread], 1)
    return torch.where(valid[:, None], curvatures, 0.0), valid


def occlusion_edges(depth: Tensor, radius: int = 1) -> Tensor:
    """(B, H, W): strength of the depth discontinuity at each pixel, 0 on planes of any slope.

    The inverse depth of a plane is linear in the image, so its second difference is 0; across an occlusion it
    is the jump. The result is the larger one of both axes, relative to the pixel's own inverse depth: at a
    step from depth p to q, ``|1 - p / q|`` on the adjacent pixels of depth p. It is 0 at the image border and
    where a required depth is missing.
    """
    known = valid_depth(depth)
    inverse = torch.where(known, 1 / torch.where(known, depth, 1.0), 0.0)
    strength = torch.zeros_like(depth)
    for axis in (1, 2):
        before, after = torch.roll(inverse, radius, axis), torch.roll(inverse, -radius, axis)
        valid = known & torch.roll(known, radius, axis) & torch.roll(known, -radius, axis)
        second = (before - 2 * inverse + after).abs() / torch.where(known, inverse, 1.0)
        strength = torch.maximum(strength, torch.where(valid, second, 0.0))
    return torch.where(_interior(depth, radius), strength, 0.0)


def reshading(depth: Tensor, surface: Tensor, camera: Camera) -> Tensor:
    """(B, H, W) in [0, 1]: Lambertian shading of a white surface with normals `surface` (B, 3, H, W), lit
    from the camera.

    It is the cosine between the normal and the direction to the camera, without distance fall-off.
    """
    towards = -functional.normalize(camera.rays(*depth.shape[1:]).to(depth), dim=0)
    return (surface * towards).sum(1).clamp(min=0)


def texture_edges(image: Tensor, sigma: float = 1.0) -> Tensor:
    """(B, H, W): gradient magnitude of the smoothed grey image, per pixel; `image` (B, 3, H, W) in [0, 1].

    This is the first stage of the Canny detector (1986), before non-maximum suppression.
    """
    grey = smooth(_grey(image), sigma)
    return torch.hypot(_difference(grey, 3, 1), _difference(grey, 2, 1))[:, 0] / 2


def keypoints(maps: Tensor, sigma: float = 2.0) -> Tensor:
    """(B, H, W): the determinant of the Hessian of maps (B, 1, H, W) at scale `sigma` pixels, 0 where it is
    negative.

    The response that SURF approximates (Bay et al. 2006): large on blobs and corners, 0 on edges and slopes.
    The factor ``sigma**4`` makes it scale-invariant.
    """
    level = smooth(maps, sigma)
    right, down = _difference(level, 3, 1) / 2, _difference(level, 2, 1) / 2
    xx, xy, yy = _difference(right, 3, 1) / 2, _difference(right, 2, 1) / 2, _difference(down, 2, 1) / 2
    return (sigma**4 * (xx * yy - xy * xy)).clamp(min=0)[:, 0]


def smooth(maps: Tensor, sigma: float) -> Tensor:
    """Gaussian smoothing of (B, C, H, W), with replicated borders."""
    radius = max(1, round(3 * sigma))
    offsets = torch.arange(-radius, radius + 1).to(maps)
    kernel = torch.softmax(-offsets.square() / (2 * sigma**2), 0).repeat(maps.shape[1], 1)
    padded = functional.pad(maps, [radius] * 4, mode="replicate")
    across = functional.conv2d(padded, kernel[:, None, None, :], groups=maps.shape[1])
    return functional.conv2d(across, kernel[:, None, :, None], groups=maps.shape[1])


def _grey(image: Tensor) -> Tensor:
    """(B, 1, H, W), with the weights of ITU-R BT.601."""
    weights = torch.tensor([0.299, 0.587, 0.114]).to(image).view(3, 1, 1)
    return (image * weights).sum(1, keepdim=True)


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum(1)


def _difference(maps: Tensor, axis: int, radius: int) -> Tensor:
    """``f(x + radius) - f(x - radius)`` along an axis of (B, C, H, W), with replicated borders."""
    pad = [radius, radius, 0, 0] if axis == 3 else [0, 0, radius, radius]
    padded = functional.pad(maps, pad, mode="replicate")
    length = maps.shape[axis]
    return padded.narrow(axis, 2 * radius, length) - padded.narrow(axis, 0, length)


def _interior(depth: Tensor, radius: int) -> Tensor:
    """(H, W) bool: False within `radius` pixels of the image border."""
    interior = torch.zeros(depth.shape[1:], dtype=torch.bool, device=depth.device)
    interior[radius:-radius, radius:-radius] = True
    return interior
