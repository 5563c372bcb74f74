"""The option that every learner here has."""

from __future__ import annotations

import attrs

from sidetune_core.api import option


@attrs.frozen
class NormConfig:
    """Options of a learner."""

    norm: bool = option(
        True, "standardise the merged encoding in front of the head (8 groups of channels, no parameters)"
    )
