"""What a component is, in one line: the first sentence of its class's docstring, read from the source.

Nothing is imported for it.
"""

from __future__ import annotations

import re

from sidetune_core.config.inventory import Plugin
from sidetune_core.config.plugin_source import module_source

HEADER = r"^class {name}\b(?:\[[^\]]*\])?(?:\([^)]*\))?:\s*\n\s*[rR]?(\"\"\"|''')(.*?)\1"
"""A class whose first statement is a docstring."""

CITATION = re.compile(r"\s*\([^()]*\b(?:19|20)\d\d\b[^()]*\)")

SENTENCE = re.compile(r"(.+?)(?<!\be\.g)(?<!\bi\.e)(?<!\bal)(?:\.(?=\s)|\.?$)")


def summary(plugin: Plugin) -> str:
    """The first sentence of a component's docstring, without citations, marks of code and the full stop;
    empty if its module does not define the class, or the class has no docstring."""
    name = plugin.target.partition(":")[2].partition("[")[0].strip()
    try:
        source = module_source(plugin).decode()
    except (OSError, UnicodeDecodeError):
        return ""
    match = re.search(HEADER.format(name=re.escape(name)), source, re.DOTALL | re.MULTILINE)
    if not name or match is None:
        return ""
    sentence = SENTENCE.match(CITATION.sub("", " ".join(match[2].split())).replace("`", ""))
    return sentence[1] if sentence is not None else ""
