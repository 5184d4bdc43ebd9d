"""What a cache holds, told without a model: it is changed between the call that made it and others.

Shape letters: B batch (1), H heads, L positions, W width of a head.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from types import SimpleNamespace
from typing import Any, NamedTuple, cast

import pytest
import torch
from torch import Tensor, nn

from skipstone import attach, diagnose
from skipstone.diagnosis.finding import Finding
from skipstone.foreign.shared.caches import by_heads, key_values, returned
from skipstone.record import MemoryTrace
from skipstone.testing.tiny import EOS, MASK
from specimens import decode, hf_style, llada_style
from tests.helpers.watching import uneven_model

PROMPT = torch.tensor([[3, 1, 4, 1, 5, 9, 2]])
OTHER = torch.tensor([[8, 6, 7, 5, 3, 10, 11]])
MODEL = uneven_model(5)
Args = tuple[Any, ...]
Pairs = list[tuple[Tensor, Tensor]]
Change = Callable[[Pairs, int], Pairs]
"""From the cache of the first cached call of a block, and which block it is, to what it reads."""


def recorded(style: str, change: Change | None = None) -> MemoryTrace:
    """A decode whose cache is changed once a block."""
    net: nn.Module = {"dual": llada_style, "prefix": hf_style}[style].from_model(MODEL)
    fresh, block = False, -1
    kept = Pairs()

    def hand_over(_: nn.Module, args: Args, kwargs: dict[str, Any]) -> tuple[Args, dict[str, Any]]:
        nonlocal fresh, block, kept
        past = kwargs.get("past_key_values")
        if past is None:
            fresh, block = True, block + 1
        elif change is not None:
            if fresh:
                new = change([(k.clone(), v.clone()) for k, v in past], block)
                # Both loops go on with the cache that a call reads: as a loop would have made it.
                kept = [(k, v) for k, v in new]
            kwargs["past_key_values"] = tuple(kept) if style == "prefix" or fresh else past
            fresh = False
        return args, kwargs

    handle = net.register_forward_pre_hook(hand_over, with_kwargs=True)
    with attach(net, mask_id=MASK, eos_id=EOS, level="full") as recorder:
        if style == "dual":
            decode.dual_cache(cast("Any", net), PROMPT)
        else:
            decode.prefix_cache(cast("Any", net), PROMPT)
    handle.remove()
    return recorder.trace


@cache
def right(style: str) -> MemoryTrace:
    """The same decode with its cache as it is."""
    return recorded(style)


def each(change: Callable[[Tensor], Tensor]) -> Change:
    def of_all(pairs: Pairs, block: int) -> Pairs:
        return [(change(k), change(v)) for k, v in pairs]

    return of_all


def found(style: str, change: Change) -> Finding:
    cause = diagnose(right(style), recorded(style, change)).cause
    assert cause is not None
    return cause


def by_channel(x: Tensor) -> Tensor:
    step = x.abs().amax(-2, keepdim=True) / 127
    return (x / step).round() * step


def float8(x: Tensor) -> Tensor:
    step = x.abs().amax() / 448
    return (x / step).to(torch.float32).to(torch.float8_e4m3fn).to(x.dtype) * step


def of_another_request() -> Change:
    net = llada_style.from_model(MODEL)
    with torch.no_grad():
        past = net(decode.start_canvas(OTHER, 16, MASK), use_cache=True).past_key_values

    def change(pairs: Pairs, block: int) -> Pairs:
        return pairs if block else [(k.clone(), v.clone()) for k, v in past]

    return change


def one_layer_for_all(pairs: Pairs, block: int) -> Pairs:
    return [(pairs[0][0].clone(), pairs[0][1].clone()) for _ in pairs]


def other_heads(pairs: Pairs, block: int) -> Pairs:
    return [(k, v.flip(1)) for k, v in pairs]


def as_it_is(pairs: Pairs, block: int) -> Pairs:
    return pairs


class Named(NamedTuple):
    """A change, and what is to be said."""

    change: Change
    rule: str
    word: str
    styles: tuple[str, ...] = ("dual", "prefix")
    layer: int = 1


CHANGES = {
    "eight bits by channel": Named(each(by_channel), "quantised", "int8"),
    "eight-bit floats": Named(each(float8), "quantised", "float8_e4m3fn"),
    "zeros": Named(
        each(lambda x: x * (torch.arange(x.shape[2]) > 3)[:, None]), "stale-kv", "never written"
    ),
    "one layer for all": Named(
        one_layer_for_all, "wrong-cache-row", "layer 2 reads the cache of layer 1", layer=2
    ),
    "heads": Named(other_heads, "wrong-cache-row", "heads"),
    "another request": Named(of_another_request(), "leftover-state", "another request", ("dual",)),
    "cropped one short": Named(
        each(lambda x: x[:, :, :-1]), "visible-set", "fewer keys", ("prefix",)
    ),
    "twice the last row": Named(
        each(lambda x: torch.cat([x, x[:, :, -1:]], 2)), "visible-set", "more keys", ("prefix",)
    ),
}


@pytest.mark.parametrize(
    ("style", "name"), [(s, name) for name, c in CHANGES.items() for s in c.styles]
)
def test_what_a_cache_holds_is_named_without_a_model(style: str, name: str) -> None:
    wanted = CHANGES[name]
    cause = found(style, wanted.change)
    assert cause.rule == wanted.rule, cause
    assert wanted.word in str(cause.what), cause.what
    assert (cause.where.block, cause.where.step, cause.where.layer) == (0, 1, wanted.layer)


@pytest.mark.parametrize("layers", [slice(None), slice(-1, None)], ids=["all", "the last layer"])
def test_a_refresh_that_is_not_kept_is_told_from_the_caches_before_it(layers: slice) -> None:
    old = Pairs()

    def keep(pairs: Pairs, block: int) -> Pairs:
        if block:
            pairs[layers] = old[layers]
        else:
            old[:] = pairs
        return pairs

    cause = found("dual", keep)
    assert (cause.rule, cause.where.block, cause.where.step) == ("stale-kv", 1, 1)
    assert cause.where.layer == (1 if layers.start is None else MODEL.config.num_layers)
    assert "computed again" in str(cause.what)


def test_a_cache_that_goes_through_other_hands_unchanged_is_no_cause() -> None:
    assert diagnose(right("prefix"), recorded("prefix", as_it_is)).verdict == "same"


@pytest.mark.parametrize("length", [24, 16])
def test_positions_are_told_from_heads(length: int) -> None:
    rows_BLHW = torch.randn(2, 24, 4, 8)
    assert torch.equal(by_heads(rows_BLHW, 24), rows_BLHW.transpose(1, 2))
    assert torch.equal(by_heads(rows_BLHW.transpose(1, 2), length), rows_BLHW.transpose(1, 2))
    assert by_heads(rows_BLHW.flatten(2), length).shape == (2, 1, 24, 32)


def test_a_cache_is_found_in_whatever_a_model_returns() -> None:
    pair = (torch.zeros(1, 4, 8, 2), torch.ones(1, 4, 8, 2))

    class Output(dict[str, object]):
        past_key_values: object

    hung_on = Output(logits=torch.zeros(1))
    hung_on.past_key_values = [pair]
    for output in (hung_on, {"past_key_values": [pair]}, (torch.zeros(1), [pair])):
        assert returned(output) == [pair]
    assert returned((torch.zeros(1), None)) == []
    assert returned(torch.zeros(2, 3)) == []


class Whole:
    """A cache of one tensor, [layers, 2, B, H, L, W], beside numbers of its own."""

    def __init__(self, every: Tensor) -> None:
        self.given, self.length, self.every = every[:, :, :, :, :1], 5, every


def test_keys_and_values_are_found_however_the_layers_are_stacked() -> None:
    every = torch.randn(3, 2, 1, 4, 5, 6)
    in_turn = list(every.flatten(0, 1))
    first_values = every.transpose(0, 1)
    for past in (every, first_values, list(every), in_turn, tuple(in_turn), Whole(every)):
        pairs = key_values(past)
        assert len(pairs) == 3
        for layer, (key, value) in enumerate(pairs):
            assert torch.equal(key, every[layer, 0])
            assert torch.equal(value, every[layer, 1])


@pytest.mark.parametrize(
    "past",
    [torch.randn(4, 5, 6), [torch.randn(1, 5, 6)] * 2, [torch.randn(1, 4, 5, 6)] * 3, object()],
)
def test_what_has_no_keys_and_values_gives_none(past: object) -> None:
    assert key_values(past) == []


def _pairs() -> list[Tensor]:
    return [torch.full((1, 2, 6, 4), float(layer)) for layer in range(4)]


@pytest.mark.parametrize(
    "cache",
    [
        SimpleNamespace(k=_pairs(), v=_pairs(), seen=6),
        SimpleNamespace(_keys=_pairs(), _values=_pairs()),
        SimpleNamespace(cached_key=tuple(_pairs()), cached_value=tuple(_pairs())),
        SimpleNamespace(v_cache=torch.stack(_pairs()), k_cache=torch.stack(_pairs())),
        {"k": _pairs(), "v": _pairs()},
        [SimpleNamespace(k=k, v=k) for k in _pairs()],
        [{"value": k, "index": 0, "key": k} for k in _pairs()],
    ],
    ids=["k, v", "private", "tuples", "stacked", "dict of lists", "objects", "dicts"],
)
def test_a_cache_of_a_class_of_its_own_is_read_by_its_names(cache: object) -> None:
    pairs = key_values(cache)
    assert [key[0, 0, 0, 0].item() for key, _ in pairs] == [0, 1, 2, 3]
    assert [value[0, 0, 0, 0].item() for _, value in pairs] == [0, 1, 2, 3]


@pytest.mark.parametrize(
    "other",
    [
        SimpleNamespace(k=5, v=3),
        SimpleNamespace(k=[None], v=[None]),
        SimpleNamespace(keys=_pairs(), key_cache=_pairs(), values=_pairs()),
    ],
    ids=["numbers", "empty", "two that are keys"],
)
def test_what_is_no_cache_is_not_read_as_one(other: object) -> None:
    assert key_values(other) == []
