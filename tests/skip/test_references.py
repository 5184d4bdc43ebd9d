"""What the token skip compares with: kept for rows that may be judged, and never another's."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import numpy as np
import pytest
import torch
from torch import Tensor

from skipstone import CosineSkip, DualCache, Engine, NoCache, PrefixCache
from skipstone.blocks import Block
from skipstone.cache import CachePolicy
from skipstone.canvas import Canvas, Geometry, RequestStep, StepContext
from skipstone.rows import Rows
from skipstone.skip.cosine import CosineSession
from skipstone.skip.policies import Reference
from tests.helpers.watching import prompt_of, uneven_model
from tests.skip.test_cost import counted_reads

BATCH, LENGTH, WIDTH, LAYER_K = 3, 12, 8, 3
CPU = torch.device("cpu")


def session_of(reference: Reference = "last_computed", *, bar: float = 0.999) -> CosineSession:
    return CosineSkip(
        LAYER_K, bar, bar, reference=reference, keep_committed=False, keep_neighbours=False
    ).start(
        Geometry(
            batch=BATCH,
            length=LENGTH,
            gen_length=LENGTH - 2,
            num_layers=LAYER_K,
            width=WIDTH,
            dtype=torch.float32,
            device=CPU,
        )
    )


def at(forward: int) -> StepContext:
    canvas = Canvas.start([[1, 2]] * BATCH, LENGTH - 2, 0, CPU)
    block = Block(0, 0, LENGTH - 2)
    places = [RequestStep(b, b, 2, block, 1, LENGTH, forward) for b in range(BATCH)]
    nothing_BL = torch.zeros_like(canvas.ids_BL, dtype=torch.bool)
    return StepContext(canvas, tuple(places), nothing_BL, canvas.on_host())


def rows_of(*spans: tuple[int, int, int]) -> Rows:
    return Rows.spans(spans, CPU)


def states(rows: Rows, seed: int) -> Tensor:
    """States that are the same for the same position, request and seed, and like no others."""
    drawn = torch.randn(BATCH, LENGTH, WIDTH, generator=torch.Generator().manual_seed(seed))
    return drawn[rows.request_N, rows.position_N]


def learn(session: CosineSession, rows: Rows, forward: int) -> None:
    for layer in range(1, LAYER_K):
        session.learn(layer, states(rows, forward), rows, at(forward))


def kept(session: CosineSession, rows: Rows, like: int, forward: int) -> list[bool]:
    """Which rows go on whose states are as they were in another forward."""
    x_ND = states(rows, like)
    answers = [session.keep(layer, x_ND, rows, at(forward)) for layer in range(1, LAYER_K)]
    assert answers[-1] is not None
    return answers[-1].tolist()


def compared(session: CosineSession) -> list[tuple[int, int]]:
    """Position and forward of what each row was compared with in the latest step."""
    scores = session.scores
    assert scores is not None
    positions, forwards = scores.reference_position_N, scores.reference_forward_N
    return list(zip(positions.tolist(), forwards.tolist(), strict=True))


def slots(session: CosineSession) -> int:
    return session._store.width


def test_a_row_is_compared_with_its_own_position() -> None:
    session, rows = session_of(), rows_of((0, 4, 7), (2, 1, 3))
    session.expect(rows)
    learn(session, rows_of((0, 0, 12), (1, 0, 12), (2, 0, 12)), forward=5)
    assert kept(session, rows, like=5, forward=6) == [False] * 5
    assert compared(session) == [(4, 5), (5, 5), (6, 5), (1, 5), (2, 5)]
    assert kept(session, rows, like=77, forward=7) == [True] * 5
    assert kept(session, rows, like=77, forward=8) == [False] * 5
    assert compared(session)[0] == (4, 7)


def test_a_row_that_was_not_expected_or_not_learned_goes_on() -> None:
    session = session_of(bar=-1.0)
    assert kept(session, rows_of((1, 2, 4)), like=0, forward=0) == [True, True]
    session.expect(rows_of((0, 3, 6)))
    assert slots(session) == 3
    learn(session, rows_of((0, 0, 5)), forward=1)
    rows = rows_of((0, 2, 7), (1, 3, 4))
    assert kept(session, rows, like=1, forward=2) == [True, False, False, True, True, True]
    assert compared(session) == [(-1, -1), (3, 1), (4, 1), (-1, -1), (-1, -1), (-1, -1)]
    assert session.scores is not None
    assert session.scores.similarity_SN[:, [0, 3, 4, 5]].eq(0).all()
    # Position 5 has a slot, and now also what goes in it.
    assert kept(session, rows, like=1, forward=3) == [True, False, False, False, True, True]


def test_a_slot_does_not_bring_back_what_it_once_held() -> None:
    session, first = session_of(), rows_of((0, 3, 6))
    session.expect(first)
    learn(session, first, forward=1)
    session.expect(rows_of((0, 7, 10)))
    assert slots(session) == 3
    assert kept(session, rows_of((0, 7, 10)), like=1, forward=2) == [True] * 3
    assert compared(session) == [(-1, -1)] * 3
    session.expect(rows_of((0, 4, 6)))
    session.expect(first)
    assert kept(session, first, like=1, forward=3) == [True] * 3
    assert compared(session) == [(-1, -1)] * 3


def test_more_slots_and_other_requests_leave_what_was_learned() -> None:
    session, first = session_of(), rows_of((0, 3, 6))
    session.expect(first)
    learn(session, first, forward=1)
    session.expect(rows_of((1, 0, 10)))
    session.expect(rows_of((0, 4, 9)))
    assert slots(session) == 10
    assert kept(session, first, like=1, forward=2) == [True, False, False]
    assert compared(session) == [(-1, -1), (4, 1), (5, 1)]


@pytest.mark.parametrize("reference", ["last_computed", "previous_step"])
def test_fresh_rows_go_on_and_are_renewed(reference: Reference) -> None:
    session, rows = session_of(reference), rows_of((0, 3, 5), (1, 0, 12))
    session.expect(rows_of((0, 3, 5), (1, 6, 8)))
    learn(session, rows, forward=1)
    fresh = replace(rows, fresh_N=rows.request_N == 1)
    assert kept(session, fresh, like=1, forward=2) == [False] * 2 + [True] * 12
    assert session.scores is not None
    assert session.scores.forced_N.tolist() == [False] * 2 + [True] * 12
    judged = rows_of((0, 3, 5), (1, 6, 8))
    assert kept(session, judged, like=1, forward=3) == [False] * 4
    renewed = 2 if reference == "previous_step" else 1
    assert compared(session) == [(3, renewed), (4, renewed), (6, 2), (7, 2)]


def test_fresh_rows_stay_with_their_rows() -> None:
    rows = rows_of((0, 3, 5), (1, 0, 2))
    fresh = replace(rows, fresh_N=torch.tensor([False, False, True, False]))
    taken = fresh.take(np.array([1, 2]))
    assert taken.fresh_N is not None
    assert taken.fresh_N.tolist() == [False, True]
    own = fresh.own()
    assert fresh.fresh_N is not None
    fresh.fresh_N.fill_(True)
    assert own.fresh_N is not None
    assert own.fresh_N.tolist() == [False, False, True, False]
    assert rows.take(np.array([0])).fresh_N is None
    assert rows.own().fresh_N is None


@pytest.mark.parametrize("seed", range(10))
def test_the_slots_are_those_of_a_plain_dictionary(seed: int) -> None:
    rng, session = Random(seed), session_of()
    expected, learned, widest = set[tuple[int, int]](), dict[tuple[int, int], int](), 0

    def some() -> Rows:
        spans = list[tuple[int, int, int]]()
        for request in sorted(rng.sample(range(BATCH), rng.randint(1, BATCH))):
            start = rng.randrange(LENGTH)
            spans.append((request, start, rng.randint(start + 1, LENGTH)))
        return rows_of(*spans)

    for forward in range(60):
        rows = some()
        places = list(zip(rows.request.tolist(), rows.position.tolist(), strict=True))
        if rng.random() < 0.4:
            session.expect(rows)
            others = {place for place in expected if place[0] not in rows.requests}
            expected = others | set(places)
            learned = {place: at for place, at in learned.items() if place in expected}
            widest = max(widest, *rows.counts)
        elif rng.random() < 0.5:
            learn(session, rows, forward)
            learned |= {place: forward for place in places if place in expected}
        else:
            kept(session, rows, like=1000 + forward, forward=forward)
            assert compared(session) == [
                (place[1], learned[place]) if place in learned else (-1, -1) for place in places
            ]
            learned |= {place: forward for place in places if place in expected}
        assert slots(session) == widest


@pytest.mark.parametrize(
    ("cache", "width"), [(NoCache(), 9 + 16), (PrefixCache(), 16), (DualCache(), 8)], ids=repr
)
def test_references_are_kept_for_the_rows_of_a_step(cache: CachePolicy, width: int) -> None:
    skip = CosineSkip(skip_layer_k=3, skip_threshold=0.7, skip_outlier=0.0)
    model = uneven_model(4)
    engine = Engine(model, cache=cache, skip=skip, gen_length=16, block_length=8)
    with torch.inference_mode():
        run = engine.start([prompt_of(4, 9), prompt_of(5, 6)])
        done = run.decode()
    assert run.batch.runner.skip is not None
    session = run.batch.runner.skip.session
    assert isinstance(session, CosineSession)
    # One slot is spare.
    shape = (2, 2, width + 1, model.config.width)
    assert session._store.held.states_SBWD.shape == shape
    assert any(step.skipped_row_layers for step in done[0].stats)


def test_where_every_step_refreshes_nothing_is_kept() -> None:
    engine = Engine(
        uneven_model(4),
        cache=DualCache(refresh_every=1),
        skip=CosineSkip(skip_layer_k=3),
        gen_length=8,
        block_length=4,
    )
    with torch.inference_mode():
        run = engine.start([prompt_of(4, 9)])
        run.decode()
    assert run.batch.runner.skip is not None
    session = run.batch.runner.skip.session
    assert isinstance(session, CosineSession)
    assert slots(session) == 0


def test_nothing_is_read_from_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    session, rows = session_of(), rows_of((0, 3, 6))
    context = at(0)
    x_ND = states(rows, 1)
    with counted_reads(monkeypatch) as reads:
        for span in ((0, 3, 6), (0, 2, 9), (0, 4, 5)):
            session.expect(rows_of(span))
            session.learn(1, x_ND, rows, context)
    assert not reads
