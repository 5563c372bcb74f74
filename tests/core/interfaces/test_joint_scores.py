"""Prediction without a task id: every rule against numpy, one example at a time."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, logsumexp, softmax

from sidetune_core.api import TaskRule, joint_scores, task_scores

SIZES = (2, 3, 4)
OUTPUTS = [3 * torch.randn(50, size, generator=torch.Generator().manual_seed(size)) for size in SIZES]


def score(logits: np.ndarray, rule: str) -> float:
    p = softmax(logits)
    if rule == "energy":
        return float(logsumexp(logits))
    return float((p * np.log(p)).sum() if rule == "entropy" else p.max())


@pytest.mark.parametrize("rule", ["energy", "entropy", "max-softmax"])
def test_a_rule_predicts_a_class_of_the_task_that_it_infers(rule: TaskRule) -> None:
    predicted = joint_scores(OUTPUTS, task_scores(OUTPUTS, rule), "class").argmax(1)
    for example in range(50):
        logits = [output[example].numpy() for output in OUTPUTS]
        task = int(np.argmax([score(one, rule) for one in logits]))
        assert int(predicted[example]) == sum(SIZES[:task]) + int(np.argmax(logits[task]))


def test_without_a_rule_the_scores_are_the_log_probabilities_of_all_tasks() -> None:
    scores = joint_scores(OUTPUTS, None, "class")
    expected = np.concatenate([log_softmax(output.numpy(), 1) for output in OUTPUTS], 1)
    np.testing.assert_allclose(scores.numpy(), expected, atol=1e-5)
    by_rule = joint_scores(OUTPUTS, task_scores(OUTPUTS), "class")
    assert torch.equal(scores.argmax(1), by_rule.argmax(1))


def test_joint_scores_are_log_probabilities() -> None:
    total = joint_scores(OUTPUTS, task_scores(OUTPUTS, "energy"), "class").double().exp().sum(1)
    np.testing.assert_allclose(total.numpy(), 1, atol=1e-5)


def test_in_domain_the_output_is_that_of_the_inferred_task() -> None:
    outputs = [output[:, :2] for output in OUTPUTS]
    scores = task_scores(outputs, "entropy")
    joint = joint_scores(outputs, scores, "domain")
    for example in range(50):
        task = int(np.argmax([score(output[example].numpy(), "entropy") for output in outputs]))
        expected = log_softmax(outputs[task][example].numpy())
        np.testing.assert_allclose(joint[example].numpy(), expected, atol=1e-5)


def test_a_masked_class_is_never_predicted() -> None:
    masked = OUTPUTS[0].clone()
    masked[:, 0] = -torch.inf
    for rule in ("energy", "entropy", "max-softmax"):
        scores = task_scores([masked, OUTPUTS[1]], rule)  # type: ignore[arg-type]
        assert scores.isfinite().all()
        assert not (joint_scores([masked, OUTPUTS[1]], scores, "class").argmax(1) == 0).any()
