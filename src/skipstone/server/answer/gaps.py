"""A text with gaps as a canvas, and the canvas that was filled as a text again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from skipstone.models.load import Model
from skipstone.server.protocol.errors import TOO_LONG, AnswerError
from skipstone.server.protocol.fill import FilledGap, Piece


@dataclass(frozen=True)
class GappedText:
    """Pieces of a text, each with its ids: masks where it is a gap."""

    pieces: tuple[tuple[Piece, list[int]], ...]

    @classmethod
    def of(cls, pieces: Sequence[Piece], model: Model) -> GappedText:
        """Encode the pieces, each for itself.

        Raises:
            AnswerError: all together are longer than the model takes.
            PromptError: text holds the mask.
        """
        config = model.config
        # The gaps first: they are masks beyond number, before there is one.
        _check_length(sum(one for one in pieces if isinstance(one, int)), config.max_length)
        ids = [
            [config.mask_id] * one if isinstance(one, int) else model.text.encode_rendered(one)
            for one in pieces
        ]
        _check_length(sum(map(len, ids)), config.max_length)
        return cls(tuple(zip(pieces, ids, strict=True)))

    @property
    def canvas(self) -> list[int]:
        """Ids of all pieces."""
        return [token for _, ids in self.pieces for token in ids]

    def filled(self, tokens: Sequence[int], model: Model) -> tuple[str, list[FilledGap]]:
        """The whole text, and what is in its gaps.

        Args:
            tokens: of the canvas from its first gap on.
            model: whose text it is.
        """
        whole, spans = "", list[FilledGap]()
        at = len(tokens) - len(self.canvas)
        for piece, ids in self.pieces:
            text = piece
            if isinstance(piece, int):
                text = model.text.decode(tokens[at : at + piece])
                end = len(whole) + len(text)
                spans.append(FilledGap(start=len(whole), end=end, text=text, tokens=piece))
            whole, at = f"{whole}{text}", at + len(ids)
        return whole, spans


def _check_length(tokens: int, positions: int) -> None:
    if tokens > positions:
        said = (
            f"text has {tokens} tokens, gaps among them, more than the model's {positions}; "
            f"shorten it"
        )
        raise AnswerError(400, said, param="text", code=TOO_LONG)
