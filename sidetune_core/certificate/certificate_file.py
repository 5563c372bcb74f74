"""The certificate in the run folder: ``certificate.json`` is written, and read in any format."""

from __future__ import annotations

import math
from typing import Any

import attrs
import cattrs
import cattrs.errors

from sidetune_core.certificate.former_formats import from_format_1, without_infinite_changes
from sidetune_core.certificate.record import FORMAT, Certificate
from sidetune_core.errors import RunError
from sidetune_core.storage.run_files import CERTIFICATE_LOG
from sidetune_core.storage.run_folder import RunFolder

FILE = "certificate.json"

LOG = CERTIFICATE_LOG
"""The file to which each stage appends what it adds to the certificate (see `log`)."""


def as_json(content: attrs.AttrsInstance) -> dict[str, Any]:
    """A certificate, or a line of ``certificate.jsonl``, as its file has it."""
    return attrs.asdict(content, filter=lambda field, value: value or field.name != "read_in_evaluation")


def write_certificate(folder: RunFolder, certificate: Certificate) -> None:
    """Write ``certificate.json`` atomically."""
    folder.write_json(FILE, as_json(certificate))


def read_certificate(folder: RunFolder) -> Certificate | None:
    """The certificate of a run, in any format; None where there is none yet.

    It is that of ``certificate.json``, or folded from ``certificate.jsonl`` where that is further.

    Raises:
        RunError: a file is damaged, or a newer version of sidetune wrote it.
    """
    from sidetune_core.certificate.log import CertificateLog  # imports this module

    log = CertificateLog.read(folder)
    if log is None:
        return read_written(folder)
    written = read_written(folder)
    if written is not None and written.trained == log.trained:
        return written
    return log.certificate(folder)


def read_written(folder: RunFolder) -> Certificate | None:
    """The certificate in ``certificate.json``, perhaps of an earlier stage; None where there is none.

    Raises:
        RunError: the file is damaged, or a newer version of sidetune wrote it.
    """
    path = folder.path / FILE
    if not path.is_file():
        return None
    values = folder.read_json(FILE)
    if "format" not in values:
        values = from_format_1(values) | {"format": 1}
    elif values["format"] not in (2, FORMAT):
        raise RunError(
            f"{path} has format {values['format']!r}, and this version of sidetune reads up to {FORMAT}"
        )
    try:
        return CONVERTER.structure(without_infinite_changes(values), Certificate)
    except (cattrs.errors.BaseValidationError, cattrs.errors.StructureHandlerNotFoundError) as error:
        details = "; ".join(cattrs.transform_error(error))[:300]
        raise RunError(f"{path} is damaged: {details}") from error


def _make_converter() -> cattrs.Converter:
    converter = cattrs.Converter(forbid_extra_keys=True)
    for kind in (str, int, bool):
        converter.register_structure_hook(kind, _exactly)
    converter.register_structure_hook(float, lambda value, _: math.nan if value is None else float(value))
    converter.register_structure_hook_func(lambda kind: kind == list[float | None], _column)
    return converter


def _column(values: Any, _: Any) -> list[float | None]:
    """A column of R, of which a long run has very many values."""
    if not isinstance(values, list) or not {float, int, type(None)}.issuperset(map(type, values)):
        raise ValueError(f"expected a list of numbers, got {str(values)[:60]!r}")
    return [None if value is None else float(value) for value in values]


def _exactly(value: Any, kind: type[Any]) -> Any:
    if type(value) is not kind:
        raise ValueError(f"expected {kind.__name__}, got {value!r}")
    return value


CONVERTER = _make_converter()
