"""`sidetune verify`: whether everything in a run folder agrees."""

from __future__ import annotations

from pathlib import Path

from tyro.conf import Positional

from sidetune_core.cli.commands.shared import Switch
from sidetune_core.io.printable import counted, one_line
from sidetune_core.storage.run_folder import open_run


def verify_run(run: Positional[Path], trust_local_code: Switch = False) -> int:
    """Check that everything in a run folder agrees, the certificate included, which states whether tasks were
    forgotten. The run folder alone is needed.

    Compares its hashes with the checkpoints, rebuilds the learner from the newest checkpoint, and evaluates
    the stored probes. Checks R, run.json, the report and the other files of the folder against the hashes
    that checkpoints hold. Exit status 0 if all of it agrees, whatever the verdict, otherwise 1.

    The last line is a SHA-256 over everything that was checked: publish it, and a reader of the folder can
    compare it.

    Args:
        run: the run folder.
        trust_local_code: import code that the run names (module:Class), which then can do anything.
    """
    from sidetune_core.certificate.report_lines import certificate_lines
    from sidetune_core.certificate.verify import verify
    from sidetune_core.config.plugin_record import read_segments, segment_lines
    from sidetune_core.results.report_check import check_report

    folder = open_run(run)
    verification = verify(folder, trust_local_code)
    problems, notes = check_report(folder)
    problems = [*verification.problems, *problems]
    for line in (*problems, *(f"note: {note}" for note in (*verification.notes, *notes))):
        print(one_line(line))
    if problems:
        if verification.cause:
            print(f"likely cause: {one_line(verification.cause)}")
        if verification.contradicted:
            print(f"The certificate of {one_line(run)} does NOT hold.")
        else:
            print(f"The run folder {one_line(run)} is NOT consistent.")
        return 1
    print(
        "\n".join(
            certificate_lines(
                verification.certificate, segment_lines(read_segments(folder.read_json("run.json")))
            )
            or [f"Nothing could be forgotten: {verification.certificate.verdict}."]
        )
    )
    count = counted(len(verification.certificate.tasks), "task")
    checked = f"the hashes and probes of {count} were checked"
    print(f"The certificate of {one_line(run)} holds: {checked}.")
    print("Internally consistent; no proof against somebody who rewrote all of it.")
    print(f"SHA-256 of what was checked: {verification.digest}")
    return 0
