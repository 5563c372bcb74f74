from __future__ import annotations

import numpy as np

from sidetune_core.interfaces.predictions import MapPrediction
from sidetune_core.serving.map_images import draw_map


def test_one_channel_is_drawn_from_black_to_white() -> None:
    values = np.array([[[1.0, 2.0], [3.0, 1.5]]], np.float32)
    assert draw_map(MapPrediction(values, "m"))[..., 0].tolist() == [[0, 128], [255, 64]]


def test_a_constant_map_is_black() -> None:
    assert not draw_map(MapPrediction(np.full((1, 2, 2), 7.0, np.float32), "m")).any()


def test_three_channels_are_colours() -> None:
    values = np.array([-1.0, 0.0, 1.0], np.float32)[:, None, None]
    assert draw_map(MapPrediction(values)).tolist() == [[[0, 128, 255]]]


def test_each_class_has_a_colour_of_its_own() -> None:
    probabilities = np.eye(18, dtype=np.float32)[:, None]
    colours = draw_map(MapPrediction(probabilities, "probability"))
    assert len(np.unique(colours.reshape(-1, 3), axis=0)) == 18
