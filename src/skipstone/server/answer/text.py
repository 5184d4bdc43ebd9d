"""What of an answer is final, as text: it never takes anything back.

Tokens are decided in any order. What may be shown is the text of those before the first mask,
without half a character at its end, and without what may be the beginning of a stop string.

Shape letters: G generation length, F tokens that became final.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from skipstone.engine.request import Request
from skipstone.server.protocol.common import FinishReason
from skipstone.text import Text

_HALF = "\ufffd"


class SpokenToken(NamedTuple):
    """A token of what is shown."""

    offset: int
    """Among the new tokens."""
    start: int
    """Where in the text it begins."""


class FinalText:
    """The text of one answer, read from its steps."""

    def __init__(
        self, request: Request, text: Text, eos_id: int | None, *, limit: int, stops: Sequence[str]
    ) -> None:
        """Nothing is decided yet.

        Args:
            request: what is decoded.
            text: of the model.
            eos_id: of the model; None: no token ends it.
            limit: tokens after which it is cut.
            stops: texts before which it ends.
        """
        self.limit = limit
        """Tokens after which it is cut."""
        self.shown = ""
        """What is final; it only ever grows at its end."""
        self.tokens = 0
        """How many tokens that takes; without EOS, or what else ended it."""
        self.finish: FinishReason | None = None
        """Why nothing follows; None: more may come."""
        self.whole = True
        """Whether it did not end before masks that were left."""
        self._text, self._stops = text, tuple(stops)
        self._ends = frozenset(() if eos_id is None else (eos_id, *request.stop_ids))
        self._ids_G = np.array(request.region[:limit])
        self._decided_G = self._ids_G != request.mask_id
        self._settled = 0
        self._told, self._cut = 0, False
        self._by_token = request.settings.stop_after == "token"
        self._to_limit = limit >= len(request.region)

    @property
    def ends_request(self) -> bool:
        """Whether what has ended it ends the decoding, too, and no more steps follow."""
        by_token = self.finish == "stop" and not self._cut and self._by_token
        return by_token or (self.finish == "length" and self._to_limit)

    @property
    def ids(self) -> list[int]:
        """The new tokens, up to the limit; masks where nothing is decided."""
        return self._ids_G.tolist()

    def take(self, offsets_F: np.ndarray, tokens_F: np.ndarray) -> str:
        """What becomes final by a step.

        Args:
            offsets_F: int64: what no later step changes, as offsets among the new tokens.
            tokens_F: int64: what stands there.
        """
        within_F = offsets_F < self._ids_G.size
        offsets = offsets_F[within_F]
        self._ids_G[offsets], self._decided_G[offsets] = tokens_F[within_F], True
        if self.finish is not None or not self._decided_G[self._settled]:
            return ""
        return self._advance()

    def new_tokens(self) -> Iterator[SpokenToken]:
        """Tokens of what is shown that were not told before, from left to right.

        One of which a part is shown is among them; what a stop string has cut off whole is not.
        """
        while self._told < self.tokens:
            start = len(self._decoded(self._told).rstrip(_HALF))
            ended = self.finish is not None and not self._cut
            if start >= len(self.shown) and not ended:
                return
            self._told += 1
            yield SpokenToken(self._told - 1, start)

    def close(self) -> str:
        """What was held back, where no more is decoded than this."""
        if self.finish is not None:
            return ""
        self.finish, self.whole = "length", False
        return self._show(self._decoded(self._settled).rstrip(_HALF), self._settled)

    def _advance(self) -> str:
        """Read on to the next mask, or to the end."""
        first, last = self._settled, self._ids_G.size
        while self._settled < last and self._decided_G[self._settled]:
            if int(self._ids_G[self._settled]) in self._ends:
                self.finish = "stop"
                break
            self._settled += 1
        text = self._decoded(self._settled)
        if self._stop_in(text) is not None:
            return self._stop_after(first)
        if self.finish is None:
            text = text.rstrip(_HALF)
            if self._settled < last:
                text = text[: len(text) - self._held_back(text)]
            else:
                self.finish = "length"
        return self._show(text, self._settled)

    def _stop_after(self, first: int) -> str:
        """End with the first token, not before ``first``, that completes a stop string."""
        for count in range(first, self._settled + 1):
            text = self._decoded(count)
            if (stop := self._stop_in(text)) is not None:
                self.finish, self._cut = "stop", True
                return self._show(text[:stop], count)
        raise AssertionError("a stop string is in the text of all tokens and of none of them")

    def _show(self, text: str, tokens: int) -> str:
        """What of a text is new."""
        self.tokens = tokens
        # A decoder may write tokens otherwise beside others; what is out stays out.
        if not text.startswith(self.shown):
            return ""
        new = text[len(self.shown) :]
        self.shown = text
        return new

    def _stop_in(self, text: str) -> int | None:
        """Where the first stop string begins; half a character is in none of them."""
        found = [at for at in map(text.rstrip(_HALF).find, self._stops) if at >= 0]
        return min(found, default=None)

    def _held_back(self, text: str) -> int:
        """Characters at the end with which a stop string may begin."""
        return max(
            (
                count
                for stop in self._stops
                for count in range(1, min(len(stop), len(text) + 1))
                if text.endswith(stop[:count])
            ),
            default=0,
        )

    def _decoded(self, count: int) -> str:
        return self._text.decode(self._ids_G[:count].tolist())
