"""Dense prediction tasks on images with per-pixel or per-image labels."""

from __future__ import annotations

import colorsys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import attrs
import torch
from torch import Tensor, nn
from torch.nn import functional

from sidetune_core.api import (
    Batch,
    DataError,
    Inputs,
    Order,
    Outputs,
    Predict,
    Shape,
    Task,
    TaskCard,
    TaskStream,
    shuffled,
)

from .handler import DenseCard, DenseHandler, make_dense_head
from .heads import WIDTH
from .losses import Kind, dense_loss

EVALUATION_BATCH = 32
SAMPLED_IMAGES = 256
"""Images of a split whose fraction of valid pixels is reported."""
SHOWN_IMAGES = 4
"""Images in a visualisation."""
MIN_RANGE = 0.01
"""Smallest range of targets that a visualisation stretches to full contrast."""


@attrs.frozen
class Domain:
    """A kind of label: what to predict about an image, and how it is stored."""

    name: str
    """Taskonomy's name, such as ``depth_zbuffer``."""
    loss: Kind
    channels: int
    """Output channels: regression values per pixel, or classes."""
    stored: Literal["uint8", "uint16", "labels", "vector"]
    """8-bit or 16-bit images (N, C, H, W); labels (N, H, W), or (N,) per image; or class probabilities (N,
    C).
    """
    masked: bool = True
    """Whether the loss excludes invalid pixels."""
    per_image: bool = False
    """Whether there is one label per image, instead of one per pixel."""
    names: tuple[str, ...] = ()
    """Of the channels; empty if they have none."""


SEMANTIC = (
    "uncertain",
    "background",
    "bottle",
    "chair",
    "couch",
    "potted plant",
    "bed",
    "dining table",
    "toilet",
    "tv",
    "microwave",
    "oven",
    "toaster",
    "sink",
    "refrigerator",
    "book",
    "clock",
    "vase",
)
"""The 18 labels of Taskonomy's semantic segmentation, in its order."""

DEPTHS = ("depth_zbuffer", "depth_euclidean")
"""Domains whose values are metres."""

DOMAINS: Mapping[str, Domain] = {
    domain.name: domain
    for domain in (
        Domain("curvature", "l2", 2, "uint8"),
        Domain("segment_semantic", "cross-entropy", 18, "labels", masked=False, names=SEMANTIC),
        Domain("reshading", "l1", 1, "uint8"),
        Domain("keypoints3d", "l1", 1, "uint16"),
        Domain("keypoints2d", "l1", 1, "uint16"),
        Domain("edge_texture", "l1", 1, "uint16"),
        Domain("edge_occlusion", "l1", 1, "uint16"),
        Domain("depth_zbuffer", "l1", 1, "uint16"),
        Domain("depth_euclidean", "l1", 1, "uint16"),
        Domain("normal", "l1", 3, "uint8", names=("x", "y", "z")),
        Domain("class_object", "soft cross-entropy", 1000, "vector", masked=False, per_image=True),
        Domain("rgb", "l1", 3, "uint8", names=("red", "green", "blue")),
    )
}
"""The twelve domains, their losses and masks, in the order of the original side-tuning experiments."""

ORDERS: Mapping[str, tuple[str, ...]] = {
    "12": tuple(DOMAINS),
    "12cls": (
        "class_object",
        "depth_zbuffer",
        "normal",
        "reshading",
        "depth_euclidean",
        "curvature",
        "edge_texture",
        "segment_semantic",
        "keypoints2d",
        "rgb",
        "keypoints3d",
        "edge_occlusion",
    ),
    "12txtr": (
        "edge_texture",
        "depth_euclidean",
        "curvature",
        "segment_semantic",
        "rgb",
        "keypoints3d",
        "edge_occlusion",
        "reshading",
        "class_object",
        "keypoints2d",
        "normal",
        "depth_zbuffer",
    ),
    "12rgb": (
        "rgb",
        "normal",
        "edge_texture",
        "depth_zbuffer",
        "reshading",
        "edge_occlusion",
        "keypoints2d",
        "keypoints3d",
        "curvature",
        "segment_semantic",
        "depth_euclidean",
        "class_object",
    ),
}
"""Task orders of the original code, by its names."""


def scaled(stored: Tensor) -> Tensor:
    """Stored images to float in [-1, 1] over the full 8-bit or 16-bit range; others unchanged."""
    if stored.dtype == torch.uint8:
        return stored.float() / 127.5 - 1
    if stored.dtype == torch.uint16:
        return stored.float() / 32767.5 - 1
    return stored


@attrs.frozen(eq=False)
class Frames:
    """All images of a stream with their labels, as stored; the arrays may be memory-mapped.

    `stored[name]` is (N, ...) for each domain, with ``rgb`` (N, 3, H, W) uint8 and, where targets are masked,
    ``mask`` (N, 1, H, W) uint8, 1 for valid pixels. `rows[split]` indexes the N images of a split; the
    indices are the examples' ids.
    """

    stored: Mapping[str, Tensor]
    rows: Mapping[str, Tensor]

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        height, width = self.stored["rgb"].shape[2:]
        return height, width


class DenseStream(TaskStream):
    """Base class of the envs with dense tasks."""

    @classmethod
    def handler(cls, card: TaskCard) -> DenseHandler:
        return DenseHandler(card)

    def report_valid(self, tasks: Sequence[DenseTask]) -> None:
        """Print the fraction of valid pixels of each task and split, a line for tasks with equal ones."""
        by_fractions: dict[str, list[str]] = {}
        for task in tasks:
            if task.valid_fractions:
                listed = ", ".join(
                    f"{100 * value:.3g} % of {split}" for split, value in task.valid_fractions.items()
                )
                by_fractions.setdefault(listed, []).append(task.id)
        for listed, ids in by_fractions.items():
            self.info(f"valid pixels: {listed} ({', '.join(ids)})")


class DenseTask(Task):
    """Predict a domain from the colour image, ``image`` (3, H, W) in [0, 1].

    Regression targets are in [-1, 1] (see `scaled`), labels use cross-entropy. R holds the loss, lower is
    better: the mean over valid pixels, then over images with at least one valid pixel. (The original averages
    over all valid pixels of a batch.) Targets are (B, C, H, W) for regression, with the mask as an additional
    channel if the domain is masked; (B, H, W) for labels; (B, C) for probabilities.

    Args:
        domain: what to predict.
        frames: images of the stream.
        width: channels of the widest decoder layers; 1024 in the original.
        resize: how images of users are made square (see `_image_inputs.RESIZES`).
        max_depth: depth in metres that the largest stored value stands for; None where it is not known.

    Raises:
        DataError: a split is empty or has no valid pixel, or a label is out of range.
    """

    metric = "loss"
    higher_is_better = False

    def __init__(
        self,
        domain: Domain,
        frames: Frames,
        width: int = WIDTH,
        resize: str = "box",
        max_depth: float | None = None,
    ) -> None:
        self.id = domain.name.replace("_", "-")
        self.title = domain.name.replace("_", " ")
        self.inputs = {"image": (3, *frames.size)}
        self.splits = tuple(split for split in frames.rows if split != "train")
        kind: Literal["logits", "regression"] = "logits" if "cross-entropy" in domain.loss else "regression"
        self.outputs = Outputs(kind, domain.channels, domain.names)
        self._domain, self._frames = domain, frames
        metres = max_depth if domain.name in DEPTHS else None
        self._card = DenseCard(resize, domain.per_image, width, metres)
        for split, rows in frames.rows.items():
            if not len(rows):
                raise DataError(f"task '{self.id}': no images in split '{split}'")
        self._valid = {} if self._mask is None else valid_fractions(self._mask, frames.rows)
        if empty := [split for split, fraction in self._valid.items() if not fraction]:
            raise DataError(
                f"task '{self.id}': no valid pixel in split '{empty[0]}': no depth was measured there, or it "
                "is all beyond the limit; check the units and the range of the depth images"
            )
        if domain.stored == "labels":
            highest = max(int(frames.stored[domain.name][rows].max()) for rows in frames.rows.values())
            if highest >= domain.channels:
                raise DataError(
                    f"task '{self.id}': label {highest} is out of range, expected 0 to {domain.channels - 1}"
                )

    @property
    def valid_fractions(self) -> Mapping[str, float]:
        """The fraction of valid pixels of each split; empty if targets are not masked."""
        return self._valid

    @property
    def _mask(self) -> Tensor | None:
        """(N, 1, H, W) uint8, if targets are masked."""
        return self._frames.stored.get("mask") if self._domain.masked else None

    def size(self, split: str) -> int:
        """Number of images in a split."""
        return len(self._frames.rows[split])

    def training_size(self) -> int:
        return self.size("train")

    def make_head(self, shape: Shape) -> nn.Module:
        return make_dense_head(
            shape, self._domain.channels, self._frames.size, self._card, self.outputs.is_regression
        )

    def card(self) -> Mapping[str, Any]:
        return attrs.asdict(self._card)

    def steps_per_epoch(self, batch_size: int) -> int:
        return max(1, round(self.size("train") / batch_size))

    def train(self, predict: Predict, order: Order) -> Iterator[Batch]:
        rows = self._frames.rows["train"]
        for indices in shuffled(len(rows), order, self.id):
            yield self._batch(rows[indices])

    def loss(self, output: Tensor, batch: Batch) -> Tensor:
        target, valid = self._split(batch.targets)
        return dense_loss(self._domain.loss, output, target, valid)

    def evaluate(self, predict: Predict, split: str = "test") -> dict[str, float]:
        """The mean loss and, for classes, the accuracy in [0, 1] over pixels or images."""
        rows = self._frames.rows[split]
        total, correct, count = 0.0, 0.0, 0
        for first in range(0, len(rows), EVALUATION_BATCH):
            batch = self._batch(rows[first : first + EVALUATION_BATCH])
            output = predict(batch.inputs).cpu()
            target, valid = self._split(batch.targets)
            total += float(dense_loss(self._domain.loss, output, target, valid).double().sum())
            count += len(batch.ids) if valid is None else int(valid.flatten(1).any(1).sum())
            if not self.outputs.is_regression:
                labels = target.argmax(1) if target.is_floating_point() else target
                correct += float((output.argmax(1) == labels).double().mean()) * len(labels)
        metrics = {"loss": total / max(1, count)}
        if not self.outputs.is_regression:
            metrics["accuracy"] = correct / len(rows)
        return metrics

    def visualisations(self, predict: Predict) -> dict[str, Tensor]:
        """``input``, ``target``, ``prediction`` and ``error`` of several test images, side by side.

        Each is (3, H, images x W) in [0, 1].
        """
        rows = self._frames.rows["test"]
        batch = self._batch(rows[torch.linspace(0, len(rows) - 1, min(SHOWN_IMAGES, len(rows))).long()])
        target, valid = self._split(batch.targets)
        output = predict(batch.inputs).cpu()
        shown = {"input": batch.inputs["image"]}
        if self._domain.per_image:
            if not target.is_floating_point():
                target = functional.one_hot(target, self._domain.channels).float()
            predicted = output.softmax(1)
            probabilities = {"target": target, "prediction": predicted, "error": (predicted - target).abs()}
            shown |= {name: _bar_chart(values, self._frames.size) for name, values in probabilities.items()}
        elif not self.outputs.is_regression:
            predicted = output.argmax(1)
            wrong = (predicted != target).float()[:, None].expand(-1, 3, -1, -1)
            shown |= {
                "target": _colour_labels(target),
                "prediction": _colour_labels(predicted),
                "error": wrong,
            }
        else:
            mask = torch.ones_like(target[:, :1]) if valid is None else valid
            low, high = _range(target, mask)
            error = (output - target).abs().mean(1, keepdim=True) / (high - low)
            shown |= {
                "target": _as_rgb(mask * (target - low) / (high - low)),
                "prediction": _as_rgb((output - low) / (high - low)),
                "error": _as_rgb(mask * error),
            }
        return {name: torch.cat(list(images.float().clamp(0, 1)), 2) for name, images in shown.items()}

    def _batch(self, rows: Tensor) -> Batch:
        stored = self._frames.stored
        image = stored["rgb"][rows].float() / 255
        label = stored[self._domain.name][rows]
        target = label.long() if self._domain.stored == "labels" else scaled(label)
        if self._mask is not None:
            target = torch.cat([target, self._mask[rows].float()], 1)
        return Batch(rows, Inputs({"image": image}, rows), target)

    def _split(self, targets: Tensor) -> tuple[Tensor, Tensor | None]:
        """Targets without the mask, and the mask (B, 1, H, W) or None."""
        if targets.ndim == 4 and targets.shape[1] > self._domain.channels:
            return targets[:, :-1], targets[:, -1:]
        return targets, None


def valid_fractions(mask: Tensor, rows: Mapping[str, Tensor]) -> dict[str, float]:
    """The fraction of valid pixels of each split, from up to `SAMPLED_IMAGES` evenly spaced images; of all
    images where these have no valid pixel. `mask` is (N, 1, H, W), 1 for valid pixels.
    """
    fractions = {}
    for split, members in rows.items():
        spaced = members[:: -(-len(members) // SAMPLED_IMAGES)]
        fraction = _mean(mask, spaced)
        if not fraction and len(spaced) < len(members):
            fraction = _mean(mask, members)
        fractions[split] = fraction
    return fractions


def _mean(mask: Tensor, rows: Tensor) -> float:
    """The mean over some images, which are read a batch at a time: the mask may be memory-mapped."""
    sums = [int((mask[part] > 0).sum()) for part in torch.split(rows, EVALUATION_BATCH)]
    return sum(sums) / (len(rows) * mask[0].numel())


def _range(target: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """The lowest and highest valid target of each image, (B, 1, 1, 1), at least `MIN_RANGE` apart."""
    inside = valid.expand_as(target) > 0
    low = torch.where(inside, target, 1.0).flatten(1).amin(1).view(-1, 1, 1, 1)
    high = torch.where(inside, target, -1.0).flatten(1).amax(1).view(-1, 1, 1, 1)
    return low, torch.maximum(high, low + MIN_RANGE)


def _as_rgb(maps: Tensor) -> Tensor:
    """(B, C, H, W) with 1, 2 or 3 channels as (B, 3, H, W); with two channels the third is 0."""
    if maps.shape[1] == 2:
        return torch.cat([maps, torch.zeros_like(maps[:, :1])], 1)
    return maps.expand(-1, 3, -1, -1)


def _colour_labels(labels: Tensor) -> Tensor:
    """(B, H, W) labels as colours (B, 3, H, W)."""
    palette = torch.tensor(
        [colorsys.hsv_to_rgb(0.618 * k % 1, 0.7, 0.95) for k in range(int(labels.max()) + 1)]
    )
    return palette[labels].permute(0, 3, 1, 2)


def _bar_chart(values: Tensor, size: tuple[int, int]) -> Tensor:
    """(B, C) values in [0, 1] as bar charts (B, 3, H, W); neighbours are max-pooled if C > W."""
    height, width = size
    if values.shape[1] > width:
        values = functional.adaptive_max_pool1d(values[:, None], width)[:, 0]
    bars = functional.interpolate(values[:, None], size=width, mode="nearest")  # (B, 1, W)
    level = 1 - (torch.arange(height) + 0.5) / height
    return (bars[:, :, None] > level[:, None]).float().expand(-1, 3, -1, -1)
