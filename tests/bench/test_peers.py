"""Published code beside us: what it is given, and that it decodes our weights to our tokens."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from skipstone.bench.peers.base import Peer
from skipstone.bench.peers.beside import PeerCell, beside
from skipstone.bench.peers.dream import CachedDream
from skipstone.bench.peers.fast_dllm import FastDLLM
from skipstone.bench.peers.published import CallCount, standing_in
from skipstone.bench.peers.sdar import PublishedSDAR, _flash_attention, _taking_the_best
from skipstone.bench.peers.table import PEERS, parse_peer
from skipstone.bench.plan import Generation
from skipstone.bench.random_model import random_model
from skipstone.bench.timing import Rig
from skipstone.cli.main import run
from skipstone.engine.roofline import Card
from skipstone.errors import ConfigError
from skipstone.models.load import Model
from skipstone.models.shapes import SHAPES

CARD = Card("slow", 1e9, 1e9, "measured")
NOTHING: Any = None
IDLE: dict[str, Peer] = {
    "fast-dllm": FastDLLM(NOTHING, {}),
    "dream": CachedDream(NOTHING, NOTHING, {}, NOTHING),
    "sdar": PublishedSDAR(NOTHING, NOTHING, NOTHING, flash=False),
}
"""Peers that decode nothing."""
SHAPE_OF = {"fast-dllm": "llada-8b", "dream": "dream-7b", "sdar": "sdar-8b"}
CHECKOUT_OF = {
    "fast-dllm": "SKIPSTONE_FAST_DLLM",
    "dream": "SKIPSTONE_FAST_DLLM",
    "sdar": "SKIPSTONE_SDAR",
}


def toy(name: str) -> Model:
    """Scores as far apart as a trained model's, so that no near-tie is decided by rounding."""
    grouped = SHAPES[name].num_kv_heads < SHAPES[name].num_heads
    config = replace(SHAPES[name], width=32, num_layers=3, num_heads=2, head_width=16)
    config = replace(config, num_kv_heads=1 if grouped else 2, mlp_width=48, max_length=128)
    config = replace(config, vocab_size=128, mask_id=126, eos_id=127)
    model = random_model("toy", config, torch.device("cpu"), torch.float32)
    for weight in model.network.published().values():
        if weight.ndim > 1:
            weight.mul_(10.0)
    return model


@pytest.mark.parametrize("name", IDLE)
@pytest.mark.parametrize(
    ("wanted", "why"),
    [
        (Generation(32, 32, 8, batch=2), "one prompt at a time"),
        (Generation(32, 32, 8, skip_layer_k=8, going=0.5), "no token skip"),
    ],
)
def test_what_no_peer_can_decode_is_not_tried(name: str, wanted: Generation, why: str) -> None:
    assert why in (IDLE[name].refusal(wanted) or "")
    assert IDLE[name].refusal(Generation(32, 32, 2)) is None


@pytest.mark.parametrize(
    ("name", "wanted", "why"),
    [
        ("fast-dllm", Generation(9, 32, 1), "two forwards a block"),
        ("dream", Generation(9, 32, 1), "two forwards a block"),
        ("sdar", Generation(9, 32, 8), "multiples of 32"),
    ],
)
def test_what_one_cannot_decode_is_not_tried(name: str, wanted: Generation, why: str) -> None:
    assert why in (IDLE[name].refusal(wanted) or "")


def test_a_generation_that_a_peer_cannot_decode_is_listed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def passes(*_: object) -> list[object]:
        return []

    def built(*_: object) -> Peer:
        return IDLE["fast-dllm"]

    monkeypatch.setattr("skipstone.bench.gate.gate", passes)
    # The packages that the code needs are not installed with ours.
    monkeypatch.setattr("skipstone.bench.peers.base.find_spec", str)
    for file in PEERS["fast-dllm"].files:
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).touch()
    monkeypatch.setattr("skipstone.bench.peers.base.Checkout.build", built)
    command = ["bench", "--device", "cpu", "--only", "peer", "--peer", f"fast-dllm={tmp_path}"]
    assert run([*command, "--generation", "9+16/8x2@8", "--repeats", "2"]) == 0
    out = capsys.readouterr().out
    assert "fast-dllm 9+16/8x2@8" in out
    assert "one prompt at a time" in out


@pytest.mark.parametrize("name", PEERS)
def test_a_folder_without_its_files_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"no checkout of {PEERS[name].title}.*clone https"):
        parse_peer(f"{name}={tmp_path}")
    with pytest.raises(ConfigError, match=f"must be {name}=PATH"):
        parse_peer(name)


@pytest.mark.parametrize("name", PEERS)
def test_other_weights_are_refused(name: str) -> None:
    others = {"fast-dllm": "dream-7b", "dream": "sdar-8b", "sdar": "llada-8b"}
    with pytest.raises(ConfigError, match=r"the peer runs .* choose a"):
        PEERS[name].made(Path(), toy(others[name]))


def test_code_that_does_not_run_is_one_line(tmp_path: Path) -> None:
    for file in PEERS["sdar"].files:
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text("from transformers import NoSuchName\n")
    pytest.importorskip("transformers")
    pytest.importorskip("einops")
    checkout = parse_peer(f"sdar={tmp_path}")
    with pytest.raises(ConfigError, match=r"cannot be used .*NoSuchName.*for transformers 4\.52"):
        checkout.build(toy("sdar-8b"))


def test_calls_are_counted_since_the_last_time() -> None:
    network = torch.nn.Linear(2, 2)
    calls = CallCount(network)
    for _ in range(3):
        network(torch.zeros(1, 2))
    assert (calls.take(), calls.take()) == (3, 0)


def test_the_best_is_taken_and_drawing_comes_back() -> None:
    drawn, probs = torch.multinomial, torch.tensor([[0.2, 0.7, 0.1], [0.5, 0.1, 0.4]])
    with _taking_the_best():
        assert torch.multinomial(probs, num_samples=1).tolist() == [[1], [0]]
    assert torch.multinomial is drawn


def test_what_stands_for_flash_attention_computes_the_same() -> None:
    """By the formulas, in float64; query heads in groups."""
    attention, *_, norms, _ = _flash_attention().values()
    generator = torch.Generator().manual_seed(0)
    q, k, v = (
        torch.randn(1, n, heads, 8, generator=generator, dtype=torch.float64)
        for n, heads in ((3, 4), (5, 2), (5, 2))
    )
    found = attention.flash_attn_func(q, k, v, causal=False, softmax_scale=0.3)
    wide = [x.repeat_interleave(2, dim=2) for x in (k, v)]
    weight = torch.einsum("bnhe,blhe->bhnl", q, wide[0]).mul(0.3).softmax(-1)
    torch.testing.assert_close(found, torch.einsum("bhnl,blhe->bnhe", weight, wide[1]))
    scale = torch.randn(8, generator=generator, dtype=torch.float64)
    right = q / (q.square().mean(-1, keepdim=True) + 1e-6).sqrt() * scale
    torch.testing.assert_close(norms.rms_norm_fn(q, weight=scale, bias=None, eps=1e-6), right)


def test_what_stands_in_goes_away() -> None:
    import sys

    with standing_in(_flash_attention()):
        assert "flash_attn.bert_padding" in sys.modules
        # As transformers asks, which takes what has no version for not installed.
        assert find_spec("flash_attn") is not None
    assert not any(name.startswith("flash_attn") for name in sys.modules)


# ---------------------------------------------------------------- with a checkout


def _beside(name: str, generation: Generation) -> Sequence[PeerCell]:
    path = os.environ.get(CHECKOUT_OF[name], "")
    if not (path and find_spec("transformers") and find_spec("einops")):
        pytest.skip(f"needs transformers, einops and {CHECKOUT_OF[name]}, a checkout")
    model = toy(SHAPE_OF[name])
    before = torch.backends.cuda.mem_efficient_sdp_enabled()
    peer = parse_peer(f"{name}={path}").build(model)
    rows = beside(Rig(model, CARD, repeats=2), name, peer, generation)
    assert torch.backends.cuda.mem_efficient_sdp_enabled() == before
    assert [row.note[: len(name)] for row in rows] == ["", *([name] * (len(rows) - 1))]
    assert all(row.side.startswith(("skipstone ", f"{name} ")) for row in rows)
    return rows


@pytest.mark.filterwarnings("default")
def test_fast_dllm_decodes_our_weights_to_our_tokens() -> None:
    rows = _beside("fast-dllm", Generation(9, 32, 8, block=16))
    assert [row.forwards for row in rows] == [8, 8, 8]
    assert [row.same_tokens for row in rows] == [None, 32, None]


@pytest.mark.filterwarnings("default")
def test_its_dream_decodes_our_weights_to_our_tokens() -> None:
    rows = _beside("dream", Generation(9, 32, 8, block=16))
    assert [row.forwards for row in rows] == [8, 8, 8, 8]
    assert [row.same_tokens for row in rows] == [None, 32, None, None]


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("block", [4, 16])
def test_sdar_decodes_our_weights_to_our_tokens(block: int) -> None:
    wanted = Generation(16, 32, 32 // 2, block=block)
    rows = _beside("sdar", wanted)
    # One more forward writes the prompt's K/V, and one those of each block.
    assert [row.forwards for row in rows] == [16, 16 + 1 + 32 // block]
    assert [row.same_tokens for row in rows] == [None, 32]
