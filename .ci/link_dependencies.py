"""Link what a wheel requires, without extras, from this environment into another one.

The wheel, installed there, finds its declared dependencies and nothing else; PyTorch is not unpacked twice.

    python .ci/link_dependencies.py ENVIRONMENT WHEEL
"""

from __future__ import annotations

import email
import subprocess
import sys
import zipfile
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name


def declared(wheel: Path) -> list[str]:
    """The requirements in the metadata of a wheel."""
    with zipfile.ZipFile(wheel) as archive:
        (path,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        return email.message_from_bytes(archive.read(path)).get_all("Requires-Dist", [])


def closure(requirements: list[str]) -> set[str]:
    """The canonical names of the distributions that requirements need, directly or not."""
    needed: set[str] = set()
    pending = [(text, frozenset[str]()) for text in requirements]
    seen = set(pending)
    while pending:
        text, extras = pending.pop()
        requirement = Requirement(text)
        if requirement.marker and not any(requirement.marker.evaluate({"extra": e}) for e in ("", *extras)):
            continue
        needed.add(canonicalize_name(requirement.name))
        following = {
            (text, frozenset(requirement.extras)) for text in metadata.requires(requirement.name) or []
        }
        pending += following - seen
        seen |= following
    return needed


def main(environment: Path, wheel: Path) -> None:
    """Link the packages and their metadata into the environment's site-packages."""
    code = "import sysconfig; print(sysconfig.get_path('purelib'))"
    command = [str(environment / "bin" / "python"), "-c", code]
    site = Path(subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip())
    for name in sorted(closure(declared(wheel))):
        distribution = metadata.distribution(name)
        for top in {path.parts[0] for path in distribution.files or [] if ".." not in path.parts}:
            link = site / top
            if not link.exists() and not link.is_symlink():
                link.symlink_to(Path(str(distribution.locate_file(top))).resolve())


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
