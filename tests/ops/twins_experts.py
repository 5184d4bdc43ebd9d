"""Mixtures of experts against their twins: run by ``test_kernels`` with TRITON_INTERPRET=1.

On a machine with a GPU: ``python -m pytest tests/ops/twins_experts.py`` runs the compiled kernels.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from skipstone import Engine, Fixed, Settings
from skipstone.ops import backend
from skipstone.ops.model import dispatch, reference_experts, triton_experts
from skipstone.ops.model.reference_experts import Chosen, Router
from skipstone.ops.model.triton_experts import ExpertTiles
from skipstone.testing.tiny import tiny_model
from tests.models.test_contracts import CONFIGS
from tests.ops.twins import DEVICE, DTYPES, assert_equal, drawn
from tests.ops.twins_linear import close

ROUTERS = {
    "one": (5, Router(1, "softmax")),
    "all": (3, Router(3, "softmax", normalised=True)),
    "plain": (8, Router(2, "softmax")),
    "odd": (37, Router(5, "sigmoid", normalised=True, scale=2.5)),
    "groups": (16, Router(4, "sigmoid", normalised=True, scale=2.5, groups=4, top_groups=2)),
    "odd groups": (21, Router(3, "sigmoid", groups=7, top_groups=3)),
    "pairs": (12, Router(2, "softmax", groups=6, top_groups=1)),
}
SHAPES = [(1, 3, 1, 7, 9), (5, 8, 2, 24, 40), (17, 37, 5, 33, 65), (40, 6, 3, 20, 96)]
"""Rows, experts, experts of a row, width of an expert, and of the model."""


def poisoned(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make new memory NaN, or numbers far out of range, so that what a kernel leaves out shows."""

    def new_empty(
        self: Tensor, *size: int, dtype: torch.dtype | None = None, device: str | None = None
    ) -> Tensor:
        kind, place = dtype or self.dtype, device or self.device
        poison = float("nan") if kind.is_floating_point else 1 << 28
        return self.new_full(size, poison, dtype=kind, device=place)

    def empty_like(x: Tensor) -> Tensor:
        return torch.full_like(x, float("nan"))

    monkeypatch.setattr(Tensor, "new_empty", new_empty)
    monkeypatch.setattr(torch, "empty_like", empty_like)


def choices(rows: int, experts: int, top_k: int, *, seed: int = 0) -> Chosen:
    """Experts drawn without replacement, with weights that are not alike."""
    logits = drawn(rows, experts, dtype=torch.float32, seed=seed)
    return reference_experts.choose(logits, None, Router(top_k, "softmax", scale=2.0))


def weights(experts: int, hidden: int, width: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    gate_up = drawn(experts, 2 * hidden, width, dtype=torch.float32, seed=1) * width**-0.5
    down = drawn(experts, width, hidden, dtype=torch.float32, seed=2) * hidden**-0.5
    return gate_up.to(dtype), down.to(dtype)


# ---------------------------------------------------------------- which experts


@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("name", ROUTERS)
def test_chosen_experts(name: str, biased: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    experts, router = ROUTERS[name]
    logits = drawn(9, experts, dtype=torch.float32) * 2
    bias = drawn(experts, dtype=torch.float32, seed=3) if biased else None
    poisoned(monkeypatch)
    with backend.served_by("triton"):
        found = dispatch.choose(logits, bias, router)
    twin = reference_experts.choose(logits, bias, router)
    assert_equal(found.expert_NK, twin.expert_NK)
    torch.testing.assert_close(found.weight_NK, twin.weight_NK)


@pytest.mark.parametrize("name", ROUTERS)
def test_equal_scores_choose_the_first(name: str) -> None:
    experts, router = ROUTERS[name]
    logits = drawn(9, experts, dtype=torch.float32).round()
    with backend.served_by("triton"):
        found = dispatch.choose(logits, None, router)
    assert_equal(found.expert_NK, reference_experts.choose(logits, None, router).expert_NK)


@pytest.mark.parametrize("counted", [(True, False, True, True, False), (False,) * 5])
def test_rows_that_do_not_count_hit_no_expert(
    counted: tuple[bool, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = torch.tensor(counted, device=DEVICE)
    logits, router = drawn(5, 8, dtype=torch.float32), Router(2, "softmax")
    x, both = drawn(5, 40, dtype=torch.float32), weights(8, 24, 40, torch.float32)
    twin_chosen = reference_experts.choose(logits, None, router, counts)
    twin = reference_experts.experts_added(x, x, twin_chosen, *both)
    poisoned(monkeypatch)
    with backend.served_by("triton"):
        found = dispatch.choose(logits, None, router, counts)
        assert_equal(found.expert_NK, twin_chosen.expert_NK)
        assert (found.expert_NK[~counts] == 8).all()
        close(dispatch.experts_added(x, x, found, *both), twin)


# NumPy, which the interpreter uses, warns where a GPU computes a NaN.
@pytest.mark.filterwarnings("ignore:invalid value encountered", "ignore:All-NaN slice")
@pytest.mark.parametrize("name", ROUTERS)
def test_a_row_that_is_not_finite_chooses_experts_that_exist(name: str) -> None:
    experts, router = ROUTERS[name]
    logits = drawn(4, experts, dtype=torch.float32)
    logits[1] = float("nan")
    logits[2, experts // 2] = float("inf")
    with backend.served_by("triton"):
        found = dispatch.choose(logits, None, router)
    assert bool((found.expert_NK >= 0).all())
    assert bool((found.expert_NK < experts).all())
    assert all(len(set(row)) == router.top_k for row in found.expert_NK.tolist())
    assert found.weight_NK[1].isnan().all()
    assert found.weight_NK[[0, 3]].isfinite().all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("rows", "experts", "width"), [(1, 3, 40), (17, 33, 257), (70, 8, 64)])
def test_router_logits(
    rows: int, experts: int, width: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = drawn(rows, width, dtype=dtype)
    gate = (drawn(experts, width, dtype=torch.float32, seed=1) * width**-0.5).to(dtype)
    poisoned(monkeypatch)
    with backend.served_by("triton"):
        found = dispatch.router_logits(x, gate)
    assert found.dtype == torch.float32
    right = x.double() @ gate.double().T
    torch.testing.assert_close(found.double(), right, rtol=1e-5, atol=1e-5)


# ---------------------------------------------------------------- what they give


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("rows", "experts", "top_k", "hidden", "width"), SHAPES)
def test_experts(
    rows: int,
    experts: int,
    top_k: int,
    hidden: int,
    width: int,
    dtype: torch.dtype,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    x, normed = drawn(rows, width, dtype=dtype, seed=4), drawn(rows, width, dtype=dtype, seed=5)
    given = choices(rows, experts, top_k), *weights(experts, hidden, width, dtype)
    twin = reference_experts.experts_added(x, normed, *given)
    poisoned(monkeypatch)
    with backend.served_by("triton"):
        close(dispatch.experts_added(x, normed, *given), twin)


@pytest.mark.parametrize(
    "tiles",
    [
        ExpertTiles(16, 16, 32, 2),
        ExpertTiles(32, 32, 64, 3),
        ExpertTiles(16, 64, 32, 2, tma=True),
        ExpertTiles(64, 32, 16, 2, num_warps=8, tma=True),
    ],
)
def test_however_the_products_are_cut(tiles: ExpertTiles, monkeypatch: pytest.MonkeyPatch) -> None:
    x, normed = drawn(40, 64, dtype=torch.bfloat16), drawn(40, 64, dtype=torch.bfloat16, seed=5)
    given = choices(40, 5, 2), *weights(5, 48, 64, torch.bfloat16)
    twin = reference_experts.experts_added(x, normed, *given)
    poisoned(monkeypatch)
    close(triton_experts.experts_added(x, normed, *given, tiles=tiles), twin)


@pytest.mark.parametrize("dtype", DTYPES)
def test_all_rows_choose_the_same_experts(dtype: torch.dtype) -> None:
    x, normed = drawn(50, 40, dtype=dtype), drawn(50, 40, dtype=dtype, seed=5)
    chosen = choices(50, 9, 2)
    expert = torch.tensor([8, 0], dtype=torch.int32, device=DEVICE).expand(50, 2)
    given = Chosen(expert, chosen.weight_NK), *weights(9, 24, 40, dtype)
    with backend.served_by("triton"):
        found = dispatch.experts_added(x, normed, *given)
    close(found, reference_experts.experts_added(x, normed, *given))


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_row_gives_the_same_beside_any_others(dtype: torch.dtype) -> None:
    x, normed = drawn(60, 40, dtype=dtype), drawn(60, 40, dtype=dtype, seed=5)
    chosen, both = choices(60, 4, 2), weights(4, 24, 40, dtype)
    # As many rows as may be cut otherwise.
    tiles = [ExpertTiles(rows, 32, 16, 2) for rows in (16, 64)]
    whole = triton_experts.experts_added(x, normed, chosen, *both, tiles=tiles[1])
    for some in ([7], [3, 20, 59], list(range(17))):
        mine = Chosen(chosen.expert_NK[some], chosen.weight_NK[some])
        for cut in tiles:
            found = triton_experts.experts_added(x[some], normed[some], mine, *both, tiles=cut)
            if DEVICE == "cpu" and dtype == torch.float32:
                # The interpreter's sums, by numpy, depend on shape and processor in the last bits.
                close(found, whole[some])
            else:
                assert_equal(found, whole[some])


@pytest.mark.parametrize(
    ("pairs", "experts", "rows"), [(1, 5, 16), (40, 7, 16), (40, 100, 16), (33, 2, 16)]
)
def test_there_are_tiles_for_every_choice(pairs: int, experts: int, rows: int) -> None:
    most = triton_experts._most_tiles(pairs, experts, rows)
    needed = 0
    for alone in range(min(pairs, experts)):
        # So many experts have one pair each, and another one all the others.
        needed = max(needed, alone + -(-(pairs - alone) // rows))
    assert needed <= most <= needed + 1


@pytest.mark.skipif(DEVICE != "cpu", reason="the interpreter takes any width")
@pytest.mark.parametrize("name", ["experts", "grouped experts"])
def test_a_run_with_kernels_gives_the_tokens_of_the_reference(name: str) -> None:
    model = tiny_model(config=CONFIGS[name], norm_noise=0.3, dtype=torch.float32)
    settings = Settings(gen_length=8, block_length=4, unmask=Fixed(), eos_stop=False)
    plain = Engine(model, settings).generate([5, 6, 7])
    with backend.served_by("triton"):
        assert Engine(model, settings).generate([5, 6, 7]).tokens == plain.tokens


@pytest.mark.skipif(DEVICE == "cpu", reason="there is no GPU here")
def test_a_captured_graph_serves_every_choice() -> None:
    given = [drawn(40, 256, dtype=torch.bfloat16, seed=seed) for seed in range(6)]
    gate = drawn(32, 256, dtype=torch.bfloat16, seed=9)
    both = weights(32, 128, 256, torch.bfloat16)
    router = Router(4, "sigmoid", normalised=True, groups=4, top_groups=2)
    x = given[0].clone()

    def mixed() -> Tensor:
        chosen = dispatch.choose(dispatch.router_logits(x, gate), None, router)
        return dispatch.experts_added(x, x, chosen, *both)

    mixed()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = mixed()
    for rows in given:
        x.copy_(rows)
        graph.replay()
        replayed = out.clone()
        assert_equal(replayed, mixed())
