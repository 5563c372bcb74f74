"""The statement of a certificate: what it proves, and what it does not."""

from __future__ import annotations

STATEMENT = (
    "For each task, 'tensors' lists every parameter and buffer that PyTorch read while the task's stored "
    "probes passed through the learner right after the task was trained, with its SHA-256 at that time "
    "(over name, type, shape and bytes). 'now' lists the SHA-256 of every tensor of the learner after the"
    " last stage. 'measured' lists the task's column of R, from the row after its training on. Zero by "
    "construction means: the same tensors are read now, all of them are bit-identical, and so are the "
    "outputs for the probes and all measured values; the probes have these outputs also with another "
    "random seed and, up to rounding, in smaller batches in another order and in the batches of the "
    "evaluation. With scope 'all tensors', no existing tensor has changed at all, whichever path an input"
    " takes. With scope 'tensors read', the claim covers the path of the probes only; in a network that "
    "routes inputs, other inputs may take another path. Proved are the hashes, the outputs for eight "
    "stored examples of each task, and that the recorded values are equal. Not proved: outputs for other "
    "inputs, if the learner keeps state outside of parameters and buffers that shows neither in the "
    "probes nor in R; the same bits on another machine, with other libraries or another number of "
    "threads; and that nobody rewrote the whole folder. A learner with unchanged tensors whose outputs "
    "are not reproducible, or whose measured values differ all the same, as with sampled actions, gets no"
    " claim; the reason is listed. 'stages' lists, for each stage of the stream, the existing tensors "
    "that it changed; 'files' the SHA-256 of task cards, documents and visualisations."
)

CARRIED = (
    " Values of R that eval.jsonl marks with 'unchanged_since' were not measured: they were carried over from"
    " the row of that number, because the task read the same tensors with the same bits in both rows, its "
    "stored probes had the same outputs, and machine, precision, versions and threads were the same."
)
"""What the statement has besides where tasks were added to a finished run and earlier ones were not evaluated
once more."""

SAMPLED = (
    " This certificate is that of a run before its last stage: after its latest stages, only the probes of "
    "tasks that read a changed tensor, and of a few others in turn, were replayed; the hashes cover all "
    "tasks."
)
"""What the statement has besides where the certificate is folded from ``certificate.jsonl``."""

UNCHANGED_ROWS = (
    " Where a line of eval.jsonl has 'unchanged', tasks trained before that row that have no line in it were"
    " not evaluated once more and have the values of the row before: no tensor that such a task reads changed"
    " between the two rows, neither one that its probes read nor one that only its first evaluation read "
    "('read_in_evaluation'), its stored probes had reproducible outputs, and machine, precision, versions and"
    " threads were the same. In each such row one of these tasks was evaluated all the same and had the same"
    " values bit for bit, if its data was there."
)
"""What the statement has besides where values are those of the row before."""

FORMER_STATEMENTS = {
    1: "ad031fc2a5813613881ed50a9e8fb837ce721ad3cc5211110dae06eecbbf2fc6",
    2: "5020a70beaed9b93a1c9ded9faa9419b576f5b8d7c73686e74ed1d502b816577",
}
"""SHA-256 of the statements of former formats."""
