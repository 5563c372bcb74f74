"""Policies without their environment: from raw observations to actions, by the card of a rollout task."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import attrs
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sidetune_core.errors import InputError, RolloutError
from sidetune_core.interfaces.cards import TaskCard
from sidetune_core.interfaces.handlers import Preprocessed, TaskHandler
from sidetune_core.interfaces.inputs import Inputs, Shape
from sidetune_core.rl.distributions import Actor, ActorCritic, Categorical, Gaussian, Policy, check_policy
from sidetune_core.rl.masks import mask_invalid
from sidetune_core.rl.memory import RecurrentActor, RecurrentActorCritic
from sidetune_core.rl.normalization import ObservationNormalizer
from sidetune_core.rl.running_stats import CLIP_RANGE
from sidetune_core.rl.vector_env import Observations

Frame = Mapping[str, NDArray[Any]]
"""One observation by input name: images (C, H, W) of bytes, anything else float32."""

MAX_SIZE = 2**16
"""Of hidden layers, action counts and stacked frames in a card."""


@attrs.frozen(eq=False)
class ActionPrediction:
    """The action of a policy."""

    action: Any
    """In the format of the environment."""
    probability: float | None = None
    """Of the action; None if actions are continuous."""
    value: float | None = None
    """The critic's value of the observation; None if the policy has no critic."""

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {"action": _plain(self.action), "probability": self.probability, "value": self.value}

    def __str__(self) -> str:
        text = str(_plain(self.action))
        return text if self.probability is None else f"{text} {self.probability:.2f}"


@attrs.frozen
class PolicyValues:
    """What every policy's card has: the plain values of `RolloutTask.card`."""

    policy: Mapping[str, Any]
    """See `describe_policy`."""
    units: Mapping[str, float]
    """Divisors of the observations by input name."""
    normalise_observations: bool
    deterministic_eval: bool
    """Whether evaluations take the most likely action."""
    critic: bool
    """Whether the head has a critic, whose value is the last column of the output."""
    hidden_size: int
    hidden_layers: int
    memory: int = 0
    """Units of the GRU of a recurrent policy; 0 for one without."""
    evaluation: Mapping[str, int] = attrs.field(factory=dict)
    """The episodes of the run's evaluation: ``episodes`` in ``num_envs`` environments, of which the k-th
    is reset with ``seed + k`` and then without a seed; ``actions_seed`` seeds sampled actions."""

    @classmethod
    def from_card(cls, card: TaskCard) -> PolicyValues:
        """The values of a card.

        Raises:
            ValueError: a value is missing or has a wrong type.
        """
        values = {field.name: card.values.get(field.name) for field in attrs.fields(cls)}
        values["memory"] = card.values.get("memory", 0)  # cards of version 0.1 have none
        for name, kind in VALUE_TYPES.items():
            if not isinstance(values[name], kind):
                raise ValueError(f"{name} is {values[name]!r}")
        for name in ("hidden_size", "hidden_layers", "memory"):
            check_count(values[name], name)
        if not all(_is_number(unit) and unit > 0 for unit in values["units"].values()):  # type: ignore[union-attr]
            raise ValueError(f"units are {values['units']!r}")
        return cls(**values)  # type: ignore[arg-type]


VALUE_TYPES: Mapping[str, type] = {
    "policy": Mapping,
    "units": Mapping,
    "normalise_observations": bool,
    "deterministic_eval": bool,
    "critic": bool,
    "hidden_size": int,
    "hidden_layers": int,
    "evaluation": Mapping,
}


def describe_policy(policy: Policy) -> dict[str, Any] | None:
    """A family of distributions in plain values; None for one that is not the core's."""
    if type(policy) is Categorical:
        return {"family": "categorical", "counts": policy.counts}
    if type(policy) is Gaussian:
        return {"family": "gaussian", "width": policy.width}
    return None


def make_policy(values: Mapping[str, Any]) -> Policy:
    """The inverse of `describe_policy`.

    Raises:
        ValueError: it is not such a description.
    """
    family = values.get("family")
    if family == "categorical":
        counts = values.get("counts")
        if not isinstance(counts, list | tuple) or not 0 < len(counts) <= MAX_SIZE:
            raise ValueError(f"the counts of actions are {counts!r}")
        return Categorical([check_count(count, "a count of actions", least=1) for count in counts])
    if family == "gaussian":
        return Gaussian(check_count(values.get("width"), "the number of actions", least=1))
    raise ValueError(f"the policy is {family!r}")


def check_count(value: object, name: str, least: int = 0) -> int:
    """An integer of a card.

    Raises:
        ValueError: it is none, or absurd.
    """
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= MAX_SIZE:
        raise ValueError(f"{name} is {value!r}")
    return value


class PolicyHandler(TaskHandler):
    """Uses the policy of a rollout task without its environment.

    Here a raw observation is what the task's `VectorEnv` gives for one environment, a dictionary of arrays by
    input name (or one array, if there is one input), and an action is an array (width,). An env overrides
    `observe` and `native` so that observations and actions are those of its plain environments.

    Attributes:
        frames: number of consecutive observations that make one input.
        mask_images: whether the policy was trained on images of zeros; `transform` makes them, and so does
            `observe`.
        masks_actions: whether the environment says which actions are valid, so that an action needs its mask.
    """

    frames: int = 1
    mask_images: bool = False
    masks_actions: bool = False

    def __init__(self, card: TaskCard) -> None:
        super().__init__(card)
        self.values = PolicyValues.from_card(card)
        self.policy = make_policy(self.values.policy)
        self._normalizer = ObservationNormalizer(
            card.inputs, self.values.units, self.values.normalise_observations, rewards=False
        )
        self._has_state = not self.values.normalise_observations

    def make_head(self, shape: Shape) -> nn.Module:
        """`ActorCritic`, or `Actor` for a policy without a critic; with memory, recurrent ones."""
        values = self.values
        if values.memory:
            recurrent = RecurrentActorCritic if values.critic else RecurrentActor
            return recurrent(shape, self.policy, values.hidden_size, values.hidden_layers, values.memory)
        cls = ActorCritic if self.values.critic else Actor
        return cls(shape, self.policy, self.values.hidden_size, self.values.hidden_layers)

    def is_batch(self, value: object) -> bool:
        """Whether it is a list; a tuple may be an observation."""
        return isinstance(value, list)

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Restore the statistics of observations."""
        self._normalizer.set_state(state)
        self._has_state = self._has_state or bool(state)

    def transform(self) -> nn.Module:
        """See `PolicyTransform`; the inputs are observations that are converted and stacked.

        Raises:
            InputError: the statistics of the observations are missing.
        """
        self._check_state()
        self._check_memory()
        return PolicyTransform(self.card, self.values.units, self._normalizer, self.mask_images)

    def observe(self, observation: Any) -> Frame:
        """One raw observation by input name, converted as in training.

        Raises:
            InputError: it is not an observation of the environment.
        """
        if not isinstance(observation, Mapping):
            if len(self.card.inputs) != 1:
                raise InputError(
                    f"task {self.card.id}: an observation is a dictionary of {', '.join(self.card.inputs)}, "
                    f"not a {type(observation).__name__}"
                )
            observation = {next(iter(self.card.inputs)): observation}
        return {name: self._array(name, observation) for name in self.card.inputs}

    def stacked(self, frames: Sequence[Frame]) -> Frame:
        """`frames` observations as one input, the oldest first: (C, ...) each, (frames * C, ...) together."""
        if self.frames == 1:
            (frame,) = frames
            return frame
        return {name: np.concatenate([frame[name] for frame in frames]) for name in self.card.inputs}

    def padding(self, first: Frame) -> Frame:
        """What stands for the observations before the first one of an episode: by default the first one."""
        return first

    def inputs(self, observations: Sequence[Frame]) -> Inputs:
        """Network inputs of B stacked observations: standardised, and divided by their units.

        Raises:
            InputError: the statistics of the observations are missing.
        """
        self._check_state()
        batch = {
            name: torch.from_numpy(np.stack([observation[name] for observation in observations]))
            for name in self.card.inputs
        }
        return self._normalizer.inputs(self._normalizer.standardised(batch))

    def network_inputs(self, observations: Observations) -> Inputs:
        """See `RolloutTask.network_inputs`."""
        self._check_state()
        return self._normalizer.of_observations(observations)

    def preprocess(self, values: Sequence[Any]) -> Preprocessed:
        """Observations of which each is an input; stacked frames need the memory of an actor.

        Raises:
            InputError: see `observe`, or an input is made of several observations.
        """
        if self.frames > 1:
            raise InputError(
                f"an input of task {self.card.id} is made of {self.frames} consecutive observations: make an "
                "actor, which remembers them, by model.actor(task), and call its reset() and act(observation)"
            )
        self._check_memory()
        return Preprocessed(self.inputs([self.observe(value) for value in values]), len(values))

    def postprocess(self, output: Tensor, examples: Preprocessed) -> Sequence[ActionPrediction]:
        """The most likely action of each."""
        return self.decide(output)

    def mask(self, observation: Any) -> Any:
        """The mask of valid actions that a raw observation has, (policy.size,); None if it has none."""
        return None

    def decide(
        self, output: Tensor, generator: torch.Generator | None = None, masks: Sequence[Any] | None = None
    ) -> list[ActionPrediction]:
        """Actions from outputs (B, policy.size) or, with a critic, (B, policy.size + 1).

        Args:
            output: of the network, in float32 on the CPU.
            generator: samples the actions; without it they are the most likely ones.
            masks: of each row, (policy.size,), not zero where an action is valid; None if all are.

        Raises:
            InputError: a mask has another size, or allows no action.
            Diverged: the outputs are not finite.
        """
        parameters = output[:, : self.policy.size]
        check_policy(self.policy, parameters, self.card.title, "an action")
        if masks is not None:
            parameters = self._masked(parameters, masks)
        if generator is None:
            actions = self.policy.mode(parameters)
        else:
            actions = self.policy.sample(parameters, generator)
        count = len(output)
        probabilities = [None] * count
        if isinstance(self.policy, Categorical):
            probabilities = self.policy.log_prob(parameters, actions).exp().tolist()
        values = output[:, -1].tolist() if self.values.critic else [None] * count
        rows = zip(self.native(actions), probabilities, values, strict=True)
        return [ActionPrediction(*row) for row in rows]

    def _masked(self, parameters: Tensor, masks: Sequence[Any]) -> Tensor:
        rows = [check_array(mask, (self.policy.size,), "the action mask", image=False) for mask in masks]
        try:
            mask = torch.from_numpy(np.stack(rows)) != 0
            return mask_invalid(self.policy, parameters, mask, self.card.title, "an action")
        except RolloutError as error:
            raise InputError(str(error)) from error

    def native(self, actions: Tensor) -> list[Any]:
        """Actions (B, width) of the policy in the format of the environment."""
        return [*actions.numpy()]

    def encode_actions(self, actions: Any) -> Tensor:
        """The inverse of `native` for T actions of the environment, (T, width).

        Raises:
            InputError: they have another shape, or are not finite.
        """
        return encode_rows(actions, (self.policy.width,), f"task {self.card.id}: an action")

    def _check_memory(self) -> None:
        if self.values.memory:
            raise InputError(
                f"the policy of task {self.card.id} is recurrent: make an actor, which keeps its state, by "
                "model.actor(task), and call its reset() and act(observation)"
            )

    def _check_state(self) -> None:
        if not self._has_state:
            raise InputError(
                f"task {self.card.id} standardises observations, and its checkpoint has no statistics of them"
            )

    def _array(self, name: str, observation: Mapping[str, Any]) -> NDArray[Any]:
        shape = self.card.inputs[name]
        if name not in observation:
            raise InputError(
                f"task {self.card.id}: the observation has no '{name}'; it has "
                f"{', '.join(map(str, observation)) or 'nothing'}"
            )
        image = len(shape) == 3 and self.values.units.get(name, 1.0) != 1.0
        return check_array(observation[name], shape, f"task {self.card.id}: observation '{name}'", image)


class PolicyTransform(nn.Module):
    """Observations (B, *shape), in the order of the task's inputs, as inputs of the network.

    Vectors are standardised by the statistics of training and divided by their units. Images of bytes are
    divided by their units; images of floats are taken as they are.
    """

    def __init__(
        self,
        card: TaskCard,
        units: Mapping[str, float],
        normalizer: ObservationNormalizer,
        mask_images: bool,
    ) -> None:
        super().__init__()
        self._names, self._units, self._mask_images = list(card.inputs), dict(units), mask_images
        self._images = {name for name, shape in card.inputs.items() if len(shape) == 3}
        for index, name in enumerate(self._names):
            statistics = normalizer.statistics.get(name)
            if statistics is not None:
                self.register_buffer(f"mean_{index}", statistics.mean.clone())
                self.register_buffer(f"std_{index}", statistics.std.clone())

    def forward(self, *observations: Tensor) -> tuple[Tensor, ...]:
        """As many tensors, in float32."""
        return tuple(self._input(index, value) for index, value in enumerate(observations))

    def _input(self, index: int, value: Tensor) -> Tensor:
        name = self._names[index]
        if hasattr(self, f"mean_{index}"):
            mean, std = getattr(self, f"mean_{index}"), getattr(self, f"std_{index}")
            value = ((value.double() - mean) / std).clamp(-CLIP_RANGE, CLIP_RANGE)
        if self._mask_images and name in self._images:
            return torch.zeros_like(value, dtype=torch.float32)
        unit = self._units.get(name, 1.0)
        is_divided = name in self._images and value.dtype != torch.uint8
        return value.float() if unit == 1.0 or is_divided else value.float() / unit


def check_array(value: Any, shape: Shape, what: str, image: bool) -> NDArray[Any]:
    """A part of an observation as an array: uint8 for an image, float32 for anything else.

    Args:
        value: an array, a tensor, a number or nested lists.
        shape: that it must have.
        what: for messages.
        image: whether it is an image of bytes.

    Raises:
        InputError: it has another shape or type, or is not finite.
    """
    try:
        array = np.asarray(value.detach().cpu() if isinstance(value, Tensor) else value)
    except (ValueError, TypeError, RuntimeError) as error:
        raise InputError(f"{what} is not an array: {error}") from error
    if tuple(array.shape) != tuple(shape):
        several = ": several observations are a list" if array.shape[1:] == tuple(shape) else ""
        raise InputError(f"{what} has shape {tuple(array.shape)}, expected {tuple(shape)}{several}")
    if array.dtype.kind not in "biuf":
        raise InputError(f"{what} has dtype {array.dtype}, expected numbers")
    if image:
        if array.dtype != np.uint8:
            raise InputError(
                f"{what} has dtype {array.dtype}, expected uint8 values from 0 to 255, as the environment "
                "gives them"
            )
        return array
    if not np.isfinite(array).all():
        raise InputError(f"{what} is not finite")
    return array.astype(np.float32)


def encode_rows(actions: Any, shape: Shape, what: str) -> Tensor:
    """T actions as float32 (T, size); single numbers may lack their axis.

    Args:
        actions: an array (T, *shape), or (T,) or (T, 1) for one number each.
        shape: of an action.
        what: for messages.

    Raises:
        InputError: they have another shape or type, or are not finite.
    """
    array = np.asarray(actions)
    size = math.prod(shape)
    if array.ndim == 0 or (array.shape[1:] != tuple(shape) and not (size == 1 and array.size == len(array))):
        raise InputError(f"{what} has shape {array.shape[1:]}, expected {tuple(shape)}")
    if array.dtype.kind not in "biuf":
        raise InputError(f"{what} has dtype {array.dtype}, expected numbers")
    if wrong := np.count_nonzero(~np.isfinite(array.reshape(len(array), -1)).all(1)):
        raise InputError(f"{wrong} of {len(array)} actions are not finite")
    return torch.from_numpy(array.reshape(len(array), size).astype(np.float32))


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _plain(action: Any) -> Any:
    if isinstance(action, np.ndarray | np.generic):
        return action.tolist()
    return action
