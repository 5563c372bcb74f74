"""ResNet-56 for CIFAR images."""

from __future__ import annotations

from ._cifar_resnet import CifarResNet


class ResNet56(CifarResNet):
    """CIFAR ResNet of depth 56."""

    depth = 56
