"""ResNet-44 for CIFAR images: the base of the original iCIFAR experiments."""

from __future__ import annotations

from sidetune_core.api import Published

from ._cifar_resnet import CifarResNet


class ResNet44(CifarResNet):
    """CIFAR ResNet of depth 44 (657,936 parameters); comes with weights trained on CIFAR-10."""

    depth = 44
    published = Published(
        "resnet44-cifar.pth",
        "https://github.com/jozhang97/side-tuning/raw/master/assets/pytorch/resnet44-cifar.pth",
        "3dca3cca49d86391048a53057580f9bbe1a62054f29eed9a184838e01e8cde1e",
    )
