"""Heads, losses and metrics of dense tasks."""

from __future__ import annotations

from math import log

import pytest
import torch
from sidetune_plugins.envs.dense.heads import Decoder, DenseHead, Transfer, VectorHead
from sidetune_plugins.envs.dense.losses import dense_loss
from sidetune_plugins.envs.dense.task import DOMAINS, DenseTask, Domain, Frames, scaled
from torch import Tensor, nn
from torch.nn import functional

from sidetune_core.api import DataError, FitError, Inputs, Order


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize(
    ("channels", "parameters"), [(1, 16_453_009), (2, 16_453_154), (3, 16_453_299), (18, 16_455_474)]
)
def test_decoders_have_the_published_number_of_parameters(channels: int, parameters: int) -> None:
    with torch.device("meta"):
        decoder = Decoder(8, channels, bounded=True)
    assert count(decoder) == parameters
    assert sum(buffer.numel() for buffer in decoder.buffers()) == 6_925


def test_other_parts_of_heads_have_the_published_number_of_parameters() -> None:
    assert count(Transfer(8)) == 1_168
    with torch.device("meta"):
        assert [count(VectorHead((8, 16, 16), classes).decoder) for classes in (1000, 63)] == [
            6_247_400,
            4_327_487,
        ]


def test_keys_of_the_decoder_are_those_of_the_bank() -> None:
    keys = set(Decoder(8, 3, bounded=True, width=16).state_dict())
    layers = {f"conv{k}" for k in (2, 3, 4, 5, 6, 7, 9, 11, 13)}
    expected = {f"{name}.0.weight" for name in layers} | {f"deconv{k}.1.weight" for k in (8, 10, 12, 14)}
    expected |= {"decoder_output.0.weight", "decoder_output.0.bias"}
    assert {
        key for key in keys if "running" not in key and "tracked" not in key and key.split(".")[1] in "01"
    } - expected == {f"{name}.1.{part}" for name in layers for part in ("weight", "bias")}
    assert {f"deconv8.3.{part}" for part in ("weight", "bias", "running_mean", "running_var")} <= keys


def test_a_slim_decoder_has_eight_channels_in_each_layer() -> None:
    widths = {
        module.out_channels
        for module in Decoder(8, 1, bounded=True, width=16).modules()
        if isinstance(module, nn.Conv2d)
    }
    assert widths == {1, 8, 16}


def test_a_decoder_enlarges_sixteen_times_and_bounds_numbers_but_no_scores() -> None:
    encoding = 100 * torch.randn(2, 8, 2, 3, generator=torch.Generator().manual_seed(0))
    bounded, free = (Decoder(8, 2, bounded, width=64).eval() for bounded in (True, False))
    free.load_state_dict(bounded.state_dict())
    assert bounded(encoding).shape == (2, 2, 32, 48)
    torch.testing.assert_close(bounded(encoding), free(encoding).tanh())


def test_doubling_is_the_transposed_convolution_of_tensorflow() -> None:
    decoder = Decoder(8, 1, bounded=True, width=64)
    pad, transposed, crop = list(decoder.deconv8)[:3]
    x = torch.randn(1, transposed.in_channels, 3, 4)
    found = crop(transposed(pad(x)))
    expected = torch.zeros(
        1, transposed.out_channels, 8, 10
    )  # "same": the gradient of a convolution that pads below and to the right
    for row in range(3):
        for column in range(4):
            kernel = torch.einsum("c,cdij->dij", x[0, :, row, column], transposed.weight)
            expected[0, :, 2 * row + 1 : 2 * row + 4, 2 * column + 1 : 2 * column + 4] += kernel
    assert found.shape == (1, transposed.out_channels, 6, 8)
    torch.testing.assert_close(found, expected[:, :, 1:7, 1:9], rtol=1e-4, atol=1e-5)


def test_a_head_gives_the_size_that_is_asked_for() -> None:
    assert DenseHead((6, 3, 3), 2, (40, 44), bounded=True, width=16)(torch.zeros(2, 6, 3, 3)).shape == (
        2,
        2,
        40,
        44,
    )
    with pytest.raises(FitError, match=r"a dense task needs feature maps \(C, H, W\)"):
        DenseHead((64,), 2, (32, 32), bounded=True)
    with pytest.raises(FitError, match="needs feature maps"):
        VectorHead((5, 8), 10)


def test_losses_are_means_over_valid_pixels() -> None:
    target = torch.zeros(3, 2, 2, 2)
    output = torch.tensor([1.0, 2.0]).view(1, 2, 1, 1).expand(3, 2, 2, 2).clone()
    output[:, :, 0, 0] = 10
    valid = torch.ones(3, 1, 2, 2)
    valid[0, 0, 0, 0] = 0
    valid[1] = 0
    torch.testing.assert_close(
        dense_loss("l1", output, target, valid), torch.tensor([1.5, 0.0, (3 * 1.5 + 10) / 4])
    )
    torch.testing.assert_close(
        dense_loss("l2", output, target, valid), torch.tensor([2.5, 0.0, (3 * 2.5 + 100) / 4])
    )
    torch.testing.assert_close(dense_loss("l1", output, target), torch.full((3,), (3 * 1.5 + 10) / 4))


def test_what_is_not_valid_has_no_gradient() -> None:
    output = torch.randn(2, 3, 4, 4, requires_grad=True)
    valid = (torch.arange(16).view(1, 1, 4, 4) < 5).float().expand(2, 1, 4, 4)
    dense_loss("l1", output, torch.zeros(2, 3, 4, 4), valid).sum().backward()
    assert output.grad is not None
    assert torch.equal(output.grad != 0, (valid > 0).expand(2, 3, 4, 4))


def test_cross_entropies_agree_where_the_chance_is_all_on_one_class() -> None:
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(5, 7, generator=generator)
    labels = torch.randint(7, (5,), generator=generator)
    hard = dense_loss("cross-entropy", scores, labels)
    torch.testing.assert_close(
        hard, dense_loss("soft cross-entropy", scores, functional.one_hot(labels, 7).float())
    )
    torch.testing.assert_close(
        dense_loss("soft cross-entropy", torch.zeros(1, 7), torch.full((1, 7), 1 / 7)), torch.tensor([log(7)])
    )
    maps = scores.view(5, 7, 1, 1).expand(5, 7, 2, 3)
    torch.testing.assert_close(dense_loss("cross-entropy", maps, labels.view(5, 1, 1).expand(5, 2, 3)), hard)


def frames(**stored: Tensor) -> Frames:
    images = torch.zeros(6, 3, 16, 16, dtype=torch.uint8)
    return Frames({"rgb": images, **stored}, {"train": torch.arange(4), "test": torch.arange(4, 6)})


def test_the_loss_of_a_split_leaves_out_images_without_a_valid_pixel() -> None:
    mask = torch.ones(6, 1, 16, 16, dtype=torch.uint8)
    mask[5] = 0
    task = DenseTask(DOMAINS["rgb"], frames(mask=mask))
    found = task.evaluate(lambda inputs: torch.zeros(len(inputs.ids), 3, 16, 16), "test")  # type: ignore[arg-type]
    assert found == {"loss": 1.0}


def test_classes_of_pixels_and_of_images_have_an_accuracy() -> None:
    labels = torch.zeros(6, 16, 16, dtype=torch.uint8)
    labels[4, :4] = 1  # a quarter of one of two test images
    pixels = DenseTask(Domain("room", "cross-entropy", 2, "labels", masked=False), frames(room=labels))
    scores = torch.tensor([5.0, 0.0]).view(1, 2, 1, 1)
    assert pixels.evaluate(lambda _: scores.expand(2, 2, 16, 16))["accuracy"] == pytest.approx(0.875)
    whole = DenseTask(
        Domain("room", "cross-entropy", 2, "labels", masked=False, per_image=True),
        frames(room=torch.tensor([0, 1, 0, 1, 0, 1])),
    )
    assert whole.make_head((8, 1, 1))(torch.zeros(2, 8, 1, 1)).shape == (2, 2)
    assert whole.evaluate(lambda _: scores[:, :, 0, 0].expand(2, 2))["accuracy"] == 0.5
    assert whole.visualisations(lambda _: scores[:, :, 0, 0].expand(2, 2))["target"].shape == (3, 16, 32)


def test_an_empty_split_is_refused() -> None:
    with pytest.raises(DataError, match="no images in split 'test'"):
        DenseTask(
            DOMAINS["rgb"], Frames(frames().stored, {"train": torch.arange(6), "test": torch.arange(0)})
        )


def test_16_bits_are_scaled_as_8_bits_are() -> None:
    torch.testing.assert_close(scaled(torch.tensor([0, 255], dtype=torch.uint8)), torch.tensor([-1.0, 1.0]))
    torch.testing.assert_close(
        scaled(torch.tensor([0, 65535], dtype=torch.uint16)), torch.tensor([-1.0, 1.0])
    )


def test_batches_carry_the_place_of_each_image_as_its_id() -> None:
    task = DenseTask(DOMAINS["rgb"], frames())
    batch = next(task.train(lambda inputs: inputs["image"], Order(0, 4)))
    assert sorted(batch.ids.tolist()) == [0, 1, 2, 3]
    assert isinstance(batch.inputs, Inputs)
    assert torch.equal(batch.inputs.ids, batch.ids)  # type: ignore[arg-type]
