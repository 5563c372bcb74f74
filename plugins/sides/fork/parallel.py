"""A frozen layer, and a layer that is added to it."""

from __future__ import annotations

from torch import Tensor, nn


class Parallel(nn.Module):
    """``layer(x) + added(x)``, with a frozen layer that keeps no parameters here."""

    def __init__(self, layer: nn.Module, added: nn.Module) -> None:
        super().__init__()
        self.layer, self.added = layer, added

    def forward(self, x: Tensor) -> Tensor:
        """The shape of the layer's output."""
        output: Tensor = self.layer(x) + self.added(x)
        return output
