"""Whether what people wrote is still there after a chat template had it.

A template may trim a text, change its case, put each word between brackets, or write it as JSON,
HTML or Python do. It may not leave it out: a model that never saw the question answers all the
same.
"""

from __future__ import annotations

import html
import json
from collections.abc import Callable, Sequence

from skipstone.text.messages import Message, texts

# How a template may legitimately write a text.
_FORMS: tuple[Callable[[str], str], ...] = (
    lambda text: text,
    lambda text: json.dumps(text, ensure_ascii=False)[1:-1],
    lambda text: json.dumps(text)[1:-1],
    lambda text: repr(text)[1:-1],
    html.escape,
    lambda text: html.escape(text).replace("&#x27;", "&#39;").replace("&quot;", "&#34;"),
)


def left_out(turns: Sequence[Message], rendered: str) -> str | None:
    """The first text that is not in what was rendered; None if all are.

    What an assistant said may be shortened: templates drop what it thought in earlier turns.
    """
    folded = rendered.casefold()
    for turn, text in texts(turns):
        if turn.get("role") == "assistant" or text.strip() in rendered:
            continue
        if not any(_in_order(form(text).casefold().split(), folded) for form in _FORMS):
            return text
    return None


def _in_order(words: Sequence[str], text: str) -> bool:
    """Whether all words stand in a text, one after another."""
    at = 0
    for word in words:
        found = text.find(word, at)
        if found < 0:
            return False
        at = found + len(word)
    return True
