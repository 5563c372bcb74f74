"""Side-tuning: a small network for each task next to a frozen base."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import attrs
import torch
from torch import Tensor, nn

from sidetune_core.api import Components, Heads, Task, Trainable, option

from ._from_base import FromBase
from ._task_inference import InferenceOptions, PerTaskNetworks


class SideTune(PerTaskNetworks):
    """``T_t(norm(M_t(B(x), S_t(x))))`` with the base B frozen (Zhang et al., ECCV 2020).

    Each task has its own side, merger and head. Nothing that an earlier task uses is trained again, so
    nothing is forgotten, and the cost of a task does not grow with the number of tasks.

    With ``dense`` the merger of task t also receives the encodings of all earlier sides, ``M_t(B(x), S_0(x),
    ..., S_t(x))``, as in boosting. Earlier sides are frozen and a task never uses a later one, so nothing is
    forgotten either; but each forward pass of task t runs t more sides.

    With ``begin`` base the merged encoding is ``B + g (M - B)`` with a learned gate g for each channel, and
    with base-linear ``B + P (M - B)`` with a learned linear map P of the channels; g and P are 0 at first: a
    task begins at the base's encoding, whatever its merger and its side. There is neither where it begins
    there without: a mean of the base and of a side that begins as the base, such as a fork. They would have
    no gradient then, nor would the side.
    """

    @attrs.frozen
    class Config(InferenceOptions):
        """Options of `SideTune`."""

        dense: bool = option(
            False,
            "merge the encodings of all earlier sides too, frozen: the base first, the task's own side last",
        )
        begin: Literal["merger", "base", "base-linear"] = option(
            "merger",
            "merged encoding before the first step: the merger's, or the base's, to which a learned gate for "
            "each channel (base) or a learned linear map of the channels (base-linear), at first 0, adds the "
            "difference; without these where the merger's is the base's",
        )

    needs = frozenset({"base", "side", "merger"})

    def __init__(self, config: Config, components: Components) -> None:
        super().__init__(config, components)
        assert components.side is not None
        assert components.merger is not None
        self._make_side, self._make_merger = components.side, components.merger
        self.base = components.base()
        self.sides = nn.ModuleDict()
        self.mergers = nn.ModuleDict()
        self.heads = Heads(self.base.shape, config.norm)
        self._dense, self._begin = config.dense, config.begin
        self._current = ""

    @property
    def independent_tasks(self) -> bool:
        """A task uses its own side, merger and head, unless its merger gets earlier sides."""
        return not self._dense

    def start(self, task: Task) -> Trainable:
        side = self.sides[task.id] = self._make_side(self.base)
        earlier = self._earlier(task.id)
        merger = self._make_merger(self.base, 2 + len(earlier))
        is_base = side.begins_at_base and merger.is_mean and not earlier
        if self._begin != "merger" and not is_base:
            merger = FromBase(merger, self.base.shape, linear=self._begin == "base-linear")
        self.mergers[task.id] = merger
        self._current = task.id
        return [self.sides[task.id], self.mergers[task.id], self.heads.add_task(task)]

    def forward(self, inputs: Mapping[str, Tensor], task_id: str) -> Tensor:
        features = self.base(inputs)
        with torch.no_grad():
            earlier = [side(inputs, features) for side in self._earlier(task_id)]
        side = self.sides[task_id](inputs, features)
        merged = self.mergers[task_id]([features.encoding, *earlier, side])
        return self.heads.predict(merged, task_id, inputs)

    def record(self) -> dict[str, float]:
        """The weights of the current task's merger."""
        merger = self.mergers[self._current]
        return {f"merger.{name}": value for name, value in merger.weights().items()}  # type: ignore[operator]

    def _earlier(self, task_id: str) -> list[nn.Module]:
        """The earlier sides that a task's merger uses, oldest first."""
        ids = list(self.sides)
        return [self.sides[earlier] for earlier in ids[: ids.index(task_id)]] if self._dense else []
