"""Rooms: rays against closed forms, labels against geometry, pictures against themselves."""

from __future__ import annotations

import math
from collections.abc import Sequence

import attrs
import numpy as np
import pytest
import torch
from sidetune_plugins.envs.dense.geometry import Camera as Pinhole
from sidetune_plugins.envs.dense.geometry import normals, principal_curvature
from sidetune_plugins.envs.dense.task import SEMANTIC
from sidetune_plugins.envs.rooms import ray_cast
from sidetune_plugins.envs.rooms.labels import INDOORS, TASKONOMY, make_labels
from sidetune_plugins.envs.rooms.ray_cast import cast_rays, pack_scenes
from sidetune_plugins.envs.rooms.scene import KINDS, Camera, Light, Scene, Window, sample_scene
from sidetune_plugins.envs.rooms.shading import Views, render
from sidetune_plugins.envs.rooms.solids import (
    BOX,
    ELLIPSOID,
    FRUSTUM,
    Material,
    Solid,
    Vector,
    solid_axes,
)
from torch import Tensor

SIZE = 64
AHEAD = Camera((5.0, 1.0, 1.5), ((1.0, 0.0, 0.0), (0.0, 0.0, 1.0), (0.0, 1.0, 0.0)), 0.5)
"""At (5, 1, 1.5), looking along y; the far wall is 7 m away."""
DIM = Light((5.0, 1.0, 2.9), (1.0, 1.0, 1.0))


def solid(
    kind: int, centre: Vector, size: Vector, clip: float = 2.0, yaw: float = 0.0, orientation: str = "upright"
) -> Solid:
    return Solid(kind, centre, solid_axes(yaw, orientation), size, clip, 6, 2, 907)  # type: ignore[arg-type]


def scene(
    *solids: Solid,
    windows: Sequence[Window] = (),
    lights: tuple[Light, Light] = (DIM, DIM),
    camera: Camera = AHEAD,
) -> Scene:
    """A room of 10 x 8 x 3 m with some solids in it."""
    far_away = solid(BOX, (0.1, 0.1, 0.1), (0.01, 0.01, 0.01))  # behind the camera
    material = Material((0.5, 0.5, 0.5))
    return Scene(
        0,
        (10.0, 8.0, 3.0),
        (far_away, *solids),
        (material,) * 7,
        tuple(windows),
        (1.0, 1.0, 1.0),
        lights,
        (0.3, 0.3, 0.3),
        1.0,
        camera,
        1,
    )


def rays(size: int = SIZE) -> Tensor:
    """(3, S, S): right, up, forward."""
    across = ((torch.arange(size) + 0.5) / (size / 2) - 1) * 0.5
    return torch.stack(
        [across.expand(size, size), -across[:, None].expand(size, size), torch.ones(size, size)]
    )


def points(views: Views) -> Tensor:
    """(3, S, S): what is seen, in room coordinates, for the camera `AHEAD`."""
    right, up, forward = rays(views.depth.shape[-1]) * views.depth[0]
    return torch.stack([5 + right, 1 + forward, 1.5 + up])


def test_a_wall_has_one_depth_and_distances_of_its_own() -> None:
    views = render([scene()], SIZE)
    wall = (rays()[1].abs() * 7 < 1.4) & (rays()[0].abs() * 7 < 4.9)
    torch.testing.assert_close(views.depth[0][wall], torch.full((int(wall.sum()),), 7.0))
    assert torch.equal(
        views.normal[0][:, wall], torch.tensor([0.0, 0.0, 1.0])[:, None].expand(-1, int(wall.sum()))
    )
    assert float(views.curvature.abs().max()) == 0
    stored = make_labels([scene()], views, TASKONOMY)
    assert set(stored["depth_zbuffer"][0, 0].int()[wall].tolist()) == {7 * 512}
    distance = 7 * 512 * rays().square().sum(0).sqrt()
    torch.testing.assert_close(
        stored["depth_euclidean"][0, 0].float()[wall], distance[wall].round(), atol=1, rtol=0
    )
    floor = rays()[1] * 7 < -1.6
    torch.testing.assert_close(views.depth[0][floor], (1.5 / -rays()[1])[floor])
    assert torch.equal(views.normal[0][1][floor], torch.ones(int(floor.sum())))


def test_a_ball_is_seen_where_its_cone_is_and_bends_by_one_over_its_radius() -> None:
    centre, radius = torch.tensor([5.3, 3.0, 1.4]), 0.4
    views = render([scene(solid(ELLIPSOID, (5.3, 3.0, 1.4), (0.4, 0.4, 0.4), yaw=0.7))], SIZE)
    axis = torch.nn.functional.normalize(torch.tensor([0.3, -0.1, 2.0]), dim=0)
    cosine = (torch.nn.functional.normalize(rays(), dim=0) * axis[:, None, None]).sum(0)
    inside = cosine > math.cos(math.asin(radius / math.sqrt(0.09 + 0.01 + 4)))
    assert torch.equal(views.semantic[0] == 2, inside)
    away = (points(views) - centre[:, None, None])[:, inside]
    torch.testing.assert_close(away.norm(dim=0), torch.full((int(inside.sum()),), radius), atol=1e-4, rtol=0)
    outward = torch.stack([away[0], away[2], -away[1]]) / radius
    torch.testing.assert_close(views.normal[0][:, inside], outward, atol=2e-3, rtol=0)
    torch.testing.assert_close(
        views.curvature[0][:, inside], torch.full((2, int(inside.sum())), 2.5), atol=1e-2, rtol=0
    )


def test_the_inside_of_a_bowl_bends_the_other_way() -> None:
    tilted = attrs.evolve(AHEAD, axes=((1.0, 0.0, 0.0), (0.0, 0.6, 0.8), (0.0, 0.8, -0.6)))
    views = render([scene(solid(ELLIPSOID, (5.0, 2.6, 0.3), (0.3, 0.3, 0.3), clip=0.0), camera=tilted)], SIZE)
    curvature = views.curvature[0][:, views.semantic[0] == 2]
    hollow = curvature[0] < 0
    torch.testing.assert_close(curvature.abs(), torch.full_like(curvature, 1 / 0.3), atol=0.02, rtol=0)
    assert 0.3 < float(hollow.float().mean()) < 0.95
    assert (
        float((views.normal[0] * rays()[[0, 1, 2]] * torch.tensor([1, 1, -1])[:, None, None]).sum(0).max())
        <= 1e-3
    )


@pytest.mark.parametrize("orientation", ["upright", "along x", "along y"])
def test_a_cylinder_bends_one_way(orientation: str) -> None:
    views = render(
        [scene(solid(FRUSTUM, (5.2, 3.0, 1.4), (0.25, 0.25, 0.4), yaw=0.3, orientation=orientation))], SIZE
    )
    x, y, z = points(views)[:, views.semantic[0] == 2] - torch.tensor([5.2, 3.0, 1.4])[:, None]
    across, along = math.cos(0.3) * x + math.sin(0.3) * y, -math.sin(0.3) * x + math.cos(0.3) * y
    axis, one, other = {
        "upright": (z, across, along),
        "along x": (across, along, z),
        "along y": (along, z, across),
    }[orientation]
    curvature = views.curvature[0][:, views.semantic[0] == 2]
    side = curvature[0] > 0
    assert side.any()
    torch.testing.assert_close(
        (one * one + other * other).sqrt()[side], torch.full((int(side.sum()),), 0.25), atol=1e-4, rtol=0
    )
    torch.testing.assert_close(
        curvature[:, side], torch.tensor([4.0, 0.0])[:, None].expand(-1, int(side.sum())), atol=1e-2, rtol=0
    )
    assert float((axis[~side].abs() - 0.4).abs().sum()) < 1e-3


@pytest.mark.parametrize(
    "shape",
    [
        solid(ELLIPSOID, (5.0, 2.6, 1.5), (0.5, 0.35, 0.25), yaw=0.5),
        solid(FRUSTUM, (5.0, 2.6, 1.5), (0.5, 0.25, 0.5)),
        solid(ELLIPSOID, (5.0, 3.0, 1.9), (0.7, 1.4, 0.6), clip=-0.5),
    ],
    ids=["ellipsoid", "cone", "bowl"],
)
def test_normals_and_curvatures_are_those_of_the_depth_map(shape: Solid) -> None:
    """Finite differences over depth know nothing of the closed forms."""
    size = 256
    views = render([scene(shape)], size)
    depth, pinhole = views.depth.double(), Pinhole.from_fov(2 * math.atan(0.5), size, size)
    found, known = normals(depth, pinhole)
    curvature, bent = principal_curvature(depth, pinhole, radius=3)
    inner = torch.nn.functional.max_pool2d((views.semantic != 2).float(), 13, 1, 6) == 0
    facing = (
        views.normal[0]
        * torch.nn.functional.normalize(rays(size) * torch.tensor([-1, -1, 1])[:, None, None], dim=0)
    ).sum(0) > 0.4
    seen = (known & bent & inner)[0] & facing
    assert int(seen.sum()) > 2000
    downward = views.normal[0] * torch.tensor([1, -1, -1])[:, None, None]  # x right, y down, z away
    assert float((found[0] - downward)[:, seen].abs().quantile(0.99)) < 0.02
    error = (curvature[0] - views.curvature[0])[:, seen].abs()
    assert float(error.median()) < 0.03
    assert float(error.flatten()[::4].quantile(0.98)) < 0.15 * float(views.curvature[0][:, seen].abs().max())


def test_a_box_before_a_wall_has_its_edge_where_it_ends() -> None:
    box = solid(
        BOX, (5.0, 3.0, 1.5), (0.5, 0.1, 3.0)
    )  # its front is 1.9 m away, and 0.5 / 1.9 / 0.5 * 32 = 16.8 pixels to each side
    views = render([scene(box)], SIZE)
    row = views.depth[0, 31]
    assert torch.equal((row < 2).nonzero()[:, 0], torch.arange(15, 49))
    edges = make_labels([scene(box)], views, INDOORS)["edge_occlusion"][0, 0, 31].float()
    assert edges.nonzero()[:, 0].tolist() == [14, 15, 48, 49]
    torch.testing.assert_close(
        edges[15], torch.tensor(65535 * 2 * (1 - 1.9 / 7)).clamp(max=65535), atol=200, rtol=0
    )


def test_a_shadow_is_the_projection_of_what_throws_it() -> None:
    lamp = Light((5.0, 4.0, 2.5), (1.0, 1.0, 1.0))
    board = solid(BOX, (5.0, 4.0, 1.5), (0.4, 0.3, 0.001))
    made = scene(
        board, lights=(lamp, lamp), camera=attrs.evolve(AHEAD, centre=(5.0, 1.0, 1.0), tan_half_fov=0.8)
    )
    hits = cast_rays(pack_scenes([made]), 128)
    x, y, z = (one[0] for one in hits.point)
    floor = (z.abs() < 1e-4) & (hits.solid[0] < 0)
    grow = 2.5 / 1.0
    dark = ((x - 5).abs() < 0.4 * grow) & ((y - 4).abs() < 0.3 * grow)
    border = (((x - 5).abs() - 0.4 * grow).abs() < 0.01) | (((y - 4).abs() - 0.3 * grow).abs() < 0.01)
    assert int((dark & floor).sum()) > 100
    assert torch.equal(~hits.lit[0][0][floor & ~border], dark[floor & ~border])


def test_nothing_is_known_through_a_window() -> None:
    window = Window(3, (4.0, 6.0), (1.0, 2.0))
    views = render([scene(windows=[window])], SIZE)
    x, z = 5 + 7 * rays()[0], 1.5 + 7 * rays()[1]
    opening = ((x - 5).abs() < 1) & ((z - 1.5).abs() < 0.5)
    assert torch.equal(~views.valid[0], opening)
    stored = make_labels([scene(windows=[window])], views, TASKONOMY)
    for name in ("depth_zbuffer", "depth_euclidean"):
        assert set(stored[name][0, 0].int()[opening].tolist()) == {65535}
        assert int(stored[name][0, 0].int()[~opening].max()) < 65535
    assert torch.equal(stored["segment_semantic"][0] == 0, opening)
    assert torch.equal(stored["mask"][0, 0] == 0, opening)
    assert stored["curvature"].unique().tolist() == [127]


def test_what_is_nearest_hides_the_rest_whatever_the_order() -> None:
    near = solid(BOX, (5.0, 2.0, 1.5), (0.2, 0.2, 0.2))
    far = attrs.evolve(solid(ELLIPSOID, (5.0, 3.5, 1.5), (0.9, 0.9, 0.9)), semantic=3)
    one, other = render([scene(near, far)], SIZE), render([scene(far, near)], SIZE)
    for field in attrs.fields(Views):
        assert torch.equal(getattr(one, field.name), getattr(other, field.name))
    assert {2, 3} <= set(one.semantic.unique().tolist())
    assert int(one.semantic[0, 32, 32]) == 2


def test_tiles_leave_nothing_out(monkeypatch: pytest.MonkeyPatch) -> None:
    scenes = [sample_scene(5, index) for index in range(8)]
    before = render(scenes, SIZE)

    def everywhere(batch: ray_cast.SceneBatch, grid: ray_cast._TileGrid, *_: object) -> Tensor:
        return torch.ones(len(batch.kind), grid.tiles, grid.tiles, dtype=torch.bool)

    for name in ("_covered_tiles", "_near_shadow_rays"):
        monkeypatch.setattr(ray_cast, name, everywhere)
    after = render(scenes, SIZE)
    for field in attrs.fields(Views):
        assert torch.equal(getattr(before, field.name), getattr(after, field.name)), field.name


def test_a_room_is_the_same_whatever_else_is_rendered() -> None:
    indices = [
        3,
        1,
        40,
        8,
        22,
        17,
        9,
        30,
        12,
        2,
        5,
        6,
        7,
        11,
        19,
        20,
        33,
        3,
    ]  # more than are rendered at once
    scenes = [sample_scene(0, index) for index in indices]
    together = make_labels(scenes, render(scenes, SIZE), INDOORS)
    for place in (0, 4, 16, 17):
        alone = make_labels([scenes[place]], render([sample_scene(0, indices[place])], SIZE), INDOORS)
        for name, values in alone.items():
            assert np.array_equal(together[name][place].numpy(), values[0].numpy()), name
    assert sample_scene(0, 3) == scenes[0]
    assert sample_scene(1, 3) != scenes[0]


def test_rooms_have_all_classes_and_cameras_that_stand_free() -> None:
    scenes = [sample_scene(2, index) for index in range(128)]
    assert {scene.kind for scene in scenes} == set(range(len(KINDS)))
    views = render(scenes, 32)
    assert set(views.semantic.unique().tolist()) == set(range(len(SEMANTIC)))
    assert views.rgb.isfinite().all()
    assert float((views.rgb.amin((1, 2, 3)) < 0.5).float().mean()) == 1
    assert float(views.depth.flatten(1).median(1).values.min()) > 0.2
    lengths = views.normal.norm(dim=1)[views.valid]
    torch.testing.assert_close(lengths, torch.ones_like(lengths), atol=1e-3, rtol=0)
    facing = views.normal[:, 2] - views.normal[:, 0] * views.rays()[0] - views.normal[:, 1] * views.rays()[1]
    assert float(facing[views.valid].min()) > -1e-3


def test_a_size_that_no_tile_divides_is_refused() -> None:
    with pytest.raises(ValueError, match="multiple of 8"):
        render([scene()], 60)
