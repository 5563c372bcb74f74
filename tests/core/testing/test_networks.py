"""Faults of bases, sides and mergers are named, by the check that finds them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import attrs
import pytest
import torch
from torch import Tensor, nn

from sidetune_core.api import Base, Features, FitError, InputShapes, Merger, Shape, Side
from sidetune_core.testing.network_checks import check_base, check_merger, check_side


@attrs.frozen
class Config:
    """No options."""


class Sound(Base):
    Config = Config

    def __init__(self, config: Config, inputs: InputShapes) -> None:
        super().__init__()
        self.shape = (8,)
        self.conv = nn.Conv2d(inputs["image"][0], 8, 3, stride=2, padding=1)

    def forward(self, inputs: Mapping[str, Tensor]) -> Features:
        return Features(self.conv(inputs["image"]).relu().mean((2, 3)))


class SoundSide(Side):
    Config = Config

    def __init__(self, config: Config, inputs: InputShapes, base: Base) -> None:
        super().__init__()
        if len(base.shape) != 1:
            raise FitError("encodings (C,) only")
        self.line = nn.Linear(inputs["image"][0], base.shape[0])

    def forward(self, inputs: Mapping[str, Tensor], features: Features) -> Tensor:
        encoding: Tensor = self.line(inputs["image"].mean((2, 3)))
        return encoding


class SoundMerger(Merger):
    Config = Config

    def __init__(self, config: Config, shape: Shape, count: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))

    def forward(self, encodings: Sequence[Tensor]) -> Tensor:
        weight = self.weight.sigmoid()
        return weight * encodings[0] + (1 - weight) * torch.stack(list(encodings[1:])).sum(0)


class PlainMean(Sound):
    def forward(self, inputs: Mapping[str, Tensor]) -> Features:
        return Features(super().forward(inputs).encoding - torch.ones(8))


class Half(Sound):
    def forward(self, inputs: Mapping[str, Tensor]) -> Features:
        return Features(super().forward(inputs).encoding.half())


class Scaled(Sound):
    def forward(self, inputs: Mapping[str, Tensor]) -> Features:
        image = inputs["image"]
        return super().forward({"image": image / image.std((1, 2, 3), keepdim=True)})


class Viewing(Sound):
    def forward(self, inputs: Mapping[str, Tensor]) -> Features:
        maps = self.conv(inputs["image"])
        return Features(maps.view(len(maps), -1)[:, :8])


class Spectral(Sound):
    def forward(self, inputs: Mapping[str, Tensor]) -> Features:
        return Features(torch.fft.fft(self.conv(inputs["image"]).mean((2, 3))).real)


class Squeezing(Sound):
    def forward(self, inputs: Mapping[str, Tensor]) -> Features:
        return Features(super().forward(inputs).encoding.squeeze())


class Bare(Sound):
    def forward(self, inputs: Mapping[str, Tensor]) -> Features:
        return super().forward(inputs).encoding  # type: ignore[return-value]


class Square(Sound):
    def __init__(self, config: Config, inputs: InputShapes) -> None:
        super().__init__(config, inputs)
        self.line = nn.Linear(3 * 32 * 32, 8)

    def forward(self, inputs: Mapping[str, Tensor]) -> Features:
        return Features(self.line(inputs["image"].flatten(1)))


class InPlace(SoundSide):
    def forward(self, inputs: Mapping[str, Tensor], features: Features) -> Tensor:
        features.encoding.add_(1)
        return super().forward(inputs, features)


class Detached(SoundSide):
    def forward(self, inputs: Mapping[str, Tensor], features: Features) -> Tensor:
        return super().forward(inputs, features).detach()


class Tapping(SoundSide):
    def forward(self, inputs: Mapping[str, Tensor], features: Features) -> Tensor:
        return super().forward(inputs, features) + features.taps[0].mean((1, 2, 3))[:, None]


class Undeclared(SoundSide):
    """Reads the first tap, and declares the second."""

    needs_taps = True

    def __init__(self, config: Config, inputs: InputShapes, base: Base) -> None:
        super().__init__(config, inputs, base)
        self.tap_indices = (1,)

    def forward(self, inputs: Mapping[str, Tensor], features: Features) -> Tensor:
        encoding = super().forward(inputs, features)
        return encoding + sum(tap.mean(tuple(range(1, tap.ndim)))[:, None] for tap in features.taps)


class Pretending(SoundSide):
    begins_at_base = True


class NoMean(SoundMerger):
    is_mean = True

    def forward(self, encodings: Sequence[Tensor]) -> Tensor:
        return super().forward(encodings) + 1


class Pair(SoundMerger):
    def forward(self, encodings: Sequence[Tensor]) -> Tensor:
        return super().forward(encodings[:2])


class Counting(SoundMerger):
    seen = 0

    def forward(self, encodings: Sequence[Tensor]) -> Tensor:
        self.seen += self.training
        return super().forward(encodings) / (1 + self.seen)


FAULTS: Mapping[type[nn.Module], tuple[str, str]] = {
    PlainMean: ("tensors_follow_the_device", "(8,) is on the CPU"),
    Half: ("outputs_are_float32", "in float16"),
    Scaled: ("outputs_are_finite", "an input that is 0 everywhere"),
    Viewing: ("runs_in_channels_last", "use reshape()"),
    Spectral: ("runs_in_bfloat16", "fft_fft"),
    Squeezing: ("one_example_is_a_batch", "do not squeeze"),
    Bare: ("outputs_have_the_declared_shapes", "return Features(encoding, taps)"),
    Square: ("other_inputs_are_encoded_or_refused", "images of 32 x 64 with 3 channels"),
    InPlace: ("inputs_are_unchanged", "changes the base's encoding in place"),
    Detached: ("gradients_reach_the_weights", "remove detach()"),
    Tapping: ("taps_are_read_only_if_declared", "set needs_taps = True"),
    Undeclared: ("tap_indices_name_the_taps_that_are_read", "Set tap_indices = (0, 1)"),
    Pretending: ("it_begins_as_the_base_if_declared", "remove begins_at_base"),
    NoMean: ("equal_encodings_are_kept_if_declared", "remove is_mean"),
    Pair: ("every_side_counts", "encoding 3 of 3"),
    Counting: ("state_dict_holds_all_state", "after 3 forward passes"),
}


def failures(cls: type[Any]) -> dict[str, str]:
    """Messages of the checks that fail."""
    check = check_base if issubclass(cls, Base) else check_side if issubclass(cls, Side) else check_merger
    return {finding.check: finding.message for finding in check(cls, Config()) if not finding.passed}


@pytest.mark.parametrize("cls", [Sound, SoundSide, SoundMerger])
def test_sound_networks_have_no_fault(cls: type[nn.Module]) -> None:
    assert failures(cls) == {}


@pytest.mark.parametrize("cls", FAULTS, ids=lambda cls: cls.__name__.lower())
def test_a_fault_of_a_network_is_the_only_finding(cls: type[nn.Module]) -> None:
    check, part = FAULTS[cls]
    failed = failures(cls)
    assert failed.keys() == {check}
    assert part in failed[check]
