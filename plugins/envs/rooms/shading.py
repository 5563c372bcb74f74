"""Shading: images of rooms with exact depth, normal, curvature and class of each pixel, from closed forms."""

from __future__ import annotations

from collections.abc import Sequence

import attrs
import torch
from torch import Tensor

from .ray_cast import NO_HIT, Hits, SceneBatch, cast_rays, pack_scenes
from .scene import Scene
from .solids import ELLIPSOID, FRUSTUM
from .texture import evaluate_materials, hash_noise, pack_materials

MAX_PIXELS = 1 << 17
"""Pixels rendered at once, so that intermediate results fit into the CPU cache."""
SENSOR_NOISE = 0.03
"""Amplitude of the sensor noise."""


@attrs.frozen(eq=False)
class Views:
    """Rendered images of S x S pixels with their geometry."""

    depth: Tensor
    """(B, S, S) along the optical axis in metres; `NO_HIT` in window openings."""
    normal: Tensor
    """(B, 3, S, S), of length 1 in camera coordinates: x right, y up, z towards the camera."""
    curvature: Tensor
    """(B, 2, S, S), principal curvatures in 1/m, the greater first; positive if convex towards the camera."""
    rgb: Tensor
    """(B, 3, S, S) in [0, 1], as displayed."""
    semantic: Tensor
    """(B, S, S) int64, index into `SEMANTIC`; 0 in window openings."""
    object: Tensor
    """(B, S, S) int64, ImageNet class or -1."""
    tan_half_fov: Tensor
    """(B,)"""

    @property
    def valid(self) -> Tensor:
        """(B, S, S) bool: whether the pixel shows a surface."""
        return self.depth < NO_HIT

    def rays(self) -> tuple[Tensor, Tensor]:
        """Right (B, 1, S) and up (B, S, 1) components of the rays; the forward component is 1."""
        size = self.depth.shape[-1]
        across = (torch.arange(size) + 0.5) / (size / 2) - 1
        return self.tan_half_fov[:, None, None] * across, -self.tan_half_fov[:, None, None] * across[:, None]


def render(scenes: Sequence[Scene], size: int) -> Views:
    """Render scenes as images of `size` x `size` pixels.

    Raises:
        ValueError: `size` is not a multiple of 8.
    """
    if size % 8:
        raise ValueError(f"the image size must be a multiple of 8, not {size}")
    step = max(1, MAX_PIXELS // size**2)
    batches = [_render(scenes[first : first + step], size) for first in range(0, len(scenes), step)]
    fields = [field.name for field in attrs.fields(Views)]
    return Views(*(torch.cat([getattr(views, name) for views in batches]) for name in fields))


def _render(scenes: Sequence[Scene], size: int) -> Views:
    batch = pack_scenes(scenes)
    hits = cast_rays(batch, size)
    room = hits.solid < 0
    index = hits.solid.clamp(min=0).flatten()
    tags = [tag[index].view(room.shape) for tag in batch.tags.unbind(1)]
    material = torch.where(room, batch.first_material[:, None, None] + hits.surface, tags[0])
    surface = _surface(batch, hits, index, room)
    seen = hits.depth < NO_HIT
    right, up, forward = (
        [component[:, None, None] for component in batch.camera_axes[:, axis].unbind(1)] for axis in range(3)
    )
    normal = torch.stack(
        [_dot(surface.normal, right), _dot(surface.normal, up), -_dot(surface.normal, forward)], 1
    )
    return Views(
        hits.depth,
        torch.where(seen[:, None], normal, 0.0),
        torch.where(seen[:, None], surface.curvature, 0.0),
        _shade(batch, hits, surface, material, seen),
        torch.where(seen, torch.where(room, 1, tags[1]), 0),
        torch.where(room, -1, tags[2]),
        batch.tan_half_fov,
    )


@attrs.frozen(eq=False)
class _Surface:
    """Geometry at the intersections, (B, S, S) each; vectors are lists per axis, in room coordinates."""

    normal: list[Tensor]
    curvature: Tensor
    """(B, 2, S, S)"""
    u: Tensor
    """Texture coordinates in metres, with `v`."""
    v: Tensor


def _dot(a: Sequence[Tensor], b: Sequence[Tensor]) -> Tensor:
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


def _surface(batch: SceneBatch, hits: Hits, index: Tensor, room: Tensor) -> _Surface:
    columns = torch.cat([batch.centre, batch.axes.flatten(1), batch.size], 1).T.contiguous()
    rows = columns.index_select(1, index).view(-1, *room.shape).unbind(0)
    axes, size = (rows[3:6], rows[6:9], rows[9:12]), rows[12:15]
    relative = [hits.point[axis] - rows[axis] for axis in range(3)]
    local_point = [_dot(axes[axis], relative) for axis in range(3)]
    ray = [_dot(axes[axis], hits.ray) for axis in range(3)]
    kind = batch.kind[index].view(room.shape)
    ellipsoid_normal, ellipsoid_first, ellipsoid_second = _ellipsoid_geometry(local_point, ray, size)
    frustum_normal, frustum_first = _frustum_geometry(local_point, size)
    box_normal = _box_normal(local_point, size)
    is_ellipsoid, is_frustum = kind == ELLIPSOID, kind == FRUSTUM
    local = [
        torch.where(
            is_ellipsoid, ellipsoid_normal[k], torch.where(is_frustum, frustum_normal[k], box_normal[k])
        )
        for k in range(3)
    ]
    wall, sign = hits.surface >> 1, 1.0 - 2.0 * (hits.surface & 1)
    zero = torch.zeros_like(sign)
    inward = [torch.where(wall == k, sign, zero) for k in range(3)]
    normal = [
        torch.where(room, inward[k], local[0] * axes[0][k] + local[1] * axes[1][k] + local[2] * axes[2][k])
        for k in range(3)
    ]
    first = torch.where(is_ellipsoid, ellipsoid_first, torch.where(is_frustum, frustum_first, zero))
    second = torch.where(is_ellipsoid, ellipsoid_second, zero)
    curvature = torch.stack([torch.where(room, zero, first), torch.where(room, zero, second)], 1)
    faces = [torch.where(room, inward[k], local[k]).abs() for k in range(3)]
    coordinates = [torch.where(room, hits.point[k], local_point[k]) for k in range(3)]
    flat = (faces[2] >= faces[0]) & (faces[2] >= faces[1])
    sideways = faces[0] >= faces[1]
    u = torch.where(~flat & sideways, coordinates[1], coordinates[0])
    v = torch.where(flat, coordinates[1], coordinates[2])
    return _Surface(normal, curvature, u, v)


def _box_normal(local_point: list[Tensor], size: Sequence[Tensor]) -> list[Tensor]:
    """Outward normal of the box face at a point, along the solid's axes."""
    distance = [local_point[k].abs() - size[k] for k in range(3)]
    on_x = (distance[0] >= distance[1]) & (distance[0] >= distance[2])
    on_y = ~on_x & (distance[1] >= distance[2])
    faces = (on_x, on_y, ~on_x & ~on_y)
    return [torch.where(face, local_point[k].sign(), 0.0) for k, face in enumerate(faces)]


def _ellipsoid_geometry(
    local_point: list[Tensor], ray: list[Tensor], size: Sequence[Tensor]
) -> tuple[list[Tensor], Tensor, Tensor]:
    """Normal towards the camera and principal curvatures of x^2/a^2 + y^2/b^2 + z^2/c^2 = 1.

    With g = (x/a^2, y/b^2, z/c^2), the Gaussian curvature is K = 1 / (a b c |g|^2)^2, and the mean curvature
    of the outer side H = (a^2 + b^2 + c^2 - x^2 - y^2 - z^2) / (2 (a b c)^2 |g|^3); the principal curvatures
    are H +- sqrt(H^2 - K).
    """
    squares = [axis * axis for axis in size]
    g = [local_point[k] / squares[k] for k in range(3)]
    length = _dot(g, g).sqrt()
    abc = squares[0] * squares[1] * squares[2]
    gauss = 1 / (abc * length * length * length * length)
    mean = (squares[0] + squares[1] + squares[2] - _dot(local_point, local_point)) / (
        2 * abc * length * length * length
    )
    spread = (mean * mean - gauss).clamp(min=0).sqrt()
    inner = _dot(g, ray) > 0
    sign = torch.where(inner, -1.0, 1.0)
    normal = [sign * component / length for component in g]
    return normal, sign * mean + spread, sign * mean - spread


def _frustum_geometry(local_point: list[Tensor], size: Sequence[Tensor]) -> tuple[list[Tensor], Tensor]:
    """Outward normal and larger principal curvature; the other one is 0.

    The side is a cone of radius r(z) = m + s z, with normal (x/r, y/r, -s) / sqrt(1 + s^2) and curvature 1 /
    (r sqrt(1 + s^2)) across its rulings.
    """
    low, high, half = size
    m, s = (low + high) / 2, (high - low) / (2 * half)
    z = local_point[2]
    radius = m + s * z
    across = (local_point[0] * local_point[0] + local_point[1] * local_point[1]).sqrt()
    end = (z.abs() - half).abs() < (across - radius).abs()
    stretch = (1 + s * s).sqrt()
    curvature = 1 / (radius.clamp(min=1e-4) * stretch)
    scale = 1 / (across.clamp(min=1e-6) * stretch)
    normal = [
        torch.where(end, 0.0, local_point[0] * scale),
        torch.where(end, 0.0, local_point[1] * scale),
        torch.where(end, z.sign(), -s / stretch),
    ]
    return normal, torch.where(end, 0.0, curvature)


def _shade(batch: SceneBatch, hits: Hits, surface: _Surface, material: Tensor, seen: Tensor) -> Tensor:
    """(B, 3, S, S): the sensor image.

    Blinn-Phong reflection (Lambertian diffuse term, specular exponent 64) of shadowed point lights with
    fall-off 1 / (0.6 + 0.35 d^2), and of ambient light with ambient occlusion; then exposure, tone mapping,
    gamma 2 and noise.
    """
    scenes = batch.scenes
    count = [len(scene.materials) for scene in scenes]
    size = seen.shape[-1]
    seeds = torch.tensor([scene.seed for scene in scenes], dtype=torch.int32)
    flat = material.flatten()
    rows = (
        pack_materials([material for scene in scenes for material in scene.materials])
        .index_select(1, flat)
        .view(-1, *material.shape)
    )
    own = torch.cat(
        [torch.arange(n, dtype=torch.int32) * 7919 + seed for n, seed in zip(count, seeds, strict=True)]
    )
    length = _dot(hits.ray, hits.ray).sqrt()
    view = [-component / length for component in hits.ray]
    facing = _dot(surface.normal, view)
    pixel_size = batch.tan_half_fov[:, None, None] * (2 / size)
    footprint = hits.depth * pixel_size / facing.clamp(min=0.25)
    colours, reflectance, emission = evaluate_materials(
        rows, surface.u, surface.v, footprint, own[flat].view(material.shape)
    )
    occlusion = _ambient_occlusion(batch, hits, surface)
    light = [
        torch.tensor([scene.ambient[c] for scene in scenes])[:, None, None] * occlusion for c in range(3)
    ]
    specular = [torch.zeros_like(occlusion) for _ in range(3)]
    for index, lit in enumerate(hits.lit):
        position = batch.lights[:, index, 0, :, None, None]
        intensity = batch.lights[:, index, 1, :, None, None]
        to_light = [position[:, k] - hits.point[k] for k in range(3)]
        distance_squared = _dot(to_light, to_light)
        distance = distance_squared.sqrt()
        cosine = _dot(surface.normal, to_light) / distance
        irradiance = torch.where(lit, cosine.clamp(min=0), 0.0) / (0.6 + 0.35 * distance_squared)
        half = [to_light[k] / distance + view[k] for k in range(3)]
        highlight = _dot(surface.normal, half).clamp(min=0)
        highlight = highlight * highlight / _dot(half, half)
        for _ in range(5):
            highlight = highlight * highlight
        highlight = (
            torch.where(lit & (cosine > 0), highlight, 0.0) * reflectance / (0.6 + 0.35 * distance_squared)
        )
        for c in range(3):
            light[c] = light[c] + irradiance * intensity[:, c]
            specular[c] = specular[c] + highlight * intensity[:, c]
    channels = []
    exposure = torch.tensor([scene.exposure for scene in scenes])[:, None, None]
    pixels = torch.arange(size, dtype=torch.int32)
    for c in range(3):
        sky = torch.tensor([scene.sky[c] for scene in scenes])[:, None, None] * (
            0.75 + 0.5 * (hits.ray[2] / length).clamp(-0.5, 1)
        )
        linear = torch.where(seen, colours[c] * (light[c] + emission) + specular[c], sky) * exposure
        display = (linear / (1 + 0.35 * linear)).clamp(0, 1).sqrt()
        noise = hash_noise(pixels[None, None], pixels[None, :, None], seeds[:, None, None] + c * 7919)
        channels.append((display + SENSOR_NOISE * (noise - 0.5)).clamp(0, 1))
    return torch.stack(channels, 1)


def _ambient_occlusion(batch: SceneBatch, hits: Hits, surface: _Surface) -> Tensor:
    """Fraction of the ambient light at each point, reduced near walls, floor and ceiling."""
    fraction = torch.ones_like(hits.depth)
    for axis in range(3):
        weight = 0.45 * (1 - surface.normal[axis].abs())
        for end in (0.0, batch.room_size[:, axis, None, None]):
            distance = (hits.point[axis] - end) / 0.3
            fraction = fraction * (1 - weight / (1 + distance * distance))
    return fraction
