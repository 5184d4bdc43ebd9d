"""Elastic-Cache held against a decode in plain PyTorch that keeps tables and knows no engine.

Shape letters: L positions, R computed rows, D width, H heads, E head width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from torch import Tensor

from skipstone.cache import DualCache, ElasticCache, NoCache
from skipstone.engine import Engine, Settings
from skipstone.models.load import Model
from skipstone.record import MemoryTrace, TraceWriter, open_trace
from skipstone.testing.tiny import MASK
from skipstone.tracing import Recorder
from skipstone.unmask import Fixed, Threshold
from tests.helpers import naive
from tests.helpers.watching import BASE, prompt_of

GAMMAS = (0.0, 0.8, 0.97, 0.999, 1.0)


@dataclass
class Tables:
    """What a naive elastic decode keeps, and what it looked at, by layer."""

    entered: dict[int, Tensor] = field(default_factory=dict)
    keys: dict[int, Tensor] = field(default_factory=dict)
    values: dict[int, Tensor] = field(default_factory=dict)
    watched: dict[int, int] = field(default_factory=dict)
    looked: dict[int, Tensor] = field(default_factory=dict)


def naive_forward(
    model: Model, ids: Sequence[int], due: Sequence[int], seen: Tables, gamma: float
) -> tuple[Tensor, list[int], int]:
    """Logits [R, V] of the rows that end, those rows, and the layer of the drift (0: none)."""
    config, weights = model.config, naive._in_llama_names(model.network)
    masked = [p for p, token in enumerate(ids) if token == MASK]
    rows, drift = list(due), 0
    x_RD = weights["model.embed_tokens.weight"][torch.tensor([ids[p] for p in rows])]
    for layer in range(config.num_layers):
        place = f"model.layers.{layer}."
        mine = {n.removeprefix(place): w for n, w in weights.items() if n.startswith(place)}
        if layer not in seen.entered:
            seen.entered[layer] = torch.zeros(len(ids), config.width, dtype=x_RD.dtype)
        seen.entered[layer][rows] = x_RD
        if drift == layer and layer:
            rows = list(range(len(ids)))
        x_LD = seen.entered[layer]
        normed_LD = naive._norm(x_LD, mine["input_layernorm.weight"], config.norm_eps)
        q, k, v = (
            (normed_LD @ mine[f"self_attn.{n}_proj.weight"].T)
            .unflatten(-1, (-1, config.head_width))
            .transpose(0, 1)
            for n in "qkv"
        )
        q, k = naive._rotated(q, config), naive._rotated(k, config)
        for table, fresh in ((seen.keys, k), (seen.values, v)):
            table.setdefault(layer, torch.zeros_like(fresh))[:, rows] = fresh[:, rows]
        shared = config.num_heads // config.num_kv_heads
        keys = seen.keys[layer].repeat_interleave(shared, 0)
        scores_HRL = q[:, rows] @ keys.transpose(1, 2) / config.head_width**0.5
        weights_HRL = scores_HRL.softmax(-1)
        mixed = weights_HRL @ seen.values[layer].repeat_interleave(shared, 0)
        x_RD = x_LD[rows] + mixed.transpose(0, 1).flatten(1) @ mine["self_attn.o_proj.weight"].T
        normed = naive._norm(x_RD, mine["post_attention_layernorm.weight"], config.norm_eps)
        x_RD = x_RD + naive._mlp(normed, mine, "mlp.")
        if has_drifted(layer, weights_HRL.mean(0), rows, masked, seen, gamma) and not drift:
            drift = layer + 1
    raw_RD = naive._norm(x_RD, weights["model.norm.weight"], config.norm_eps)
    return raw_RD @ weights["lm_head.weight"].T, rows, drift


def has_drifted(
    layer: int, part_RL: Tensor, rows: list[int], masked: list[int], seen: Tables, gamma: float
) -> bool:
    """Whether the watched token attends otherwise; then another one is chosen."""
    was, before_L = seen.watched.get(layer), seen.looked.pop(layer, None)
    apart = False
    if was in rows:
        now_L = part_RL[rows.index(was)]
        like = 0.0 if before_L is None else float(torch.cosine_similarity(now_L, before_L, 0))
        apart = like < gamma
    asked = torch.stack([part_RL[rows.index(p)] for p in masked if p in rows]).sum(0)
    asked[masked] = -1
    token = seen.watched[layer] = int(asked.argmax())
    if token in rows:
        seen.looked[layer] = part_RL[rows.index(token)]
    return apart


def naive_decode(
    model: Model, prompt: list[int], settings: Settings, gamma: float, threshold: float | None
) -> tuple[list[int], list[tuple[int, int]]]:
    """New tokens, and of each step how many rows entered it and where it drifted."""
    ids, seen = [*prompt, *[MASK] * settings.gen_length], Tables()
    steps, before = list[tuple[int, int]](), list[int]()
    block = settings.block_length or settings.gen_length
    for start in range(len(prompt), len(ids), block):
        while masked := [p for p in range(start, start + block) if ids[p] == MASK]:
            known = {p for p in before if p < start + block} | set(seen.watched.values())
            due = sorted(known) if steps else list(range(len(ids)))
            before = [p for p, token in enumerate(ids) if token == MASK]
            logits, rows, drift = naive_forward(model, ids, due, seen, gamma if steps else -1)
            steps.append((len(due), drift))
            at = [rows.index(p) for p in masked]
            shares = logits[at].double().softmax(-1)
            shares[:, MASK] = 0
            confidence, token = shares.max(-1)
            best = int(confidence.argmax())
            for i, position in enumerate(masked):
                if i == best or (threshold is not None and confidence[i] >= threshold):
                    ids[position] = int(token[i])
    return ids[len(prompt) :], steps


@pytest.mark.parametrize("gamma", GAMMAS)
@pytest.mark.parametrize("threshold", [None, 0.4])
@pytest.mark.parametrize("kv_heads", [4, 2])
def test_tokens_and_rows_are_those_of_a_naive_decode(
    gamma: float, threshold: float | None, kv_heads: int
) -> None:
    unmask, drifts = Fixed() if threshold is None else Threshold(threshold), 0
    for seed in range(3):
        model, prompt = naive.named_model(seed, kv_heads), prompt_of(seed, 7)
        result = Engine(model, BASE, cache=ElasticCache(gamma), unmask=unmask).generate(prompt)
        tokens, steps = naive_decode(model, prompt, BASE, gamma, threshold)
        assert list(result.tokens) == tokens
        assert [step.rows for step in result.stats.steps] == [rows for rows, _ in steps]
        drifts += sum(layer > 0 for _, layer in steps)
    assert drifts > 0 or gamma < 0.9
    assert drifts == 0 or gamma > 0


@pytest.mark.parametrize("stored", [False, True])
def test_a_trace_says_from_which_layer_on_rows_are_computed(stored: bool, tmp_path: Path) -> None:
    model, prompt = naive.named_model(1), prompt_of(1, 7)
    sink = TraceWriter(tmp_path / "t") if stored else MemoryTrace()
    Engine(model, BASE, cache=ElasticCache(0.97)).generate(prompt, observer=Recorder(sink=sink))
    trace = open_trace(tmp_path / "t") if stored else sink
    assert not isinstance(trace, TraceWriter)
    _, steps = naive_decode(model, prompt, BASE, 0.97, None)
    record = trace.records[0]
    for step, (entered, drift) in zip(record.steps, steps, strict=True):
        # A drift is found after a layer: there is none behind the last.
        joins = drift + 1 if 0 < drift < model.config.num_layers else 0
        everything = np.arange(record.length)
        for layer in range(1, model.config.num_layers + 1):
            due = everything if joins and layer >= joins else step.rows
            assert np.array_equal(step.computed_in(layer), due)
            fresh = record.ages_at(step, layer) == 0
            assert np.array_equal(np.flatnonzero(fresh), due)
        assert step.rows.size == entered


def test_a_more_careful_one_recomputes_from_earlier_layers() -> None:
    model, prompt = naive.named_model(1), prompt_of(1, 7)
    last = model.config.num_layers + 1

    def depth(gamma: float) -> float:
        _, steps = naive_decode(model, prompt, BASE, gamma, None)
        return sum(layer or last for _, layer in steps[1:]) / len(steps[1:])

    depths = [depth(gamma) for gamma in GAMMAS]
    assert depths == sorted(depths, reverse=True)
    assert depths[0] == last
    assert depths[-1] < 2


@pytest.mark.parametrize("runner", ["eager", "graph"])
def test_each_gives_alone_what_it_gives_beside_others(runner: Literal["eager", "graph"]) -> None:
    model, given = naive.named_model(1), BASE.replace(unmask=Threshold(0.4))
    caches = [ElasticCache(0.97), NoCache(), ElasticCache(0.8), DualCache(), ElasticCache(1)] * 2
    prompts = [prompt_of(n, 3 + 2 * n) for n in range(len(caches))]
    alone = [
        Engine(model, given, cache=cache).generate(prompt).tokens
        for cache, prompt in zip(caches, prompts, strict=True)
    ]
    engine = Engine(model, given, runner=runner, slots=3)
    handles = [
        engine.submit(prompt, cache=cache) for cache, prompt in zip(caches, prompts, strict=True)
    ]
    assert [handle.result().tokens for handle in handles] == alone


def test_a_request_that_takes_a_slot_watches_nothing_of_the_one_before() -> None:
    model = naive.named_model(2)
    prompts = [prompt_of(n, 4 + n) for n in range(5)]
    alone = [Engine(model, BASE, cache=ElasticCache(0.97)).generate(p).tokens for p in prompts]
    engine = Engine(model, BASE, cache=ElasticCache(0.97))
    assert [r.tokens for r in engine.generate_batch(prompts, batch_size=1)] == alone


def test_the_remedy_bears_half_as_much_drift() -> None:
    assert ElasticCache(0.5).fresher() == ElasticCache(0.75)
    assert ElasticCache(1.0).fresher() is None
