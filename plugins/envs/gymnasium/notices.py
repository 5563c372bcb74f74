"""What a user should know about environments before training: printed once for each stream."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from .actions import odd_bounds
from .inspection import EnvInfo
from .missions import is_text
from .parts import in_words


def notices(infos: Mapping[str, EnvInfo], max_steps: int, rescaled: bool) -> list[str]:
    """Sentences about parts of observations that are left out, missing time limits, and odd bounds.

    Args:
        infos: of the environments, by id.
        max_steps: bound of episodes of evaluations in environments without a time limit.
        rescaled: whether actions are rescaled.
    """
    left_out = _grouped({id: in_words(info.left_out) for id, info in infos.items() if info.left_out})
    lines = [f"{ids}: left out of the observations: {parts}" for parts, ids in left_out]
    if texts := [id for id, info in infos.items() if any(is_text(part.space) for part in info.left_out)]:
        lines.append(f"{', '.join(texts)}: read the text as words with --env.missions")
    if endless := [id for id, info in infos.items() if info.time_limit is None and not info.limits_itself]:
        lines.append(
            f"warning: {', '.join(endless)}: no time limit is registered; episodes of evaluations end after "
            f"{max_steps} steps, those of training may never. Set one with --env.time-limit N"
        )
    if rescaled:
        odd = _grouped({id: "; ".join(odd_bounds(info.actions)) for id, info in infos.items()})
        lines += [f"warning: {ids}: bounds of the actions: {notes}" for notes, ids in odd if notes]
    return lines


def _grouped(texts: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Each text with the ids that have it."""
    for text in dict.fromkeys(texts.values()):
        yield text, ", ".join(_with(texts, text))


def _with(texts: Mapping[str, str], text: str) -> Sequence[str]:
    return [id for id, own in texts.items() if own == text]
