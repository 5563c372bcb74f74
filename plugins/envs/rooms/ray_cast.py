"""Ray casting of rooms: what each pixel sees, exactly, and what is in the shade.

Every value is a chain of IEEE additions, products, quotients, square roots, comparisons and integer operations on single elements, no
reduction, convolution or transcendental function among them: a picture is the same bit for bit whatever else is rendered with it. Rays
are cast from the middles of the pixels and have length 1 along the optical axis, so that a ray's parameter is its depth. The picture is
cut into tiles; a solid is tried where the projection of the box around it meets a tile, and as a shadow where that box comes near the
lines between the tile's points and the light.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import attrs
import numpy as np
import torch
from torch import Tensor

from .scene import Scene

NEAR = 0.05
"""Nearest depth that is seen, in metres."""
FAR = 1e4
"""Depth of a ray that meets nothing."""
CLEARANCE = 2e-3
"""Share of the way from a light to a point within which nothing throws a shadow on it: the point's own surface is there."""


@attrs.frozen(eq=False)
class Batch:
    """Scenes as arrays: B scenes with N solids and M materials in all."""

    image: Tensor
    """(N,) int64: whose solid it is."""
    kind: Tensor
    centre: Tensor
    axes: Tensor
    """(N, 3, 3): the solid's own axes in rows."""
    size: Tensor
    reach: Tensor
    clip: Tensor
    tags: Tensor
    """(N, 3) int64: material, semantic class, object."""
    room: Tensor
    camera: Tensor
    """(B, 4, 3): centre, then right, up and forward, the first two times the tangent."""
    axes_of_camera: Tensor
    """(B, 3, 3), of length 1, in rows."""
    tangent: Tensor
    lights: Tensor
    """(B, 2, 2, 3): place and colour of each."""
    scenes: Sequence[Scene]
    walls: Tensor
    """(B,) int64: the first material of each scene."""


@attrs.frozen(eq=False)
class Hits:
    """What the pixels of B pictures see, all (B, S, S) or lists of it per axis in room coordinates."""

    depth: Tensor
    """Along the optical axis, in metres; `FAR` through a window."""
    ray: list[Tensor]
    point: list[Tensor]
    """What is seen, or where the window is."""
    solid: Tensor
    """int32, the number of the solid in the batch; -1 for the room itself."""
    surface: Tensor
    """int64, of the room: 0 to 3 the walls, 4 the floor, 5 the ceiling."""
    lit: list[Tensor]
    """bool, for each light: whether nothing is in between. Surfaces that face away may be lit here."""


def pack(scenes: Sequence[Scene]) -> Batch:
    """Scenes as arrays."""
    numbers: list[float] = []
    tags: list[int] = []
    first = 0
    walls, counts = [], []
    for scene in scenes:
        for one in scene.solids:
            numbers += (
                *one.centre,
                *one.axes[0],
                *one.axes[1],
                *one.axes[2],
                *one.size,
                *one.reach(),
                one.clip,
            )
            tags += (one.kind, first + one.material, one.semantic, one.object)
        walls.append(first)
        counts.append(len(scene.solids))
        first += len(scene.materials)
    table = torch.from_numpy(np.array(numbers, np.float32).reshape(-1, 19))
    marks = torch.from_numpy(np.array(tags, np.int64).reshape(-1, 4))
    cameras = [
        [
            scene.camera.centre,
            *([part * scene.camera.tangent for part in axis] for axis in scene.camera.axes[:2]),
            scene.camera.axes[2],
        ]
        for scene in scenes
    ]
    return Batch(
        torch.arange(len(scenes)).repeat_interleave(torch.tensor(counts)),
        marks[:, 0],
        table[:, 0:3],
        table[:, 3:12].reshape(-1, 3, 3),
        table[:, 12:15],
        table[:, 15:18],
        table[:, 18],
        marks[:, 1:],
        torch.tensor([scene.size for scene in scenes]),
        torch.tensor(cameras),
        torch.tensor([scene.camera.axes for scene in scenes]),
        torch.tensor([scene.camera.tangent for scene in scenes]),
        torch.tensor([[[light.place, light.colour] for light in scene.lights] for scene in scenes]),
        scenes,
        torch.tensor(walls),
    )


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """Products summed over the last axis of three, in one order."""
    return a[..., 0] * b[..., 0] + a[..., 1] * b[..., 1] + a[..., 2] * b[..., 2]


def _turn(axes: Tensor, vectors: Tensor) -> Tensor:
    """(N, 3, 3) rows times (N, 3): the vectors along the axes."""
    return torch.stack([_dot(axes[:, row], vectors) for row in range(3)], 1)


@attrs.frozen(eq=False)
class _Grid:
    """How pixels lie in tiles: T x T tiles of t x t pixels."""

    tiles: int
    side: int
    across: Tensor
    """(T, t) in (-1, 1): where the columns of pixels are."""


def cast(batch: Batch, size: int) -> Hits:
    """What the pixels of `size` x `size` pictures see, and what is in the shade."""
    side = 8 if size <= 64 or size % 16 else 16
    tiles = size // side
    grid = _Grid(tiles, side, ((torch.arange(size) + 0.5) / (size / 2) - 1).reshape(tiles, side))
    frames = _frames(batch)
    depth, solid = _see(batch, grid, frames)
    leave, ray, surface, window = _leave(batch, grid)
    inside = _joined(depth, grid) < leave
    depth = torch.where(inside, _joined(depth, grid), leave)
    solid = torch.where(inside, _joined(solid, grid), -1)
    camera = batch.camera[:, 0, :, None, None]
    point = [camera[:, axis] + depth * ray[axis] for axis in range(3)]
    others = _others(batch, grid, solid)
    lit = [_lit(batch, grid, frames, depth, point, others, number) for number in range(batch.lights.shape[1])]
    return Hits(torch.where(inside | ~window, depth, FAR), ray, point, solid, surface, lit)


def _frames(batch: Batch) -> tuple[Tensor, Tensor]:
    """The cameras in the frames of the solids: centre (N, 3), and (N, 3, 3) what a step right, up and forward is there."""
    camera = batch.camera[batch.image]
    origin = _turn(batch.axes, camera[:, 0] - batch.centre)
    steps = torch.stack([_turn(batch.axes, camera[:, 1 + axis]) for axis in range(3)], 2)
    return origin, steps


def _directions(steps: Tensor, grid: _Grid, row: Tensor, column: Tensor) -> list[Tensor]:
    """Rays of the pixels of some tiles in the frames of some solids, per axis (P, t, t). Both `row` and `column` are (P,)."""
    x, y = grid.across[column][:, None, :], -grid.across[row][:, :, None]
    return [
        steps[:, axis, 0, None, None] * x
        + (steps[:, axis, 1, None, None] * y + steps[:, axis, 2, None, None])
        for axis in range(3)
    ]


def _ranks(tile: Tensor) -> list[Tensor]:
    """Which pairs come first, second, ... in their tiles: each tile occurs at most once in an element. `tile` is sorted."""
    starts = torch.searchsorted(tile, tile)
    rank = torch.arange(len(tile)) - starts
    order = torch.argsort(rank, stable=True)
    return list(torch.split(order, torch.bincount(rank).tolist())) if len(tile) else []


def _joined(values: Tensor, grid: _Grid) -> Tensor:
    """(B T T, t, t) to (B, S, S)."""
    size = grid.tiles * grid.side
    return (
        values.reshape(-1, grid.tiles, grid.tiles, grid.side, grid.side)
        .transpose(2, 3)
        .reshape(-1, size, size)
    )


def _cut(values: Tensor, grid: _Grid) -> Tensor:
    """(B, S, S) to (B T T, t, t)."""
    return (
        values.reshape(-1, grid.tiles, grid.side, grid.tiles, grid.side)
        .transpose(2, 3)
        .reshape(-1, grid.side, grid.side)
    )


def _see(batch: Batch, grid: _Grid, frames: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Depth and number of the nearest solid, (B T T, t, t); -1 where there is none."""
    count = len(batch.scenes) * grid.tiles**2
    depth = torch.full((count, grid.side, grid.side), FAR)
    solid = torch.full((count, grid.side, grid.side), -1, dtype=torch.int32)
    origin, steps = frames
    near = _projected(batch, grid)
    for kind, meet in enumerate((_meet_box, _meet_ellipsoid, _meet_frustum)):
        tile, which, row, column = _pairs(batch, near & (batch.kind == kind)[:, None, None], grid)
        for some in _ranks(tile):
            number, where = which[some], tile[some]
            rays = _directions(steps[number], grid, row[some], column[some])
            found = meet([one[:, None, None] for one in origin[number].unbind(1)], rays, batch, number, NEAR)
            before = depth[where]
            nearer = found < before
            depth[where] = torch.where(nearer, found, before)
            solid[where] = torch.where(nearer, number.int()[:, None, None], solid[where])
    return depth, solid


def _pairs(batch: Batch, near: Tensor, grid: _Grid) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The pairs of a tile and a solid that `near` (N, T, T) says, sorted by tile, then solid: tile, solid, row, column."""
    which, row, column = near.nonzero(as_tuple=True)
    tile = (batch.image[which] * grid.tiles + row) * grid.tiles + column
    tile, order = torch.sort(tile, stable=True)
    return tile, which[order], row[order], column[order]


def _projected(batch: Batch, grid: _Grid) -> Tensor:
    """(N, T, T): whether the box around a solid may be seen in a tile."""
    signs = torch.tensor([[a, b, c] for a in (-1.0, 1.0) for b in (-1.0, 1.0) for c in (-1.0, 1.0)])
    offsets = signs[None] * batch.reach[:, None]  # (N, 8, 3) along the solid's axes
    corners = batch.centre[:, None] + sum(
        offsets[..., axis, None] * batch.axes[:, None, axis] for axis in range(3)
    )
    camera = batch.camera[batch.image]
    away = corners - camera[:, None, 0]
    z = _dot(away, camera[:, None, 3])
    tangent = batch.tangent[batch.image][:, None]
    across = [_dot(away, camera[:, None, 1 + axis]) / (tangent * tangent * z) for axis in range(2)]
    before = (z > NEAR).all(1)
    edges = torch.stack([grid.across[:, 0], grid.across[:, -1]], 1)
    slack = 1e-3
    low = [torch.where(before, one.amin(1), -2.0)[:, None] - slack for one in across]
    high = [torch.where(before, one.amax(1), 2.0)[:, None] + slack for one in across]
    columns = (low[0] <= edges[:, 1]) & (high[0] >= edges[:, 0])
    rows = (-high[1] <= edges[:, 1]) & (-low[1] >= edges[:, 0])
    return rows[:, :, None] & columns[:, None, :] & (z > NEAR).any(1)[:, None, None]


Meet = Callable[[list[Tensor], list[Tensor], Batch, Tensor, float], Tensor]


def _meet_box(origin: list[Tensor], ray: list[Tensor], batch: Batch, number: Tensor, near: float) -> Tensor:
    """Where rays enter boxes: by slabs (Kay and Kajiya, 1986). Rays that begin inside a box do not meet it."""
    lows, highs = [], []
    for axis in range(3):
        half = batch.size[number, axis][:, None, None]
        inverse = 1 / ray[axis]
        one, other = (-half - origin[axis]) * inverse, (half - origin[axis]) * inverse
        lows.append(torch.minimum(one, other))
        highs.append(torch.maximum(one, other))
    enter = torch.maximum(torch.maximum(lows[0], lows[1]), lows[2])
    leave = torch.minimum(torch.minimum(highs[0], highs[1]), highs[2])
    return torch.where((enter <= leave) & (enter > near), enter, FAR)


def _meet_ellipsoid(
    origin: list[Tensor], ray: list[Tensor], batch: Batch, number: Tensor, near: float
) -> Tensor:
    """Where rays meet ellipsoids, or bowls: the unit sphere after scaling."""
    inverse = [1 / batch.size[number, axis][:, None, None] for axis in range(3)]
    o = [inverse[axis] * origin[axis] for axis in range(3)]
    d = [inverse[axis] * ray[axis] for axis in range(3)]
    a = d[0] * d[0] + d[1] * d[1] + d[2] * d[2]
    b = o[0] * d[0] + o[1] * d[1] + o[2] * d[2]
    c = o[0] * o[0] + o[1] * o[1] + o[2] * o[2] - 1
    discriminant = b * b - a * c
    root = discriminant.clamp(min=0).sqrt()
    clip = batch.clip[number][:, None, None]
    first, second = (-b - root) / a, (root - b) / a
    outside = (first > near) & (o[2] + first * d[2] <= clip)
    inside = (second > near) & (o[2] + second * d[2] <= clip)
    found = torch.where(outside, first, torch.where(inside, second, FAR))
    return torch.where(discriminant >= 0, found, FAR)


def _meet_frustum(
    origin: list[Tensor], ray: list[Tensor], batch: Batch, number: Tensor, near: float
) -> Tensor:
    """Where rays meet frusta: x^2 + y^2 = (m + s z)^2 between two discs."""
    low, high, half = (one[:, None, None] for one in batch.size[number].unbind(1))
    m, s = (low + high) / 2, (high - low) / (2 * half)
    at_origin = m + s * origin[2]
    grows = s * ray[2]
    a = ray[0] * ray[0] + ray[1] * ray[1] - grows * grows
    b = origin[0] * ray[0] + origin[1] * ray[1] - at_origin * grows
    c = origin[0] * origin[0] + origin[1] * origin[1] - at_origin * at_origin
    discriminant = b * b - a * c
    root = discriminant.clamp(min=0).sqrt()
    found = torch.full_like(root, FAR)
    for side in ((-b - root) / a, (root - b) / a):
        z = origin[2] + side * ray[2]
        good = (discriminant >= 0) & (z.abs() <= half) & (side > near)
        found = torch.where(good & (side < found), side, found)
    upward = ray[2] > 0  # of the discs, only the one that faces the ray can be met first
    disc = (torch.where(upward, -half, half) - origin[2]) / ray[2]
    x, y = origin[0] + disc * ray[0], origin[1] + disc * ray[1]
    good = (x * x + y * y <= torch.where(upward, low * low, high * high)) & (disc > near) & (disc < found)
    return torch.where(good, disc, found)


def _others(batch: Batch, grid: _Grid, solid: Tensor) -> Tensor:
    """(N, T, T): False where a convex solid is all that a tile shows; it throws no shadow on its own lit side."""
    cut = _cut(solid, grid).flatten(1)
    low, high = (one.reshape(-1, grid.tiles, grid.tiles)[batch.image] for one in (cut.amin(1), cut.amax(1)))
    own = torch.arange(len(batch.kind))[:, None, None]
    return ~((low == own) & (high == own) & (batch.clip >= 1)[:, None, None])


def _lit(
    batch: Batch,
    grid: _Grid,
    frames: tuple[Tensor, Tensor],
    depth: Tensor,
    point: list[Tensor],
    others: Tensor,
    light: int,
) -> Tensor:
    """(B, S, S) bool: whether no solid is between the points and a light."""
    place = batch.lights[:, light, 0]
    lamp = _turn(batch.axes, place[batch.image] - batch.centre)  # (N, 3), in the frames of the solids
    cut = [_cut(one, grid).flatten(1) for one in point]
    low, high = torch.stack([one.amin(1) for one in cut], 1), torch.stack([one.amax(1) for one in cut], 1)
    near = others & _between(batch, grid, lamp, (low + high) / 2, (high - low) / 2)
    depths, (origin, steps) = _cut(depth, grid), frames
    lit = torch.ones(depths.shape, dtype=torch.bool)
    start = origin - lamp
    for kind, meet in enumerate((_meet_box, _meet_ellipsoid, _meet_frustum)):
        tile, which, row, column = _pairs(batch, near & (batch.kind == kind)[:, None, None], grid)
        for some in _ranks(tile):
            number, where = which[some], tile[some]
            far, rays = depths[where], _directions(steps[number], grid, row[some], column[some])
            rays = [one * far + start[number, axis, None, None] for axis, one in enumerate(rays)]
            found = meet(
                [one[:, None, None] for one in lamp[number].unbind(1)], rays, batch, number, CLEARANCE
            )
            lit[where] &= found > 1 - CLEARANCE
    return _joined(lit, grid)


def _between(batch: Batch, grid: _Grid, lamp: Tensor, middle: Tensor, half: Tensor) -> Tensor:
    """(N, T, T): whether the box around a solid comes near the lines from a light to the points of a tile.

    Args:
        batch: the scenes.
        grid: how the pictures are cut.
        lamp: (N, 3), the light in the frames of the solids.
        middle: (B T T, 3) of the box around a tile's points, in room coordinates.
        half: (B T T, 3), half its edges.
    """
    count = grid.tiles**2
    radius = _dot(half, half).sqrt().reshape(-1, count)[batch.image]
    away = middle.reshape(-1, count, 3)[batch.image] - batch.centre[:, None]
    enter, leave = torch.zeros_like(radius), torch.ones_like(radius)
    for axis in range(3):
        begin = lamp[:, axis, None]
        ray = _dot(away, batch.axes[:, None, axis]) - begin
        reach = batch.reach[:, axis, None] + radius + 1e-3
        inverse = 1 / ray
        one, other = (-reach - begin) * inverse, (reach - begin) * inverse
        enter, leave = (
            torch.maximum(enter, torch.minimum(one, other)),
            torch.minimum(leave, torch.maximum(one, other)),
        )
    return (enter <= leave).reshape(-1, grid.tiles, grid.tiles)


def _leave(batch: Batch, grid: _Grid) -> tuple[Tensor, list[Tensor], Tensor, Tensor]:
    """Where rays leave the rooms: depth, the rays per axis in room coordinates, the surface, and whether there is a window."""
    size = grid.tiles * grid.side
    x, y = grid.across.reshape(1, 1, size), -grid.across.reshape(1, size, 1)
    camera = batch.camera[:, :, :, None, None]
    ray = [camera[:, 1, axis] * x + (camera[:, 2, axis] * y + camera[:, 3, axis]) for axis in range(3)]
    depth = torch.full_like(ray[0], FAR)
    surface = torch.zeros(ray[0].shape, dtype=torch.int64)
    for axis in range(3):
        up = ray[axis] > 0
        end = torch.where(up, batch.room[:, axis, None, None], 0.0)
        leave = (end - camera[:, 0, axis]) / ray[axis]
        nearer = leave < depth
        depth, surface = (
            torch.where(nearer, leave, depth),
            torch.where(nearer, torch.where(up, 2 * axis + 1, 2 * axis), surface),
        )
    point = [camera[:, 0, axis] + depth * ray[axis] for axis in range(3)]
    open_ = torch.zeros(depth.shape, dtype=torch.bool)
    for number, scene in enumerate(batch.scenes):
        for window in scene.windows:
            along, height = point[1 if window.wall < 2 else 0][number], point[2][number]
            (left, right), (bottom, top) = window.span, window.heights
            there = (along > left) & (along < right) & (height > bottom) & (height < top)
            open_[number] |= there & (surface[number] == window.wall)
    return depth, ray, surface, open_
