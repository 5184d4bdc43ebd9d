"""The Monte Carlo likelihood: unbiased, seeded, and the same in any batch."""

from __future__ import annotations

from itertools import combinations, pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from skipstone.cache import NoCache
from skipstone.engine import Engine, Settings
from skipstone.engine.score.likelihood import (
    LikelihoodRequest,
    MonteCarlo,
    greedy_flags,
    log_likelihoods,
)
from skipstone.errors import ConfigError, PromptError
from skipstone.memory.store import KVStore
from skipstone.models.load import Model, load
from skipstone.models.table import ARCHITECTURES
from skipstone.rows import Rows
from skipstone.testing.checkpoint import MASK, VOCAB, write_checkpoint
from skipstone.unmask import Fixed

CONTEXT, ANSWER = (72, 101, 108, 108, 111), (33, 64, 200, 7)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return load(write_checkpoint(tmp_path_factory.mktemp("tiny")), dtype="float64")


def estimates(
    model: Model, questions: list[LikelihoodRequest], batch_size: int = 8, **how: int
) -> list[float]:
    found = dict(log_likelihoods(model, questions, MonteCarlo(**how), batch_size=batch_size))
    return [found[i] for i in range(len(questions))]


@torch.inference_mode()
def masked_log_probability(
    model: Model, question: LikelihoodRequest, spots: tuple[int, ...]
) -> float:
    """One canvas, one forward, one softmax a position."""
    network, config = model.network, model.config
    canvas = torch.tensor([*question.context, *question.answer])
    positions = [len(question.context) + spot for spot in spots]
    shown = canvas.clone()
    shown[positions] = MASK
    rows = Rows.spans([(0, 0, len(canvas))], network.device)
    store = KVStore(config, len(canvas), network.dtype, network.device)
    x_LD = network.embed(shown)
    for layer in range(config.num_layers):
        x_LD = network.layer(layer, x_LD, network.angles(rows), rows, store)
    total = 0.0
    for position in positions:
        logits = network.head(network.final_norm(x_LD[position : position + 1]))[0]
        total += float(logits[canvas[position]] - logits.logsumexp(0))
    return total


def expectation(model: Model, question: LikelihoodRequest, *, weighted: bool = True) -> float:
    """The estimator's mean, by its definition: over counts, then over the masks of a count."""
    length = len(question.answer)
    means = list[float]()
    for count in range(1, length + 1):
        masks = list(combinations(range(length), count))
        found = [masked_log_probability(model, question, mask) for mask in masks]
        means.append(float(np.mean(found)) * (length / count if weighted else 1))
    return float(np.mean(means))


def test_few_masks_are_all_taken_and_the_estimate_is_exact(tiny: Model) -> None:
    question = LikelihoodRequest(CONTEXT, ANSWER)
    exact = expectation(tiny, question)
    assert estimates(tiny, [question], mc_num=15) == pytest.approx([exact], abs=1e-9)
    # Control: one sample fewer is an estimate.
    assert estimates(tiny, [question], mc_num=14) != pytest.approx([exact], abs=1e-3)


@pytest.mark.parametrize("samples", [1, 3, 14])
def test_the_mean_over_seeds_is_the_exact_value(tiny: Model, samples: int) -> None:
    question = LikelihoodRequest(CONTEXT, ANSWER)
    draws = [
        estimates(tiny, [question], batch_size=16, mc_num=samples, mc_seed=seed)[0]
        for seed in range(800 // samples)
    ]
    error = np.std(draws, ddof=1) / np.sqrt(len(draws))
    assert error > 0
    assert abs(np.mean(draws) - expectation(tiny, question)) < 4 * error
    # Control: the same test tells the weights A / l from none.
    assert abs(np.mean(draws) - expectation(tiny, question, weighted=False)) > 10 * error


def test_one_token_has_a_probability_and_the_mask_has_the_rest(tiny: Model) -> None:
    questions = [LikelihoodRequest(CONTEXT, (token,)) for token in range(VOCAB)]
    found = np.array(estimates(tiny, questions, batch_size=66))
    assert found[MASK] == -np.inf
    question = LikelihoodRequest(CONTEXT, (MASK,))
    of_mask = masked_log_probability(tiny, question, (0,))
    assert np.exp(found).sum() + np.exp(of_mask) == pytest.approx(1, abs=1e-9)


def test_a_question_scores_the_same_alone_in_a_batch_and_in_any_order(tiny: Model) -> None:
    answers = [ANSWER * 3, ANSWER, ANSWER * 2, ANSWER[:1]]
    questions = [LikelihoodRequest(CONTEXT * (i + 1), answer) for i, answer in enumerate(answers)]
    together = estimates(tiny, questions, batch_size=7, mc_num=9)
    alone = [estimates(tiny, [question], batch_size=1, mc_num=9)[0] for question in questions]
    assert together == pytest.approx(alone, abs=1e-9)
    backwards = estimates(tiny, questions[::-1], batch_size=4, mc_num=9)
    assert together == pytest.approx(backwards[::-1], abs=1e-9)


def test_the_seed_decides(tiny: Model) -> None:
    questions = [LikelihoodRequest(CONTEXT, ANSWER * 3)]
    once, again, other = (
        estimates(tiny, questions, mc_num=4, mc_seed=seed)[0] for seed in (1, 1, 2)
    )
    assert once == again != other


def test_an_answer_needs_no_context(tiny: Model) -> None:
    question = LikelihoodRequest((), ANSWER)
    assert estimates(tiny, [question]) == pytest.approx([expectation(tiny, question)], abs=1e-9)


@pytest.mark.parametrize(
    "question", [LikelihoodRequest(CONTEXT, ()), LikelihoodRequest(CONTEXT, (5,) * 124)]
)
def test_what_cannot_be_scored_is_refused_before_any_work(
    tiny: Model, question: LikelihoodRequest
) -> None:
    with pytest.raises(PromptError, match=r"question 1 has 5 context.*at least 1.*at most 128"):
        next(log_likelihoods(tiny, [LikelihoodRequest(CONTEXT, ANSWER), question], MonteCarlo()))


@pytest.mark.parametrize(("name", "value"), [("mc_num", 0), ("mc_seed", -1), ("mc_num", "8")])
def test_bad_numbers_are_refused(name: str, value: object) -> None:
    with pytest.raises(ConfigError, match=name):
        MonteCarlo(**{name: value})  # pyrefly: ignore[bad-argument-type]


@torch.inference_mode()
def naive_log_probability(model: Model, ids: tuple[int, ...], masked: tuple[int, ...]) -> float:
    """One forward with the model's own attention, and one softmax for each masked position."""
    network, reach = model.network, model.config.reach
    canvas = torch.tensor(ids)
    shown = canvas.clone()
    shown[list(masked)] = model.config.mask_id
    rows = Rows.spans([(0, 0, len(ids))], network.device, lengths=[len(ids)], reaches=[reach])
    store = KVStore(model.config, len(ids), network.dtype, network.device)
    x_LD = network.embed(shown)
    for layer in range(model.config.num_layers):
        x_LD = network.layer(layer, x_LD, network.angles(rows), rows, store)
    logits_LV = network.head(network.final_norm(x_LD)).log_softmax(-1)
    scoring = [p + reach.score_offset if p + reach.score_offset >= 0 else p for p in masked]
    return sum(float(logits_LV[row, ids[p]]) for row, p in zip(scoring, masked, strict=True))


def blocks_of(first: int, stop: int, size: int | None) -> list[tuple[int, int]]:
    """The parts of an answer that a model decodes one after the other."""
    if size is None:
        return [(first, stop)]
    edges = [first, *(p for p in range(first + 1, stop) if p % size == 0), stop]
    return list(pairwise(edges))


@pytest.mark.parametrize("architecture", sorted(ARCHITECTURES))
@pytest.mark.parametrize("context", [(), CONTEXT, CONTEXT[:3]])
def test_a_model_is_scored_as_it_decodes(
    architecture: str, context: tuple[int, ...], tmp_path: Path
) -> None:
    """A block at a time where blocks see what is left of them: the parts' bounds add up."""
    model = load(write_checkpoint(tmp_path, architecture=architecture), dtype="float64")
    answer = (33, 64, 200, 7, 91, 15)
    ids, total = (*context, *answer), 0.0
    for first, stop in blocks_of(len(context), len(ids), model.config.reach.block_size):
        # What is right of the part lies beyond what is seen.
        for count in range(1, stop - first + 1):
            masks = list(combinations(range(first, stop), count))
            found = [naive_log_probability(model, ids[:stop], mask) for mask in masks]
            total += float(np.mean(found)) / count
    question = LikelihoodRequest(context, answer)
    assert estimates(model, [question]) == pytest.approx([total], abs=1e-8)


@pytest.mark.parametrize("architecture", sorted(ARCHITECTURES))
def test_the_greedy_answer_of_every_model_is_known_as_such(
    architecture: str, tmp_path: Path
) -> None:
    model = load(write_checkpoint(tmp_path, architecture=architecture), dtype="float64")
    size = model.config.reach.block_size
    for length in (3, 4, 9):
        plain = Settings(gen_length=length, cache=NoCache(), unmask=Fixed(), eos_stop=False)
        blocks = plain.replace(block_length=size or length, absolute_blocks=size is not None)
        said = Engine(model, blocks.all_stated()).generate(list(CONTEXT)).tokens
        other = (*said[:-1], (said[-1] + 1) % 200)
        questions = [LikelihoodRequest(CONTEXT, tokens) for tokens in (said, other)]
        assert dict(greedy_flags(model, questions)) == {0: True, 1: False}, length
