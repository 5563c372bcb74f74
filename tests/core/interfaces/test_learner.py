"""What a learner has without defining it."""

from __future__ import annotations

import pytest
import torch

from sidetune_core.api import Components, FitError, Heads, Learner, Phase, Task, Trainable
from sidetune_core.interfaces.networks import Base
from sidetune_core.testing import sample


class Linear(Learner):
    """A head on a frozen base."""

    Config = sample.Config

    def __init__(self, config: sample.Config, components: Components) -> None:
        super().__init__()
        self.base = components.base()
        self.heads = Heads(self.base.shape)

    def start(self, task: Task) -> Trainable:
        return [self.heads.add_task(task)]

    def forward(self, inputs: object, task_id: str) -> torch.Tensor:
        return self.heads.predict(self.base(inputs).encoding, task_id)


@pytest.fixture
def learner() -> Linear:
    def base(pretrained: bool = True) -> Base:
        return sample.TinyBase((8,))

    made = Linear(sample.Config(), Components(sample.INPUTS, base))
    made.start(sample.tasks()[0])
    return made.eval()


def test_its_prediction_is_its_output(learner: Linear) -> None:
    inputs = sample.images(range(2))
    assert torch.equal(learner.predict(inputs, "t0"), learner(inputs, "t0"))


def test_it_needs_to_know_the_task(learner: Linear) -> None:
    with pytest.raises(FitError, match="learner Linear needs the task of each example"):
        learner.predict(sample.images([0]), None)


def test_it_has_one_phase_and_continues_with_the_same(learner: Linear) -> None:
    (task, _) = sample.tasks()
    (phase,) = learner.phases(task)
    assert phase == Phase("train", 1.0)
    assert learner.start_phase(task, phase) is None
