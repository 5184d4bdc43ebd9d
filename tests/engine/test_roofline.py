"""What a step costs at best, held against figures measured on a card and against plain sense."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from skipstone import CosineSkip, Engine
from skipstone.cli.main import run
from skipstone.engine import roofline as roof
from skipstone.engine.roofline import CARDS, Card, Work, bound, pays_from, saving
from skipstone.models.shapes import LLADA_8B
from skipstone.testing.tiny import tiny_model

H100 = CARDS["h100"]

# A card on which even one row of a tiny model is bound by reading.
SLOW_TO_READ = Card("slow", 1.0, 1e30, "datasheet")


def _card(card: Card | None) -> Callable[[torch.device], Card | None]:
    return lambda device: card


def test_one_block_takes_the_time_of_reading_the_weights() -> None:
    least = bound(H100, LLADA_8B, Work(1, 32, 512))
    # 15 GB of weights at 2.97 TB/s are 5.04 ms; keys and values of 512 positions come on top.
    assert 5.04e-3 <= least.seconds < 5.04e-3 * 1.03
    assert least.reading == 1.0


def test_many_rows_take_the_time_of_their_arithmetic() -> None:
    least = bound(H100, LLADA_8B, Work(32, 32, 512))
    products = 2 * 1024 * (LLADA_8B.num_parameters - LLADA_8B.vocab_size * LLADA_8B.width)
    assert least.seconds > products / H100.flops
    assert least.reading < 0.2


@pytest.mark.parametrize(
    ("k", "measured"), [(18, 35.408 / 24.655), (8, 35.408 / 18.862), (4, 35.408 / 16.457)]
)
def test_no_measured_skip_beats_the_roofline(k: int, measured: float) -> None:
    """Times of a plain prototype at batch 32, a quarter of the rows going on."""
    assert 1.0 < measured < saving(H100, LLADA_8B, Work(32, 32, 512, k, 0.25)) * 1.02


def test_a_skip_pays_at_large_batches_only() -> None:
    work = Work(1, 32, 512, 18, 0.25)
    first = pays_from(H100, LLADA_8B, work)
    assert first is not None
    assert 8 <= first <= 16
    assert saving(H100, LLADA_8B, work.of(first - 1, 18)) < roof.WORTH_IT
    assert saving(H100, LLADA_8B, work.of(first, 18)) >= roof.WORTH_IT


def test_a_skip_that_keeps_every_row_only_costs() -> None:
    work = Work(32, 32, 512, 18, 1.0)
    assert saving(H100, LLADA_8B, work) < 1.0
    assert pays_from(H100, LLADA_8B, work) is None


def test_a_deeper_k_saves_less() -> None:
    savings = [saving(H100, LLADA_8B, Work(32, 32, 512, k, 0.25)) for k in (4, 8, 18, 32)]
    assert savings == sorted(savings, reverse=True)


def test_this_machine_is_measured() -> None:
    card = roof.measure(torch.device("cpu"), torch.float32)
    assert card.source == "measured"
    assert 1e8 < card.bandwidth < 1e13
    assert 1e8 < card.flops < 1e15


def test_the_command_prints_what_it_computes(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["roofline", "--gpu", "h200", "--batch", "1,32", "--skip-layer-k", "8"]
    assert run(arguments) == 0
    text = capsys.readouterr().out
    assert "K=8: a skip can pay from batch" in text
    assert run([*arguments, "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    one, many = facts["points"]
    assert one["times_faster"] < 1.01 < many["times_faster"]
    assert f"{many['times_faster']:.2f}" in text
    assert facts["card"]["name"] == "h200"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--gpu", "h10"], "did you mean 'h100'?"),
        (["--batch", "1,x"], "whole numbers"),
        (["--batch", "0"], "between 1 and"),
        (["--skip-layer-k", "33"], "between 2 and 32"),
        (["--going", "1.5"], "between 0 and 1"),
        (["--length", "5000"], "4096"),
        (["--block-length", "600"], "--length"),
        (["--model", "peble"], "did you mean 'pebble'?"),
    ],
)
def test_bad_input_is_one_line(
    capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    assert run(["roofline", *arguments]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1


def test_the_engine_warns_once_where_a_skip_cannot_pay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(roof, "card_of", _card(SLOW_TO_READ))
    engine = Engine(tiny_model(), skip=CosineSkip(skip_layer_k=3), gen_length=8, block_length=4)
    with pytest.warns(UserWarning, match="cannot make this run faster"):
        engine.generate([3, 1, 4])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        engine.generate([1, 5, 9])


@pytest.mark.parametrize("card", [None, replace(SLOW_TO_READ, bandwidth=1e30, flops=1.0)])
def test_it_is_silent_where_a_skip_can_pay_or_nothing_is_known(
    monkeypatch: pytest.MonkeyPatch, card: Card | None
) -> None:
    monkeypatch.setattr(roof, "card_of", _card(card))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Engine(tiny_model(), skip=CosineSkip(skip_layer_k=3), gen_length=8).generate([3, 1, 4])


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA H200", "h200"),
        ("NVIDIA A100-SXM4-80GB", "a100"),
        ("NVIDIA GeForce RTX 4090", "rtx4090"),
        ("Tesla T4", None),
    ],
)
def test_cards_are_known_by_the_names_of_the_driver(
    monkeypatch: pytest.MonkeyPatch, name: str, found: str | None
) -> None:
    def name_of(device: torch.device) -> str:
        return name

    monkeypatch.setattr(torch.cuda, "get_device_name", name_of)
    card = roof.card_of(torch.device("cuda"))
    assert (card.name if card else None) == found
