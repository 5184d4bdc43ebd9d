"""Requests that arrive at random, as long as those of ShareGPT.

Lengths follow figure 11 of the vLLM paper (Kwon et al., SOSP 2023, arXiv 2309.06180): a histogram
of tokens of ShareGPT's first turns, whose means are printed in it. The quantiles between are set so
that the means are the printed ones, and that no prompt is over 1,024 tokens and no pair over 2,048,
as vLLM's own benchmark filters them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from skipstone import Model, Settings
from skipstone.diff.agreement import Question

QUANTILES = (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 1.0)
PROMPT_TOKENS = (4, 9, 20, 55, 170, 450, 730, 980, 1024)
ANSWER_TOKENS = (4, 40, 130, 285, 465, 680, 820, 1200, 1900)
PROMPT_MEAN, ANSWER_MEAN = 161.31, 337.99
"""As the figure prints them."""
_LONGEST = 2048
_PER_STEP = 4
"""Tokens that a step commits: about what a threshold reaches, whatever the weights are."""

Ids = Callable[[int, np.random.Generator], list[int]]
"""So many ids of a prompt."""


@dataclass(frozen=True)
class Ask:
    """One request."""

    prompt: list[int]
    text: str | None
    """What has these ids; None: it has no text."""
    tokens: int
    """Of the answer: whole blocks."""

    def settings(self, of: Settings) -> Settings:
        """Of its answer: as long as it is to be, in steps of so many tokens."""
        return of.replace(gen_length=self.tokens, steps=self.tokens // _PER_STEP)


def asks(model: Model, ids: Ids, count: int, scale: float, seed: int) -> list[Ask]:
    """So many requests, each length drawn on its own.

    Args:
        model: answers; nothing is longer than its window.
        ids: makes prompts.
        count: how many.
        scale: by which lengths are multiplied, so that they fit.
        seed: of what is drawn.
    """
    rng, block = np.random.default_rng(seed), 32
    window = min(model.config.max_length, int(_LONGEST * scale))
    drawn = list[Ask]()
    for before_q, after_q in rng.random((count, 2)):
        before = max(1, round(scale * float(np.interp(before_q, QUANTILES, PROMPT_TOKENS))))
        after = max(1.0, scale * float(np.interp(after_q, QUANTILES, ANSWER_TOKENS)))
        prompt = ids(before, rng)
        text = None if model.text.template is None else model.text.decode(prompt)
        if text is not None:
            # Cut out of a text, the same text may have other ids.
            prompt = model.text.encode_rendered(text)
        blocks = min(-(-int(after) // block), (window - len(prompt)) // block)
        drawn.append(Ask(prompt, text, block * blocks))
    return drawn


def cut_from(questions: Sequence[Question], model: Model) -> Ids:
    """Prompts that are cut out of questions, one after the other, at a random place."""
    ids = model.text.encode_rendered("\n".join(question.prompt for question in questions))

    def cut(length: int, rng: np.random.Generator) -> list[int]:
        start = int(rng.integers(len(ids) - length))
        return ids[start : start + length]

    return cut


def any_ids(length: int, rng: np.random.Generator) -> list[int]:
    """Ids of a model whose weights are random."""
    return rng.integers(5, 50_000, length).tolist()


def arrivals(count: int, rate: float, seed: int) -> list[float]:
    """Seconds at which requests arrive, from 0 on: a Poisson process.

    Args:
        count: how many.
        rate: requests a second, on average; infinite: all at once.
        seed: of the gaps.
    """
    gaps = np.random.default_rng(seed).exponential(1.0, count) / rate
    return (np.cumsum(gaps) - gaps[0]).tolist()
