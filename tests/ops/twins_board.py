"""The kernels of what follows the layers against plain formulas; run as ``twins.py`` is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from torch import Tensor

from skipstone import CosineSkip, DualCache, Engine, Factor, Fixed, Settings, Threshold
from skipstone.blocks import Block
from skipstone.canvas import Canvas, HostCanvas, RequestStep, Status, StepContext
from skipstone.ops import backend
from skipstone.ops.decide import dispatch, reference
from skipstone.ops.decide.reference import Committed, Scored
from skipstone.rows import Rows, to_device
from skipstone.testing.tiny import tiny_model
from skipstone.unmask import UnmaskPolicy
from tests.ops.twins import DEVICE, assert_equal

CPU_OR_GPU = torch.device(DEVICE)
SIZES = [(1, 1), (1, 8), (3, 33), (2, 257)]
MASK_ID, EOS = 0, 1
NAN, INF = float("nan"), float("inf")
# Few values, so that equal ones are common.
VALUES = np.array([-INF, -INF, 0.1, 0.3, 0.5, 0.9, 1.0])


def drawn_from(values: np.ndarray, *shape: int, seed: int) -> Tensor:
    return to_device(np.random.default_rng(seed).choice(values, shape), CPU_OR_GPU)


@pytest.fixture(autouse=True)
def poisoned(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a kernel does not write shows."""

    def poisoning(make: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def made(*args: object, **how: object) -> Tensor:
            values = make(*args, **how)
            poison = NAN if values.is_floating_point() else 1 if values.dtype == torch.bool else -77
            return values.fill_(poison)

        return made

    monkeypatch.setattr(torch, "empty_like", poisoning(torch.empty_like))
    monkeypatch.setattr(Tensor, "new_empty", poisoning(Tensor.new_empty))


def exactly(found: Tensor, truth: Tensor) -> None:
    """Equal, where a NaN equals itself."""
    assert found.dtype == truth.dtype
    torch.testing.assert_close(found, truth, rtol=0, atol=0, equal_nan=True)


@dataclass
class Case:
    """Random canvases and boards, of which every second request may take no part."""

    batch: int
    gen_length: int
    seed: int
    all_take_part: bool = True

    def __post_init__(self) -> None:
        rng = np.random.default_rng(self.seed)
        shape = (self.batch, self.gen_length)
        prompts = [[7] * int(n) for n in rng.integers(1, 6, self.batch)]
        self.canvas = Canvas.start(prompts, self.gen_length, MASK_ID, CPU_OR_GPU)
        kinds = [int(Status.MASK)] * 2 + [int(Status.COMMITTED), int(Status.FILLED)]
        self.canvas.stop_BK[:, 2] = EOS
        # EOS is what stands at a mask, now and then: it is decided nowhere.
        self.place(rng.choice([MASK_ID, EOS, 5, 6, 8, 9], shape), rng.choice(kinds, shape))
        self.tables = (
            drawn_from(np.arange(20), *shape, seed=self.seed),
            drawn_from(VALUES, *shape, seed=self.seed + 1),
            drawn_from(np.arange(20), *shape, seed=self.seed + 2),
            drawn_from(VALUES, *shape, seed=self.seed + 3),
            drawn_from(np.arange(-1, 4), *shape, seed=self.seed + 4),
        )
        start = int(rng.integers(0, self.gen_length))
        self.block = Block(0, start, min(self.gen_length, start + 1 + self.gen_length // 2))
        committed_BL = drawn_from(
            np.array([False, True]), *self.canvas.ids_BL.shape, seed=self.seed
        )
        self.context = StepContext(
            self.canvas,
            tuple(
                RequestStep(b, b, self.canvas.prompt_lengths[b], self.block, b, 3 + b, 3 - b % 3)
                for b in range(self.batch)
                if self.all_take_part or b % 2
            ),
            committed_BL,
            self.canvas.on_host(),
        )

    def place(self, ids: np.ndarray, status: np.ndarray) -> None:
        self.canvas.put(HostCanvas(ids.astype(np.int64), status.astype(np.int64)))

    def some_rows(self) -> Rows:
        """From the last position of the prompt to the end of the block, and no more."""
        spans = [
            (p.slot, p.prompt_length - 1, p.prompt_length + self.block.stop)
            for p in self.context.requests
        ]
        return Rows.spans(spans, CPU_OR_GPU)


CASES = [
    (batch, gen_length, seed, whole)
    for batch, gen_length in SIZES
    for seed in range(3)
    for whole in (True, False)
]


def plain_rank(confidence_BG: Tensor) -> Tensor:
    order_BG = confidence_BG.argsort(dim=-1, descending=True, stable=True)
    return order_BG.argsort(dim=-1, stable=True)


@pytest.mark.parametrize("values", [VALUES, np.array([NAN, INF, 0.0, -0.0, 0.5, -INF])])
@pytest.mark.parametrize(("batch", "gen_length"), [*SIZES, (5, 16), (1, 530)])
def test_rank(batch: int, gen_length: int, values: np.ndarray) -> None:
    for seed in range(1 if gen_length > 100 else 3):
        key_BG = drawn_from(values, batch, gen_length, seed=seed)
        with backend.served_by("triton"):
            exactly(dispatch.rank(key_BG), plain_rank(key_BG))
        exactly(reference.rank(key_BG), plain_rank(key_BG))


def test_rank_of_equals_is_their_order() -> None:
    for value in (-INF, 0.25, NAN):
        key_BG = torch.full((2, 30), value, dtype=torch.float64, device=DEVICE)
        with backend.served_by("triton"):
            assert dispatch.rank(key_BG).tolist() == [list(range(30))] * 2
    # float32 knows no difference between these.
    key_BG = torch.tensor([[0.5, 0.5 + 1e-12, 0.5]], dtype=torch.float64, device=DEVICE)
    with backend.served_by("triton"):
        assert dispatch.rank(key_BG).tolist() == [[1, 0, 2]]
        assert dispatch.rank(key_BG.expand(2, 3)).tolist() == [[1, 0, 2]] * 2


@pytest.mark.parametrize(("batch", "gen_length", "seed", "whole"), CASES)
def test_share(batch: int, gen_length: int, seed: int, whole: bool) -> None:
    case = Case(batch, gen_length, seed, whole)
    confidence_BG, context = case.tables[1], case.context
    rank_BG = plain_rank(confidence_BG)
    left_B1 = (case.canvas.masked_BG() & context.block_BG).sum(-1, keepdim=True)
    share_B1 = (left_B1 + context.steps_left_B1 - 1) // context.steps_left_B1
    truth = (rank_BG < share_B1) & ~confidence_BG.isneginf()
    for mode in ("triton", "reference"):
        with backend.served_by(mode):
            assert_equal(dispatch.scheduled(rank_BG, confidence_BG, context), truth)


@pytest.mark.parametrize("shifts", [False, True])
@pytest.mark.parametrize("entropy", [False, True])
@pytest.mark.parametrize("some", [False, True])
@pytest.mark.parametrize(("batch", "gen_length", "seed", "whole"), CASES)
def test_note(
    batch: int, gen_length: int, seed: int, whole: bool, some: bool, entropy: bool, shifts: bool
) -> None:
    case = Case(batch, gen_length, seed, whole)
    rows, context = case.some_rows(), case.context
    # Only rows of the generation region have scores.
    offset = rows.position - np.array(case.canvas.prompt_lengths)[rows.request]
    index = np.flatnonzero(offset >= 0)[:: 1 + seed]
    if not index.size:
        return
    scores = rows.position[index]
    if shifts:
        # A row may score another position than its own: here the last of its request first.
        scores = np.concatenate([scores[rows.request[index] == b][::-1] for b in rows.requests])
    offset = scores - np.array(case.canvas.prompt_lengths)[rows.request[index]]
    scored = Scored(*(drawn_from(VALUES, index.size, seed=9 + n) for n in range(4)))
    scored = scored._replace(
        token_N=torch.arange(index.size, device=DEVICE) + 30,
        runner_up_N=torch.arange(index.size, device=DEVICE) + 60,
    )
    if entropy:
        scored = scored._replace(entropy_N=drawn_from(VALUES, index.size, seed=13))
    kept = np.random.default_rng(seed).random(rows.num_rows) < 0.5
    kept_N = to_device(kept, CPU_OR_GPU) if some else None

    where = (to_device(rows.request[index], CPU_OR_GPU), to_device(offset, CPU_OR_GPU))
    tables = [*case.tables, drawn_from(VALUES, batch, gen_length, seed=14)][: 5 + entropy]
    new = [
        t for t in (*scored[:4], context.forward_B1[where[0], 0], scored.entropy_N) if t is not None
    ]
    truth = [table_BG.clone() for table_BG in tables]
    for table_BG, new_N in zip(truth, new, strict=True):
        takes_N = to_device(kept[index], CPU_OR_GPU) if some else torch.ones_like(new_N) > 0
        table_BG[where] = torch.where(takes_N, new_N, table_BG[where])
    for mode in ("triton", "reference"):
        found = [table_BG.clone() for table_BG in tables]
        with backend.served_by(mode):
            index_2N = to_device(np.stack([index, scores]), CPU_OR_GPU)
            dispatch.write_scores(found, scored, rows, index_2N, kept_N, context)
        for a, b in zip(found, truth, strict=True):
            exactly(a, b)


def plain_offer(case: Case, confidence_BG: Tensor, rows: Rows | None) -> Tensor:
    masked_BG = case.canvas.masked_BG()
    allowed_BG = masked_BG & (case.tables[4] == case.context.forward_B1)
    if rows is not None:
        candidate_BG = masked_BG & case.canvas.region(rows.mark(case.canvas.ids_BL))
        all_BG = confidence_BG.masked_fill(~candidate_BG, -torch.inf)
        allowed_BG = allowed_BG | (candidate_BG & (plain_rank(all_BG) == 0))
    return confidence_BG.masked_fill(~allowed_BG, -torch.inf)


@pytest.mark.parametrize("leads", [False, True])
@pytest.mark.parametrize("broken", [False, True])
@pytest.mark.parametrize(("batch", "gen_length", "seed", "whole"), CASES)
def test_offer(
    batch: int, gen_length: int, seed: int, whole: bool, broken: bool, leads: bool
) -> None:
    case = Case(batch, gen_length, seed, whole)
    confidence_BG = case.tables[1]
    if broken:
        confidence_BG = drawn_from(np.array([NAN, INF, -INF, 0.5]), batch, gen_length, seed=seed)
    rows = case.some_rows() if leads else None
    truth = plain_offer(case, confidence_BG, rows)
    for mode in ("triton", "reference"):
        with backend.served_by(mode):
            exactly(dispatch.eligible(case.tables[4], confidence_BG, rows, case.context), truth)


def test_an_old_score_leads_only_if_it_is_the_best_of_the_rows() -> None:
    case = Case(1, 1100, 0)
    case.place(np.zeros((1, 1100)), np.full((1, 1100), int(Status.MASK)))
    case.tables[4].fill_(0)
    case.tables[1].fill_(0.25)
    case.tables[1][0, [3, 1030, 1090]] = 0.75
    rows = Rows.spans([(0, p := case.canvas.prompt_lengths[0], p + 1050)], CPU_OR_GPU)
    later = rows.take(np.arange(4, 1050))
    none = Rows.spans([], CPU_OR_GPU)
    for mode in ("triton", "reference"):
        with backend.served_by(mode):
            offered = [
                dispatch.eligible(case.tables[4], case.tables[1], led_by, case.context)
                for led_by in (rows, later, none, None)
            ]
        found = [o_BG[0].isfinite().nonzero()[:, 0].tolist() for o_BG in offered]
        assert found == [[3], [1030], [], []]


def plain_commit(
    case: Case,
    chosen_BG: Tensor,
    confidence_BG: Tensor,
    stops: bool,
    revoked_id: int | None,
) -> Committed:
    """As it was before there was a kernel."""
    canvas, context = case.canvas, replace(case.context, canvas=case.canvas)
    broken_BG = confidence_BG.isnan()
    commit_BG = chosen_BG & ~confidence_BG.isneginf() & ~broken_BG
    canvas.commit(commit_BG, case.tables[0], Status.COMMITTED)
    if revoked_id is not None:
        again_BG = case.tables[0] == revoked_id
        canvas.commit(commit_BG & again_BG, case.tables[0], Status.MASK)
    new_BL = torch.zeros_like(context.committed_BL)
    new_BL.scatter_(1, canvas.region_BG, commit_BG)
    if len(context.requests) < canvas.batch:
        index_A = to_device(np.array(context.active, np.int64), canvas.device)
        new_BL = context.committed_BL.index_copy(0, index_A, new_BL.index_select(0, index_A))
    if stops:
        stop_at(context, EOS)
    told_BG = torch.where(broken_BG, int(Status.BROKEN), canvas.region(canvas.status_BL))
    return Committed(commit_BG, new_BL, torch.stack([canvas.region(canvas.ids_BL), told_BG]))


def stop_at(context: StepContext, eos: int) -> None:
    """Fill with EOS what lies behind one that is decided, with nothing masked before it.

    Of requests that take part; of some, once nothing of their block is masked either.
    """
    canvas = context.canvas
    for at in context.requests:
        region = slice(at.prompt_length, at.prompt_length + canvas.gen_length)
        ids, status = canvas.ids_BL[at.slot, region], canvas.status_BL[at.slot, region]
        masks = (status == Status.MASK).nonzero()[:, 0].tolist()
        first = masks[0] if masks else canvas.gen_length
        if eos in ids[:first] and (first >= at.block.stop or not at.whole_blocks):
            ids[masks], status[masks] = eos, int(Status.FILLED)


def commit_all_ways(
    case: Case, chosen_BG: Tensor, *, stops: bool, revoked_id: int | None = None
) -> Canvas:
    """The canvas afterwards, which is the same whoever commits."""
    start, confidence_BG = case.canvas, case.tables[1]
    case.canvas = replace(start, ids_BL=start.ids_BL.clone(), status_BL=start.status_BL.clone())
    truth = plain_commit(case, chosen_BG, confidence_BG, stops, revoked_id)
    canvas = case.canvas
    for mode in ("triton", "reference"):
        again = replace(start, ids_BL=start.ids_BL.clone(), status_BL=start.status_BL.clone())
        context = replace(case.context, canvas=again)
        with backend.served_by(mode):
            found = dispatch.commit(
                chosen_BG,
                confidence_BG,
                case.tables[0],
                context,
                EOS if stops else None,
                context.ends_from_B1,
                revoked_id=revoked_id,
            )
        for a, b in zip(found, truth, strict=True):
            exactly(a, b)
        exactly(again.ids_BL, canvas.ids_BL)
        exactly(again.status_BL, canvas.status_BL)
    return canvas


@pytest.mark.parametrize("stops", [False, True])
@pytest.mark.parametrize(("batch", "gen_length", "seed", "whole"), CASES)
def test_commit(batch: int, gen_length: int, seed: int, whole: bool, stops: bool) -> None:
    case = Case(batch, gen_length, seed, whole)
    chosen_BG = drawn_from(np.array([False, True]), batch, gen_length, seed=seed)
    commit_all_ways(case, chosen_BG, stops=stops)


@pytest.mark.parametrize("stops", [False, True])
@pytest.mark.parametrize(("batch", "gen_length", "seed", "whole"), CASES)
def test_a_token_becomes_a_mask_again(
    batch: int, gen_length: int, seed: int, whole: bool, stops: bool
) -> None:
    case = Case(batch, gen_length, seed, whole)
    chosen_BG = drawn_from(np.array([False, True]), batch, gen_length, seed=seed)
    revoked_id = 1_000_000
    case.tables[0].masked_fill_(
        drawn_from(np.array([False, True]), batch, gen_length, seed=seed + 1), revoked_id
    )
    canvas = commit_all_ways(case, chosen_BG, stops=stops, revoked_id=revoked_id)
    revoked_BG = canvas.written_BG() == revoked_id
    assert (canvas.region(canvas.status_BL)[revoked_BG] == Status.MASK).all()


@pytest.mark.parametrize("stops", [False, True])
@pytest.mark.parametrize(("batch", "gen_length", "seed", "whole"), CASES)
def test_a_nan_is_told_and_never_committed(
    batch: int, gen_length: int, seed: int, whole: bool, stops: bool
) -> None:
    case = Case(batch, gen_length, seed, whole)
    case.tables[1].copy_(drawn_from(np.array([NAN, -INF, 0.5]), batch, gen_length, seed=seed))
    before = case.canvas.region(case.canvas.status_BL)
    chosen_BG = drawn_from(np.array([False, True, True]), batch, gen_length, seed=seed)
    canvas = commit_all_ways(case, chosen_BG, stops=stops)
    broken_BG = case.tables[1].isnan()
    after = canvas.region(canvas.status_BL)
    assert not (after == Status.BROKEN).any()
    fresh_BG = (after == Status.COMMITTED) & (before != Status.COMMITTED)
    assert not (fresh_BG & broken_BG).any()


@pytest.mark.parametrize("gen_length", [1, 7, 1100])
@pytest.mark.parametrize("eos_at", ["first", "last", "nowhere", "at a mask"])
@pytest.mark.parametrize("masks", ["none", "all", "left", "right"])
def test_stop(gen_length: int, eos_at: str, masks: str) -> None:
    case, middle = Case(2, gen_length, 0), gen_length // 2
    ids = np.full((2, gen_length), 5)
    status = np.full((2, gen_length), int(Status.COMMITTED))
    spans = {
        "none": slice(0),
        "all": slice(None),
        "left": slice(middle),
        "right": slice(middle, None),
    }
    status[:, spans[masks]] = Status.MASK
    if eos_at != "nowhere":
        decided = np.flatnonzero((status[0] == Status.MASK) == (eos_at == "at a mask"))
        # Only in the second request.
        ids[1, decided[:1] if eos_at != "last" else decided[-1:]] = EOS
    case.place(ids, status)
    nothing_BG = torch.zeros(2, gen_length, dtype=torch.bool, device=DEVICE)
    canvas = commit_all_ways(case, nothing_BG, stops=True)
    filled_B = (canvas.region(canvas.status_BL) == Status.FILLED).any(1).tolist()
    before = eos_at in ("first", "last") and masks == "right" and middle > 0
    assert filled_B == [False, before]


@pytest.mark.parametrize("gen_length", [7, 1100])
@pytest.mark.parametrize("left", [0, 1, 2, 3])
def test_a_stop_waits_for_its_block(gen_length: int, left: int) -> None:
    case = Case(2, gen_length, 0)
    block = Block(1, 1, gen_length // 2)
    first, second = (replace(at, block=block) for at in case.context.requests)
    case.context = replace(case.context, requests=(first, replace(second, whole_blocks=True)))
    ids = np.full((2, gen_length), 5)
    ids[:, 0] = EOS
    status = np.full((2, gen_length), int(Status.COMMITTED))
    # The first mask: the last of the block, the one behind it, or further on.
    status[:, block.stop - 1 + left :] = Status.MASK
    case.place(ids, status)
    nothing_BG = torch.zeros(2, gen_length, dtype=torch.bool, device=DEVICE)
    canvas = commit_all_ways(case, nothing_BG, stops=True)
    filled_B = (canvas.region(canvas.status_BL) == Status.FILLED).any(1).tolist()
    assert filled_B == [True, left > 0]


def test_an_eos_that_is_committed_now_stops() -> None:
    case = Case(3, 40, 0)
    case.place(np.zeros((3, 40)), np.full((3, 40), int(Status.MASK)))
    case.tables[0].fill_(5)
    case.tables[1].fill_(0.5)
    chosen_BG = torch.zeros(3, 40, dtype=torch.bool, device=DEVICE)
    chosen_BG[:, :3] = True
    # The second one has a mask left of it, the third may not be committed.
    chosen_BG[1, 1] = False
    case.tables[0][:, 2] = EOS
    case.tables[1][2, 2] = -INF
    canvas = commit_all_ways(case, chosen_BG, stops=True)
    counts_B = (canvas.region(canvas.status_BL) == Status.FILLED).sum(1)
    assert counts_B.tolist() == [37, 0, 0]


@pytest.mark.skipif(
    DEVICE != "cpu", reason="tests/engine/test_cuda.py runs the kernels in whole runs"
)
@pytest.mark.parametrize("unmask", [Fixed(), Threshold(0.05), Factor(1.5)], ids=repr)
def test_a_run_gives_the_tokens_of_the_reference(unmask: UnmaskPolicy) -> None:
    model = tiny_model(1, dtype=torch.float64)
    skip = CosineSkip(skip_layer_k=2, skip_threshold=0.5, skip_outlier=0.0)
    settings = Settings(cache=DualCache(), skip=skip, gen_length=8, block_length=4, unmask=unmask)
    engine, prompts = Engine(model, settings), [[5, 6, 7], [8, 9]]
    plain = [result.tokens for result in engine.generate_batch(prompts)]
    with backend.served_by("triton"):
        assert [result.tokens for result in engine.generate_batch(prompts)] == plain


@pytest.mark.skipif(DEVICE == "cpu", reason="there is no GPU here")
@pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype")
def test_a_graph_can_capture_them_and_nobody_waits() -> None:
    case = Case(2, 257, 0)
    rows, context, index_N = case.some_rows(), case.context, torch.arange(1, 9, device=DEVICE)
    scored = Scored(*(drawn_from(VALUES, 8, seed=n) for n in range(4)))
    scored = scored._replace(token_N=index_N + 30, runner_up_N=index_N + 60)
    index_2N = torch.stack([index_N, rows.position_N[index_N]])
    # What is copied to the device is there before a graph is made.
    made = (rows.request_N, rows.position_N, rows.request_A, rows.offset_A1, context.forward_B1)
    assert all(tensor.is_cuda for tensor in made)

    def step() -> Committed:
        dispatch.write_scores(case.tables, scored, rows, index_2N, None, context)
        offered_BG = dispatch.eligible(case.tables[4], case.tables[1], rows, context)
        chosen_BG = dispatch.scheduled(dispatch.rank(offered_BG), offered_BG, context)
        return dispatch.commit(
            chosen_BG, offered_BG, case.tables[0], context, EOS, context.ends_from_B1
        )

    start = (case.canvas.ids_BL.clone(), case.canvas.status_BL.clone())
    torch.cuda.set_sync_debug_mode("error")
    try:
        first = step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = step()
    case.canvas.ids_BL.copy_(start[0])
    case.canvas.status_BL.copy_(start[1])
    graph.replay()
    for a, b in zip(found, first, strict=True):
        assert_equal(a, b)
