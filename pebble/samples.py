"""Turns problems into arrays of tokens, on all cores.

Shape letters: N samples, L the longest canvas.
"""

import multiprocessing
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from random import Random
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from pebble.tokenizer import EOS, chat, special_id
from pebble.world import GROUPS, Problem, draw

# Batches have one of these lengths: prompt and generation region together.
BUCKETS = (64, 96, 128, 160, 192, 224, 320)
MAX_PROMPT = 280
MAX_ANSWER = 95
CHUNK = 5_000


class Samples(NamedTuple):
    """Tokenised problems; behind the answer every canvas is filled with the end token."""

    tokens_NL: NDArray[np.uint16]
    prompt_N: NDArray[np.int64]
    answer_N: NDArray[np.int64]
    group_N: NDArray[np.int64]


class Chunk(NamedTuple):
    """A share of the work; its content does not depend on who does it."""

    tokenizer: str
    seed: int
    number: int
    size: int


def draw_samples(tokenizer: Tokenizer, count: int, seed: int, workers: int) -> Samples:
    """Draw training samples; the result does not depend on the number of workers."""
    text = tokenizer.to_str()
    chunks = [
        Chunk(text, seed, number, min(CHUNK, count - number * CHUNK))
        for number in range(-(-count // CHUNK))
    ]
    if workers < 2:
        parts = [_draw_chunk(chunk) for chunk in chunks]
    else:
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(workers, mp_context=context) as pool:
            parts = list(pool.map(_draw_chunk, chunks))
    return Samples(
        np.concatenate([part.tokens_NL for part in parts]),
        np.concatenate([part.prompt_N for part in parts]),
        np.concatenate([part.answer_N for part in parts]),
        np.concatenate([part.group_N for part in parts]),
    )


def tokenize(tokenizer: Tokenizer, problems: Sequence[Problem]) -> Samples:
    """Lay out each problem as prompt, answer and end tokens."""
    questions = [chat(problem.prompt) for problem in problems]
    answers = [problem.answer for problem in problems]
    tokens_NL = np.full((len(problems), BUCKETS[-1]), special_id(EOS), np.uint16)
    prompt_N = np.zeros(len(problems), np.int64)
    answer_N = np.zeros(len(problems), np.int64)
    encoded = zip(
        tokenizer.encode_batch_fast(questions, add_special_tokens=False),
        tokenizer.encode_batch_fast(answers, add_special_tokens=False),
        strict=True,
    )
    for row, (question, answer) in enumerate(encoded):
        prompt_N[row], answer_N[row] = len(question.ids), len(answer.ids)
        if prompt_N[row] + answer_N[row] >= BUCKETS[-1]:
            raise ValueError(f"a problem is too long for a canvas: {problems[row].prompt!r}")
        tokens_NL[row, : len(question.ids) + len(answer.ids)] = question.ids + answer.ids
    if prompt_N.max() > MAX_PROMPT or answer_N.max() > MAX_ANSWER:
        raise ValueError(f"a problem is too long: {prompt_N.max()}, {answer_N.max()} tokens")
    group_N = np.array([GROUPS.index(problem.group) for problem in problems], np.int64)
    return Samples(tokens_NL, prompt_N, answer_N, group_N)


def _draw_chunk(chunk: Chunk) -> Samples:
    rng = Random(f"samples {chunk.seed} {chunk.number}")
    return tokenize(Tokenizer.from_str(chunk.tokenizer), [draw(rng) for _ in range(chunk.size)])
