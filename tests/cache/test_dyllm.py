"""DyLLM held against a decode in plain PyTorch that keeps tables and knows no engine.

Shape letters: L positions, R computed rows, D width, H heads, E head width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from torch import Tensor

from skipstone import ConfigError, Engine, Model, NoCache, Settings
from skipstone.cache import CachePolicy, DllmCache, DyllmCache
from skipstone.diagnosis.finding import Proof
from skipstone.engine.forward.choosing import Choosing, ChosenRows
from skipstone.record import TraceWriter, open_trace
from skipstone.report.facts.effort import Effort
from skipstone.rows import Rows
from skipstone.testing.tiny import MASK
from skipstone.tracing import Recorder
from skipstone.unmask import Fixed, Threshold
from tests.helpers import naive
from tests.helpers.diagnosing import runs_under
from tests.helpers.watching import BASE, prompt_of
from tests.models.test_contracts import CONFIGS, model_of

THRESHOLDS = (-1.0, 0.9, 0.99, 0.999, 1.0)
CAUSAL = [name for name, config in CONFIGS.items() if config.reach.block_size]
SHIFTED = [n for n, c in CONFIGS.items() if c.reach.score_offset and not c.reach.block_size]


@dataclass
class Tables:
    """What a naive decode keeps of each layer, for all positions."""

    keys: dict[int, Tensor] = field(default_factory=dict)
    values: dict[int, Tensor] = field(default_factory=dict)
    contexts: dict[int, Tensor] = field(default_factory=dict)
    mlps: dict[int, Tensor] = field(default_factory=dict)


def naive_forward(
    model: Model, ids: Sequence[int], rows: list[int], kept: Tables, bar: float
) -> tuple[Tensor, list[set[int]]]:
    """Logits [R, V] of the rows, and of each layer the positions whose MLP is computed."""
    config, weights = model.config, naive._in_llama_names(model.network)
    x_RD = weights["model.embed_tokens.weight"][torch.tensor(ids)[rows]]
    computed = list[set[int]]()
    for layer in range(config.num_layers):
        place = f"model.layers.{layer}."
        mine = {n.removeprefix(place): w for n, w in weights.items() if n.startswith(place)}
        x_LD = x_RD.new_zeros(len(ids), config.width).index_copy(0, torch.tensor(rows), x_RD)
        normed_LD = naive._norm(x_LD, mine["input_layernorm.weight"], config.norm_eps)
        q, k, v = (
            (normed_LD @ mine[f"self_attn.{n}_proj.weight"].T)
            .unflatten(-1, (-1, config.head_width))
            .transpose(0, 1)
            for n in "qkv"
        )
        q, k = naive._rotated(q, config), naive._rotated(k, config)
        for table, fresh in ((kept.keys, k), (kept.values, v)):
            table.setdefault(layer, torch.zeros_like(fresh))[:, rows] = fresh[:, rows]
        shared = config.num_heads // config.num_kv_heads
        keys, values = (t[layer].repeat_interleave(shared, 0) for t in (kept.keys, kept.values))
        weights_HRL = (q[:, rows] @ keys.transpose(1, 2) / config.head_width**0.5).softmax(-1)
        context = (weights_HRL @ values).transpose(0, 1).flatten(1)
        x_RD = x_RD + context @ mine["self_attn.o_proj.weight"].T
        normed = naive._norm(x_RD, mine["post_attention_layernorm.weight"], config.norm_eps)
        mlp_RD = naive._mlp(normed, mine, "mlp.")
        if layer not in kept.contexts:
            kept.contexts[layer] = x_RD.new_zeros(len(ids), context.shape[1])
            kept.mlps[layer] = x_RD.new_zeros(len(ids), config.width)
        like = torch.cosine_similarity(context, kept.contexts[layer][rows], -1)
        moved = [at for at, cosine in enumerate(like.tolist()) if cosine < bar or bar == 1]
        kept.contexts[layer][rows] = context
        for at in moved:
            kept.mlps[layer][rows[at]] = mlp_RD[at]
        x_RD = x_RD + kept.mlps[layer][rows]
        computed.append({rows[at] for at in moved})
    raw_RD = naive._norm(x_RD, weights["model.norm.weight"], config.norm_eps)
    return raw_RD @ weights["lm_head.weight"].T, computed


def naive_decode(
    model: Model, prompt: list[int], settings: Settings, cache: DyllmCache, bar: float | None
) -> tuple[list[int], list[int], list[list[set[int]]]]:
    """New tokens; of each step how many rows entered it, and what its MLPs have computed."""
    ids, kept = [*prompt, *[MASK] * settings.gen_length], Tables()
    entered, computed = list[int](), list[list[set[int]]]()
    block = settings.block_length or settings.gen_length
    for start in range(len(prompt), len(ids), block):
        while masked := [p for p in range(start, start + block) if ids[p] == MASK]:
            number = len(entered) + 1
            warm, every = number <= cache.warmup, cache.prompt_every
            whole = warm or (every > 0 and number % every == 0)
            rows = list(range(0 if whole else len(prompt), len(ids)))
            logits, done = naive_forward(model, ids, rows, kept, 1 if warm else cache.threshold)
            entered.append(len(rows))
            computed.append(done)
            shares = logits[[rows.index(p) for p in masked]].double().softmax(-1)
            shares[:, MASK] = 0
            confidence, token = shares.max(-1)
            best = int(confidence.argmax())
            for i, position in enumerate(masked):
                if i == best or (bar is not None and confidence[i] >= bar):
                    ids[position] = int(token[i])
    return ids[len(prompt) :], entered, computed


@pytest.fixture
def chosen(monkeypatch: pytest.MonkeyPatch) -> list[list[set[int]]]:
    """Of each forward and layer of one request, the positions whose MLP is computed."""
    seen, choose = list[list[set[int]]](), Choosing.choose

    def noting(self: Choosing, layer: int, rows: Rows, ask: Any) -> ChosenRows:
        found = choose(self, layer, rows, ask)
        if layer == 1:
            seen.append([])
        seen[-1].append(set(found.rows.position.tolist()))
        return found

    monkeypatch.setattr(Choosing, "choose", noting)
    return seen


@pytest.mark.parametrize("threshold", THRESHOLDS)
@pytest.mark.parametrize(
    ("warmup", "every", "unmask", "block", "kv_heads"),
    [(4, 4, None, 6, 4), (1, 3, 0.4, 9, 2), (2, 0, None, 18, 2)],
)
def test_tokens_and_the_rows_of_each_mlp_are_those_of_a_naive_decode(
    chosen: list[list[set[int]]],
    threshold: float,
    warmup: int,
    every: int,
    unmask: float | None,
    block: int,
    kv_heads: int,
) -> None:
    cache = DyllmCache(threshold, warmup, every)
    settings = BASE.replace(
        cache=cache,
        block_length=block,
        unmask=Fixed() if unmask is None else Threshold(unmask),
    )
    for seed in range(3):
        model, prompt = naive.named_model(seed, kv_heads), prompt_of(seed, 5 + 2 * seed)
        chosen.clear()
        result = Engine(model, settings).generate(prompt)
        tokens, entered, computed = naive_decode(model, prompt, settings, cache, unmask)
        assert list(result.tokens) == tokens
        assert [step.rows for step in result.stats.steps] == entered
        assert chosen == computed


def test_a_higher_threshold_computes_more() -> None:
    def left_out(threshold: float) -> float:
        cache = DyllmCache(threshold, 1, 1)
        return (
            Engine(naive.named_model(1), BASE, cache=cache)
            .generate(prompt_of(1, 7))
            .stats.mlp_share
        )

    shares = [left_out(threshold) for threshold in THRESHOLDS]
    assert shares == sorted(shares, reverse=True)
    assert shares[0] == 1
    assert shares[-1] == 0


@pytest.mark.parametrize("dtype", ["float32", "model"])
def test_bfloat16_cannot_tell_cosines_near_1_apart(dtype: Literal["float32", "model"]) -> None:
    model = naive.named_model(1)
    model = replace(model, network=model.network.copy(torch.bfloat16))

    def run(threshold: float) -> int:
        cache = DyllmCache(threshold, 1, 1, dtype)
        steps = Engine(model, BASE, cache=cache).generate(prompt_of(1, 7)).stats.steps
        return steps[2].skipped_mlps

    # Both lie between the last two cosines that it has below 1 and 1.
    same = run(0.9985) == run(0.9999)
    assert same == (dtype == "model")


@pytest.mark.parametrize("name", SHIFTED)
def test_what_scores_the_first_new_token_is_response(name: str) -> None:
    steps = Engine(model_of(name), BASE, cache=DyllmCache(0.9, 1, 0)).generate(range(7)).stats.steps
    assert {step.rows for step in steps[1:]} == {BASE.gen_length + 1}


@pytest.mark.parametrize("window", [{"suffix_window": 2}, {"growing_canvas": True}], ids=str)
def test_what_comes_into_sight_is_computed(
    chosen: list[list[set[int]]], window: dict[str, Any]
) -> None:
    settings = BASE.replace(cache=DyllmCache(-1.0, 1, 0), unmask=Fixed(), **window)
    Engine(naive.named_model(1), settings).generate(prompt_of(1, 7))
    for layer in zip(*chosen, strict=True):
        computed = [position for positions in layer for position in positions]
        assert sorted(computed) == list(range(7 + BASE.gen_length))


@pytest.mark.parametrize("cache", [DyllmCache(0.9, 2), DllmCache(6, 3)], ids=repr)
def test_a_report_counts_the_layers_and_mlps_that_were_computed(
    cache: CachePolicy, tmp_path: Path
) -> None:
    engine = Engine(naive.named_model(1), BASE, cache=cache)
    with TraceWriter(tmp_path / "run") as sink:
        result = engine.generate(prompt_of(1, 7), observer=Recorder("decisions", sink=sink))
    with open_trace(tmp_path / "run") as trace:
        (record,) = trace.records
    header, steps = record.header, result.stats.steps
    attended = sum(step.rows * 4 - step.skipped_row_layers for step in steps)
    mlps = attended - sum(step.skipped_mlps for step in steps)
    assert mlps < sum(step.rows * 4 for step in steps)
    found = Effort.of(record)
    assert found.row_layers == attended
    width, length = header.width, record.length
    scored = sum(int((step.candidates.age == 0).sum()) for step in record.steps)
    products = attended * (8 * width**2 + 4 * width * length) + mlps * 16 * width**2
    assert found.flops == products + scored * 2 * width * header.vocab_size


def test_a_diagnosis_names_the_cache_and_says_how_old_rows_are() -> None:
    caches = (NoCache(), DyllmCache(0.9, 1), DyllmCache(0.9, 1))
    found = runs_under(naive.named_model(1), caches, prompt_of(1, 7))
    cause = found(0, 1).cause
    assert cause is not None
    assert (cause.rule, cause.proof) == ("stale-kv", Proof.NECESSARY_AND_SUFFICIENT)
    assert "rows take from some layers what these added to them earlier" in str(cause.evidence)
    # Twice the same finds nothing: what layers leave out follows from the states.
    assert found(1, 2).findings == ()


def test_what_had_no_effect_is_said() -> None:
    def notes(cache: DyllmCache) -> str:
        settings = BASE.replace(cache=cache, unmask=Fixed())
        return " ".join(Engine(naive.named_model(1), settings).generate(prompt_of(1, 7)).notes)

    assert "threshold=1.0 leaves nothing out" in notes(DyllmCache(1.0))
    assert "prompt_every=19 never came due in 18 forwards" in notes(DyllmCache(prompt_every=19))
    assert "all 18 forwards were refreshes" in notes(DyllmCache(warmup=18))
    assert not notes(DyllmCache())
    assert not notes(DyllmCache(prompt_every=18))


def test_a_fresher_cache_is_nearer_to_1() -> None:
    assert DyllmCache().fresher() == DyllmCache(0.995, prompt_every=2)
    assert DyllmCache(0.9, prompt_every=0).fresher() == DyllmCache(0.95)
    assert DyllmCache(1.0, prompt_every=1).fresher() is None


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("dyllm:1.5", "dyllm threshold is 1.5, must be a cosine"),
        ("dyllm:nan", "dyllm threshold is nan"),
        ("dyllm:warmup=0", "dyllm warmup is 0, must be 1 or more: there is nothing to compare"),
        ("dyllm:prompt_every=-1", "dyllm prompt_every is -1"),
        ("dyllm:similarity_dtype=bf16", "similarity_dtype is 'bf16'"),
    ],
)
def test_values_out_of_their_range_are_refused(wrong: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Settings(cache=wrong)


@pytest.mark.parametrize("name", CAUSAL)
def test_attention_that_is_causal_over_blocks_is_refused_with_the_reason(name: str) -> None:
    with pytest.raises(ConfigError, match=r"never changes there.*cache=dual is exact"):
        Engine(model_of(name), cache=DyllmCache())
