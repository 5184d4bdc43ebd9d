"""How likely a model finds an answer: a Monte Carlo estimate over masked copies of it.

Method: Nie et al., "Large Language Diffusion Models" (arXiv 2502.09992), section 2.4, equation 6.
Of an answer of A tokens, l are masked at random, l uniform in 1..A. The estimate is A / l times the
log-probability of the masked tokens given everything else, averaged over samples. Its mean bounds
the log-likelihood of the answer from below. A block-causal model is asked for one block after the
other, each given those before it as they are, and the blocks' bounds add up: Arriola et al., "Block
Diffusion" (arXiv 2503.09573).

Shape letters: B canvases, L canvas length, A answer length, N packed rows, M masked rows,
V vocabulary.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, islice, product
from math import comb
from typing import NamedTuple, TypeVar, cast

import numpy as np
import torch
from torch import Tensor

from skipstone.cache import NoCache
from skipstone.checks import check_fields
from skipstone.engine.engine import Engine
from skipstone.engine.forward.eager import EagerLayers
from skipstone.engine.forward.finite import not_finite
from skipstone.engine.settings import Settings
from skipstone.errors import ConfigError, PromptError
from skipstone.memory.ranges import rounded
from skipstone.memory.store import Admitted, KVStore
from skipstone.models.base import Network
from skipstone.models.load import Model
from skipstone.reach import Reach
from skipstone.rows import Rows, to_device
from skipstone.unmask import Fixed

# Bounds the float64 copy of the logits: rows beyond this many bytes are scored in pieces.
_PIECE_BYTES = 256 << 20

T = TypeVar("T")


@dataclass(frozen=True)
class MonteCarlo:
    """How a likelihood is estimated."""

    mc_num: int = 128
    """Masked copies of an answer, or of each of its blocks if the model is block-causal. Where all
    2^A - 1 of them are no more, each is taken once, with its own weight, and the estimate is exact.
    """
    mc_seed: int = 0
    """Of the masks. They depend on it and on the tokens alone, not on batches or other answers."""

    def __post_init__(self) -> None:
        """Refuse values outside their range."""
        check_fields(self)
        if self.mc_num < 1:
            raise ConfigError(f"mc_num is {self.mc_num}, must be at least 1")
        if self.mc_seed < 0:
            raise ConfigError(f"mc_seed is {self.mc_seed}, must be 0 or more")


class LikelihoodRequest(NamedTuple):
    """Token ids: what is given, and the answer whose likelihood is asked for."""

    context: tuple[int, ...]
    answer: tuple[int, ...]


class _Copy(NamedTuple):
    """One masked copy of a question's answer."""

    index: int
    question: LikelihoodRequest
    masked_A: np.ndarray
    weight: float


def batches(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Cut into lists of ``size``; the last one may be shorter."""
    left = iter(items)
    while batch := list(islice(left, size)):
        yield batch


@torch.inference_mode()
def log_likelihoods(
    model: Model, questions: Sequence[LikelihoodRequest], how: MonteCarlo, *, batch_size: int = 1
) -> Iterator[tuple[int, float]]:
    """Estimate the log-likelihood (in nats) of each answer given its context.

    The mask token has its share of the distribution, as in decoding; it is never an answer.

    Args:
        model: what ``skipstone.load`` gave.
        questions: contexts, which may be empty, and answers, which may not.
        how: number of samples and their seed.
        batch_size: copies in one forward; they may belong to several questions.

    Yields:
        The index of a question and its estimate, longest questions first, as they are finished.

    Raises:
        PromptError: an answer is empty or a question is longer than the model allows.
        NotFiniteError: the model gives a number that is not finite; the message says where.
    """
    limit = model.config.max_length
    for i, question in enumerate(questions):
        length = len(question.context) + len(question.answer)
        if not question.answer or length > limit:
            raise PromptError(
                f"question {i} has {len(question.context)} context and {len(question.answer)} "
                f"answer tokens; the answer needs at least 1, both together at most {limit}"
            )
    lengths = [len(question.context) + len(question.answer) for question in questions]
    longest_first = sorted(range(len(questions)), key=lambda i: -lengths[i])
    copies = (
        copy
        for i in longest_first
        for part in _parts(questions[i], model.config.reach)
        for copy in _copies(i, part, how)
    )
    scored = _scored(model.network, copies, batch_size)
    for index, group in groupby(scored, key=lambda pair: pair[0]):
        yield index, sum(score for _, score in group)


def greedy_flags(
    model: Model, questions: Sequence[LikelihoodRequest], *, batch_size: int = 1
) -> Iterator[tuple[int, bool]]:
    """Whether decoding one token a step without cache gives exactly the answer (LLaDA's rule).

    The answer is one block, or the blocks of a block-causal model.

    Args:
        model: what ``skipstone.load`` gave.
        questions: contexts and answers, none of them empty.
        batch_size: contexts decoded together.

    Yields:
        The index of a question and its flag, as they are finished.
    """
    # Options of one question often have the same length: then one answer serves them all.
    asking = defaultdict[tuple[int, tuple[int, ...]], list[int]](list)
    for i, (context, answer) in enumerate(questions):
        asking[len(answer), context].append(i)
    size = model.config.reach.block_size
    for length, group in groupby(sorted(asking), key=lambda key: key[0]):
        whole = Settings(
            gen_length=length,
            block_length=size or length,
            absolute_blocks=size is not None,
            eos_stop=False,
        )
        plain = whole.replace(cache=NoCache(), unmask=Fixed()).all_stated()
        engine = Engine(model, plain)
        for batch in batches(group, batch_size):
            results = engine.generate_batch([context for _, context in batch])
            for key, result in zip(batch, results, strict=True):
                yield from ((i, result.tokens == questions[i].answer) for i in asking[key])


def _parts(question: LikelihoodRequest, reach: Reach) -> Iterator[LikelihoodRequest]:
    """What is scored at once, given what is left of it: all, or a block of a block-causal model."""
    ids, start = question.context + question.answer, len(question.context)
    while start < len(ids):
        end = reach.end(start, len(ids))
        yield LikelihoodRequest(ids[:start], ids[start:end])
        start = end


def _copies(index: int, question: LikelihoodRequest, how: MonteCarlo) -> Iterator[_Copy]:
    length = len(question.answer)
    if 2**length - 1 <= how.mc_num:
        masks = _every_mask(length)
    else:
        seeds = [how.mc_seed, *question.context, *question.answer]
        masks = _drawn_masks(length, how.mc_num, np.random.default_rng(seeds))
    for masked_A, weight in masks:
        yield _Copy(index, question, masked_A, weight)


def _every_mask(length: int) -> Iterator[tuple[np.ndarray, float]]:
    """Every mask but the empty one; weights as if each count were drawn equally often."""
    for bits in product((False, True), repeat=length):
        count = sum(bits)
        if count:
            yield np.array(bits), 1 / (count * comb(length, count))


def _drawn_masks(
    length: int, samples: int, rng: np.random.Generator
) -> Iterator[tuple[np.ndarray, float]]:
    """Random masks. Counts are spread evenly from a random start, so each is uniform in 1..A."""
    start = int(rng.integers(length))
    for i in range(samples):
        count = (start + i * length // samples) % length + 1
        yield rng.permutation(length) < count, length / (count * samples)


def _scored(
    network: Network, copies: Iterable[_Copy], batch_size: int
) -> Iterator[tuple[int, float]]:
    """The index and weighted log-probability of each copy, in order, computed in batches."""
    for batch in batches(copies, batch_size):
        for copy, log_probability in zip(batch, _forward(network, batch), strict=True):
            yield copy.index, copy.weight * log_probability


def _forward(network: Network, batch: Sequence[_Copy]) -> list[float]:
    """The log-probability of the masked tokens of each copy: one forward over all rows."""
    config = network.config
    lengths = np.array([len(c.question.context) + len(c.question.answer) for c in batch])
    longest = int(lengths.max())
    ids_BL = np.full((len(batch), longest), config.eos_id, dtype=np.int64)
    masked_BL = np.zeros(ids_BL.shape, dtype=np.bool_)
    for b, (copy, length) in enumerate(zip(batch, lengths, strict=True)):
        ids_BL[b, :length] = [*copy.question.context, *copy.question.answer]
        masked_BL[b, len(copy.question.context) : length] = copy.masked_A
    spans = [(b, 0, int(n)) for b, n in enumerate(lengths)]
    store = KVStore(config, sum(map(rounded, lengths.tolist())), network.dtype, network.device)
    bases = [cast("Admitted", store.admit(n)).base for n in lengths.tolist()]
    rows = Rows.spans(
        spans,
        network.device,
        lengths=lengths.tolist(),
        bases=bases,
        reaches=[config.reach] * len(spans),
    )
    shown_BL = to_device(np.where(masked_BL, config.mask_id, ids_BL), network.device)
    x_ND = network.embed(shown_BL[rows.request_N, rows.position_N])
    layers = EagerLayers(network, store)
    ((_, x_ND),) = layers.run(1, config.num_layers, x_ND, rows, every=False)
    # Every position of every copy has a row: that at its position, from the first of its copy on.
    request, position = np.nonzero(masked_BL)
    first = np.cumsum(lengths) - lengths
    index = first[request] + config.reach.row_of(position)
    token_M = to_device(ids_BL[masked_BL], network.device)
    found_M = _log_probabilities(network, x_ND[to_device(index, network.device)], token_M)
    log_M = found_M.cpu().numpy()
    # The mask token is no answer, and a finite model gives every other token some.
    broken = np.flatnonzero(~np.isfinite(log_M) & (ids_BL[masked_BL] != config.mask_id))
    if broken.size:
        copy = batch[request[broken[0]]]
        raise not_finite(network, store, shown_BL, rows, f"question {copy.index}")
    return np.bincount(request, log_M, len(batch)).tolist()


def _log_probabilities(network: Network, x_MD: Tensor, token_M: Tensor) -> Tensor:
    """Log-probabilities, float64 [M], of given tokens; the mask is no choice."""
    config = network.config
    piece = max(1, _PIECE_BYTES // (8 * config.vocab_size))
    parts = list[Tensor]()
    for x_ND, token_N in zip(x_MD.split(piece), token_M.split(piece), strict=True):
        logits_NV = network.head(network.final_norm(x_ND)).to(torch.float64, copy=True)
        parts.append(logits_NV.log_softmax(-1).gather(-1, token_N[:, None])[:, 0])
    return torch.cat(parts).masked_fill(token_M == config.mask_id, -torch.inf)
