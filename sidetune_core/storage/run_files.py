"""The names of the files and folders that a run writes in its folder."""

from __future__ import annotations

from sidetune_core.config import data_record

CERTIFICATE_LOG = "certificate.jsonl"
"""The file of what each stage adds to the certificate (see `certificate.log`)."""

WITHIN = "within.jsonl"
"""The file of what was measured and decided within the training of tasks (see `storage.within`)."""

STORED = "stored.jsonl"
"""The file of the bytes that the learner stores after tasks (see `assembly.stored`)."""

LINES = ("metrics.jsonl", "eval.jsonl", WITHIN, "moved.jsonl", "parameters.jsonl", STORED, CERTIFICATE_LOG)
"""The files to which a run appends lines."""

LOG = "log.txt"

DATA = data_record.FILE
"""The file of what the data consisted of (see `storage.data_file`)."""

SECONDS = "seconds.jsonl"
"""The file of `Clock`."""

APPENDED = (*LINES, SECONDS, LOG)
"""All files that are changed in place; others are replaced."""

IMAGES = "pictures"
"""Sub-folder of the visualisations of tasks."""

PROBES = "probes"
"""Sub-folder of the inputs that the certificate is checked with."""

DOCUMENTS = "documents"
"""Sub-folder of the documents of tasks, such as predictions (see `HasDocuments`)."""

CARDS = "tasks"
"""Sub-folder of the task cards (see `TaskCard`)."""

TENSORBOARD = "tb"
"""Sub-folder with TensorBoard files."""

FILES = ("run.json", DATA, "status", "certificate.json", "report.md", "lock", "lock.json", *APPENDED)
FOLDERS = ("checkpoints", CARDS, PROBES, DOCUMENTS, IMAGES, TENSORBOARD)
"""Everything that a run writes in its folder."""

BY_PRODUCTS = (
    *(DATA, "certificate.json", CERTIFICATE_LOG, "report.md", SECONDS, LOG),
    *(CARDS, PROBES, DOCUMENTS, IMAGES, TENSORBOARD),
)
"""What a run continues without, also where a folder is in place of a file or the other way round."""
