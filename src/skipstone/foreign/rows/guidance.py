"""Classifier-free guidance: the same canvas once more, with its prompt hidden.

A loop passes both halves in one batch, or calls the model twice a step. What it decides, it decides
for the conditional canvas; the other one is no sample of its own.

Shape letters: B batch of the run, C batch of the call, L canvas length.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class Samples:
    """Which part of a call's batch are the samples of the run."""

    chosen: np.ndarray
    """int [B]: indices into the batch of the call."""
    twin: bool
    """The whole call is the unconditional one."""
    parts: int = 1
    """Copies of the canvas in the batch."""

    @property
    def hidden(self) -> np.ndarray | None:
        """Int [B]: the same samples with their prompt hidden; None if they are not in the batch."""
        size = self.chosen.size
        return (self.chosen + size) % (2 * size) if self.parts == 2 else None

    @property
    def all(self) -> bool:
        """Whether the batch of the call is that of the run."""
        return self.parts == 1


def samples_of(
    ids_CN: np.ndarray, canvas_BL: np.ndarray | None, given_BL: np.ndarray | None, mask_id: int
) -> Samples:
    """Find the samples of the run in the batch of a call.

    Args:
        ids_CN: of the call.
        canvas_BL: newest canvas of the run; None if it is the first call.
        given_BL: bool: what was no mask when the run began.
        mask_id: what the prompt is hidden by.
    """
    batch = len(ids_CN)
    everyone = Samples(np.arange(batch), twin=False)
    if canvas_BL is None or given_BL is None:
        return _parts(ids_CN, mask_id) or everyone
    known = len(canvas_BL)
    if batch == known:
        if ids_CN.shape != canvas_BL.shape:
            return everyone
        more = canvas_BL.shape[1] - given_BL.shape[1]
        given_BL = np.pad(given_BL, ((0, 0), (0, more)))
        return Samples(everyone.chosen, _hidden(ids_CN, canvas_BL, given_BL, mask_id))
    if batch % known == 0:
        starts = range(0, batch, known)
        best = max(starts, key=lambda at: (_tokens(ids_CN[at : at + known], mask_id), -at))
        return Samples(np.arange(best, best + known), twin=False, parts=batch // known)
    return everyone


def _parts(ids_CN: np.ndarray, mask_id: int) -> Samples | None:
    """The conditional part of a first call; None if it is not made of parts."""
    for parts in (2, 3, 4):
        if len(ids_CN) % parts or len(ids_CN) < parts:
            continue
        split = np.split(ids_CN, parts)
        for i, canvas in enumerate(split):
            given = canvas != mask_id
            others = [part for j, part in enumerate(split) if j != i]
            if all(_hidden(other, canvas, given, mask_id) for other in others):
                size = len(canvas)
                return Samples(np.arange(i * size, (i + 1) * size), twin=False, parts=parts)
    return None


def _hidden(other: np.ndarray, canvas: np.ndarray, given: np.ndarray, mask_id: int) -> bool:
    """Whether ids are those of a canvas with its prompt, or the start of it, hidden by masks."""
    differs = other != canvas
    if not differs.any(1).all() or not (other[differs] == mask_id).all() or differs[~given].any():
        return False
    # The prompt goes as a whole, but for padding and the like before it.
    first, last = differs.argmax(1), differs.shape[1] - 1 - differs[:, ::-1].argmax(1)
    rows = zip(other, given, first, last, strict=True)
    return all(
        bool((row[begin:end][told[begin:end]] == mask_id).all()) for row, told, begin, end in rows
    )


def _tokens(ids: np.ndarray, mask_id: int) -> int:
    return int((ids != mask_id).sum())


def is_part(ids_CN: np.ndarray, now_BL: np.ndarray) -> bool:
    """Whether a call computes some samples of the batch, whole, and leaves the others out."""
    if len(ids_CN) >= len(now_BL) or ids_CN.shape[1] != now_BL.shape[1]:
        return False
    return bool((ids_CN[:, None] == now_BL[None]).all(2).any(1).all())
