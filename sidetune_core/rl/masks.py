"""Action masks: which actions an environment allows in a step.

Environments give the mask with their observations, as ``Observations[MASK]``: (E, policy.size), not zero
where an action is valid. It is no input of the network: the logits of invalid actions are replaced by minus
infinity, in sampling, log-probabilities, entropies and evaluations alike (Huang & Ontañón, FLAIRS 2022).
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from sidetune_core.rl.distributions import Policy

MASK = "_action_mask"


def mask_of(observations: Mapping[str, Tensor], policy: Policy) -> Tensor | None:
    """The mask (B, policy.size), bool, of some observations; None if they have none. Of stacked frames it is
    the latest one."""
    mask = observations.get(MASK)
    return None if mask is None else mask[:, -policy.size :] != 0


def mask_invalid(
    policy: Policy, parameters: Tensor, mask: Tensor | None, title: str = "", when: str = ""
) -> Tensor:
    """Parameters (B, policy.size) with those of invalid actions masked.

    Args:
        policy: the family of distributions.
        parameters: the learner's output.
        mask: see `mask_of`; None leaves the parameters as they are.
        title: of the task, for messages.
        when: which step it is, for messages.

    Raises:
        RolloutError: no action is valid.
    """
    return parameters if mask is None else policy.masked(parameters, mask, title, when)
