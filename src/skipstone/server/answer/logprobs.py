"""Log-probabilities of an answer's tokens, as the endpoints tell them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from skipstone.server.answer.chances import Chances
from skipstone.server.answer.spelled import spelled
from skipstone.server.protocol.logprobs import (
    ChatLogprobs,
    CompletionLogprobs,
    TokenLogprob,
    TopLogprob,
)
from skipstone.text import Text


class ToldToken(NamedTuple):
    """A token of the text that is shown, and how probable it was."""

    start: int
    """Where in the text it begins."""
    chances: Chances


def chat_logprobs(text: Text, tokens: Sequence[ToldToken]) -> ChatLogprobs:
    """As ``/v1/chat/completions`` has them.

    Args:
        text: of the model.
        tokens: from left to right.
    """
    return ChatLogprobs(content=[_token(text, token.chances) for token in tokens])


def completion_logprobs(text: Text, tokens: Sequence[ToldToken], beside: int) -> CompletionLogprobs:
    """As ``/v1/completions`` has them.

    Args:
        text: of the model.
        tokens: from left to right.
        beside: how many most probable tokens were asked for.
    """
    return CompletionLogprobs(
        tokens=[_name(text, token.chances.token) for token in tokens],
        token_logprobs=[token.chances.logprob for token in tokens],
        top_logprobs=[_by_name(text, token.chances) for token in tokens] if beside else None,
        text_offset=[token.start for token in tokens],
    )


def _token(text: Text, chances: Chances) -> TokenLogprob:
    name, spelling = spelled(text, chances.token)
    top = list[TopLogprob]()
    for token, logprob in chances.top:
        other, bytes_of_other = spelled(text, token)
        top.append(TopLogprob(token=other, bytes=bytes_of_other, logprob=logprob))
    return TokenLogprob(token=name, bytes=spelling, logprob=chances.logprob, top_logprobs=top)


def _by_name(text: Text, chances: Chances) -> dict[str, float]:
    """The most probable tokens and the one that was decided; of a name, the most probable one."""
    found = dict[str, float]()
    for token, logprob in (*chances.top, (chances.token, chances.logprob)):
        found.setdefault(_name(text, token), logprob)
    return found


def _name(text: Text, token: int) -> str:
    """A token's text; here, OpenAI marks what is half a character."""
    name, spelling = spelled(text, token)
    whole = spelling is None or name.encode() == bytes(spelling)
    return name if whole else f"bytes:{name}"
