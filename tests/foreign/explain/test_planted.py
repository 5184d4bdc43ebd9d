"""Faults in loops of SDAR's and Dream's kind: each has its own cause, whatever it is held against.

No argument of a loop names its fault: what does it is a function in the place of the right one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial

import pytest
import torch
from torch import Tensor

import skipstone
from skipstone.foreign.explain.explain import explain
from skipstone.foreign.explain.explanation import Explanation
from specimens import blockwise
from specimens.blockwise import BlockWay, ShiftedWay
from tests.foreign.attach.test_score_offset_found import dream
from tests.foreign.explain.test_horizon import BLOCK, sdar

AGAINST = ("code", "engine", "code with a model")
"""What the loop is held against."""


def in_turn(names: Iterable[str]) -> list[object]:
    """Every fault against one of them now, against the others in the long run."""
    return [
        pytest.param(name, against, marks=() if i % 3 == j else pytest.mark.long)
        for i, name in enumerate(names)
        for j, against in enumerate(AGAINST)
    ]


@dataclass(frozen=True)
class Planted:
    """A fault, and what is to be found of it."""

    way: BlockWay
    verdict: str
    place: tuple[int, int]
    """Block and step."""
    position: int
    engine: str = ""
    """The verdict against our engine, if that is another one."""


def _other(rows: Tensor) -> Tensor:
    return rows + 1


def _from_zero(rows: Tensor) -> Tensor:
    return rows - rows[0]


PROMPT = 0, 0
"""The forward over the prompt has the number of the step after it."""
STORED = 0, 3
"""The first block has three masks: it is stored after as many steps."""
SECOND = 1, 0

BLOCKWISE = {
    "prompt written from left to right": Planted(
        BlockWay(sees_prompt=blockwise.causal), "visible-set", PROMPT, 0
    ),
    "prompt sees all of itself": Planted(
        BlockWay(sees_prompt=blockwise.everything), "visible-set", PROMPT, 0
    ),
    "horizon one block too far": Planted(
        BlockWay.seeing(blockwise.one_too_far), "visible-set", PROMPT, 0
    ),
    "end of the prompt hidden": Planted(
        BlockWay.seeing(blockwise.tail_hidden), "visible-set", (0, 0), 25
    ),
    "steps written from left to right": Planted(
        BlockWay(sees=blockwise.causal), "visible-set", (0, 0), 24
    ),
    "stored from left to right": Planted(
        BlockWay(sees_stored=blockwise.causal), "visible-set", STORED, 24
    ),
    "stored by itself": Planted(BlockWay(store=blockwise.by_itself), "visible-set", STORED, 24),
    "stored twice": Planted(BlockWay(store=blockwise.twice), "visible-set", (0, 4), 24),
    "stored over the last row": Planted(
        BlockWay(store=blockwise.over_the_last), "visible-set", STORED, 24, "wrong-cache-row"
    ),
    "never stored": Planted(BlockWay(store=blockwise.never), "stale-kv", SECOND, 26),
    "stored before its last commit": Planted(
        BlockWay(store=blockwise.before_the_last_commit), "stale-kv", SECOND, 26
    ),
    "positions from zero in a block": Planted(
        BlockWay(places=_from_zero), "position-encoding", (0, 0), 24
    ),
    "positions off by one in a block": Planted(
        BlockWay(places=_other), "position-encoding", (0, 0), 24
    ),
    "stored at positions from zero": Planted(
        BlockWay(places_stored=_from_zero), "position-encoding", STORED, 24
    ),
    "one more in the first step": Planted(
        BlockWay(share=lambda a_step, masks: a_step + (masks == BLOCK)), "schedule", SECOND, 28
    ),
    "one more in every step": Planted(
        BlockWay(share=lambda a_step, masks: a_step + 1), "schedule", (0, 0), 26
    ),
}


def _blockwise(planted: Planted, against: str) -> Explanation:
    model, net, prompt = sdar()
    bad = lambda: blockwise.sdar(  # noqa: E731
        net, prompt, gen_length=10, block_length=BLOCK, way=planted.way
    )
    mask_id = model.config.mask_id
    if against == "engine":
        # As many new positions as the last block has, which the loop always fills.
        settings = skipstone.Settings(cache="dual", unmask="fixed", gen_length=11)
        engine = skipstone.Engine(model, settings)
        return explain(net, engine, bad, prompt=prompt[0].tolist(), mask_id=mask_id)
    good = lambda: blockwise.windows(net, prompt, gen_length=10, block_length=BLOCK)  # noqa: E731
    reference = model if against == "code with a model" else None
    return explain(net, good, bad, mask_id=mask_id, reference=reference)


@pytest.mark.parametrize(("name", "against"), in_turn(BLOCKWISE))
def test_a_fault_of_a_block_causal_loop_is_named_where_it_is(name: str, against: str) -> None:
    planted = BLOCKWISE[name]
    found = _blockwise(planted, against).diagnosis
    ours = against == "engine" and bool(planted.engine)
    assert found.verdict == (planted.engine if ours else planted.verdict), found
    assert found.cause is not None
    where = found.cause.where
    assert (where.block, where.step) == planted.place, found
    # What the engine sees of a lost row is the one that has come into its place.
    assert where.position == planted.position - ours, found


@pytest.mark.parametrize("against", ["code", "engine"])
def test_blocks_counted_from_the_prompt_are_nothing_else(against: str) -> None:
    sight = blockwise.from_the_prompt
    way = BlockWay(sight, sight, sight, begin=lambda prompt, block: prompt)
    found = _blockwise(Planted(way, "", (0, 0), 0), against).diagnosis
    assert found.verdict in ("visible-set", "region-boundaries", "inconclusive"), found


def test_horizons_are_proved_against_our_engine() -> None:
    for sight in (blockwise.one_too_far, blockwise.everything, blockwise.causal):
        found = _blockwise(Planted(BlockWay.seeing(sight), "", (0, 0), 0), "engine").diagnosis
        assert found.cause is not None
        assert found.cause.proof.name == "NECESSARY_AND_SUFFICIENT", found


@pytest.mark.parametrize("good", ["engine", "code"])
@pytest.mark.parametrize("prompt", [[5, 6, 7], [9] * 8, list(range(3, 15))])
def test_right_block_causal_code_gives_no_alarm_whatever_its_prompt(
    prompt: list[int], good: str
) -> None:
    model, net, _ = sdar()
    ids, mask_id = torch.tensor([prompt]), model.config.mask_id
    new = -len(prompt) % BLOCK + 2 * BLOCK
    right = partial(blockwise.sdar, net, ids, gen_length=new, block_length=BLOCK)
    whole = partial(blockwise.windows, net, ids, gen_length=new, block_length=BLOCK)
    engine = skipstone.Engine(
        model, skipstone.Settings(cache="dual", unmask="fixed", gen_length=new)
    )
    first = engine if good == "engine" else whole
    given = prompt if good == "engine" else None
    found = explain(net, first, right, prompt=given, mask_id=mask_id)
    assert found.verdict == "same", found


BEFORE, OWN = "the row before it", "its own row"
SHIFTED = {
    "forgotten in partial calls": (
        ShiftedWay(cached=blockwise.own_row),
        f"{BEFORE} in calls of the whole canvas, and by {OWN} in those of a part of it",
    ),
    "forgotten in whole calls": (
        ShiftedWay(whole=blockwise.own_row),
        f"{OWN} in calls of the whole canvas, and by {BEFORE} in those of a part of it",
    ),
    "forgotten": (ShiftedWay(blockwise.own_row, blockwise.own_row), OWN),
    "by two": (
        ShiftedWay(blockwise.shifted_by_two, blockwise.shifted_by_two),
        "the second row before it",
    ),
    "by two in partial calls": (
        ShiftedWay(cached=blockwise.shifted_by_two),
        f"{BEFORE} in calls of the whole canvas, and by the second row before it in those of a "
        f"part of it",
    ),
    "the other way": (
        ShiftedWay(blockwise.shifted_back, blockwise.shifted_back),
        "the row after it",
    ),
}


def _shifted(way: ShiftedWay, against: str) -> Explanation:
    model, net, prompt = dream()
    loop: Callable[..., Tensor] = blockwise.dream_cached
    mask_id = model.config.mask_id
    if against == "engine":
        settings = skipstone.Settings(
            cache="prefix", unmask="fixed", gen_length=16, block_length=8, steps=8, temperature=0
        )
        engine, ids = skipstone.Engine(model, settings), prompt[0].tolist()
        return explain(net, engine, lambda: loop(net, prompt, way=way), prompt=ids, mask_id=mask_id)
    reference = model if against == "code with a model" else None
    return explain(
        net,
        lambda: loop(net, prompt),
        lambda: loop(net, prompt, way=way),
        mask_id=mask_id,
        reference=reference,
    )


@pytest.mark.parametrize("against", AGAINST)
def test_right_code_that_shifts_its_scores_gives_no_alarm(against: str) -> None:
    assert _shifted(ShiftedWay(), against).verdict == "same"


@pytest.mark.parametrize(("name", "against"), in_turn(SHIFTED))
def test_a_wrong_shift_is_said_with_the_calls_that_have_it(name: str, against: str) -> None:
    way, row = SHIFTED[name]
    found = _shifted(way, against).diagnosis
    assert found.verdict == "commit-rule", found
    assert found.cause is not None
    assert str(found.cause.what) == f"B scores a position by {row}, A by {BEFORE}"
    where = found.cause.where
    assert (where.block, where.step) == (0, int("partial" in name)), found


BEHIND = {
    "rows begin at the block": (ShiftedWay(first=lambda start: start), "region-boundaries"),
    "positions off by one": (ShiftedWay(places=_other), "position-encoding"),
    "positions from zero": (ShiftedWay(places=_from_zero), "position-encoding"),
}


@pytest.mark.parametrize(("name", "against"), in_turn(BEHIND))
def test_rows_behind_the_cache_of_a_shifted_loop(name: str, against: str) -> None:
    way, verdict = BEHIND[name]
    found = _shifted(way, against).diagnosis
    assert found.verdict == verdict, found
    assert found.cause is not None
    where = found.cause.where
    assert (where.block, where.step, where.layer) == (0, 1, 1), found


def test_a_key_that_is_missing_behind_the_cache_is_seen() -> None:
    found = _shifted(ShiftedWay(kept=lambda first: first - 1), "code").diagnosis
    assert found.cause is not None
    where = found.cause.where
    assert (found.verdict, where.block, where.step) == ("visible-set", 0, 1), found
