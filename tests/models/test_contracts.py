"""Score offset, block-causal horizon, parts of models: the engine against a naive decode."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from itertools import pairwise

import pytest
import torch

from skipstone.cache import CachePolicy, DualCache, NoCache, PrefixCache
from skipstone.engine import Engine, Settings
from skipstone.engine.forward.eager import EagerLayers
from skipstone.engine.score.likelihood import LikelihoodRequest, MonteCarlo, log_likelihoods
from skipstone.memory.store import KVStore
from skipstone.models.base import ModelConfig, MoEConfig
from skipstone.models.dream import DREAM
from skipstone.models.illada import ILLADA
from skipstone.models.llada2 import LLADA2
from skipstone.models.llada_moe import LLADA_MOE
from skipstone.models.load import Model
from skipstone.models.sdar import SDAR
from skipstone.ops.model.reference_experts import Router
from skipstone.reach import Reach
from skipstone.rows import Rows
from skipstone.skip import CosineSkip
from skipstone.testing.tiny import EOS, MASK, VOCAB, tiny_model
from skipstone.tracing import Recorder
from skipstone.tracing.diagnose import diagnose
from skipstone.unmask import DreamThreshold, Fixed, Threshold, UnmaskPolicy
from tests.helpers import naive

SHAPE = ModelConfig(
    architecture=DREAM.name,
    width=32,
    num_layers=3,
    num_heads=4,
    num_kv_heads=2,
    head_width=16,
    mlp_width=48,
    vocab_size=VOCAB,
    max_length=128,
    rope_theta=10000.0,
    norm_eps=1e-5,
    tied_head=False,
    mask_id=MASK,
    eos_id=EOS,
    rounds_rotation=True,
)
CONFIGS = {
    "shifted": replace(SHAPE, qkv_bias=True, reach=Reach(score_offset=-1)),
    "block-causal": replace(SHAPE, architecture=SDAR.name, qk_norm=True, reach=Reach(block_size=4)),
    "both": replace(SHAPE, qkv_bias=True, qk_norm=True, reach=Reach(block_size=8, score_offset=-1)),
    "half rotation": replace(
        SHAPE, architecture=SDAR.name, qk_norm=True, rotary_share=0.5, rounds_rotation=False
    ),
    "experts": replace(
        SHAPE,
        architecture=LLADA_MOE.name,
        qk_norm=True,
        moe=MoEConfig(num_experts=6, expert_width=24, router=Router(2, "softmax")),
    ),
    "grouped experts": replace(
        SHAPE,
        architecture=LLADA2.name,
        qk_norm=True,
        rotary_share=0.5,
        reach=Reach(block_size=8),
        moe=MoEConfig(
            num_experts=12,
            expert_width=20,
            router=Router(3, "sigmoid", normalised=True, scale=2.5, groups=4, top_groups=2),
            choice_bias=True,
            shared_width=28,
            first_layer=1,
        ),
    ),
    "tied": replace(SHAPE, architecture=ILLADA.name, tied_head=True),
}
PROMPTS = [[3, 5, 7, 11, 2], [1], [9, 8, 7, 6, 5, 4, 3, 2], list(range(1, 22))]
EXACT = {
    "none": NoCache(),
    "prefix, refreshed": PrefixCache(refresh_every=1),
    "dual, refreshed": DualCache(refresh_every=1),
}
EVERY = EXACT | {"prefix": PrefixCache(), "dual": DualCache()}
# Without a refresh in every step a cache is exact where attention is causal over blocks.
RIGHT = [(n, k) for n, c in CONFIGS.items() for k in (EVERY if c.reach.block_size else EXACT)]


def model_of(name: str, block_length: int | None = None) -> Model:
    """A random model, of which no weight is as it would be left out.

    Args:
        name: of its config.
        block_length: of the run; its attention is causal over these blocks, if over any.
    """
    config = CONFIGS[name]
    if block_length is not None:
        config = replace(config, reach=config.reach.over(block_length))
    return tiny_model(config=config, sharpness=6.0, norm_noise=0.3)


def settings_of(cache: CachePolicy, threshold: float | None, block_length: int) -> Settings:
    return Settings(
        cache=cache,
        unmask=Fixed() if threshold is None else Threshold(threshold),
        gen_length=22,
        block_length=block_length,
        eos_stop=False,
    )


@cache
def expected(name: str, index: int, threshold: float | None, block_length: int) -> list[int]:
    """What a naive decode makes of one of the prompts; the same for all caches."""
    made, prompt = model_of(name, block_length), PROMPTS[index]
    size = made.config.reach.block_size
    first = block_length - (len(prompt) % block_length if size else 0)
    edges = [0, *range(first, 22, block_length), 22]
    blocks = list(pairwise(edges))
    return naive.decode(made.network, prompt, blocks, threshold=threshold)


# ---------------------------------------------------------------- tokens


@pytest.mark.parametrize(("name", "kept"), RIGHT)
@pytest.mark.parametrize(("threshold", "block_length"), [(None, 8), (0.4, 8), (0.4, 4), (None, 22)])
def test_tokens_are_those_of_a_naive_decode(
    name: str, kept: str, threshold: float | None, block_length: int
) -> None:
    engine = Engine(model_of(name), settings_of(EVERY[kept], threshold, block_length))
    for index, prompt in enumerate(PROMPTS):
        found = engine.generate(prompt).tokens
        assert list(found) == expected(name, index, threshold, block_length)


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("kept", EVERY)
@pytest.mark.parametrize("skip", [None, CosineSkip(skip_layer_k=2, skip_threshold=0.8)])
def test_alone_in_a_batch_and_as_graphs_alike(
    name: str, kept: str, skip: CosineSkip | None
) -> None:
    made = model_of(name)
    # Rows that wait for a high threshold stand still, and may skip.
    settings = settings_of(EVERY[kept], 0.4 if skip is None else 0.9, 8)
    settings = settings if skip is None else settings.replace(skip=skip)
    alone = [Engine(made, settings).generate(prompt) for prompt in PROMPTS]
    together = Engine(made, settings).generate_batch(PROMPTS, batch_size=3)
    graphs = Engine(made, settings, runner="graph").generate_batch(PROMPTS)
    for results in (together, graphs):
        assert [r.tokens for r in results] == [r.tokens for r in alone]
    if skip is not None and kept == "dual":
        assert any(r.stats.skip_share > 0 for r in alone)


def test_blocks_are_as_long_as_the_model_attends_where_nobody_says_so() -> None:
    lengths = {name: Engine(model_of(name)).settings.block_length for name in CONFIGS}
    assert lengths == {n: c.reach.block_size or 32 for n, c in CONFIGS.items()}
    made = model_of("block-causal")
    left_open = Engine(made, gen_length=22, eos_stop=False, unmask="threshold:0.4")
    assert list(left_open.generate(PROMPTS[0]).tokens) == expected("block-causal", 0, 0.4, 4)
    handle = Engine(made, gen_length=22, block_length=8).submit(PROMPTS[0], block_length=None)
    assert handle.result().settings.block_length == 4


def test_a_record_says_that_blocks_lie_where_the_model_attends() -> None:
    recorder = Recorder()
    Engine(model_of("block-causal"), gen_length=22).generate(PROMPTS[0], observer=recorder)
    (record,) = recorder.records
    assert record.header.settings["absolute_blocks"] == "true"
    other = Recorder()
    Engine(model_of("block-causal"), gen_length=22, unmask="threshold:0.2").generate(
        PROMPTS[0], observer=other
    )
    found = diagnose(recorder.trace, other.trace, model=model_of("block-causal"))
    assert found.cause is not None
    assert found.cause.rule == "commit-rule"


@pytest.mark.parametrize("name", ["shifted", "both"])
def test_a_canvas_that_begins_with_a_mask(name: str) -> None:
    made = model_of(name)
    canvas = [MASK, 5, MASK, MASK, 9, MASK]
    filled = list(canvas)
    while MASK in filled:
        masked = [p for p, token in enumerate(filled) if token == MASK]
        found = naive.logits(made.network, filled)[masked].double().softmax(-1)
        found[:, MASK] = 0
        confidence, token = found.max(-1)
        filled[masked[int(confidence.argmax())]] = int(token[int(confidence.argmax())])
    settings = settings_of(NoCache(), None, 8)
    assert list(Engine(made, settings).edit(canvas).tokens) == filled


@pytest.mark.parametrize("name", ["shifted", "block-causal"])
def test_an_answer_ends_at_the_tokens_that_its_model_ends_turns_with(name: str) -> None:
    made, settings = model_of(name), settings_of(DualCache(), None, 4).replace(eos_stop=True)
    whole = Engine(made, settings).generate(PROMPTS[0]).tokens
    stop = next(token for token in whole[6:] if token not in whole[:6])
    ends = Engine(replace(made, stop_ids=(stop,)), settings).generate(PROMPTS[0])
    assert ends.length == whole.index(stop)
    assert ends.tokens[: ends.length] == whole[: ends.length]
    assert made.text.ids_of_special(("<mask>", "<nothing>", "<eos>")) == (MASK, EOS)


# ---------------------------------------------------------------- rows


def test_a_shifted_model_computes_the_row_before_its_block() -> None:
    recorder = Recorder()
    engine = Engine(model_of("shifted"), settings_of(DualCache(), None, 8))
    engine.generate(PROMPTS[0], observer=recorder)
    for step in recorder.records[0].steps:
        first = 0 if step.refresh else step.block_start - 1
        assert step.rows[0] == first
        assert step.candidates.position.min() >= len(PROMPTS[0])
        assert set(step.candidates.position[step.candidates.age == 0]) <= set(step.rows + 1)


@pytest.mark.parametrize("name", ["shifted", "tied"])
def test_where_a_block_begins_with_its_first_mask_no_row_scores_that_again(name: str) -> None:
    recorder = Recorder()
    settings = settings_of(DualCache(), None, 8).replace(unmask=DreamThreshold(0.4))
    Engine(model_of(name), settings).generate(PROMPTS[0], observer=recorder)
    for step in recorder.records[0].steps:
        assert step.rows[0] == (0 if step.refresh else step.block_start)
        if step.step == 0:
            assert step.committed == (step.block_start,)


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize(
    "unmask",
    [
        Fixed("entropy", "time", first_alone=True),
        Fixed("margin", "time"),
        DreamThreshold(0.3),
        DreamThreshold(0.1, cached=False),
    ],
    ids=repr,
)
def test_published_rules_alone_in_a_batch_and_as_graphs_alike(
    name: str, unmask: UnmaskPolicy
) -> None:
    made = model_of(name)
    settings = settings_of(DualCache(), None, 8).replace(unmask=unmask, steps=9, top_p=0.9)
    alone = [Engine(made, settings).generate(prompt).tokens for prompt in PROMPTS]
    for runner in ("eager", "graph"):
        engine = Engine(made, settings, runner=runner)
        found = engine.generate_batch(PROMPTS, batch_size=3)
        assert [result.tokens for result in found] == alone


def test_a_block_causal_model_refreshes_one_block_and_not_the_prompt() -> None:
    recorder = Recorder("full")
    engine = Engine(model_of("block-causal"), settings_of(DualCache(), None, 8))
    engine.generate(PROMPTS[3], observer=recorder)
    steps = recorder.records[0].steps
    edges = [21, 24, 32, 40, 43]
    assert [s.block_start for s in steps if s.step == 0] == edges[:-1]
    for step in steps:
        block = edges.index(step.block_start)
        # The attention block that holds the end of the prompt is renewed with what is decoded.
        before = edges[block - 1] // 8 * 8 if block else 0
        first = before if step.step == 0 else step.block_start // 8 * 8
        assert (step.rows[0], step.rows[-1] + 1) == (first, edges[block + 1])


@pytest.mark.parametrize("name", CONFIGS)
def test_candidates_and_logits_stand_at_the_positions_they_score(name: str) -> None:
    made, prompt = model_of(name), PROMPTS[2]
    recorder = Recorder("full")
    Engine(made, settings_of(NoCache(), None, 8)).generate(prompt, observer=recorder)
    for step in recorder.records[0].steps:
        whole = [*prompt, *step.ids_before.tolist()]
        right = naive.logits(model_of(name, 8).network, whole)
        (tensor,) = (
            recorder.trace.tensor(0, key)
            for key in recorder.trace.keys(0)
            if key.forward == step.forward and key.tap.name == "LOGITS"
        )
        assert tensor is not None
        close = torch.from_numpy(tensor.values.copy())
        torch.testing.assert_close(close, right[tensor.positions.tolist()])
        assert tensor.positions.tolist() == step.candidates.position.tolist()


# ---------------------------------------------------------------- forwards and likelihoods


@pytest.mark.parametrize("name", CONFIGS)
def test_a_forward_is_the_naive_one(name: str) -> None:
    made = model_of(name)
    config, ids = made.config, PROMPTS[3]
    store = KVStore(config, len(ids), made.network.dtype, made.network.device)
    rows = Rows.spans([(0, 0, len(ids))], made.network.device, reaches=[config.reach])
    x_ND = made.network.embed(torch.tensor(ids))
    layers = EagerLayers(made.network, store).run(1, config.num_layers, x_ND, rows, every=False)
    ((_, x_ND),) = layers
    found = made.network.head(made.network.final_norm(x_ND))[
        config.reach.row_of(rows.position).tolist()
    ]
    torch.testing.assert_close(found, naive.logits(made.network, ids))


@pytest.mark.parametrize("name", CONFIGS)
def test_a_likelihood_is_that_of_the_naive_forward(name: str) -> None:
    made = model_of(name)
    questions = [
        LikelihoodRequest((3, 5, 7), (2, 9)),
        LikelihoodRequest((), (4,)),
        LikelihoodRequest((1,), (8,)),
    ]
    for index, found in log_likelihoods(made, questions, MonteCarlo(mc_num=3), batch_size=2):
        context, answer = questions[index]
        ids, block = (*context, *answer), made.config.reach.block_size or len(context + answer)
        # The tokens of one block together, those of the next one given these.
        new = range(len(context), len(ids))
        parts = [[p for p in new if p // block == own] for own in sorted({p // block for p in new})]
        total = sum(naive_bound(made, ids[: part[-1] + 1], part) for part in parts)
        assert found == pytest.approx(total)


def naive_bound(made: Model, ids: Sequence[int], part: Sequence[int]) -> float:
    """The exact bound of the log-likelihood of one or two tokens at the end of ``ids``."""
    total, size = 0.0, len(part)
    for bits in range(1, 2**size):
        masked = [p for i, p in enumerate(part) if bits >> i & 1]
        shown = [MASK if p in masked else token for p, token in enumerate(ids)]
        log = naive.logits(made.network, shown).double().log_softmax(-1)
        score = sum(float(log[p, ids[p]]) for p in masked)
        # Each count of masks is equally likely, and each choice of so many.
        total += score / len(masked) / (1 if size == 1 or len(masked) == 2 else 2)
    return total


def test_a_copy_in_another_dtype_has_weights_of_its_own() -> None:
    network = model_of("both").network
    twin = network.copy(torch.float32)
    assert (twin.dtype, twin.config) == (torch.float32, network.config)
    for name, weight in network.published().items():
        assert torch.equal(twin.published()[name], weight.float())
        weight.zero_()
    assert all(weight.any() for weight in twin.published().values())
