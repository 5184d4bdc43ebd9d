"""Which part of a layer is to blame, told without a model from both ends of its attention.

Shape letters: B batch, L positions, H query heads, W width of a head.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial

import pytest
import torch
from torch import Tensor, nn

import skipstone as st
from skipstone.diagnosis.diagnose import Diagnosis
from skipstone.record import MemoryTrace
from specimens.decode import one_by_one

MASK, LENGTH, START, WIDTH, HEADS, KEY_HEADS = 50, 20, 6, 32, 4, 2


class Layer(nn.Module):
    """A norm, attention, a norm and an MLP."""

    def __init__(self) -> None:
        super().__init__()
        kv = WIDTH // HEADS * KEY_HEADS
        self.norm, self.mlp_norm = nn.RMSNorm(WIDTH), nn.RMSNorm(WIDTH)
        self.q, self.k, self.v = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, kv), nn.Linear(WIDTH, kv)
        self.out = nn.Linear(WIDTH, WIDTH)
        self.gate, self.up = nn.Linear(WIDTH, 64), nn.Linear(WIDTH, 64)
        self.down = nn.Linear(64, WIDTH)
        self.window: int | None = None
        self.dropout = 0.0
        self.unheard = self.swapped = False

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.out(self.attend(self.norm(x)))
        y = self.mlp_norm(x)
        gate, up = (self.up, self.gate) if self.swapped else (self.gate, self.up)
        return x + self.down(nn.functional.silu(gate(y)) * up(y))

    def attend(self, x: Tensor) -> Tensor:
        q, k, v = (
            f(x).unflatten(-1, (-1, WIDTH // HEADS)).transpose(1, 2)
            for f in (self.q, self.k, self.v)
        )
        k, v = (t.repeat_interleave(HEADS // KEY_HEADS, 1) for t in (k, v))
        rows = torch.arange(LENGTH)
        seen = None if self.window is None else (rows[:, None] - rows).abs() <= self.window
        if self.unheard:
            scores = (q.unsqueeze(-2) * k.unsqueeze(-3)).sum(-1) / q.shape[-1] ** 0.5
            scores = scores if seen is None else scores.masked_fill(~seen, -torch.inf)
            return (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)
        attend = nn.functional.scaled_dot_product_attention
        mixed = attend(q, k, v, attn_mask=seen, dropout_p=self.dropout if self.training else 0.0)
        return mixed.transpose(1, 2).flatten(2)


class Net(nn.Module):
    """Logits [B, L, V] from ids."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.table = nn.Embedding(MASK + 1, WIDTH)
        self.thinned = nn.Dropout(0.0)
        self.layers = nn.ModuleList(Layer() for _ in range(3))
        self.head = nn.Linear(WIDTH, MASK + 1)
        self.requires_grad_(False)
        self.eval()

    def forward(self, ids: Tensor) -> Tensor:
        x = self.table(ids)
        for layer in self.layers:
            x = layer(x)
        return self.head(x)

    def layer(self, number: int) -> Layer:
        """Counted from 1."""
        found = self.layers[number - 1]
        assert isinstance(found, Layer)
        return found


Change = Callable[[Net], object]


def unchanged(_: Net) -> None:
    """As it should be."""


def unheard(net: Net) -> None:
    """Attention is computed in a way that nobody listens for."""
    for number in (1, 2, 3):
        net.layer(number).unheard = True


def _after(module: nn.Module, change: Callable[[Tensor], Tensor]) -> None:
    def hook(_module: nn.Module, _args: object, out: Tensor) -> Tensor:
        return change(out)

    module.register_forward_hook(hook)


def swap_gate_and_up(net: Net) -> None:
    net.layer(2).swapped = True


def round_norms(net: Net) -> None:
    for number in (1, 2, 3):
        _after(net.layer(number).norm, lambda x: x.bfloat16().float())
        _after(net.layer(number).mlp_norm, lambda x: x.bfloat16().float())


def round_the_norm_of_an_mlp(net: Net) -> None:
    _after(net.layer(1).mlp_norm, lambda x: x.bfloat16().float())


def swap_layers(net: Net) -> None:
    for number, other in ((2, 3), (3, 2)):
        object.__setattr__(net.layer(number), "forward", partial(Layer.forward, net.layer(other)))


def scale_values(net: Net) -> None:
    _after(net.layer(1).v, lambda v: torch.cat([v[..., :3], v[..., 3:4] * 1.5, v[..., 4:]], -1))


def other_keys(net: Net) -> None:
    _after(net.layer(2).k, lambda k: torch.cat([k[..., :1], k[..., 1:2] * 2.0, k[..., 2:]], -1))


def leave_out(net: Net) -> None:
    def through(x: Tensor) -> Tensor:
        return x

    object.__setattr__(net.layer(2), "forward", through)


def no_mask(net: Net) -> None:
    def hook(_module: nn.Module, args: tuple[Tensor], out: Tensor) -> Tensor:
        return out.masked_fill((args[0] == MASK)[..., None], 0.0)

    net.table.register_forward_hook(hook)


def drop(net: Net) -> None:
    net.train()
    for number in (1, 2, 3):
        net.layer(number).dropout = 0.1


def drop_in_a_norm(net: Net) -> None:
    _after(net.layer(1).norm, lambda x: nn.functional.dropout(x, 0.2))


def narrow_one(net: Net) -> None:
    net.layer(3).window = 4


@cache
def recorded(*changes: Change) -> MemoryTrace:
    """A decode of one block, the most probable token first."""
    net = Net()
    for change in changes:
        change(net)
    torch.manual_seed(5)
    with st.attach(net, mask_id=MASK, level="full") as recorder:
        one_by_one(net, torch.arange(START)[None], LENGTH - START, MASK)
    return recorder.trace


def why(*changes: Change, good: Change = unchanged) -> Diagnosis:
    """What is said of a net with one thing wrong; no model is at hand."""
    return st.diagnose(recorded(good), recorded(*changes))


FAULTS: tuple[tuple[Change, str, str, int], ...] = (
    (swap_gate_and_up, "module-bug", "what follows attention in layer 2", 2),
    (round_norms, "module-bug", "the norm before attention", 1),
    (round_the_norm_of_an_mlp, "module-bug", "what follows attention in layer 1", 1),
    (swap_layers, "module-bug", "the norm before attention", 2),
    (scale_values, "module-bug", "the projection to values of layer 1", 1),
    (other_keys, "module-bug", "the projection to keys of layer 2", 2),
    (leave_out, "module-bug", "layer 2, which hands on", 2),
    (no_mask, "module-bug", "the embedding", 0),
    (narrow_one, "visible-set", "attention sees other keys", 3),
    (drop, "nondeterminism", "dropout is left on", 1),
    (drop_in_a_norm, "nondeterminism", "other values from the same row", 1),
)


@pytest.mark.parametrize(
    ("change", "rule", "what", "layer"), FAULTS, ids=[f[0].__name__ for f in FAULTS]
)
def test_the_part_of_a_layer_is_named(change: Change, rule: str, what: str, layer: int) -> None:
    found = why(change)
    assert found.cause is not None, str(found)
    assert found.cause.rule == rule, str(found)
    assert what in found.cause.what
    assert (found.cause.where.step, found.cause.where.layer) == (0, layer)


@pytest.mark.parametrize("change", [narrow_one, swap_gate_and_up])
def test_attention_that_was_not_heard_is_not_acquitted(change: Change) -> None:
    found = why(unheard, change, good=unheard)
    assert found.cause is None, str(found)
    assert "INCONCLUSIVE" in str(found)
    layer = 3 if change is narrow_one else 2
    assert f"what attention of layer {layer} is given was not recorded" in found.known
    assert f"print queries, keys, values and mask of layer {layer} in forward 0" in (
        found.next_command
    )


def test_a_mask_and_a_module_at_once_are_left_to_the_module_that_comes_first() -> None:
    found = why(scale_values, narrow_one)
    assert found.cause is not None
    assert "the projection to values of layer 1" in found.cause.what


def test_states_that_are_wrong_are_no_near_tie() -> None:
    found = why(round_norms)
    assert all(f.rule != "near-tie-token" for f in found.findings)


def test_equal_nets_have_no_cause() -> None:
    assert why(unchanged).verdict == "same"
    assert why(unheard, good=unheard).verdict == "same"
