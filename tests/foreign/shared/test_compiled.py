"""Loops and models that somebody compiled: recorded as any other, and nothing of ours is traced."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor, fx, nn

from skipstone.foreign.attach.attach import attach
from skipstone.foreign.sanitizer.sanitize import sanitize
from tests.foreign.shapes.common import BEGIN, canvas_of, pick, plain, spans
from tests.foreign.shapes.network import EOS, MASK, Plain

REMARKS = {"blocks_inferred", "skip_cannot_pay", "measuring_cost"}


@dataclass
class Compiler:
    """Runs graphs as they are, and keeps the code that they were traced from."""

    traced: list[str] = field(default_factory=list)

    def __call__(self, graph: fx.GraphModule, inputs: object) -> Callable[..., object]:
        """A backend of ``torch.compile``."""
        self.traced += [str(node.meta.get("stack_trace", "")) for node in graph.graph.nodes]
        return graph.forward


@pytest.fixture
def compiler() -> Iterator[Compiler]:
    torch._dynamo.reset()
    yield Compiler()
    torch._dynamo.reset()


@dataclass(frozen=True)
class Compiled:
    model: nn.Module
    """What is attached."""
    net: Plain
    loop: Callable[[], Tensor]


def a_helper(compiler: Compiler) -> Compiled:
    """The choice of tokens is compiled, as published loops have it."""
    net = Plain()
    chosen_by = torch.compile(pick, backend=compiler)

    def loop() -> Tensor:
        x = canvas_of()
        with torch.no_grad():
            for rows in spans():
                while (x[:, rows] == MASK).any():
                    token, chosen = chosen_by(net(x)[:, rows], x[:, rows].clone())
                    x[:, rows] = torch.where(chosen, token, x[:, rows])
        return x

    return Compiled(net, net, loop)


def the_model(compiler: Compiler, *, whole: bool = False) -> Compiled:
    """The compiled model is attached."""
    net = Plain()
    fast = torch.compile(net, backend=compiler, fullgraph=whole)
    assert isinstance(fast, nn.Module)
    return Compiled(fast, net, lambda: plain(fast, canvas_of()))


def the_whole_model(compiler: Compiler) -> Compiled:
    """One graph, which nobody may break."""
    return the_model(compiler, whole=True)


def what_was_compiled(compiler: Compiler) -> Compiled:
    """The model itself is attached, and the loop calls the compiled one."""
    made = the_model(compiler, whole=True)
    return Compiled(made.net, made.net, made.loop)


def in_place(compiler: Compiler) -> Compiled:
    """``model.compile()``."""
    net = Plain()
    net.compile(backend=compiler, fullgraph=True)
    return Compiled(net, net, lambda: plain(net, canvas_of()))


def a_step(compiler: Compiler) -> Compiled:
    """A step of the loop is compiled, with the call of the model in it."""
    net = Plain()

    @torch.compile(backend=compiler)
    def step(x: Tensor, inside: Tensor) -> Tensor:
        token, chosen = pick(net(x), torch.where(inside, x, 0))
        return torch.where(chosen, token, x)

    def loop() -> Tensor:
        x = canvas_of()
        with torch.no_grad():
            for rows in spans():
                inside = torch.zeros_like(x, dtype=torch.bool)
                inside[:, rows] = True
                while (x[:, rows] == MASK).any():
                    x = step(x, inside)
        return x

    return Compiled(net, net, loop)


SHAPES = [a_helper, the_model, the_whole_model, what_was_compiled, in_place, a_step]


WAYS = [
    *((make, "recorded and sanitized", False) for make in SHAPES),
    *((make, "recorded", True) for make in SHAPES),
    *((make, "sanitized", False) for make in (a_helper, the_whole_model, a_step)),
]


def is_long(make: Callable[[Compiler], Compiled], how: str) -> bool:
    """What was traced before somebody attached is tried in full by ``make test-long``."""
    return how == "recorded" and make not in (a_helper, the_whole_model)


@pytest.mark.parametrize(
    ("make", "watched", "warm"),
    [
        pytest.param(
            make,
            how,
            warm,
            id=f"{make.__name__}-{how}-{'warm' if warm else 'cold'}",
            marks=pytest.mark.long if is_long(make, how) else (),
        )
        for make, how, warm in WAYS
    ],
)
def test_compiled_code_is_recorded_and_nothing_of_ours_is_traced(
    make: Callable[[Compiler], Compiled], watched: str, warm: bool, compiler: Compiler
) -> None:
    alone, made = plain(Plain(), canvas_of()), make(compiler)
    if warm:
        made.loop()
        made.net.model.calls.clear()
    if watched == "sanitized":
        with sanitize(made.model, mask_id=MASK) as report:
            out = made.loop()
        assert report.events == (), report.text()
        assert report.forwards > 3
    else:
        stated, full = {"block_length": 4}, watched != "recorded"
        with attach(made.model, mask_id=MASK, eos_id=EOS, stated=stated, sanitize=full) as recorder:
            out = made.loop()
        (record,) = recorder.records
        assert [e for e in record.events if e.kind not in REMARKS] == []
        assert record.tokens == tuple(out[0, BEGIN:].tolist())
        assert len(record.steps) == 6
        assert all(len(step.committed) == 2 for step in record.steps)
    assert torch.equal(out, alone)
    assert compiler.traced
    # The hook on ``forward`` hands on, within a graph, and does nothing else.
    ours = re.compile(r"skipstone/foreign/(?!shared/forwards)\S*")
    assert {found for trace in compiler.traced for found in ours.findall(trace)} == set()
