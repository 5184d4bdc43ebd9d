"""Weights of attached models: each has a fingerprint, and a difference of them is the cause.

Shape letters: R rows of a weight, C its columns.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

from skipstone import attach, diagnose
from skipstone.diagnosis.weights import differing
from skipstone.foreign.attach.weights import fingerprints
from skipstone.record import MemoryTrace
from skipstone.testing.tiny import EOS, MASK
from specimens import decode, llada_style
from tests.helpers.watching import uneven_model

PROMPT = torch.tensor([[3, 1, 4, 1, 5, 9, 2]])
NET = llada_style.from_model(uneven_model(5))

# --- fingerprints


def negated(x: Tensor) -> None:
    x.neg_()


def one_more(x: Tensor) -> None:
    x.add_(1)


def turned_round(x: Tensor) -> None:
    x.copy_(x.flip(0).clone())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64, torch.int8])
@pytest.mark.parametrize("shape", [(16, 8), (5, 3), (7,), (2, 3, 4)])
def test_every_value_and_its_place_count(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    torch.manual_seed(1)
    net = nn.Module()
    net.register_buffer("weight", (torch.randn(shape) * 20).to(dtype))
    w = net.weight
    assert isinstance(w, Tensor)
    seen = {fingerprints(net)["weight"]}
    for change in (negated, one_more, turned_round):
        old = w.clone()
        change(w if w.ndim == 1 else w[0])
        seen.add(fingerprints(net)["weight"])
        w.copy_(old)
    flat = w.view(-1)
    flat[-1] = -flat[-1] - 1
    seen.add(fingerprints(net)["weight"])
    assert len(seen) == 5


def test_one_sign_shows_wherever_it_lies() -> None:
    net = nn.Linear(8, 8, bias=False, dtype=torch.bfloat16)
    seen = {fingerprints(net)["weight"]}
    for i in range(64):
        row = net.weight.data.view(-1)
        row[i] = -row[i]
        seen.add(fingerprints(net)["weight"])
        row[i] = -row[i]
    assert len(seen) == 65


def test_layout_and_wrappers_do_not_count_and_nothing_is_changed() -> None:
    net = nn.Linear(8, 4)
    before = fingerprints(net)
    net.weight = nn.Parameter(net.weight.detach().t().contiguous().t())
    wrapped = nn.Module()
    wrapped._orig_mod = net
    assert fingerprints(net) == before == fingerprints(wrapped)
    assert net.weight.stride() == (1, 4)


def test_what_has_no_values_here_is_left_out() -> None:
    net = nn.Linear(3, 3, device="meta")
    assert fingerprints(net) == {}
    net = nn.Module()
    net.register_buffer("weight", torch.zeros(0, 3))
    net.register_buffer("inv_freq", torch.ones(3))
    assert fingerprints(net) == {}


# --- as a cause


def recorded(net: nn.Module) -> MemoryTrace:
    with attach(net, mask_id=MASK, eos_id=EOS, level="full") as recorder:
        decode.dual_cache(cast("Any", net), PROMPT)
    return recorder.trace


def _named(net: nn.Module, word: str) -> list[str]:
    return [name for name, w in net.named_parameters() if word in name and w.ndim == 2]


def one_tensor(net: nn.Module) -> str:
    name = _named(net, ".1.")[0]
    net.get_parameter(name).data.mul_(1.5)
    return name


def four_bits(net: nn.Module) -> str:
    name = _named(net, ".2.")[0]
    w = net.get_parameter(name).data
    step = w.abs().amax(1, keepdim=True) / 7
    w.copy_((w / step).round() * step)
    return name


def layers_change_places(net: nn.Module) -> str:
    for one in _named(net, ".1."):
        other = one.replace(".1.", ".2.")
        a, b = net.get_parameter(one).data, net.get_parameter(other).data
        old = a.clone()
        a.copy_(b), b.copy_(old)
    return _named(net, ".2.")[0]


def low_rank(net: nn.Module) -> str:
    name = _named(net, ".0.")[0]
    w = net.get_parameter(name).data
    w.add_(torch.outer(torch.linspace(-1, 1, w.shape[0]), torch.linspace(1, 2, w.shape[1])))
    return name


@pytest.mark.parametrize("change", [one_tensor, four_bits, layers_change_places, low_rank])
def test_other_weights_are_the_first_cause_with_the_name_of_the_tensor(
    change: Callable[[nn.Module], str],
) -> None:
    other = deepcopy(NET)
    name = change(other)
    found = diagnose(recorded(NET), recorded(other))
    assert found.cause is not None
    assert found.verdict == "other-inputs"
    assert "weights" in found.cause.what
    assert name in found.cause.what + found.cause.evidence


def test_whose_weights_they_are_is_said() -> None:
    other = deepcopy(NET)
    layers_change_places(other)
    cause = diagnose(recorded(NET), recorded(other)).cause
    assert cause is not None
    assert "is A's" in cause.evidence


def test_weights_behind_the_first_wrong_layer_are_not_its_cause() -> None:
    found = differing({"l.0.w": "a", "l.1.w": "b"}, {"l.0.w": "a", "l.1.w": "c"})
    assert found is not None
    assert not found.acts_in(1)
    assert found.acts_in(2)


def test_names_of_other_code_are_not_compared() -> None:
    assert differing({"a.w": "1", "b.w": "2"}, {"q.w": "3", "r.w": "4"}) is None
    assert differing({"a.w": "1"}, {"a.w": "1", "b.w": "1"}) is None


def test_weights_that_only_one_side_has_are_named() -> None:
    found = differing({"a.w": "1"}, {"a.w": "1", "a.lora_A": "2"})
    assert found is not None
    assert (found.names, found.more) == ((), ("a.lora_A",))
