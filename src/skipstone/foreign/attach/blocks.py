"""Where the prompt ends, where blocks begin and how long they are, as far as a run shows it.

Shape letters: B batch, L canvas length, N rows of a call.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from skipstone.foreign.attach.seen import Seen

# What loops call the length of their blocks, and the number of new tokens.
BLOCK_NAMES = ("block_length", "block_size")
_NEW_NAMES = ("gen_length", "max_new_tokens", "gen_len", "max_gen_length", "answer_length")

# Shorter blocks are not read from the order of commits: a loop that goes from left to right would
# look like blocks of one.
_SHORTEST = 4


def prompt_lengths(canvas_BL: np.ndarray, mask_id: int, given: int | None) -> list[int]:
    """Where the new tokens of each sample begin: at its first mask, unless a length is given."""
    if given is not None:
        return [given] * len(canvas_BL)
    masked_BL = canvas_BL == mask_id
    ends = np.where(masked_BL.any(1), masked_BL.argmax(1), canvas_BL.shape[1])
    return [int(end) for end in ends]


def number(text: str | None) -> float:
    """A number out of a text; NaN if it is none."""
    try:
        return float(text or "nan")
    except ValueError:
        return float("nan")


def said_length(settings: Mapping[str, str]) -> int | None:
    """The block length that a loop was given, or has under a usual name."""
    for name in BLOCK_NAMES:
        value = number(settings.get(name))
        if 1 <= value < math.inf and value == int(value):
            return int(value)
    return None


def origin_of(
    ids: np.ndarray, prompt_length: int, mask_id: int, settings: Mapping[str, str]
) -> int:
    """Where blocks are counted from, which is not where masks begin if the prompt has some.

    Args:
        ids: int64 [L], the first canvas.
        prompt_length: position of the first mask.
        mask_id: the mask's id.
        settings: of the calls and the loop; one may say how many tokens are new.
    """
    masked = ids == mask_id
    if not masked.any():
        return prompt_length
    length, first = ids.size, prompt_length
    last = int(np.flatnonzero(masked)[-1])
    if masked[first : last + 1].all():
        return first
    for name in _NEW_NAMES:
        new = number(settings.get(name))
        if 1 <= new <= length - first and masked[length - int(new) :].all():
            return length - int(new)
    tail = last + 1 - int(np.argmin(masked[: last + 1][::-1]))
    return tail if last == length - 1 else first


@dataclass(frozen=True)
class Blocks:
    """Blocks of one length; the first may be shorter, or longer by what stands before it."""

    start: int
    """First position of the first block: the end of the prompt."""
    second: int
    """First position of the second block."""
    length: int
    stop: int
    """First position after the last block."""

    def of(self, position: int) -> int:
        """The block of a position; those before the first count as in it."""
        return max(0, (position - self.second) // self.length + 1)

    def bounds(self, block: int) -> tuple[int, int]:
        """First position of a block, and first position after it."""
        first = self.start if block == 0 else self.second + (block - 1) * self.length
        after = min(self.second + block * self.length, self.stop)
        return min(first, after), after


def lay_out(start: int, origin: int, stop: int, length: int, window: int | None) -> Blocks:
    """Blocks from where they are counted; a window shows a grid over prompt and answer alike.

    Args:
        start: end of the prompt.
        origin: where blocks are counted from.
        stop: first position after the last block.
        length: of a block.
        window: where some calls that begin with the canvas end; None if there are none.
    """
    second = origin + length
    if window is not None and origin - window < length:
        second = origin + (window - origin - 1) % length + 1
    return Blocks(start, second, length, stop)


def window_of(rows: np.ndarray, length: int) -> int | None:
    """Where a call over the first positions of a canvas ends; None if it is no such call."""
    end = rows.size
    window = 0 < end < length and int(rows[0]) == 0 and int(rows[-1]) == end - 1
    return end if window else None


def block_length_from_rows(rows: np.ndarray, origin: int, length: int) -> int | None:
    """The block length that a partial call shows: its rows are one block and end before the canvas.

    Args:
        rows: int32 [N] positions of the call.
        origin: where the first block starts.
        length: L.

    Returns:
        None if the rows do not tell: those of a prefix cache go on to the end.
    """
    if not rows.size:
        return None
    whole_block = rows.size == np.ptp(rows) + 1 and rows.max() + 1 < length
    start = int(rows.min()) - origin
    return rows.size if whole_block and start >= 0 and start % rows.size == 0 else None


def block_length_from_run(steps: Sequence[Seen], origin: int, mask_id: int) -> int:
    """The block length of a whole run: from the starts of partial calls, else from the commits.

    A place where everything left of it was decoded while nothing right of it was may be the end of
    a block; the block length is the shortest of which every multiple is such a place.
    """
    length = max(s.after.size for s in steps)
    new = max(1, length - origin)
    partial = [s.rows for s in steps if not s.whole and s.rows.size]
    if partial:
        return _from_edges(partial, origin, new)
    ends = _possible_ends([s.after for s in steps], origin, mask_id)
    for candidate in range(_SHORTEST, new):
        if ends.issuperset(range(candidate, new, candidate)):
            return candidate
    return new


def _from_edges(partial: Sequence[np.ndarray], origin: int, new: int) -> int:
    """Calls begin at their block, or end with it; how far apart, tells how long blocks are."""
    begins = sorted({int(rows.min()) for rows in partial})
    edges = begins if max(begins) > origin else sorted({int(rows.max()) + 1 for rows in partial})
    common = math.gcd(*(edge - origin for edge in edges))
    if common == 1 and len(edges) > 1:
        # They differ from the ends of blocks, but always by as much.
        common = math.gcd(*(edge - edges[0] for edge in edges[1:]))
    return common if 0 < common < new else new


def _possible_ends(canvases: Sequence[np.ndarray], origin: int, mask_id: int) -> frozenset[int]:
    """Offsets up to which a canvas was full, and empty from there on."""
    masked = [canvas[origin:] == mask_id for canvas in canvases]
    ends = ((int(np.argmax(m)), m) for m in masked if m.any())
    return frozenset(end for end, m in ends if m[end:].all())
