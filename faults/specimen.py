"""What a bench case is made of: a fault, the settings at which it acts, and the truth about it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Literal

from faults.engine.instead import Fault
from faults.truth import Truth
from skipstone.engine import Engine, Settings, parse_settings
from skipstone.engine.settings import parse_spec

Tune = Callable[[Engine, str, Fault], Settings]
"""Finds settings at which a fault can act: some act at one threshold only."""

Watched = Literal["alike", "a decisions", "b decisions"]
"""Both sides are recorded alike, or one of them with decisions alone and the other in full."""

PROMPTS = (
    "Who is Newton, physics?",
    "Question: Tell me about William Harvey.",
    "Add the numbers 12, 24, 12, 2 one by one.",
)
WIDE = "gen_length=32 block_length=16"
NARROW = "gen_length=24 block_length=8"
STEPS = {WIDE: "steps=16", NARROW: "steps=12"}
"""Two tokens a step, for rules that have steps."""


@dataclass(frozen=True)
class Pair:
    """The settings of A and B, as run specs."""

    a: str
    b: str

    def settings(self) -> tuple[Settings, Settings]:
        """Both, parsed."""
        return parse_settings(parse_spec(self.a)), parse_settings(parse_spec(self.b))


def same(spec: str) -> tuple[Pair, ...]:
    """A and B with the same settings, in both shapes."""
    return against(spec, spec)


def against(a: str, b: str) -> tuple[Pair, ...]:
    """A and B with different settings, in both shapes."""
    return tuple(Pair(_shaped(shape, a), _shaped(shape, b)) for shape in STEPS)


def _shaped(shape: str, spec: str) -> str:
    steps = f" {STEPS[shape]}" if "unmask=fixed" in spec and "steps=" not in spec else ""
    return f"{shape}{steps} {spec}"


@dataclass(frozen=True)
class Specimen:
    """A fault, or a setting, with the diagnosis that is right for it."""

    name: str
    right: tuple[int, ...]
    """Numbers of the diagnosis; more than one only where nobody could tell them apart."""
    pairs: tuple[Pair, ...]
    truth: Truth
    fault: Fault = nullcontext
    """Entered around B, and around nothing else."""
    model: str = "pebble"
    model_b: str = ""
    """Where B has another one."""
    prompts: tuple[str, ...] = PROMPTS
    companions: tuple[str, ...] = ()
    """Prompts that are decoded in one batch with B's."""
    before: tuple[str, ...] = ()
    """Prompts that B's engine has decoded before."""
    watched: Watched = "alike"
    prompt_b: Callable[[str], str] = field(default=str)
    """B's prompt, made of A's."""
    tune: Tune | None = None
    lawful: bool = False
    """B is within noise of its settings, so that it shows only where decisions part."""
    control: bool = False
    """Nothing but noise differs, so that no cause may be named; ``right`` are remarks then."""
    from_trace: tuple[int, ...] | None = None
    """What is right where B cannot be run again; None for the same."""
    open_from_trace: bool = False
    """No trace can show it: then no cause is right, too."""

    def wanted(self, alone: bool) -> tuple[int, ...]:
        """The right numbers, with B at hand or with its trace alone."""
        return self.right if not alone or self.from_trace is None else self.from_trace
