"""Prompts are encoded from any thread: a server does."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

from tokenizers import Encoding, Tokenizer

from skipstone import load


class Slow:
    """A tokenizer that others come between, once it was told how to read special text."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self.encode_special_tokens = False

    def encode(self, text: str, *, add_special_tokens: bool) -> Encoding:
        time.sleep(0.001)
        self._tokenizer.encode_special_tokens = self.encode_special_tokens
        return self._tokenizer.encode(text, add_special_tokens=add_special_tokens)


def test_special_text_of_one_thread_stays_text_beside_the_templates_of_others() -> None:
    text = load("pebble").text
    prompts = ["Say <|eot_id|>.", "Who is Newton?"]
    alone = [text.encode(prompt) for prompt in prompts]
    text._tokenizer = Slow(text._tokenizer)  # type: ignore
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(text.encode, prompts * 20))
    assert found == alone * 20
