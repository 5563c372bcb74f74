"""Reading adapters: everything that one task needs besides the base, with the base that it was trained on."""

from __future__ import annotations

from pathlib import Path

from sidetune_core.errors import RunError
from sidetune_core.serving.adapter_folder import TASK_FILE, read_files
from sidetune_core.serving.base_weights import Bases
from sidetune_core.serving.public_spec import check_paths, resolve_public
from sidetune_core.serving.source import Trained


def read_adapter(
    folder: Path,
    bases: Bases | None = None,
    trust_local_code: bool = False,
    links_within: Path | None = None,
) -> Trained:
    """An adapter with the tensors of its base.

    Args:
        folder: of the adapter.
        bases: where to look for the base; pass the same one for several adapters, which then share it.
        trust_local_code: import code that the adapter names.
        links_within: see `read_files`.

    Raises:
        RunError: a file is missing, damaged, altered, or of an unknown format.
        UntrustedCode: it names code to import, without `trust_local_code`.
        PluginError: a component is not installed.
        WeightsError: the base is not to be found, or another one is; the message has both hashes.
    """
    files = read_files(folder, links_within)
    source = folder / TASK_FILE
    resolved = resolve_public(files.spec, files.plugins, files.versions, source, trust_local_code)
    if not trust_local_code:
        check_paths(resolved, source)
    state = dict(files.state)
    if files.base is not None:
        bases = bases if bases is not None else Bases(trust_local_code=trust_local_code)
        inputs = next(iter(files.cards.values())).inputs
        tensors = bases.find(files.base, resolved, inputs, folder)
        try:
            state |= {key: tensors[name] for key, name in files.base.names(tensors)}
        except KeyError as error:
            raise RunError(f"{source} is damaged: its base has no tensor {error}") from error
    return Trained(resolved, files.cards, state, files.task_states, str(folder), (files.task,))
