"""Labels out of depth, against what is known of planes, balls, cylinders and steps."""

from __future__ import annotations

from math import radians

import pytest
import torch
from sidetune_plugins.envs.dense.geometry import (
    Camera,
    along_axis,
    euclidean,
    keypoints,
    normals,
    occlusion_edges,
    points,
    principal_curvature,
    reshading,
    smooth,
    texture_edges,
    valid_depth,
)
from torch import Tensor

SIZE = 64
CAMERA = Camera.from_fov(radians(60), SIZE, SIZE)
INNER = slice(2, -2)


def plane(normal: Tensor, distance: float) -> Tensor:
    """Depth (1, H, W) of the plane with a unit normal that faces the camera, at a distance from it."""
    return (-distance / (normal.view(3, 1, 1) * CAMERA.rays(SIZE, SIZE).double()).sum(0))[None]


def ball(radius: float, away: float, axes: tuple[int, ...] = (0, 1, 2)) -> Tensor:
    """Depth (1, H, W) of a ball in front of the camera, or of a cylinder with two `axes` only; 0 outside."""
    rays = CAMERA.rays(SIZE, SIZE).double()[list(axes)]
    a, b = rays.square().sum(0), -2 * rays[-1] * away
    root = b.square() - 4 * a * (away**2 - radius**2)
    return torch.where(root > 0, (-b - root.clamp(min=0).sqrt()) / (2 * a), 0.0)[None]


@pytest.mark.parametrize("direction", [(0.0, 0.0, -1.0), (0.5, 0.2, -1.0), (-0.4, 0.3, -0.8)])
@pytest.mark.parametrize("radius", [1, 2])
def test_a_plane_has_its_normal_everywhere(direction: tuple[float, ...], radius: int) -> None:
    normal = torch.nn.functional.normalize(torch.tensor(direction).double(), dim=0)
    found, valid = normals(plane(normal, 3.0), CAMERA, radius)
    assert valid.all()
    torch.testing.assert_close(found, normal.view(1, 3, 1, 1).expand_as(found), rtol=0, atol=1e-5)


def test_a_ball_has_the_normals_that_lead_away_from_its_middle() -> None:
    depth = ball(1.0, 3.0)
    found, valid = normals(depth, CAMERA)
    middle = torch.tensor([0.0, 0.0, 3.0]).double().view(1, 3, 1, 1)
    outward = points(depth, CAMERA) - middle
    steep = (outward[:, 2] < -0.8) & (depth > 0)  # beside its rim
    assert valid[steep].all()
    assert float((found - outward).norm(dim=1)[steep].max()) < 0.02
    assert not valid[depth == 0].any()


def test_a_ball_is_curved_by_one_over_its_radius_both_ways() -> None:
    depth = ball(1.25, 3.0)
    found, valid = principal_curvature(depth, CAMERA)
    near = (points(depth, CAMERA)[:, 2] < 1.9) & (depth > 0)
    assert valid[near].all()
    torch.testing.assert_close(
        found.permute(0, 2, 3, 1)[near], torch.full((int(near.sum()), 2), 0.8).double(), rtol=0.03, atol=0
    )


def test_a_cylinder_is_curved_one_way_and_a_hollow_one_the_other_way() -> None:
    upright = ball(1.0, 3.0, (0, 2))
    near = (upright > 0) & (upright < 2.1)
    near[:, :4] = near[:, -4:] = False
    found, valid = principal_curvature(upright, CAMERA)
    assert valid[near].all()
    torch.testing.assert_close(found[:, 0][near], torch.ones(int(near.sum())).double(), rtol=0.03, atol=0)
    assert float(found[:, 1][near].abs().max()) < 0.02
    rays = CAMERA.rays(SIZE, SIZE).double()
    hollow = (2.0 / rays[[0, 2]].norm(dim=0))[None]  # a cylinder around the camera
    found, valid = principal_curvature(hollow, CAMERA)
    assert valid[:, INNER, INNER].all()
    assert float((found[:, 1, INNER, INNER] + 0.5).abs().max()) < 0.01


def test_a_plane_is_not_curved_and_has_no_edges() -> None:
    depth = plane(torch.nn.functional.normalize(torch.tensor([0.5, 0.2, -1.0]).double(), dim=0), 3.0)
    curvature, valid = principal_curvature(depth, CAMERA)
    assert valid[:, INNER, INNER].all()
    assert float(curvature.abs().max()) < 1e-4
    assert float(occlusion_edges(depth).max()) < 1e-6


def test_a_step_has_an_edge_of_its_height_on_both_sides_and_none_elsewhere() -> None:
    depth = torch.full((1, SIZE, SIZE), 2.0)
    depth[:, :, 32:] = 4.0
    edges = occlusion_edges(depth)[0, 1:-1]
    torch.testing.assert_close(edges[:, 31], torch.full((SIZE - 2,), 0.5))
    torch.testing.assert_close(edges[:, 32], torch.full((SIZE - 2,), 1.0))
    assert int((edges > 0).sum()) == 2 * (SIZE - 2)


def test_normals_do_not_reach_over_a_step() -> None:
    depth = torch.full((1, SIZE, SIZE), 2.0)
    depth[:, :, 32:] = 4.0
    found, valid = normals(depth, CAMERA, radius=2)
    assert valid.all()
    torch.testing.assert_close(found[:, 2], torch.full((1, SIZE, SIZE), -1.0))


def test_what_was_not_measured_is_told_and_spoils_nothing() -> None:
    depth = torch.full((1, SIZE, SIZE), 2.0)
    depth[0, 10, 10], depth[0, 20, 20], depth[0, 30, 30] = 0.0, float("nan"), float("inf")
    assert int((~valid_depth(depth)).sum()) == 3
    for found, valid in (normals(depth, CAMERA), principal_curvature(depth, CAMERA)):
        assert found.isfinite().all()
        assert not valid[0, 10, 10]
        assert valid[0, 40, 40]
    assert float(occlusion_edges(depth).max()) == 0


def test_distance_and_depth_are_each_others_reverse() -> None:
    depth = 1 + torch.rand(2, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    distance = euclidean(depth, CAMERA)
    torch.testing.assert_close(distance, points(depth, CAMERA).norm(dim=1))
    torch.testing.assert_close(along_axis(distance, CAMERA), depth)


def test_a_camera_goes_with_its_images() -> None:
    rays = CAMERA.rays(SIZE, SIZE)
    torch.testing.assert_close(CAMERA.cropped(8, 16).rays(16, 16), rays[:, 8:24, 16:32])
    halved = CAMERA.resized(0.5).rays(SIZE // 2, SIZE // 2)
    torch.testing.assert_close(halved, torch.nn.functional.avg_pool2d(rays, 2))
    assert float(CAMERA.rays(SIZE, SIZE)[0, 0, -1]) == pytest.approx((31.5 / 32) * 3**-0.5)


def test_a_wall_is_brightest_where_it_is_seen_straight_on() -> None:
    depth = torch.full((1, SIZE, SIZE), 2.0)
    shade = reshading(depth, normals(depth, CAMERA)[0], CAMERA)
    torch.testing.assert_close(shade[0], 1 / CAMERA.rays(SIZE, SIZE).norm(dim=0))


def test_a_ramp_of_grey_has_its_slope_as_texture_edge() -> None:
    ramp = torch.linspace(0, 1, SIZE).expand(1, 3, SIZE, SIZE)
    edges = texture_edges(ramp)
    torch.testing.assert_close(
        edges[:, :, 8:-8], torch.full((1, SIZE, SIZE - 16), 1 / (SIZE - 1)), rtol=1e-4, atol=0
    )


def test_a_gaussian_blob_is_a_keypoint_in_its_middle_and_a_stripe_is_none() -> None:
    grid = torch.arange(SIZE).double() - 32
    bump = torch.exp(-grid.square() / 32)
    blob = (bump[:, None] * bump)[None, None]
    response = keypoints(blob, sigma=2)[0]
    assert divmod(int(response.argmax()), SIZE) == (32, 32)
    curve = (
        16 / 20
    ) / 20  # smoothed with variance 4, a blob of variance 16 is lower, and of variance 20, at its middle
    assert float(response[32, 32]) == pytest.approx(16 * curve**2, rel=0.1)
    assert float(keypoints(bump.expand(1, 1, SIZE, SIZE), sigma=2)[:, 10:-10].max()) < 1e-6


def test_smoothing_keeps_what_is_constant() -> None:
    torch.testing.assert_close(smooth(torch.ones(1, 2, 20, 30), 3.0), torch.ones(1, 2, 20, 30))
