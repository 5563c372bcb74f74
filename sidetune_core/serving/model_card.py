"""The model card of an adapter, ``README.md``, in the form that the Hugging Face Hub expects."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from sidetune_core.config.resolve import ResolvedRun
from sidetune_core.errors import shorten
from sidetune_core.interfaces.cards import TaskCard
from sidetune_core.interfaces.outputs import Outputs
from sidetune_core.io.printable import one_line
from sidetune_core.serving.adapter_folder import ADAPTER_FILE, AdapterFiles
from sidetune_core.serving.base_weights import BASE_FILE, BaseReference

LICENCE_ID = re.compile(r"[a-z0-9][a-z0-9.+-]*")
"""What the hub takes for the identifier of a licence."""

MAX_CLASSES = 50
"""Number of class names in a card."""

MARKUP = re.compile(r"([\\`*_{}\[\]<>()#+!|~$-])")


def model_card(files: AdapterFiles, resolved: ResolvedRun, sizes: Mapping[str, int]) -> str:
    """The text of ``README.md``.

    Args:
        files: the adapter.
        resolved: its run.
        sizes: bytes of the files of tensors.
    """
    card = files.cards[files.task]
    lines = [
        "---",
        *_front_matter(files, card),
        "---",
        "",
        f"# {_plain(card.title or card.id)}",
        "",
        f"An adapter of [sidetune](https://pypi.org/project/sidetune/): task `{_code(card.id)}` "
        f"({_plain(card.title)}) of `{_code(resolved)}`. {_summary(files, sizes)}",
        "",
        "## Use",
        "",
        "```python",
        "import sidetune_core",
        "",
        'model = sidetune_core.load("this-folder")  # or "hf://owner/name"',
        f"model.predict({_example(card)}, task={json.dumps(card.id)})",
        "```",
        "",
        "## What it is",
        "",
        *_facts(files, card),
        "",
    ]
    return "\n".join(lines)


def _front_matter(files: AdapterFiles, card: TaskCard) -> Iterator[str]:
    """Lines of YAML. Texts are written as JSON, which YAML contains."""
    yield "library_name: sidetune"
    yield "tags:"
    names = [choice["name"] for slot, choice in files.spec.items() if _is_component(slot, choice)]
    for tag in dict.fromkeys(["sidetune", "adapter", *(name.rpartition("/")[2] for name in names)]):
        yield f"- {json.dumps(tag)}"
    if base_model := files.results.get("base_model"):
        yield f"base_model: {json.dumps(base_model)}"
        yield "base_model_relation: adapter"
    licence = str(files.results.get("licence", ""))
    if LICENCE_ID.fullmatch(licence):
        yield f"license: {json.dumps(licence)}"
    elif licence:
        yield "license: other"
        yield f"license_name: {json.dumps(licence)}"
    yield "metrics:"
    yield f"- {json.dumps(card.metric)}"
    value = files.results.get("value")
    if value is not None:
        title = json.dumps(one_line(card.title or card.id))
        yield "model-index:"
        yield f"- name: {title}"
        yield "  results:"
        yield "  - task:"
        yield f"      type: {'regression' if card.outputs.is_regression else 'classification'}"
        yield "    dataset:"
        yield f"      name: {title}"
        yield f"      type: {json.dumps(card.env)}"
        yield f"      split: {json.dumps(files.results.get('split', 'test'))}"
        yield "    metrics:"
        yield f"    - type: {json.dumps(card.metric)}"
        yield f"      value: {json.dumps(value)}"


def _facts(files: AdapterFiles, card: TaskCard) -> Iterator[str]:
    """Lines of a list."""
    yield from _base(files.base, files)
    if len(files.cards) > 1:
        others = [name for name in files.cards if name != files.task]
        yield f"- Further tasks, which this one uses: {', '.join(f'`{_code(name)}`' for name in others)}"
    inputs = ", ".join(f"`{_code(name)}` {tuple(shape)}" for name, shape in card.inputs.items())
    yield f"- Inputs of the network: {inputs}, made from raw inputs as in training"
    yield f"- Outputs: {_outputs(card.outputs)}"
    value = files.results.get("value")
    measured = "not measured" if value is None else f"{value:.6g}"
    better = "higher" if card.higher_is_better else "lower"
    after = files.results.get("after") or ""
    when = f", after task `{_code(after)}`" if after and after != card.id else ""
    split = files.results.get("split", "test")
    yield f"- Metric: {_plain(card.metric)} {measured} on split {_plain(split)}{when} ({better} is better)"
    splits = ", ".join(
        f"{_plain(name)} {count:,}" for name, count in card.splits.items() if count is not None
    )
    examples = f"; examples: {splits}" if splits else ""
    yield f"- Data: env `{_code(card.env)}`, digest `{_code(card.data or 'unknown')}`{examples}"
    yield f"- Trained with: `{_code(files.results.get('command', ''))}`"
    verdict = files.results.get("certificate")
    yield f"- Certificate on forgetting of the run: {_plain(verdict) if verdict else 'none'}"
    versions = ", ".join(f"{_plain(name)} {_plain(version)}" for name, version in files.versions.items())
    yield f"- Versions: {versions}"
    yield f"- Licence: {_plain(files.results.get('licence') or 'not stated')}"


def _base(base: BaseReference | None, files: AdapterFiles) -> Iterator[str]:
    choice = files.spec.get("base") or {}
    options = choice.get("options", {})
    given = " ".join(f"--base.{name.replace('_', '-')} {value}" for name, value in options.items())
    named = f"`--base {_code(choice.get('name', ''))} {_code(given)}`".replace(" `", "`")
    if base is None:
        yield f"- Base: {named}, trained with the task and included in `{ADAPTER_FILE}`"
        return
    origin = {
        "component": "built by sidetune from these options",
        "file": "weights from a file of whoever trained it",
        "random": "random weights",
    }.get(base.weights, "unknown")
    yield f"- Base: {named}, {base.parameters:,} parameters, {origin}; SHA-256 `{base.digest}`"


def _summary(files: AdapterFiles, sizes: Mapping[str, int]) -> str:
    size = f"{sizes[ADAPTER_FILE] / 1e6:.1f} MB"
    if files.base is None:
        return f"It contains a whole network of {size}."
    if BASE_FILE in sizes:
        return f"It has {size}; its base of {sizes[BASE_FILE] / 1e6:.1f} MB is included in `{BASE_FILE}`."
    return f"It has {size}, and needs its base of {files.base.bytes / 1e6:.1f} MB, which is not included."


def _outputs(outputs: Outputs) -> str:
    what = {"regression": "values", "binary": "independent labels"}.get(outputs.kind, "classes")
    names = shorten([_plain(name) for name in outputs.names], MAX_CLASSES)
    return f"{outputs.size or '?'} {what}{f': {names}' if names else ''}"


def _example(card: TaskCard) -> str:
    return '"new.jpg"' if list(card.inputs) == ["image"] else "x"


def _is_component(slot: str, value: Any) -> bool:
    return slot != "env" and isinstance(value, Mapping) and isinstance(value.get("name"), str)


def _plain(text: object) -> str:
    """Text in one line, in which nothing is markup."""
    return MARKUP.sub(r"\\\1", one_line(text))


def _code(text: object) -> str:
    """Text for a code span, which ends at a backtick."""
    return one_line(text).replace("`", "'")
