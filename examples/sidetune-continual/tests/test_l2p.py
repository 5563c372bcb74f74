"""L2P: the choice of prompts, and their way through a transformer."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from sidetune_continual._prompted import prompted, transformer_blocks
from sidetune_continual.l2p import L2P
from torch import Tensor, nn
from torch.nn import functional

from sidetune_core.api import (
    Base,
    ClassTask,
    Components,
    Features,
    FitError,
    Order,
    Phase,
    Scenario,
    TrainingStep,
    seeded,
)
from sidetune_core.interfaces.training import PhaseSteps


class Reader(Base):
    """(6,) numbers as tokens, to (6, 8)."""

    def __init__(self, pretrained: bool = True) -> None:
        super().__init__()
        self.shape = (6, 8)
        self.first = nn.Linear(7, 8)
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True) for _ in range(2)
        )

    def forward(self, inputs: Mapping[str, Tensor]) -> Features:
        tokens = self.embed(inputs["x"])
        for block in self.blocks:
            tokens = block(tokens)
        return Features(tokens)

    def embed(self, x: Tensor) -> Tensor:
        """(B, 6) to (B, 6, 8), with the positions."""
        return self.first(torch.cat([x[:, :, None], torch.eye(6).expand(len(x), -1, -1)], 2))


def make(scenario: Scenario = "task", **options: Any) -> L2P:
    with seeded(0, "build"):
        return L2P(L2P.Config(**options), Components({"x": (6,)}, Reader, scenario=scenario))


def test_prompts_are_those_of_the_nearest_keys() -> None:
    learner, inputs = make(pool=6, select=2), {"x": torch.randn(5, 6)}
    queries = learner.base(inputs).encoding.mean(1)
    similarities, chosen = learner._match(inputs)
    for query, values, numbers in zip(queries, similarities, chosen, strict=True):
        expected = [float(functional.cosine_similarity(query, key, dim=0)) for key in learner.keys.detach()]
        nearest = sorted(range(6), key=lambda number: -expected[number])[:2]
        assert numbers.tolist() == nearest
        assert values.tolist() == pytest.approx([expected[number] for number in nearest], abs=1e-6)


def test_prompts_pass_through_all_blocks_with_the_tokens(tasks: list[ClassTask]) -> None:
    """Layer by layer by hand; the loss has the distances of the keys, summed over those chosen (eq. 5)."""
    learner = make(pool=6, select=2, length=3, pull=0.25)
    learner.start(tasks[0])
    batch = next(tasks[0].train(lambda inputs: inputs["x"], Order(0, 8)))
    similarities, chosen = learner._match(batch.inputs)
    tokens = torch.cat([learner.base.embed(batch.inputs["x"]), learner.prompts[chosen].flatten(1, 2)], 1)
    for block in learner.base.blocks:
        tokens = block(tokens)
    output = learner.heads.predict(tokens[:, 6:].mean(1), "t0")
    torch.testing.assert_close(learner(batch.inputs, "t0"), output)
    step = TrainingStep(0, 1, 0, PhaseSteps(Phase(), 0, 1), batch_size=8)
    losses = learner.losses(batch, tasks[0], step)
    torch.testing.assert_close(losses["loss"], functional.cross_entropy(output, batch.targets))
    torch.testing.assert_close(losses["pull"], 0.25 * (1 - similarities).sum(1).mean())


def test_without_a_task_the_output_has_the_logits_of_all_classes(tasks: list[ClassTask]) -> None:
    learner, inputs = make("class"), {"x": torch.randn(5, 6)}
    for task in tasks:
        learner.start(task)
    with torch.no_grad():
        apart = [learner.predict(inputs, task.id) for task in tasks]
        assert torch.equal(learner.predict(inputs, None), torch.cat(apart, 1))


def test_in_the_scenario_domain_all_tasks_have_one_head(tasks: list[ClassTask]) -> None:
    learner, inputs = make("domain"), {"x": torch.randn(5, 6)}
    for task in tasks:
        learner.start(task)
    assert learner.predict(inputs, None).shape == (5, 2)
    assert torch.equal(learner.predict(inputs, None), learner.predict(inputs, "t1"))


def test_a_base_without_attention_is_refused(tasks: list[ClassTask]) -> None:
    class Linear(Reader):
        def __init__(self, pretrained: bool = True) -> None:
            super().__init__()
            self.blocks = nn.ModuleList(nn.Linear(8, 8) for _ in range(2))

    with pytest.raises(FitError, match="needs a transformer"):
        L2P(L2P.Config(), Components({"x": (6,)}, Linear))


def test_a_vit_of_timm_has_prompts() -> None:
    from timm.models.vision_transformer import VisionTransformer

    network = VisionTransformer(img_size=16, patch_size=8, embed_dim=16, depth=2, num_heads=2).eval()
    blocks, image, states = transformer_blocks(network), torch.rand(2, 3, 16, 16), torch.randn(2, 3, 16)
    with torch.no_grad():
        before = network(image)
        with prompted(blocks, states) as tokens:
            after = network(image)
        assert (len(blocks), tokens.passed, tuple(tokens.states.shape)) == (2, 2, (2, 3, 16))
        assert not torch.allclose(before, after)  # the class token attends to the prompts
        assert torch.equal(network(image), before)


def test_prompts_of_a_text_encoder_do_not_attend_to_padding(tmp_path: Path) -> None:
    from sidetune_plugins.bases.encoder import Transformer
    from transformers import BertConfig

    BertConfig(
        vocab_size=20, hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16
    ).save_pretrained(tmp_path)
    shapes = {"tokens": (6,), "mask": (6,)}
    base = Transformer(Transformer.Config(model=str(tmp_path), weights="none"), shapes).eval()
    blocks, states = transformer_blocks(base), torch.randn(1, 3, 8).repeat(2, 1, 1)
    tokens = torch.tensor([[3, 4, 5, 6, 0, 0], [3, 4, 5, 6, 7, 8]])
    mask = torch.tensor([[1, 1, 1, 1, 0, 0]]).repeat(2, 1)
    with torch.no_grad():
        with prompted(blocks, states) as padded:
            base({"tokens": tokens, "mask": mask})
        torch.testing.assert_close(padded.states[0], padded.states[1])
        with prompted(blocks, states[:1]) as short:
            base({"tokens": tokens[:1, :4], "mask": mask[:1, :4]})
    torch.testing.assert_close(padded.states[:1], short.states)
