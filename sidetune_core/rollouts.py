"""Tasks that gather their own experience: rollouts of the current policy, learnt from by proximal policy optimisation (PPO).

Schulman et al., Proximal Policy Optimization Algorithms, 2017, with the details that made it work everywhere (Huang et al., The 37
Implementation Details of PPO, ICLR Blog Track 2022). A task knows no learner, and no learner knows that it is in such a task.
"""

from __future__ import annotations

from abc import abstractmethod
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from functools import cached_property
from itertools import islice
from typing import Any, Literal, Protocol

import attrs
import numpy as np
import torch
from torch import Tensor, nn

from sidetune_core.errors import OptionError, RunError
from sidetune_core.moments import Moments
from sidetune_core.options import at_least, at_most, more_than, option
from sidetune_core.parts import Inputs, InputShapes, Shape
from sidetune_core.policies import ActorCritic, Policy
from sidetune_core.seeding import derive_seed
from sidetune_core.tasks import Act, Batch, Order, Task, shuffled

Observations = Mapping[str, Tensor]
"""By input name, (E, *shape) for E environments: float32, or uint8 where that is how it comes."""

RECENT = 100
"""Episodes of training that the recorded return is a mean over."""

EVALUATION_SEED = 0
"""Not the run's: every run is evaluated on the same episodes."""


@attrs.frozen
class RolloutOptions:
    """How experience is gathered and learnt from. An env's ``Config`` can inherit from it."""

    envs: int = option(8, "environments that run side by side", at_least(1))
    rollout: int = option(128, "steps of each environment between two updates", at_least(1))
    frames: int = option(100_000, "steps of all environments in one of --train.epochs, rounded up to whole rollouts", at_least(1))
    passes: int = option(4, "passes over a rollout in an update", at_least(1))
    gamma: float = option(0.99, "discount of a reward for each step that it is away", at_least(0), at_most(1))
    gae_lambda: float = option(0.95, "lambda of generalised advantage estimation", at_least(0), at_most(1))
    clip: float = option(0.2, "how far the probability ratio may be from 1", more_than(0))
    clip_value: float | None = option(None, "how far a value may move from that of the rollout; None for no limit", more_than(0))
    value_coef: float = option(0.5, "weight of the squared error of the value", at_least(0))
    entropy_coef: float = option(0.0, "weight of the policy's entropy", at_least(0))
    normalise_advantages: bool = option(True, "standardise advantages in each batch")
    normalise_observations: bool = option(False, "standardise vector inputs by the running mean and deviation of training")
    normalise_rewards: bool = option(False, "divide training rewards by the running deviation of the discounted return")
    hidden: int = option(64, "units of each layer between encoding and actor, and between encoding and critic", at_least(1))
    layers: int = option(1, "how many such layers the actor has, and the critic", at_least(0))
    episodes: int = option(100, "episodes of an evaluation", at_least(1))
    evaluate: Literal["mode", "sample"] = option("mode", "in evaluation, take the most likely action or draw one")


@attrs.frozen(eq=False)
class Step:
    """What a step of E environments gives. Where an episode ends, the next one begins at once."""

    observations: Observations
    """Of what comes next: where an episode has ended, the first ones of the new episode."""
    rewards: Tensor
    """(E,) float32"""
    terminated: Tensor
    """(E,) bool: the episode has ended in a state whose value is zero."""
    truncated: Tensor
    """(E,) bool: the episode was cut off, as by a time limit."""
    success: Tensor
    """(E,) bool, told where an episode has ended."""
    final: Observations
    """The last observations of the episodes that have ended, (n, *shape) in the order of the environments; empty if none has."""
    measures: Mapping[str, Tensor] = attrs.field(factory=dict)
    """(E,) by name, told where an episode has ended: what else the environment measures of it, such as SPL."""

    @cached_property
    def ended(self) -> Tensor:
        """(E,) bool"""
        return self.terminated | self.truncated


class Worlds(Protocol):
    """E environments of one kind, side by side."""

    def reset(self, seed: int) -> Observations:
        """Begin an episode in each; all that comes after is a function of the seed and the actions."""

    def step(self, actions: Tensor) -> Step:
        """Take actions (E, width), as the task's policy gives them."""

    def close(self) -> None: ...


class Expert(Protocol):
    """Somebody who knows what to do in the worlds of a task, and can be imitated. It may look into them."""

    def begin(self, worlds: Worlds, seed: int) -> None:
        """An episode has begun in `worlds`, of which there is one; all that is random in the expert comes from `seed`."""

    def act(self, observations: Observations) -> Tensor | None:
        """What to do now, (1, width) as the task's policy gives it; None to give the episode up, which is then not recorded."""


class RolloutTask(Task):
    """A task in which a policy acts: PPO on rollouts of E environments by T steps.

    A batch is `order.batch_size` rows of the latest rollout. An update is `passes` passes over it, in batches of equal size and an order
    of its own for each pass; then the next rollout is gathered, with the policy as it is by then. Every row is learnt from in every pass.
    Random numbers are functions of (seed, task, update). Frames have ids, and each is encoded by a frozen base once, in all passes.

    Where an episode is cut off by a time limit, the value of its last observation, discounted, is added to the last reward, since the
    episode would have gone on (Pardo et al., Time Limits in Reinforcement Learning, ICML 2018).

    The state of environments cannot be saved: a run goes on at an update, with new episodes.

    Args:
        id: see `Task`.
        title: see `Task`.
        inputs: see `Task`.
        units: by input name, what an observation is divided by: 255 for bytes of an image; 1 where a name is absent.
        policy: the family of distributions over its actions.
        options: see `RolloutOptions`.
    """

    metric = "return"
    experts: tuple[str, ...] = ()
    """Names of those who can be imitated in it, the usual one first; a subclass that names any has `expert`."""
    lost_within = "environments cannot be saved: the episodes that were under way are given up, and new ones begin"

    def __init__(
        self, id: str, title: str, inputs: InputShapes, units: Mapping[str, float], policy: Policy, options: RolloutOptions
    ) -> None:
        self.id, self.title, self.inputs, self.policy, self.options = id, title, inputs, policy, options
        self._units = units
        vectors = [name for name, shape in inputs.items() if len(shape) == 1 and options.normalise_observations]
        self._moments = {name: Moments.of(inputs[name]) for name in vectors}
        self._returns = Moments.of(())
        self._episodes: deque[Episode] = deque(maxlen=RECENT)
        self._figures: dict[str, Tensor] = {}

    @abstractmethod
    def make_worlds(self, count: int) -> Worlds:
        """New environments; they are closed when they are no longer needed."""

    def make_test_worlds(self, count: int) -> Worlds:
        """New environments to evaluate in, for a task that has others for that: number k plays the k-th share of the episodes."""
        return self.make_worlds(count)

    def expert(self, name: str) -> Expert:
        """One of `experts`.

        Raises:
            OptionError: it cannot act under these options.
        """
        raise NotImplementedError(f"{type(self).__name__} names experts {self.experts} and does not define expert()")

    def versions(self) -> Mapping[str, str]:
        """Versions of the libraries that its worlds come from, by name: what is recorded in others may be something else."""
        return {}

    def head(self, shape: Shape) -> nn.Module:
        return ActorCritic(shape, self.policy, self.options.hidden, self.options.layers)

    def steps_per_epoch(self, batch_size: int) -> int:
        """Batches of as many whole rollouts as have `options.frames` frames."""
        updates = -(-self.options.frames // (self.options.envs * self.options.rollout))
        return updates * self._steps_per_update(batch_size)

    def can_go_on(self, step: int, batch_size: int) -> bool:
        return step % self._steps_per_update(batch_size) == 0

    def train(self, act: Act, order: Order) -> Iterator[Batch]:
        steps = self._steps_per_update(order.batch_size)
        update, within = divmod(order.first_step, steps)
        if within:
            raise RunError(f"task {self.id} ({self.title}) goes on at every {steps}th step only, where a rollout begins")
        with closing(self.make_worlds(self.options.envs)) as worlds:
            film = _Film(derive_seed(order.seed, "frames", self.id), self.options.envs, self.options.rollout)
            now = self._arrive(worlds.reset(derive_seed(order.seed, "episodes", self.id, update)))
            course = _Course(now, self.options.envs)
            while True:
                rollout = self._collect(act, worlds, course, film, update, order.seed)
                places = shuffled(len(rollout.ids), Order(order.seed, order.batch_size), self.id, "update", update)
                yield from (self._batch(rollout, some) for some in islice(places, steps))
                update += 1

    def loss(self, output: Tensor, batch: Batch) -> Tensor:
        """PPO's clipped objective (eq. 7 of the paper, negated), squared error of the value, and entropy (eq. 9), row by row."""
        options, policy = self.options, self.policy
        actions, (before, advantages, returns, values) = batch.targets[:, : policy.width], batch.targets[:, policy.width :].unbind(1)
        parameters, value = output[:, :-1], output[:, -1]
        change = policy.log_prob(parameters, actions) - before
        ratio = change.exp()
        surrogate = torch.minimum(ratio * advantages, ratio.clamp(1 - options.clip, 1 + options.clip) * advantages)
        error = (value - returns).square()
        if options.clip_value is not None:
            near = values + (value - values).clamp(-options.clip_value, options.clip_value)
            error = torch.maximum(error, (near - returns).square())
        entropy = policy.entropy(parameters)
        with torch.no_grad():
            self._figures = {
                "kl": (ratio - 1 - change).mean(),  # an estimate that is unbiased and never negative (Schulman 2020)
                "clipped": ((ratio - 1).abs() > options.clip).float().mean(),
                "entropy": entropy.mean(),
            }
        return -surrogate + options.value_coef * error - options.entropy_coef * entropy

    def evaluate(self, act: Act, split: str = "test") -> dict[str, float]:
        """Mean return (undiscounted, as the environment gives it), length in steps, share of successes, and means of what else the
        environment measures, over `options.episodes`.

        Every environment plays its share of the episodes, so that short ones do not count more than long ones.
        """
        count = min(self.options.envs, self.options.episodes)
        generator = torch.Generator().manual_seed(derive_seed(EVALUATION_SEED, "actions", self.id))
        left = torch.tensor([self.options.episodes // count + (k < self.options.episodes % count) for k in range(count)])
        episodes: list[Episode] = []
        with closing(self.make_test_worlds(count)) as worlds:
            now = self._standardised(worlds.reset(derive_seed(EVALUATION_SEED, "episodes", self.id)))
            tally = _Tally(count)
            while (left > 0).any():
                parameters = act(self._inputs(now)).cpu()[:, :-1]
                actions = self.policy.mode(parameters) if self.options.evaluate == "mode" else self.policy.sample(parameters, generator)
                step = self._checked(worlds.step(actions), tally.steps + 1, "of evaluation")
                now = self._standardised(step.observations)
                for place, episode in tally.count(step):
                    if left[place] > 0:
                        episodes.append(episode)
                        left[place] -= 1
        return _means(episodes)

    def record(self) -> dict[str, float]:
        """Means over the latest episodes of training, and how far the policy has moved from the one that gathered the rollout."""
        figures = {name: float(value) for name, value in self._figures.items()}
        return figures | (_means(list(self._episodes)) if self._episodes else {})

    def state(self) -> dict[str, Any]:
        if not self._moments and not self.options.normalise_rewards:
            return {}
        return {"observations": {name: one.state() for name, one in self._moments.items()}, "returns": self._returns.state()}

    def set_state(self, state: Mapping[str, Any]) -> None:
        if state:
            self._moments = {name: Moments.from_state(one) for name, one in state["observations"].items()}
            self._returns = Moments.from_state(state["returns"])

    def _steps_per_update(self, batch_size: int) -> int:
        rows = self.options.envs * self.options.rollout
        if rows % batch_size:
            raise OptionError(
                f"--train.batch {batch_size} does not divide a rollout, {self.options.envs} environments by {self.options.rollout} steps "
                f"= {rows} rows; every row is to be learnt from in batches of one size"
            )
        return self.options.passes * (rows // batch_size)

    def _collect(self, act: Act, worlds: Worlds, course: _Course, film: _Film, update: int, seed: int) -> _Rollout:
        """A rollout from where the environments are. If it comes to nothing, the task is as it was before."""
        options = self.options
        generator = torch.Generator().manual_seed(derive_seed(seed, "actions", self.id, update))
        held = self.state()
        frames: list[Observations] = []
        columns: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
        try:
            for number in range(options.rollout):
                now = course.now
                output = act(self._inputs(now, film.ids(update, number), film.window)).cpu()
                actions = self.policy.sample(output[:, :-1], generator)
                step = self._checked(worlds.step(actions), update * options.rollout + number + 1, "of training")
                rewards = self._rewards(step, course)
                rewards = self._past_time_limits(act, step, rewards)
                frames.append(now)
                columns.append((output, actions, rewards, step.ended))
                self._episodes.extend(episode for _, episode in course.tally.count(step))
                course.now = self._arrive(step.observations)
            last = act(self._inputs(course.now, film.ids(update, options.rollout), film.window)).cpu()[:, -1]
        except BaseException:
            self.set_state(held)
            raise
        outputs, actions, rewards, ended = (torch.stack(column) for column in zip(*columns, strict=True))
        values = outputs[:, :, -1]
        advantages = gae(rewards, values, last, ended.float(), options.gamma, options.gae_lambda)
        actions, parameters = actions.flatten(0, 1), outputs[:, :, :-1].flatten(0, 1)
        learnt = torch.stack([advantages, advantages + values, values], 2).flatten(0, 1)
        targets = torch.cat([actions, self.policy.log_prob(parameters, actions).unsqueeze(1), learnt], 1)
        observations = {name: torch.stack([frame[name] for frame in frames]).flatten(0, 1) for name in self.inputs}
        ids = torch.cat([film.ids(update, number) for number in range(options.rollout)])
        return _Rollout(ids, observations, targets, film.window)

    def _batch(self, rollout: _Rollout, places: Tensor) -> Batch:
        targets = rollout.targets[places]
        if self.options.normalise_advantages and len(places) > 1:
            advantages = targets[:, self.policy.width + 1]
            targets[:, self.policy.width + 1] = (advantages - advantages.mean()) / (advantages.std() + 1e-8)
        rows = {name: value[places] for name, value in rollout.observations.items()}
        ids = rollout.ids[places]
        return Batch(ids, self._inputs(rows, ids, rollout.window), targets)

    def prepare(self, observations: Observations, ids: Tensor | None = None) -> Inputs:
        """What a network is given for observations (B, *shape) as the worlds give them."""
        return self._inputs(self._standardised(observations), ids)

    def see(self, observations: Observations) -> None:
        """Let running statistics take observations (B, *shape) of training into account."""
        for name, moments in self._moments.items():
            moments.see(observations[name])

    def _inputs(self, observations: Observations, ids: Tensor | None = None, window: int | None = None) -> Inputs:
        tensors = {}
        for name in self.inputs:
            value, unit = observations[name].float(), self._units.get(name, 1.0)
            tensors[name] = value if unit == 1.0 else value / unit
        return Inputs(tensors, ids, window=window)

    def _arrive(self, observations: Observations) -> Observations:
        """Observations of training, which running statistics take into account, standardised."""
        self.see(observations)
        return self._standardised(observations)

    def _standardised(self, observations: Observations) -> Observations:
        return {**observations, **{name: one.standardised(observations[name]) for name, one in self._moments.items()}}

    def _rewards(self, step: Step, course: _Course) -> Tensor:
        """Rewards to learn from."""
        if not self.options.normalise_rewards:
            return step.rewards
        course.discounted = course.discounted * self.options.gamma + step.rewards
        self._returns.see(course.discounted)
        course.discounted = course.discounted * ~step.ended
        return self._returns.scaled(step.rewards)

    def _past_time_limits(self, act: Act, step: Step, rewards: Tensor) -> Tensor:
        """Rewards with the discounted value of what would have come after a time limit."""
        cut = step.truncated & ~step.terminated
        if not step.final or not cut.any():
            return rewards
        final = self._standardised({name: value[cut[step.ended]] for name, value in step.final.items()})
        return rewards.masked_scatter(cut, rewards[cut] + self.options.gamma * act(self._inputs(final)).cpu()[:, -1])

    def _checked(self, step: Step, number: int, phase: str) -> Step:
        """A step, if all its numbers are finite.

        Raises:
            RunError: one is not.
        """
        values = {"reward": step.rewards, **{f"observation '{name}'": value for name, value in step.observations.items()}}
        for name, value in values.items():
            if value.is_floating_point() and not np.isfinite(value.numpy()).all():
                env = int((~value.isfinite()).reshape(len(value), -1).any(1).nonzero()[0])
                raise RunError(
                    f"{self.title}: the {name} of environment {env} is not a finite number (step {number} {phase}). When the environment "
                    "is mended, go on from the last update with --resume"
                )
        return step


def gae(rewards: Tensor, values: Tensor, last: Tensor, ended: Tensor, gamma: float, gae_lambda: float) -> Tensor:
    """Generalised advantage estimates (Schulman et al., ICLR 2016, eq. 16), (T, E).

    Args:
        rewards: (T, E).
        values: of the observations that were acted on, (T, E).
        last: value of the observation after the last step, (E,).
        ended: 1 where the episode ended in that step, so that nothing after it counts, else 0; (T, E).
        gamma: discount.
        gae_lambda: 0 for one-step differences, 1 for whole returns.
    """
    goes_on = gamma * (1 - ended)
    differences = (rewards + goes_on * torch.cat([values[1:], last.unsqueeze(0)]) - values).unbind()
    later, advantages = torch.zeros_like(last), []
    for difference, share in zip(reversed(differences), reversed((gae_lambda * goes_on).unbind()), strict=True):
        later = difference + share * later
        advantages.append(later)
    return torch.stack(advantages[::-1])


@attrs.frozen
class Episode:
    """What came of an episode."""

    total: float
    """Sum of its rewards."""
    length: int
    success: bool
    measures: Mapping[str, float]


def _means(episodes: Sequence[Episode]) -> dict[str, float]:
    count = len(episodes)
    measures = {name: sum(one.measures[name] for one in episodes) / count for name in episodes[0].measures}
    return measures | {
        "return": sum(one.total for one in episodes) / count,
        "success": sum(one.success for one in episodes) / count,
        "length": sum(one.length for one in episodes) / count,
    }


class _Tally:
    """Counts the episodes of E environments."""

    def __init__(self, envs: int) -> None:
        self.steps = 0
        self._totals, self._lengths = torch.zeros(envs, dtype=torch.float64), torch.zeros(envs, dtype=torch.int64)

    def count(self, step: Step) -> list[tuple[int, Episode]]:
        """Take a step into account; returns the episodes that ended in it, each with its environment."""
        self.steps += 1
        self._totals += step.rewards
        self._lengths += 1
        if not step.final:
            return []
        over: list[int] = step.ended.nonzero()[:, 0].tolist()
        found = [(one, self._episode(step, one)) for one in over]
        self._totals[over], self._lengths[over] = 0.0, 0
        return found

    def _episode(self, step: Step, number: int) -> Episode:
        measures = {name: float(value[number]) for name, value in step.measures.items()}
        return Episode(float(self._totals[number]), int(self._lengths[number]), bool(step.success[number]), measures)


class _Course:
    """Where the environments of a training are."""

    def __init__(self, now: Observations, envs: int) -> None:
        self.now = now
        self.discounted = torch.zeros(envs)
        """Return so far, (E,)."""
        self.tally = _Tally(envs)


@attrs.frozen
class _Film:
    """Ids of the frames of a training. The frame after the last of a rollout is the first of the next one."""

    seed: int
    envs: int
    rollout: int

    @property
    def window(self) -> int:
        """A rollout's frames, and those after its last step."""
        return (self.rollout + 1) * self.envs

    def ids(self, update: int, number: int) -> Tensor:
        """Of the frames in step `number` of a rollout, (E,): unique over trainings but for a chance of 2**-31."""
        first = (self.seed % 2**31 << 32) + (update * self.rollout + number) * self.envs
        return torch.arange(first, first + self.envs)


@attrs.frozen(eq=False)
class _Rollout:
    """The rows of a rollout, T * E of them."""

    ids: Tensor
    observations: Observations
    targets: Tensor
    """(T * E, width + 4): action, its log-probability then, advantage, return, value then."""
    window: int
