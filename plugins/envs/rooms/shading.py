"""Pictures of rooms, and what is exactly known about each pixel: depth, normal, curvature and class, from closed forms."""

from __future__ import annotations

from collections.abc import Sequence

import attrs
import torch
from torch import Tensor

from .ray_cast import FAR, Batch, Hits, cast, pack
from .scene import Scene
from .solids import ELLIPSOID, FRUSTUM
from .texture import hashed, look, table

PIXELS = 1 << 17
"""Rendered at a time, so that intermediate results stay in the cache."""
GRAIN = 0.03
"""Amplitude of the sensor's noise."""


@attrs.frozen(eq=False)
class Views:
    """What the cameras see; S x S pixels each."""

    depth: Tensor
    """(B, S, S) along the optical axis in metres; `FAR` where a ray leaves through a window."""
    normal: Tensor
    """(B, 3, S, S), of length 1 in camera coordinates: x right, y up, z towards the camera."""
    curvature: Tensor
    """(B, 2, S, S), the principal curvatures in 1/m, the greater first; positive where the surface bulges towards the viewer."""
    rgb: Tensor
    """(B, 3, S, S) in [0, 1], as displayed."""
    semantic: Tensor
    """(B, S, S) int64, index into `SEMANTIC`; 0 through a window."""
    object: Tensor
    """(B, S, S) int64, class of ImageNet or -1."""
    tangent: Tensor
    """(B,) of half the field of view."""

    @property
    def valid(self) -> Tensor:
        """(B, S, S) bool: where there is a surface."""
        return self.depth < FAR

    def rays(self) -> tuple[Tensor, Tensor]:
        """The rays' components to the right (B, 1, S) and up (B, S, 1); along the optical axis they have length 1."""
        size = self.depth.shape[-1]
        across = (torch.arange(size) + 0.5) / (size / 2) - 1
        return self.tangent[:, None, None] * across, -self.tangent[:, None, None] * across[:, None]


def render(scenes: Sequence[Scene], size: int) -> Views:
    """The views of some rooms in pictures of `size` x `size` pixels.

    Raises:
        ValueError: `size` is no multiple of 8.
    """
    if size % 8:
        raise ValueError(f"the size of a picture must be a multiple of 8, not {size}")
    at_once = max(1, PIXELS // size**2)
    parts = [_render(scenes[first : first + at_once], size) for first in range(0, len(scenes), at_once)]
    return Views(*(torch.cat([getattr(part, field.name) for part in parts]) for field in attrs.fields(Views)))


def _render(scenes: Sequence[Scene], size: int) -> Views:
    batch = pack(scenes)
    hits = cast(batch, size)
    room = hits.solid < 0
    owner = hits.solid.clamp(min=0).flatten()
    tags = [tag[owner].view(room.shape) for tag in batch.tags.unbind(1)]
    material = torch.where(room, batch.walls[:, None, None] + hits.surface, tags[0])
    surface = _surface(batch, hits, owner, room)
    seen = hits.depth < FAR
    right, up, forward = (
        [one[:, None, None] for one in batch.axes_of_camera[:, axis].unbind(1)] for axis in range(3)
    )
    normal = torch.stack(
        [_along(surface.normal, right), _along(surface.normal, up), -_along(surface.normal, forward)], 1
    )
    return Views(
        hits.depth,
        torch.where(seen[:, None], normal, 0.0),
        torch.where(seen[:, None], surface.curvature, 0.0),
        _colour(batch, hits, surface, material, seen),
        torch.where(seen, torch.where(room, 1, tags[1]), 0),
        torch.where(room, -1, tags[2]),
        batch.tangent,
    )


@attrs.frozen(eq=False)
class _Surface:
    """Of what is seen: (B, S, S) each, vectors in room coordinates as lists."""

    normal: list[Tensor]
    curvature: Tensor
    """(B, 2, S, S)"""
    u: Tensor
    v: Tensor


def _along(a: Sequence[Tensor], b: Sequence[Tensor]) -> Tensor:
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


def _surface(batch: Batch, hits: Hits, owner: Tensor, room: Tensor) -> _Surface:
    columns = torch.cat([batch.centre, batch.axes.flatten(1), batch.size], 1).T.contiguous()
    rows = columns.index_select(1, owner).view(-1, *room.shape).unbind(0)
    axes, size = (rows[3:6], rows[6:9], rows[9:12]), rows[12:15]
    away = [hits.point[axis] - rows[axis] for axis in range(3)]
    place = [_along(axes[axis], away) for axis in range(3)]
    ray = [_along(axes[axis], hits.ray) for axis in range(3)]
    kind = batch.kind[owner].view(room.shape)
    ball, ball_first, ball_second = _of_ellipsoid(place, ray, size)
    cone, cone_first = _of_frustum(place, size)
    box = _of_box(place, size)
    is_ball, is_cone = kind == ELLIPSOID, kind == FRUSTUM
    local = [torch.where(is_ball, ball[k], torch.where(is_cone, cone[k], box[k])) for k in range(3)]
    wall, sign = hits.surface >> 1, 1.0 - 2.0 * (hits.surface & 1)
    zero = torch.zeros_like(sign)
    inward = [torch.where(wall == k, sign, zero) for k in range(3)]
    normal = [
        torch.where(room, inward[k], local[0] * axes[0][k] + local[1] * axes[1][k] + local[2] * axes[2][k])
        for k in range(3)
    ]
    first = torch.where(is_ball, ball_first, torch.where(is_cone, cone_first, zero))
    second = torch.where(is_ball, ball_second, zero)
    curvature = torch.stack([torch.where(room, zero, first), torch.where(room, zero, second)], 1)
    faces = [torch.where(room, inward[k], local[k]).abs() for k in range(3)]
    places = [torch.where(room, hits.point[k], place[k]) for k in range(3)]
    flat = (faces[2] >= faces[0]) & (faces[2] >= faces[1])
    sideways = faces[0] >= faces[1]
    u = torch.where(~flat & sideways, places[1], places[0])
    v = torch.where(flat, places[1], places[2])
    return _Surface(normal, curvature, u, v)


def _of_box(place: list[Tensor], size: Sequence[Tensor]) -> list[Tensor]:
    """The outward normal of the face that a point is on, along the solid's axes."""
    out = [place[k].abs() - size[k] for k in range(3)]
    first = (out[0] >= out[1]) & (out[0] >= out[2])
    second = ~first & (out[1] >= out[2])
    chosen = (first, second, ~first & ~second)
    return [torch.where(one, place[k].sign(), 0.0) for k, one in enumerate(chosen)]


def _of_ellipsoid(
    place: list[Tensor], ray: list[Tensor], size: Sequence[Tensor]
) -> tuple[list[Tensor], Tensor, Tensor]:
    """Normal towards the viewer and principal curvatures of x^2/a^2 + y^2/b^2 + z^2/c^2 = 1.

    With g = (x/a^2, y/b^2, z/c^2), Gauss's curvature is 1 / (a b c |g|^2)^2, and the mean curvature of the outer side
    (a^2 + b^2 + c^2 - x^2 - y^2 - z^2) / (2 (a b c)^2 |g|^3); the principal ones are H +- sqrt(H^2 - K).
    """
    squares = [one * one for one in size]
    g = [place[k] / squares[k] for k in range(3)]
    length = _along(g, g).sqrt()
    abc = squares[0] * squares[1] * squares[2]
    gauss = 1 / (abc * length * length * length * length)
    mean = (squares[0] + squares[1] + squares[2] - _along(place, place)) / (
        2 * abc * length * length * length
    )
    apart = (mean * mean - gauss).clamp(min=0).sqrt()
    inner = _along(g, ray) > 0
    sign = torch.where(inner, -1.0, 1.0)
    normal = [sign * one / length for one in g]
    return normal, sign * mean + apart, sign * mean - apart


def _of_frustum(place: list[Tensor], size: Sequence[Tensor]) -> tuple[list[Tensor], Tensor]:
    """Outward normal and greater principal curvature; the other is 0.

    The side is a cone of radius r(z) = m + s z, whose normal is (x/r, y/r, -s) / sqrt(1 + s^2), and which bends by 1 / (r sqrt(1 + s^2))
    across its rulings.
    """
    low, high, half = size
    m, s = (low + high) / 2, (high - low) / (2 * half)
    z = place[2]
    radius = m + s * z
    across = (place[0] * place[0] + place[1] * place[1]).sqrt()
    end = (z.abs() - half).abs() < (across - radius).abs()
    stretch = (1 + s * s).sqrt()
    bend = 1 / (radius.clamp(min=1e-4) * stretch)
    scale = 1 / (across.clamp(min=1e-6) * stretch)
    normal = [
        torch.where(end, 0.0, place[0] * scale),
        torch.where(end, 0.0, place[1] * scale),
        torch.where(end, z.sign(), -s / stretch),
    ]
    return normal, torch.where(end, 0.0, bend)


def _colour(batch: Batch, hits: Hits, surface: _Surface, material: Tensor, seen: Tensor) -> Tensor:
    """(B, 3, S, S): what the sensor makes of the light that comes back.

    Matt surfaces (Lambert) with a gleam (Blinn's half vector, to the 64th power), lit by point lights that fall off by
    1 / (0.6 + 0.35 d^2), with shadows, and by an ambient light that is less in corners; then exposure, a soft shoulder, the gamma 2,
    and noise.
    """
    scenes = batch.scenes
    count = [len(scene.materials) for scene in scenes]
    size = seen.shape[-1]
    seeds = torch.tensor([scene.seed for scene in scenes], dtype=torch.int32)
    flat = material.flatten()
    rows = (
        table([one for scene in scenes for one in scene.materials])
        .index_select(1, flat)
        .view(-1, *material.shape)
    )
    own = torch.cat(
        [torch.arange(n, dtype=torch.int32) * 7919 + seed for n, seed in zip(count, seeds, strict=True)]
    )
    length = _along(hits.ray, hits.ray).sqrt()
    view = [-one / length for one in hits.ray]
    facing = _along(surface.normal, view)
    pitch = batch.tangent[:, None, None] * (2 / size)
    footprint = hits.depth * pitch / facing.clamp(min=0.25)
    colours, gloss, glow = look(rows, surface.u, surface.v, footprint, own[flat].view(material.shape))
    corner = _corners(batch, hits, surface)
    light = [torch.tensor([scene.ambient[c] for scene in scenes])[:, None, None] * corner for c in range(3)]
    shine = [torch.zeros_like(corner) for _ in range(3)]
    for number, lit in enumerate(hits.lit):
        place, strength = batch.lights[:, number, 0, :, None, None], batch.lights[:, number, 1, :, None, None]
        to_light = [place[:, k] - hits.point[k] for k in range(3)]
        square = _along(to_light, to_light)
        far = square.sqrt()
        cosine = _along(surface.normal, to_light) / far
        arrives = torch.where(lit, cosine.clamp(min=0), 0.0) / (0.6 + 0.35 * square)
        half = [to_light[k] / far + view[k] for k in range(3)]
        gleam = _along(surface.normal, half).clamp(min=0)
        gleam = gleam * gleam / _along(half, half)
        for _ in range(5):
            gleam = gleam * gleam
        gleam = torch.where(lit & (cosine > 0), gleam, 0.0) * gloss / (0.6 + 0.35 * square)
        for c in range(3):
            light[c] = light[c] + arrives * strength[:, c]
            shine[c] = shine[c] + gleam * strength[:, c]
    channels = []
    exposure = torch.tensor([scene.exposure for scene in scenes])[:, None, None]
    pixels = torch.arange(size, dtype=torch.int32)
    for c in range(3):
        sky = torch.tensor([scene.sky[c] for scene in scenes])[:, None, None] * (
            0.75 + 0.5 * (hits.ray[2] / length).clamp(-0.5, 1)
        )
        linear = torch.where(seen, colours[c] * (light[c] + glow) + shine[c], sky) * exposure
        display = (linear / (1 + 0.35 * linear)).clamp(0, 1).sqrt()
        noise = hashed(pixels[None, None], pixels[None, :, None], seeds[:, None, None] + c * 7919)
        channels.append((display + GRAIN * (noise - 0.5)).clamp(0, 1))
    return torch.stack(channels, 1)


def _corners(batch: Batch, hits: Hits, surface: _Surface) -> Tensor:
    """How much of the ambient light arrives: less near walls, floor and ceiling that a surface does not lie in."""
    arrives = torch.ones_like(hits.depth)
    for axis in range(3):
        beside = 0.45 * (1 - surface.normal[axis].abs())
        for end in (0.0, batch.room[:, axis, None, None]):
            away = (hits.point[axis] - end) / 0.3
            arrives = arrives * (1 - beside / (1 + away * away))
    return arrives
