"""ResNet-20 for CIFAR images."""

from __future__ import annotations

from ._cifar_resnet import CifarResNet


class ResNet20(CifarResNet):
    """CIFAR ResNet of depth 20."""

    depth = 20
