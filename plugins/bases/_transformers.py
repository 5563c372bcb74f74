"""Networks of the transformers library, by name on the Hugging Face Hub or from a folder."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, cast

import torch
from transformers import AutoConfig, AutoModel, PretrainedConfig, PreTrainedModel
from transformers.utils import logging

from sidetune_core.api import WeightsError

from .._download import hub_access

FILES = "a folder with config.json and model.safetensors"
"""What a model on disk consists of, for messages."""


def local_folder(model: str) -> Path | None:
    """The folder that a model's name is, if it is one."""
    folder = Path(model).expanduser()
    return folder if folder.is_dir() else None


def load_config(model: str, owner: str) -> PretrainedConfig:
    """The configuration of a model.

    Args:
        model: name on the Hugging Face hub, or a folder.
        owner: for messages, such as ``base 'transformer'``.

    Raises:
        WeightsError: there is none.
    """
    source = _source(model, owner)
    with _loading(model, owner):
        config: PretrainedConfig = AutoConfig.from_pretrained(source, **_options(model))
    return config


def load_network(model: str, config: PretrainedConfig, pretrained: bool, owner: str) -> PreTrainedModel:
    """The network in eval mode.

    Args:
        model: name on the Hugging Face hub, or a folder.
        config: its configuration, or that of a part of it.
        pretrained: load its weights, from safetensors only, instead of random ones.
        owner: for messages.

    Raises:
        WeightsError: the weights are missing, or of another architecture.
    """
    source = _source(model, owner)
    with _loading(model, owner):
        if pretrained:
            network = AutoModel.from_pretrained(
                source,
                config=config,
                use_safetensors=True,
                dtype=torch.float32,
                **_options(model),
            )
        else:
            network = AutoModel.from_config(config, trust_remote_code=False)  # type: ignore[no-untyped-call]
    network.eval()
    return cast(PreTrainedModel, network)


def _options(model: str) -> dict[str, Any]:
    return {"local_files_only": local_folder(model) is not None, "trust_remote_code": False}


def _source(model: str, owner: str) -> str:
    folder = local_folder(model)
    if folder is None and (Path(model).expanduser().is_absolute() or model.startswith(("~", "."))):
        raise WeightsError(
            f"{owner}: folder {Path(model).expanduser()} does not exist; expected {FILES}, or a name on the "
            "Hugging Face hub"
        )
    return model if folder is None else str(folder)


@contextmanager
def _loading(model: str, owner: str) -> Iterator[None]:
    """No progress bars, and errors of the library in a sentence."""
    had_progress_bars = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        with nullcontext() if local_folder(model) is not None else hub_access():
            yield
    except (OSError, ValueError, KeyError, RuntimeError, ImportError) as error:
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise WeightsError(
            f"{owner} cannot load {model}: {reason} Expected {FILES}, or a name on the Hugging Face hub."
        ) from error
    finally:
        if had_progress_bars:
            logging.enable_progress_bar()  # type: ignore[no-untyped-call]
