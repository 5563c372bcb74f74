"""What former versions wrote into ``certificate.json``, in the keys and values of the present format."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from sidetune_core.certificate.verdicts import ALL_TENSORS, LAST, NOTHING_LATER, TENSORS_READ

_KEYS_OF_FORMAT_1 = {
    "learnt": "trained",
    "ground": "scope",
    "moved": "changed",
    "read_anew": "newly_read",
    "outline": "sketch",
}
_VERDICTS_OF_FORMAT_1 = {
    "nothing was learnt after it": LAST,
    "no task was learnt after another": NOTHING_LATER,
}
_SCOPES_OF_FORMAT_1 = {"everything": ALL_TENSORS, "what is read": TENSORS_READ}


def without_infinite_changes(values: Any) -> Any:
    """JSON values of a certificate, with null for changes that earlier versions wrote as not finite."""
    if isinstance(values, Mapping):
        if values.keys() == {"absolute", "relative"} and not all(map(_is_finite, values.values())):
            return None
        return {
            key: value if key == "measured" else without_infinite_changes(value)
            for key, value in values.items()
        }
    return [without_infinite_changes(value) for value in values] if isinstance(values, list) else values


def _is_finite(value: Any) -> bool:
    return value is not None and (not isinstance(value, float) or math.isfinite(value))


def from_format_1(values: Mapping[str, Any]) -> dict[str, Any]:
    """The keys and verdicts of format 1, as sidetune 0.1 wrote them, in those of this format."""
    certificate = _translate(values)
    if isinstance(certificate.get("tasks"), list):
        certificate["tasks"] = [
            _translate(task) if isinstance(task, Mapping) else task for task in certificate["tasks"]
        ]
    return certificate


def _translate(values: Mapping[str, Any]) -> dict[str, Any]:
    translated = {_KEYS_OF_FORMAT_1.get(key, key): value for key, value in values.items()}
    for key, texts in (("verdict", _VERDICTS_OF_FORMAT_1), ("scope", _SCOPES_OF_FORMAT_1)):
        text = translated.get(key)
        if isinstance(text, str):
            translated[key] = texts.get(text, text)
    return translated
