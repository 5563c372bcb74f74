"""Networks that begin with random weights."""

from __future__ import annotations

from .independent import Independent


class Scratch(Independent):
    """`Independent` without pretraining: every task trains base, side and merger of its own from random weights.

    What a task's data alone is worth, with the architecture of the rivals. Parts whose weights can only be pretrained, having no
    option ``weights``, keep them.
    """

    pretrained = False
