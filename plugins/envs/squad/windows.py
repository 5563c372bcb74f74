"""Windows of tokens: a question and a stretch of its context, with the answer's place in it."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence

import attrs
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import BatchEncoding, PreTrainedTokenizerBase

from sidetune_core.api import DataError

from .files import Answer, Question

Offsets = NDArray[np.int32]


@attrs.frozen(eq=False)
class Windows:
    """All windows of some questions, one after another: window k has the positions from ``ends[k - 1]`` to ``ends[k]``.

    A context that does not fit is cut into windows that begin `stride` tokens of it apart. Where two share a token, an answer may begin
    with it in the one that has more context on the token's poorer side (Devlin et al., 2019).
    """

    questions: Tensor
    """(N,) the place of a window's question among those that it was made from, in rising order."""
    ends: Tensor
    """(N,)"""
    tokens: Tensor
    """(positions,) int32"""
    types: Tensor
    """(positions,) int8, 0 in the question and 1 in the context, where the tokenizer tells them apart."""
    offsets: Tensor
    """(positions, 2) int32, the characters of the context that a token comes from, first and one past the last; -1 outside of it."""
    begins: Tensor
    """(positions,) bool, whether an answer may begin here."""
    targets: Tensor
    """(N, 2) int64, the first and the last position of the first reference answer, (0, 0) where it is not all in the window."""

    def __len__(self) -> int:
        return len(self.ends)

    @property
    def lengths(self) -> Tensor:
        """(N,) how many positions each window has."""
        return self.ends.diff(prepend=self.ends.new_zeros(1))

    def fingerprint(self) -> str:
        """SHA-256 over what networks see."""
        digest = hashlib.sha256()
        for tensor in (self.ends, self.tokens, self.types):
            digest.update(tensor.numpy().tobytes())
        return digest.hexdigest()


def make_windows(
    tokenizer: PreTrainedTokenizerBase,
    asked: Sequence[tuple[Question, str]],
    window: int,
    stride: int,
    source: str,
) -> Windows:
    """Cut questions with their contexts into windows.

    Args:
        tokenizer: a fast one.
        asked: questions, each with its context.
        window: most tokens of a window.
        stride: tokens of the context between the beginnings of two windows.
        source: of the questions, for the message.

    Raises:
        DataError: a question leaves less room in a window than the stride.
    """
    texts = [question.text for question, _ in asked]
    sizes = (
        [len(tokens) for tokens in tokenizer(texts, add_special_tokens=False)["input_ids"]] if texts else []
    )
    most = window - tokenizer.num_special_tokens_to_add(pair=True) - stride
    if long := [place for place, size in enumerate(sizes) if size > most]:
        worst = max(long, key=lambda place: sizes[place])
        raise DataError(
            f"{source}: {len(long)} are too long, for a window of {window} tokens with a stride of {stride} takes at most {most}; the "
            f"longest, '{asked[worst][0].id}', has {sizes[worst]}. Choose a larger --env.window, or take them out"
        )
    places: dict[int, list[int]] = defaultdict(list)
    for place, size in enumerate(sizes):
        places[size].append(place)
    cut: list[list[_Window]] = [[] for _ in asked]
    for size, group in places.items():
        made = tokenizer(
            [texts[place] for place in group],
            [asked[place][1] for place in group],
            truncation="only_second",
            max_length=window,
            stride=most - size,  # that many tokens are in two windows
            return_overflowing_tokens=True,
            return_offsets_mapping=True,
            return_token_type_ids=True,
            verbose=False,
        )
        for number, which in enumerate(made["overflow_to_sample_mapping"]):
            cut[group[which]].append(_window(made, number))
    for place, windows in enumerate(cut):
        _place_answer(windows, asked[place][0].answers[:1])
        _choose_context(windows, stride)
    return _joined(cut)


@attrs.define(eq=False)
class _Window:
    tokens: list[int]
    types: list[int]
    offsets: Offsets
    first: int
    """The first position of the context, which has no gaps; `last` is one past its last."""
    last: int
    begins: NDArray[np.bool_]
    target: tuple[int, int] = (0, 0)


def _window(made: BatchEncoding, number: int) -> _Window:
    inside = np.array([one == 1 for one in made.sequence_ids(number)])
    offsets = np.where(
        inside[:, None], np.array(made["offset_mapping"][number], dtype=np.int32), np.int32(-1)
    )
    first = int(inside.argmax()) if inside.any() else len(inside)
    return _Window(
        made["input_ids"][number],
        made["token_type_ids"][number],
        offsets,
        first,
        first + int(inside.sum()),
        inside.copy(),
    )


def _place_answer(windows: Sequence[_Window], answers: Sequence[Answer]) -> None:
    """Set the targets of all windows of one question."""
    for answer in answers:
        end = answer.start + len(answer.text)
        for number, window in enumerate(windows):
            starts, ends = window.offsets[window.first : window.last].T
            if (
                not len(starts)
                or (number > 0 and starts[0] > answer.start)
                or (number + 1 < len(windows) and ends[-1] < end)
            ):
                continue
            first, last = (
                int(np.searchsorted(ends, answer.start, side="right")),
                int(np.searchsorted(starts, end, side="left")) - 1,
            )
            if first <= last:
                window.target = (window.first + first, window.first + last)


def _choose_context(windows: Sequence[_Window], stride: int) -> None:
    """Of the windows of one question that share a token, leave `begins` on in one."""
    if len(windows) < 2:
        return
    sizes = [window.last - window.first for window in windows]
    around = np.full((len(windows), stride * (len(windows) - 1) + sizes[-1]), -np.inf)
    for number, size in enumerate(sizes):
        place = np.arange(size)
        around[number, number * stride : number * stride + size] = (
            np.minimum(place, size - 1 - place) + 0.01 * size
        )
    best = around.argmax(0)
    for number, (window, size) in enumerate(zip(windows, sizes, strict=True)):
        window.begins[window.first : window.last] = best[number * stride : number * stride + size] == number


def _joined(cut: Sequence[Sequence[_Window]]) -> Windows:
    flat = [window for windows in cut for window in windows]
    return Windows(
        questions=torch.tensor(
            [place for place, windows in enumerate(cut) for _ in windows], dtype=torch.int64
        ),
        ends=torch.tensor([len(window.tokens) for window in flat], dtype=torch.int64).cumsum(0),
        tokens=torch.tensor([token for window in flat for token in window.tokens], dtype=torch.int32),
        types=torch.tensor([kind for window in flat for kind in window.types], dtype=torch.int8),
        offsets=torch.from_numpy(
            np.concatenate([window.offsets for window in flat] or [np.zeros((0, 2), np.int32)])
        ),
        begins=torch.from_numpy(
            np.concatenate([window.begins for window in flat] or [np.zeros(0, np.bool_)])
        ),
        targets=torch.tensor([window.target for window in flat], dtype=torch.int64).view(-1, 2),
    )
