"""Commits, as those see them who read along: each token as it is decided, and the text so far."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from skipstone.engine.told import DecodedStep
from skipstone.text import Text


class Commit(NamedTuple):
    """One token that was decided."""

    position: int
    """Its offset among the new tokens."""
    token: int
    text: str
    """Final text so far: of all tokens before the first mask, or before EOS."""


class Reader:
    """Makes commits of what steps decided."""

    def __init__(
        self, region: Sequence[int], mask_id: int, stop_ids: Sequence[int], text: Text
    ) -> None:
        """Nothing is read yet; ``region`` is what stands from the first new token on."""
        self._text, self._stops = text, frozenset(stop_ids)
        self._ids = np.array(region)
        self._decided = self._ids != mask_id
        self._settled, self._shown = 0, ""

    def commits(self, step: DecodedStep) -> Iterator[Commit]:
        """What became final by the next step."""
        offsets, tokens = step.final_F, step.final_tokens_F
        self._ids[offsets], self._decided[offsets] = tokens, True
        self._advance()
        for offset, token in zip(offsets.tolist(), tokens.tolist(), strict=True):
            yield Commit(offset, token, self._shown)

    def _advance(self) -> None:
        """Read on what has become final."""
        left = np.flatnonzero(~self._decided)
        settled = int(left[0]) if left.size else self._ids.size
        if settled == self._settled:
            return
        self._settled = settled
        ids = self._ids[:settled].tolist()
        end = next((i for i, token in enumerate(ids) if token in self._stops), settled)
        # Half of a character may be still to come.
        self._shown = self._text.decode(ids[:end]).rstrip("\ufffd")
