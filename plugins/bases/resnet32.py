"""ResNet-32 for CIFAR images."""

from __future__ import annotations

from ._cifar_resnet import CifarResNet


class ResNet32(CifarResNet):
    """CIFAR ResNet of depth 32."""

    depth = 32
