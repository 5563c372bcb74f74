"""Ray casting of rooms: exact intersections of pixel rays and shadow rays with the solids.

Every value is a chain of elementwise IEEE additions, products, quotients, square roots, comparisons and
integer operations, without reductions, convolutions or transcendental functions: an image is bit-identical
whatever else is rendered in the batch. Rays pass through the pixel centres and have length 1 along the
optical axis, so a ray parameter is a depth. Images are divided into tiles. A solid is tested in the tiles
that the projection of its bounding box covers, and as a shadow caster where its bounding box is near the
segments from the tile's points to the light.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import attrs
import numpy as np
import torch
from torch import Tensor

from .scene import Scene
from .solids import BOX, ELLIPSOID, FRUSTUM

NEAR_PLANE = 0.05
"""Minimum depth of intersections, in metres."""
NO_HIT = 1e4
"""Depth of a ray without an intersection."""
SHADOW_BIAS = 2e-3
"""Fraction of a shadow ray, at both ends, in which intersections are ignored, to avoid self-shadowing."""


@attrs.frozen(eq=False)
class SceneBatch:
    """Arrays of B scenes with N solids and M materials in total."""

    scene: Tensor
    """(N,) int64: index of the scene of each solid."""
    kind: Tensor
    centre: Tensor
    axes: Tensor
    """(N, 3, 3): the axes of each solid, in rows."""
    size: Tensor
    half_extents: Tensor
    clip: Tensor
    tags: Tensor
    """(N, 3) int64: material, semantic class, object."""
    room_size: Tensor
    camera: Tensor
    """(B, 4, 3): centre, right, up and forward; right and up are scaled by `tan_half_fov`."""
    camera_axes: Tensor
    """(B, 3, 3), unit vectors in rows."""
    tan_half_fov: Tensor
    lights: Tensor
    """(B, 2, 2, 3): position and colour of each light."""
    scenes: Sequence[Scene]
    first_material: Tensor
    """(B,) int64: index of the first material of each scene, that of wall 0."""


@attrs.frozen(eq=False)
class Hits:
    """First hits of the pixel rays, (B, S, S) each; vectors are lists per axis in room coordinates."""

    depth: Tensor
    """Along the optical axis, in metres; `NO_HIT` in window openings."""
    ray: list[Tensor]
    point: list[Tensor]
    """The intersection, or the point in the window opening."""
    solid: Tensor
    """int32, index of the solid in the batch; -1 for the room itself."""
    surface: Tensor
    """int64, surface of the room: 0 to 3 the walls, 4 the floor, 5 the ceiling."""
    lit: list[Tensor]
    """bool, for each light: whether the shadow ray is free.

    Surfaces that face away from the light may be True.
    """


def pack_scenes(scenes: Sequence[Scene]) -> SceneBatch:
    """Pack scenes into arrays."""
    geometry: list[float] = []
    tags: list[int] = []
    first = 0
    first_materials, counts = [], []
    for scene in scenes:
        for solid in scene.solids:
            axes = (*solid.axes[0], *solid.axes[1], *solid.axes[2])
            geometry += (*solid.centre, *axes, *solid.size, *solid.half_extents(), solid.clip)
            tags += (solid.kind, first + solid.material, solid.semantic, solid.object)
        first_materials.append(first)
        counts.append(len(scene.solids))
        first += len(scene.materials)
    table = torch.from_numpy(np.array(geometry, np.float32).reshape(-1, 19))
    labels = torch.from_numpy(np.array(tags, np.int64).reshape(-1, 4))
    cameras = [
        [
            scene.camera.centre,
            *(
                [component * scene.camera.tan_half_fov for component in axis]
                for axis in scene.camera.axes[:2]
            ),
            scene.camera.axes[2],
        ]
        for scene in scenes
    ]
    return SceneBatch(
        torch.arange(len(scenes)).repeat_interleave(torch.tensor(counts)),
        labels[:, 0],
        table[:, 0:3],
        table[:, 3:12].reshape(-1, 3, 3),
        table[:, 12:15],
        table[:, 15:18],
        table[:, 18],
        labels[:, 1:],
        torch.tensor([scene.size for scene in scenes]),
        torch.tensor(cameras),
        torch.tensor([scene.camera.axes for scene in scenes]),
        torch.tensor([scene.camera.tan_half_fov for scene in scenes]),
        torch.tensor([[[light.position, light.colour] for light in scene.lights] for scene in scenes]),
        scenes,
        torch.tensor(first_materials),
    )


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """Dot product over the last axis (3,), in a fixed order of summation."""
    return a[..., 0] * b[..., 0] + a[..., 1] * b[..., 1] + a[..., 2] * b[..., 2]


def _rotate(axes: Tensor, vectors: Tensor) -> Tensor:
    """(N, 3, 3) times (N, 3): the coordinates of vectors along the axes."""
    return torch.stack([_dot(axes[:, row], vectors) for row in range(3)], 1)


@attrs.frozen(eq=False)
class _TileGrid:
    """Division of an image into T x T tiles of t x t pixels."""

    tiles: int
    side: int
    across: Tensor
    """(T, t) in (-1, 1): image coordinates of the pixel columns."""


def cast_rays(batch: SceneBatch, size: int) -> Hits:
    """Cast the pixel rays and shadow rays of `size` x `size` images."""
    side = 8 if size <= 64 or size % 16 else 16
    tiles = size // side
    grid = _TileGrid(tiles, side, ((torch.arange(size) + 0.5) / (size / 2) - 1).reshape(tiles, side))
    cameras = _local_cameras(batch)
    depth, solid = (_untile(values, grid) for values in _nearest_solids(batch, grid, cameras))
    room_depth, ray, surface, window = _intersect_room(batch, grid)
    hit = depth < room_depth
    depth = torch.where(hit, depth, room_depth)
    solid = torch.where(hit, solid, -1)
    camera = batch.camera[:, 0, :, None, None]
    point = [camera[:, axis] + depth * ray[axis] for axis in range(3)]
    occluders = _possible_occluders(batch, grid, solid)
    lit = [
        _unoccluded(batch, grid, cameras, depth, point, occluders, light)
        for light in range(batch.lights.shape[1])
    ]
    return Hits(torch.where(hit | ~window, depth, NO_HIT), ray, point, solid, surface, lit)


def _local_cameras(batch: SceneBatch) -> tuple[Tensor, Tensor]:
    """Camera centre (N, 3) and its vectors right, up, forward (N, 3, 3) in the local frames of the solids."""
    camera = batch.camera[batch.scene]
    origin = _rotate(batch.axes, camera[:, 0] - batch.centre)
    steps = torch.stack([_rotate(batch.axes, camera[:, 1 + axis]) for axis in range(3)], 2)
    return origin, steps


def _directions(steps: Tensor, grid: _TileGrid, row: Tensor, column: Tensor) -> list[Tensor]:
    """Pixel rays of P tiles in the frames of P solids, per axis (P, t, t); `row` and `column` are (P,)."""
    x, y = grid.across[column][:, None, :], -grid.across[row][:, :, None]
    return [
        steps[:, axis, 0, None, None] * x
        + (steps[:, axis, 1, None, None] * y + steps[:, axis, 2, None, None])
        for axis in range(3)
    ]


def _rounds(tile: Tensor) -> list[Tensor]:
    """Partition pairs into rounds in which each tile occurs at most once; `tile` is sorted."""
    starts = torch.searchsorted(tile, tile)
    rank = torch.arange(len(tile)) - starts
    order = torch.argsort(rank, stable=True)
    return list(torch.split(order, torch.bincount(rank).tolist())) if len(tile) else []


def _untile(values: Tensor, grid: _TileGrid) -> Tensor:
    """(B T T, t, t) to (B, S, S)."""
    size = grid.tiles * grid.side
    return (
        values.reshape(-1, grid.tiles, grid.tiles, grid.side, grid.side)
        .transpose(2, 3)
        .reshape(-1, size, size)
    )


def _tile(values: Tensor, grid: _TileGrid) -> Tensor:
    """(B, S, S) to (B T T, t, t)."""
    return (
        values.reshape(-1, grid.tiles, grid.side, grid.tiles, grid.side)
        .transpose(2, 3)
        .reshape(-1, grid.side, grid.side)
    )


def _nearest_solids(
    batch: SceneBatch, grid: _TileGrid, cameras: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor]:
    """Depth and index of the nearest solid, (B T T, t, t); -1 if there is none."""
    count = len(batch.scenes) * grid.tiles**2
    depth = torch.full((count, grid.side, grid.side), NO_HIT)
    solid = torch.full((count, grid.side, grid.side), -1, dtype=torch.int32)
    camera, steps = cameras
    covered = _covered_tiles(batch, grid)
    for kind, intersect in INTERSECTIONS.items():
        of_kind = (batch.kind == kind)[:, None, None]
        tiles, solids, rows, columns = _tile_solid_pairs(batch, covered & of_kind, grid)
        for pairs in _rounds(tiles):
            index, tile = solids[pairs], tiles[pairs]
            ray = _directions(steps[index], grid, rows[pairs], columns[pairs])
            origin = [component[:, None, None] for component in camera[index].unbind(1)]
            candidate = intersect(origin, ray, batch, index, NEAR_PLANE)
            nearest = depth[tile]
            nearer = candidate < nearest
            depth[tile] = torch.where(nearer, candidate, nearest)
            solid[tile] = torch.where(nearer, index.int()[:, None, None], solid[tile])
    return depth, solid


def _tile_solid_pairs(
    batch: SceneBatch, near: Tensor, grid: _TileGrid
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The pairs of tile and solid in `near` (N, T, T), sorted by both: tile, solid, row, column."""
    solid, row, column = near.nonzero(as_tuple=True)
    tile = (batch.scene[solid] * grid.tiles + row) * grid.tiles + column
    tile, order = torch.sort(tile, stable=True)
    return tile, solid[order], row[order], column[order]


def _covered_tiles(batch: SceneBatch, grid: _TileGrid) -> Tensor:
    """(N, T, T): whether the projected bounding box of a solid may cover part of a tile."""
    signs = torch.tensor([[a, b, c] for a in (-1.0, 1.0) for b in (-1.0, 1.0) for c in (-1.0, 1.0)])
    offsets = signs[None] * batch.half_extents[:, None]  # (N, 8, 3) along the solid's axes
    corners = batch.centre[:, None] + sum(
        offsets[..., axis, None] * batch.axes[:, None, axis] for axis in range(3)
    )
    camera = batch.camera[batch.scene]
    relative = corners - camera[:, None, 0]
    z = _dot(relative, camera[:, None, 3])
    tan = batch.tan_half_fov[batch.scene][:, None]
    projected = [_dot(relative, camera[:, None, 1 + axis]) / (tan * tan * z) for axis in range(2)]
    in_front = (z > NEAR_PLANE).all(1)
    edges = torch.stack([grid.across[:, 0], grid.across[:, -1]], 1)
    slack = 1e-3
    low = [torch.where(in_front, x.amin(1), -2.0)[:, None] - slack for x in projected]
    high = [torch.where(in_front, x.amax(1), 2.0)[:, None] + slack for x in projected]
    columns = (low[0] <= edges[:, 1]) & (high[0] >= edges[:, 0])
    rows = (-high[1] <= edges[:, 1]) & (-low[1] >= edges[:, 0])
    return rows[:, :, None] & columns[:, None, :] & (z > NEAR_PLANE).any(1)[:, None, None]


Intersect = Callable[[list[Tensor], list[Tensor], SceneBatch, Tensor, float], Tensor]
"""(origin, ray, batch, solids (P,), minimum depth) to depths (P, t, t); vectors are lists per axis."""


def _intersect_box(
    origin: list[Tensor], ray: list[Tensor], batch: SceneBatch, index: Tensor, near: float
) -> Tensor:
    """Entry depth of rays into boxes by the slab method (Kay and Kajiya, 1986); none for rays from inside."""
    lows, highs = [], []
    for axis in range(3):
        half = batch.size[index, axis][:, None, None]
        inverse = 1 / ray[axis]
        first, second = (-half - origin[axis]) * inverse, (half - origin[axis]) * inverse
        lows.append(torch.minimum(first, second))
        highs.append(torch.maximum(first, second))
    enter = torch.maximum(torch.maximum(lows[0], lows[1]), lows[2])
    leave = torch.minimum(torch.minimum(highs[0], highs[1]), highs[2])
    return torch.where((enter <= leave) & (enter > near), enter, NO_HIT)


def _intersect_ellipsoid(
    origin: list[Tensor], ray: list[Tensor], batch: SceneBatch, index: Tensor, near: float
) -> Tensor:
    """Depth of ray intersections with ellipsoids or bowls: the unit sphere after scaling."""
    inverse = [1 / batch.size[index, axis][:, None, None] for axis in range(3)]
    o = [inverse[axis] * origin[axis] for axis in range(3)]
    d = [inverse[axis] * ray[axis] for axis in range(3)]
    a = d[0] * d[0] + d[1] * d[1] + d[2] * d[2]
    b = o[0] * d[0] + o[1] * d[1] + o[2] * d[2]
    c = o[0] * o[0] + o[1] * o[1] + o[2] * o[2] - 1
    discriminant = b * b - a * c
    root = discriminant.clamp(min=0).sqrt()
    clip = batch.clip[index][:, None, None]
    first, second = (-b - root) / a, (root - b) / a
    outside = (first > near) & (o[2] + first * d[2] <= clip)
    inside = (second > near) & (o[2] + second * d[2] <= clip)
    nearest = torch.where(outside, first, torch.where(inside, second, NO_HIT))
    return torch.where(discriminant >= 0, nearest, NO_HIT)


def _intersect_frustum(
    origin: list[Tensor], ray: list[Tensor], batch: SceneBatch, index: Tensor, near: float
) -> Tensor:
    """Depth of ray intersections with frusta: x^2 + y^2 = (m + s z)^2 between two discs."""
    low, high, half = (radius[:, None, None] for radius in batch.size[index].unbind(1))
    m, s = (low + high) / 2, (high - low) / (2 * half)
    radius_at_origin = m + s * origin[2]
    slope = s * ray[2]
    a = ray[0] * ray[0] + ray[1] * ray[1] - slope * slope
    b = origin[0] * ray[0] + origin[1] * ray[1] - radius_at_origin * slope
    c = origin[0] * origin[0] + origin[1] * origin[1] - radius_at_origin * radius_at_origin
    discriminant = b * b - a * c
    root = discriminant.clamp(min=0).sqrt()
    nearest = torch.full_like(root, NO_HIT)
    for t in ((-b - root) / a, (root - b) / a):
        z = origin[2] + t * ray[2]
        valid = (discriminant >= 0) & (z.abs() <= half) & (t > near)
        nearest = torch.where(valid & (t < nearest), t, nearest)
    upward = ray[2] > 0  # only the disc that faces the ray can be the first intersection
    disc = (torch.where(upward, -half, half) - origin[2]) / ray[2]
    x, y = origin[0] + disc * ray[0], origin[1] + disc * ray[1]
    valid = (x * x + y * y <= torch.where(upward, low * low, high * high)) & (disc > near) & (disc < nearest)
    return torch.where(valid, disc, nearest)


INTERSECTIONS: Mapping[int, Intersect] = {
    BOX: _intersect_box,
    ELLIPSOID: _intersect_ellipsoid,
    FRUSTUM: _intersect_frustum,
}
"""Intersection function of each kind of solid."""


def _possible_occluders(batch: SceneBatch, grid: _TileGrid, solid: Tensor) -> Tensor:
    """(N, T, T): False where a tile shows a single convex solid, which casts no shadow on itself."""
    tiles = _tile(solid, grid).flatten(1)
    low, high = (
        extreme.reshape(-1, grid.tiles, grid.tiles)[batch.scene] for extreme in (tiles.amin(1), tiles.amax(1))
    )
    own = torch.arange(len(batch.kind))[:, None, None]
    return ~((low == own) & (high == own) & (batch.clip >= 1)[:, None, None])


def _unoccluded(
    batch: SceneBatch,
    grid: _TileGrid,
    cameras: tuple[Tensor, Tensor],
    depth: Tensor,
    point: list[Tensor],
    occluders: Tensor,
    light: int,
) -> Tensor:
    """(B, S, S) bool: whether the segment from each point to a light is free."""
    position = batch.lights[:, light, 0]
    local_light = _rotate(batch.axes, position[batch.scene] - batch.centre)  # (N, 3), in the solids' frames
    tiles = [_tile(component, grid).flatten(1) for component in point]
    low = torch.stack([component.amin(1) for component in tiles], 1)
    high = torch.stack([component.amax(1) for component in tiles], 1)
    near = occluders & _near_shadow_rays(batch, grid, local_light, (low + high) / 2, (high - low) / 2)
    depths, (camera, steps) = _tile(depth, grid), cameras
    lit = torch.ones(depths.shape, dtype=torch.bool)
    offset = camera - local_light
    for kind, intersect in INTERSECTIONS.items():
        of_kind = (batch.kind == kind)[:, None, None]
        tiles_of_pairs, solids, rows, columns = _tile_solid_pairs(batch, near & of_kind, grid)
        for pairs in _rounds(tiles_of_pairs):
            index, tile = solids[pairs], tiles_of_pairs[pairs]
            view = _directions(steps[index], grid, rows[pairs], columns[pairs])
            # from the light to the points, so that 1 is the ray parameter of the point
            ray = [x * depths[tile] + offset[index, axis, None, None] for axis, x in enumerate(view)]
            origin = [component[:, None, None] for component in local_light[index].unbind(1)]
            lit[tile] &= intersect(origin, ray, batch, index, SHADOW_BIAS) > 1 - SHADOW_BIAS
    return _untile(lit, grid)


def _near_shadow_rays(
    batch: SceneBatch, grid: _TileGrid, light: Tensor, centre: Tensor, half: Tensor
) -> Tensor:
    """(N, T, T): whether the bounding box of a solid is near the segments from a light to the points of a
    tile.

    Args:
        batch: the scenes.
        grid: division of the images.
        light: (N, 3), position of the light in the local frames of the solids.
        centre: (B T T, 3), centre of the bounding box of a tile's points, in room coordinates.
        half: (B T T, 3), its half extents.
    """
    count = grid.tiles**2
    radius = _dot(half, half).sqrt().reshape(-1, count)[batch.scene]
    relative = centre.reshape(-1, count, 3)[batch.scene] - batch.centre[:, None]
    enter, leave = torch.zeros_like(radius), torch.ones_like(radius)
    for axis in range(3):
        origin = light[:, axis, None]
        ray = _dot(relative, batch.axes[:, None, axis]) - origin
        extent = batch.half_extents[:, axis, None] + radius + 1e-3
        inverse = 1 / ray
        first, second = (-extent - origin) * inverse, (extent - origin) * inverse
        enter = torch.maximum(enter, torch.minimum(first, second))
        leave = torch.minimum(leave, torch.maximum(first, second))
    return (enter <= leave).reshape(-1, grid.tiles, grid.tiles)


def _intersect_room(batch: SceneBatch, grid: _TileGrid) -> tuple[Tensor, list[Tensor], Tensor, Tensor]:
    """Room intersections: depth, rays per axis in room coordinates, surface, whether it is a window."""
    size = grid.tiles * grid.side
    x, y = grid.across.reshape(1, 1, size), -grid.across.reshape(1, size, 1)
    camera = batch.camera[:, :, :, None, None]
    ray = [camera[:, 1, axis] * x + (camera[:, 2, axis] * y + camera[:, 3, axis]) for axis in range(3)]
    depth = torch.full_like(ray[0], NO_HIT)
    surface = torch.zeros(ray[0].shape, dtype=torch.int64)
    for axis in range(3):
        up = ray[axis] > 0
        end = torch.where(up, batch.room_size[:, axis, None, None], 0.0)
        leave = (end - camera[:, 0, axis]) / ray[axis]
        nearer = leave < depth
        depth = torch.where(nearer, leave, depth)
        surface = torch.where(nearer, torch.where(up, 2 * axis + 1, 2 * axis), surface)
    point = [camera[:, 0, axis] + depth * ray[axis] for axis in range(3)]
    in_window = torch.zeros(depth.shape, dtype=torch.bool)
    for index, scene in enumerate(batch.scenes):
        for window in scene.windows:
            along, height = point[1 if window.wall < 2 else 0][index], point[2][index]
            (left, right), (bottom, top) = window.span, window.heights
            inside = (along > left) & (along < right) & (height > bottom) & (height < top)
            in_window[index] |= inside & (surface[index] == window.wall)
    return depth, ray, surface, in_window
