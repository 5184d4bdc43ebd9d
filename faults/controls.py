"""Runs that differ in nothing but noise: no cause may be named for them."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

import torch

from faults.cases.common import COMPANION, FIXED, LOOSE, SKIP, math_kernel
from faults.engine.arithmetic import last_bit
from faults.engine.instead import Fault
from faults.specimen import NARROW, PROMPTS, WIDE, Pair, Specimen
from faults.truth import ALWAYS, Truth


@contextmanager
def two_threads() -> Generator[None, None, None]:
    """Torch works with two threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@dataclass(frozen=True)
class Noise:
    """A change that should not matter."""

    name: str
    around: Fault = nullcontext
    companions: tuple[str, ...] = ()


NOISES = (
    Noise("the same again"),
    Noise("last bit", last_bit),
    Noise("attention backend", math_kernel),
    Noise("two threads", two_threads),
    Noise("batch of two", companions=("Who is Newton, physics?",)),
    Noise("padded batch", companions=COMPANION),
)

SPECS = (
    ("pebble", f"{WIDE} {FIXED}"),
    ("pebble", f"{NARROW} {SKIP}"),
    ("pebble", f"{WIDE} unmask=threshold {LOOSE.removeprefix(FIXED)}"),
    ("bfloat16", f"{NARROW} {FIXED}"),
)


def controls() -> tuple[Specimen, ...]:
    """Every noise under every setting; one prompt each, in turn."""
    made = [
        _control(noise, model, spec, PROMPTS[(i + j) % len(PROMPTS)])
        for i, (model, spec) in enumerate(SPECS)
        for j, noise in enumerate(NOISES)
    ]
    return (*made, *_idle())


def _control(noise: Noise, model: str, spec: str, prompt: str) -> Specimen:
    return Specimen(
        noise.name,
        (),
        (Pair(spec, spec),),
        Truth(ALWAYS),
        noise.around,
        model=model,
        prompts=(prompt,),
        companions=noise.companions,
        control=True,
    )


def _idle() -> tuple[Specimen, ...]:
    """A skip that is on and does nothing changes nothing: that is worth a remark, and no cause."""
    never = f"{FIXED} skip=cosine:skip_threshold=1"
    pair = Pair(f"{NARROW} {FIXED}", f"{NARROW} {never}")
    return (
        Specimen(
            "a skip that never acts",
            (23,),
            (pair,),
            Truth(ALWAYS),
            prompts=PROMPTS[:1],
            control=True,
        ),
    )
