"""A base of another family than BERT, from its folder to predictions in the official format."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast, RobertaConfig, RobertaModel

import sidetune_core
from sidetune_core.cli.main import main

SPECIAL = {"cls_token": "<s>", "pad_token": "<pad>", "sep_token": "</s>", "unk_token": "<unk>"}


@pytest.fixture
def tiny_roberta(tmp_path: Path) -> Path:
    """A RoBERTa of random weights, 2 layers of 16 channels, whose tokens are bytes."""
    folder = tmp_path / "roberta"
    tokens = [*SPECIAL.values(), *sorted(pre_tokenizers.ByteLevel.alphabet())]
    backend = Tokenizer(models.BPE(vocab={token: index for index, token in enumerate(tokens)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, **SPECIAL)
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    config = RobertaConfig(vocab_size=len(tokenizer), max_position_embeddings=130, pad_token_id=1, **sizes)
    RobertaModel(config).save_pretrained(folder)
    return folder


def test_another_family_is_trained_and_answers_a_file_of_rows(
    tiny_roberta: Path,
    make_squad: Callable[..., Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = make_squad(impossible=False)
    values = json.loads(path.read_text())
    values["data"][0]["paragraphs"][0]["qas"][0]["question"] = "Who? " * 50
    path.write_text(json.dumps(values))
    env = {"name": "squad", "train_file": str(path), "tokenizer": str(tiny_roberta), "max_length": 96}
    sizes = {"doc_stride": 40, "max_question_length": 20}
    run = sidetune_core.run(
        sidetune_core.RunSpec(
            base={"name": "transformer", "model": str(tiny_roberta)},
            side={"name": "ladder-text", "width": 8, "heads": 2},
            env={**env, **sizes},
            train={"steps": 2, "batch_size": 4},
        ),
        tmp_path / "run",
        quiet=False,
    )
    assert run.results.rows[-1][0] is not None
    reported = capsys.readouterr().err
    rows = [
        {"id": 7, "context": "The tower was built by Edith.", "question": "Who built the tower?"},
        {"id": 8, "context": "The tower was built by Edith.", "question": "Who? " * 50},
    ]
    file, out = tmp_path / "questions.jsonl", tmp_path / "predictions.json"
    file.write_text("\n".join(map(json.dumps, rows)))
    assert main(["predict", str(tmp_path / "run"), str(file), "--out", str(out)]) == 0
    answers = json.loads(out.read_text())
    assert answers.keys() == {"7", "8"}
    assert all(answer and answer in rows[0]["context"] for answer in answers.values())
    assert re.search(r"trained on [\d,]+ tokens, [\d,]+ per second; peak memory [\d,]+ MiB", reported)
