"""Log-probabilities of tokens, in the two forms that OpenAI's endpoints have."""

from __future__ import annotations

from pydantic import BaseModel


class TopLogprob(BaseModel):
    """A token that could have been decided."""

    token: str
    """Its text; of half a character its bytes, as ``\\\\xe2``."""
    bytes: list[int] | None
    """Of its text in UTF-8; None if the tokenizer does not say them."""
    logprob: float
    """Of the softmax over all ids; -9999 for what is less likely than numbers can say."""


class TokenLogprob(TopLogprob):
    """A token that was decided, by the step that decided it."""

    top_logprobs: list[TopLogprob]
    """The most probable ones, most probable first; the mask is never among them."""


class ChatLogprobs(BaseModel):
    """Of ``/v1/chat/completions``."""

    content: list[TokenLogprob]
    refusal: None = None


class CompletionLogprobs(BaseModel):
    """Of ``/v1/completions``."""

    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]] | None
    """The most probable tokens and the one that was decided; None if 0 were asked for."""
    text_offset: list[int]
    """Where in the answer's text each token begins."""
