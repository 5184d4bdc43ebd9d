"""The gate before every measurement: what is fast must also be right.

Tokens are compared in float32, where no near-tie hides behind rounding; kernels, each by itself,
in the dtype that is measured.

Shape letters: N rows, D width, M MLP width, H heads, B requests, L canvas length,
U key/value heads, E head width, S compared layers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from skipstone.bench.timing import unadvised
from skipstone.blocks import Block
from skipstone.cache import DualCache, PrefixCache
from skipstone.canvas import Canvas, RequestStep, StepContext
from skipstone.engine import Engine, Settings
from skipstone.engine.engine import RunnerName
from skipstone.engine.prompts import Prompt
from skipstone.models.load import Model
from skipstone.ops import backend
from skipstone.ops.decide import dispatch as decide
from skipstone.ops.model import dispatch
from skipstone.ops.model.reference import rotary_tables
from skipstone.rows import Rows
from skipstone.skip import CosineSkip
from skipstone.unmask import Fixed, Threshold

TokenLists = list[tuple[int, ...]]
# All is stated: what a model recommends is not what is compared here.
_BASE = Settings(gen_length=16, block_length=8, eos_stop=False).all_stated()
_CASES = (
    _BASE.replace(cache=DualCache(), unmask=Threshold(0.9)),
    _BASE.replace(cache=PrefixCache(), unmask=Fixed(), steps=8),
    _BASE.replace(unmask=Fixed(), steps=8, skip=CosineSkip(skip_layer_k=3, skip_threshold=0.95)),
)
# Rounding steps that a kernel may be away from its twin, at the size of the largest value.
_ROUNDINGS = 4
# Attention sums twice, and the exponential in between enlarges what a score is off.
_ROUNDINGS_OF_ATTENTION = 16


@dataclass(frozen=True)
class Check:
    """One thing that has to hold before any speed is reported."""

    check: str
    passed: bool
    detail: str


def gate(model: Model, prompts: Sequence[Prompt], measured: torch.dtype) -> list[Check]:
    """Compare the fast paths with their plain twins.

    Args:
        model: decoded in its own dtype; float32 or better.
        prompts: at least two, of different lengths.
        measured: the dtype that is timed.
    """
    with unadvised():
        eager = _decoded(model, prompts, "eager")
        graphed, together = _decoded(model, prompts, "graph"), _together(model, prompts)
        kernels = _kernels_in_a_run(model, prompts, eager)
    return [
        _same("graphs give the tokens of the eager path", graphed, eager),
        _same("a batch gives each prompt the tokens it has alone", together, eager),
        kernels,
        *_kernels(model.network.device, measured),
    ]


def _decoded(model: Model, prompts: Sequence[Prompt], runner: RunnerName) -> TokenLists:
    """Each prompt alone under each case."""
    engines = [Engine(model, settings, runner=runner) for settings in _CASES]
    return [engine.generate(prompt).tokens for engine in engines for prompt in prompts]


def _together(model: Model, prompts: Sequence[Prompt]) -> TokenLists:
    engines = [Engine(model, settings) for settings in _CASES]
    return [result.tokens for engine in engines for result in engine.generate_batch(prompts)]


def _same(name: str, found: TokenLists, expected: TokenLists) -> Check:
    differing = sum(a != b for a, b in zip(found, expected, strict=True))
    return Check(name, not differing, f"{differing} of {len(expected)} answers differ")


def _kernels_in_a_run(model: Model, prompts: Sequence[Prompt], eager: TokenLists) -> Check:
    name = "kernels give the tokens of the plain operations"
    if reason := backend.refusal(next(iter(model.network.published().values()))):
        return Check(name, True, f"nothing to compare: {reason}")
    with backend.served_by("reference"):
        return _same(name, eager, _decoded(model, prompts, "eager"))


def _kernels(device: torch.device, dtype: torch.dtype) -> list[Check]:
    """Each kernel against its twin, on odd numbers of rows at LLaDA-8B's widths."""
    generator = torch.Generator(device).manual_seed(0)

    def values(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, device=device).to(dtype)

    x_ND, delta_ND, weight_D = values(33, 4096), values(33, 4096), values(4096)
    if backend.refusal(x_ND):
        return []
    gate_up_NM, qkv_NHE = values(33, 2 * 12288), values(33, 96, 128)
    angles_2NE = rotary_tables(33, 128, 500000.0, device)
    # Two requests with unequal numbers of rows, in stores that both paths fill alike.
    spans = [(0, 64, 96), (1, 7, 8)]
    rows = Rows.spans(spans, device, lengths=[300, 290], bases=[0, 304])
    key_CUE, value_CUE = values(600, 32, 128), values(600, 32, 128)

    def rotated() -> Sequence[Tensor]:
        key, value = key_CUE.clone(), value_CUE.clone()
        return dispatch.rotate_and_write(qkv_NHE, angles_2NE, key, value, rows), key, value

    alone, held = Rows.spans([(0, 0, 33)], device), _references(delta_ND + 4 * x_ND)
    similarity_SN = values(17, 33).double()
    committed_BL = torch.zeros(1, 33, dtype=torch.bool, device=device)
    bars = decide.Bars(0.7, 0.9, committed=True, neighbours=True)
    weight_DD, up_MD = values(4096, 4096) / 64, values(2048, 4096) / 64
    works: dict[str, Callable[[], Sequence[Tensor]]] = {
        "rms_norm": lambda: [dispatch.rms_norm(x_ND, weight_D, 1e-5)],
        "add_rms_norm": lambda: dispatch.add_rms_norm(x_ND, delta_ND, weight_D, 1e-5),
        "swiglu": lambda: [dispatch.swiglu(gate_up_NM)],
        "rotate_and_write": rotated,
        "attend": lambda: [dispatch.attend(qkv_NHE[:, :32], key_CUE, value_CUE, rows, None)],
        "linear": lambda: [dispatch.linear(x_ND, weight_DD)],
        "linear_swiglu": lambda: [dispatch.linear_swiglu(x_ND, up_MD)],
        "linear_add": lambda: [dispatch.linear_add(delta_ND, x_ND, weight_DD)],
        "linear_add_rms_norm": lambda: dispatch.linear_add_rms_norm(
            delta_ND, x_ND, weight_DD, weight_D, 1e-5
        ),
        "score": lambda: [decide.score(gate_up_NM, 0, None).confidence_N],
        "similarity": lambda: [decide.similarity([x_ND], held, alone, torch.float32)],
        "judge": lambda: [decide.judge(similarity_SN, held, alone, committed_BL, bars).mean_N],
        "write_scores, eligible, rank, scheduled and commit": lambda: _decisions(gate_up_NM, alone),
    }
    return [_near(name, work, torch.finfo(dtype).eps) for name, work in works.items()]


def _references(x_ND: Tensor) -> decide.References:
    """The states of one layer and one request as references, each in the slot of its position."""
    position_1L = torch.arange(x_ND.shape[0], device=x_ND.device)[None]
    return decide.References(x_ND[None, None], position_1L, torch.stack([position_1L] * 2))


def _decisions(logits_NV: Tensor, rows: Rows) -> Sequence[Tensor]:
    """All that follows the layers: scores of a request without a prompt, and what is committed."""
    masks = rows.num_rows
    canvas = Canvas.start([[]], masks, 0, rows.device)
    place = RequestStep(0, 0, 0, Block(0, 0, masks), step=1, step_budget=4, forward=1)
    nothing_BL = torch.zeros_like(canvas.ids_BL, dtype=torch.bool)
    context = StepContext(canvas, (place,), nothing_BL, canvas.on_host())
    with backend.served_by("reference"):
        scored = decide.score(logits_NV, 0, None)
    ids_BG, numbers_BG = torch.zeros_like(canvas.ids_BL), torch.zeros_like(canvas.ids_BL).double()
    tables = [ids_BG, numbers_BG, ids_BG.clone(), numbers_BG.clone(), ids_BG.clone()]
    index_2N = torch.stack([rows.position_N, rows.position_N])
    decide.write_scores(tables, scored, rows, index_2N, rows.position_N % 2 == 0, context)
    offered_BG = decide.eligible(tables[-1], tables[1], rows, context)
    rank_BG = decide.rank(offered_BG)
    chosen_BG = decide.scheduled(rank_BG, offered_BG, context)
    committed = decide.commit(
        chosen_BG,
        offered_BG,
        tables[0],
        context,
        int(scored.token_N[0]),
        context.ends_from_B1,
    )
    return [*tables, rank_BG, *committed]


def _near(name: str, work: Callable[[], Sequence[Tensor]], eps: float) -> Check:
    """Whether a kernel is within a few roundings of its twin."""
    allowed = _ROUNDINGS_OF_ATTENTION if name == "attend" else _ROUNDINGS
    with backend.served_by("reference"):
        plain = work()
    far = max(
        ((a.double() - b.double()).abs().max() / b.double().abs().max()).item() / eps
        for a, b in zip(work(), plain, strict=True)
    )
    detail = f"{far:.2g} roundings apart, {allowed} allowed"
    return Check(f"kernel {name} gives what its twin gives", far <= allowed, detail)
