"""Images of predicted maps, to look at them."""

from __future__ import annotations

import colorsys

import numpy as np
from numpy.typing import NDArray

from sidetune_core.interfaces.predictions import MapPrediction

HUE_STEP = 0.618
"""Between the colours of two classes: the golden ratio spreads any number of them."""


def draw_map(prediction: MapPrediction) -> NDArray[np.uint8]:
    """A map as an image (H, W, 3).

    Probabilities of classes become a colour for the most probable one; three channels in [-1, 1] become
    colours; of other maps, the first channel is drawn from black at its minimum to white at its maximum.
    """
    values = prediction.values.astype(np.float64)
    if prediction.unit == "probability":
        colours = [colorsys.hsv_to_rgb(HUE_STEP * k % 1, 0.7, 0.95) for k in range(len(values))]
        image = np.array(colours)[values.argmax(0)]
    elif len(values) == 3 and not prediction.unit:
        image = (values.transpose(1, 2, 0) + 1) / 2
    else:
        low, high = values[0].min(), values[0].max()
        grey = (values[0] - low) / (high - low if high > low else 1)
        image = np.repeat(grey[..., None], 3, 2)
    drawn: NDArray[np.uint8] = (image.clip(0, 1) * 255).round().astype(np.uint8)
    return drawn
