"""Plans the batches of an epoch: every batch holds canvases of one length.

Shape letters: N samples, B batch, L length.
"""

from collections.abc import Iterator
from itertools import islice
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pebble.samples import BUCKETS, Samples

# How much room a canvas has beyond the smallest bucket that fits, in buckets.
EXTRA_BUCKETS = (0, 1, 2, 3)
EXTRA_SHARES = (0.6, 0.25, 0.1, 0.05)


class Batch(NamedTuple):
    """Canvases of one length, where the prompts end and how long the answers are."""

    tokens_BL: Tensor
    prompt_B: Tensor
    answer_B: Tensor


class Plan(NamedTuple):
    """Which rows make up one batch, and its length."""

    rows_B: NDArray[np.int64]
    length: int


class Store(NamedTuple):
    """All samples, kept on the training device."""

    tokens_NL: Tensor
    prompt_N: Tensor
    answer_N: Tensor

    def batch(self, plan: Plan) -> Batch:
        """Gather the rows of a plan."""
        rows_B = torch.from_numpy(plan.rows_B).to(self.tokens_NL.device)
        tokens_BL = self.tokens_NL[rows_B, : plan.length].long()
        return Batch(tokens_BL, self.prompt_N[rows_B], self.answer_N[rows_B])


def store(samples: Samples, device: torch.device) -> Store:
    """Move the samples to the device in the smallest type that holds the vocabulary."""
    return Store(
        torch.from_numpy(samples.tokens_NL.astype(np.int16)).to(device),
        torch.from_numpy(samples.prompt_N).to(device),
        torch.from_numpy(samples.answer_N).to(device),
    )


def plans(samples: Samples, batch_tokens: int, seed: int, first: int) -> Iterator[Plan]:
    """Give batches epoch after epoch without an end, beginning at batch number `first`."""
    return islice(_all_plans(samples, batch_tokens, seed), first, None)


def batch_size(batch_tokens: int, length: int) -> int:
    """How many canvases of this length make up a batch."""
    return max(1, batch_tokens // length)


def _all_plans(samples: Samples, batch_tokens: int, seed: int) -> Iterator[Plan]:
    epoch = 0
    while True:
        rng = np.random.default_rng((seed, epoch))
        epoch_plans = _epoch(samples, batch_tokens, rng)
        if not epoch_plans:
            raise ValueError("there are too few samples to fill one batch of any length")
        yield from epoch_plans
        epoch += 1


def _epoch(samples: Samples, batch_tokens: int, rng: np.random.Generator) -> list[Plan]:
    # One end token is always part of what is learnt.
    needed_N = samples.prompt_N + samples.answer_N + 1
    smallest_N = np.searchsorted(np.array(BUCKETS), needed_N)
    extra_N = rng.choice(EXTRA_BUCKETS, len(needed_N), p=EXTRA_SHARES)
    bucket_N = np.minimum(smallest_N + extra_N, len(BUCKETS) - 1)
    order_N = rng.permutation(len(needed_N))
    made: list[Plan] = []
    for bucket, length in enumerate(BUCKETS):
        rows = order_N[bucket_N[order_N] == bucket]
        size = batch_size(batch_tokens, length)
        # An incomplete batch would have a shape of its own and force another compilation.
        starts = range(0, len(rows) - size + 1, size)
        made.extend(Plan(rows[start : start + size], length) for start in starts)
    return [made[index] for index in rng.permutation(len(made))]
