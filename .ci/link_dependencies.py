"""Link what sidetune requires, without extras, from this environment into another one.

A wheel that is installed there finds its declared dependencies and nothing else, and PyTorch is not unpacked
twice.

    python .ci/link_dependencies.py ENVIRONMENT
"""

from __future__ import annotations

import subprocess
import sys
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name


def requirements(name: str, extras: frozenset[str] = frozenset()) -> set[str]:
    """The distributions that one needs, directly or not, by canonical name."""
    needed: set[str] = set()
    pending: list[tuple[str, frozenset[str]]] = [(name, extras)]
    seen = set(pending)
    while pending:
        current, chosen = pending.pop()
        for text in metadata.requires(current) or []:
            requirement = Requirement(text)
            environments = [{"extra": extra} for extra in ("", *chosen)]
            if requirement.marker and not any(map(requirement.marker.evaluate, environments)):
                continue
            following = (canonicalize_name(requirement.name), frozenset(requirement.extras))
            needed.add(following[0])
            if following not in seen:
                seen.add(following)
                pending.append(following)
    return needed


def main(environment: Path) -> None:
    """Link the packages and their metadata into the environment's site-packages."""
    code = "import sysconfig; print(sysconfig.get_path('purelib'))"
    python = environment / "bin" / "python"
    site = Path(
        subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    )
    for name in sorted(requirements("sidetune")):
        distribution = metadata.distribution(name)
        for top in {path.parts[0] for path in distribution.files or [] if ".." not in path.parts}:
            link = site / top
            if not link.exists() and not link.is_symlink():
                link.symlink_to(Path(str(distribution.locate_file(top))).resolve())


if __name__ == "__main__":
    main(Path(sys.argv[1]))
