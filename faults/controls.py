"""Runs that differ in nothing but noise: no cause may be named for them."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from itertools import cycle

import torch
import torch.nn.functional as F
from torch import Tensor

from faults.alike import ALIKE
from faults.cases.common import COMPANION, FIXED, LOOSE, SKIP, math_kernel
from faults.engine.arithmetic import last_bit
from faults.engine.instead import Fault, instead
from faults.specimen import NARROW, PROMPTS, WIDE, Pair, Specimen, Watched
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


@contextmanager
def sums_in_halves() -> Generator[None, None, None]:
    """Products of matrices are summed in another order, as on another processor."""
    whole = F.linear

    def apart(x_NK: Tensor, weight_OK: Tensor, bias_O: Tensor | None = None) -> Tensor:
        half = weight_OK.shape[1] // 2
        first_NO = whole(x_NK[..., :half], weight_OK[:, :half], bias_O)
        return first_NO + whole(x_NK[..., half:], weight_OK[:, half:])

    with instead(F, "linear", apart):
        yield


@dataclass(frozen=True)
class Noise:
    """A change that should not matter."""

    name: str
    around: Fault = nullcontext
    companions: tuple[str, ...] = ()
    before: tuple[str, ...] = ()
    """What B's engine has decoded before."""
    watched: Watched = "alike"


NOISES = (
    Noise("the same again"),
    Noise("last bit", last_bit),
    Noise("attention backend", math_kernel),
    Noise("two threads", two_threads),
    Noise("sums in another order", sums_in_halves),
    Noise("batch of two", companions=("Who is Newton, physics?",)),
    Noise("padded batch", companions=COMPANION),
    Noise("an engine that was used", before=(COMPANION[0], PROMPTS[1])),
    Noise("the same prompt before", before=(*PROMPTS,)),
    Noise("A with decisions alone", watched="a decisions"),
    Noise("B with decisions alone", watched="b decisions"),
)

SPECS = (
    ("pebble", f"{WIDE} {FIXED}"),
    ("pebble", f"{NARROW} {SKIP}"),
    ("pebble", f"{WIDE} unmask=threshold {LOOSE.removeprefix(FIXED)}"),
    ("bfloat16", f"{NARROW} {FIXED}"),
)
"""Under these every noise is tried."""

_ONCE = "cache=once:refresh_every=0"
POLICIES = (
    *(
        f"unmask={policy}"
        for policy in (
            "threshold:value=0.7",
            "falling_threshold",
            "factor",
            "frechet",
            "credit",
            "hierarchical",
            "klass:value=0.8",
            "local_leap",
            "slow_fast",
            "wino",
            "margin:each=2",
            "margin:threshold=0.5",
            "certainty:each=2",
            "certainty:sigma=2,threshold=0.3",
            "entropy:each=2",
            "entropy:limit=0.5",
            "entropy_bound:gamma=0.3",
            "dream_threshold",
            "dinfer_threshold",
            "quota:steps=3",
            "editing:threshold=0.3",
            "fixed:order=random seed=1",
            "fixed:order=left_to_right",
        )
    ),
    *(
        f"unmask=threshold {policy}"
        for policy in (
            "cache=none",
            "cache=prefix",
            "cache=dual:refresh_every=2",
            "cache=vicinity:before=4,after=4,warmup=1",
            "cache=dkv:refresh_every=3",
            "cache=once:refresh_every=4",
            "cache=dllm:prompt_every=8,response_every=4",
            "cache=elastic:gamma=0.9",
            "cache=sparse",
            "cache=dyllm",
            "cache=d2cache",
            f"{_ONCE} skip=ratio:keep=0.5@0.25",
            "skip=cosine:skip_threshold=0.99,reference=previous_step",
            "suffix_window=3",
            "growing_canvas=true",
            "absolute_blocks=true",
            "stop_after=block",
            "budget=stop steps=9",
            "temperature=0.7 seed=3",
            "temperature=0.7 seed=3 top_p=0.9 top_k=8",
        )
    ),
)
"""Every policy of the registry, and what settings have beside them; each under a few noises."""

COARSE = POLICIES[::4]
"""Those that are tried in bfloat16, too."""

OTHERS = ("SDARForCausalLM", "DreamModel", "LLaDA2MoeModelLM")
"""Models with other horizons and other scores than the embedded one's."""
OF_OTHERS = (
    "unmask=fixed",
    "unmask=threshold:value=0.1",
    "unmask=threshold:value=0.1 cache=prefix",
    "unmask=editing:threshold=0.05,edit=0.04",
)

_EACH = 3
"""Noises that a policy meets: the next ones in turn."""


def controls() -> tuple[Specimen, ...]:
    """Every noise under some settings, some under every policy; one prompt each, in turn."""
    wide = [
        _control(noise, model, spec, PROMPTS[(i + j) % len(PROMPTS)])
        for i, (model, spec) in enumerate(SPECS)
        for j, noise in enumerate(NOISES)
    ]
    return (*wide, *_each_in_turn(), *_idle(), *map(_alike, ALIKE))


def _each_in_turn() -> Iterator[Specimen]:
    noise, prompt = cycle(NOISES[1:]), cycle(PROMPTS)
    for spec in POLICIES:
        for _ in range(_EACH):
            yield _control(next(noise), "pebble", f"{NARROW} {spec}", next(prompt))
    for spec in COARSE:
        yield _control(next(noise), "bfloat16", f"{NARROW} {spec}", next(prompt))
    for model in OTHERS:
        for spec in OF_OTHERS:
            for _ in range(_EACH):
                greedy = f"{WIDE} {spec} temperature=0 top_p=1"
                yield _control(next(noise), model, greedy, next(prompt))


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
        before=noise.before,
        watched=noise.watched,
        control=True,
    )


def _alike(pair: Pair) -> Specimen:
    """Settings that differ and mean the same here."""
    return Specimen(
        "settings that mean the same", (), (pair,), Truth(ALWAYS), prompts=PROMPTS[:1], control=True
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
