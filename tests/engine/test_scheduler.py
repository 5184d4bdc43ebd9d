"""The scheduler on simulated arrivals: a budget that is kept, no starvation, no slot remembered."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from skipstone.engine.scheduler import Scheduler

BUDGET = 100


@dataclass
class Simulated:
    """A request: a refresh of all rows at the start of every block, then cached steps."""

    length: int
    blocks: int
    steps: int = 8
    done: int = 0

    @property
    def rows(self) -> int:
        return self.length if self.done % self.steps == 0 else min(8, self.length)

    @property
    def over(self) -> bool:
        return self.done == self.blocks * self.steps


def simulate(
    requests: Mapping[int, Simulated], arrivals: Mapping[int, int]
) -> dict[int, list[int]]:
    """Every step in which each request took part; all get done."""
    scheduler, taken = Scheduler(BUDGET), {slot: list[int]() for slot in requests}
    step = 0
    while not all(one.over for one in requests.values()):
        here = {
            slot: one.rows
            for slot, one in requests.items()
            if not one.over and arrivals.get(slot, 0) <= step
        }
        if here:
            chosen = scheduler.choose(here)
            assert chosen
            assert set(chosen) <= set(here)
            assert list(chosen) == sorted(set(chosen))
            many = [slot for slot in chosen if here[slot] > BUDGET]
            # More than the budget only where one request alone needs it.
            assert sum(here[slot] for slot in chosen) <= BUDGET or len(chosen) == 1 == len(many)
            for slot in chosen:
                taken[slot].append(step)
                requests[slot].done += 1
                if requests[slot].over:
                    scheduler.release(slot)
        step += 1
        assert step < 100_000
    return taken


def longest_wait(steps: list[int], start: int = 0) -> int:
    return max(b - a for a, b in zip([start - 1, *steps], steps, strict=False))


def test_all_take_part_while_they_fit_the_budget() -> None:
    assert Scheduler(BUDGET).choose({3: 30, 1: 40, 7: 30}) == (1, 3, 7)


def test_one_alone_never_waits_however_long_it_is() -> None:
    requests = {0: Simulated(10_000, 3)}
    assert simulate(requests, {})[0] == list(range(24))


def test_a_long_prompt_does_not_stop_twenty_others() -> None:
    requests = {slot: Simulated(30, 6) for slot in range(10)} | {10: Simulated(3000, 3)}
    taken = simulate(requests, {10: 20})
    last = max(taken[0][-1], taken[9][-1])
    long = [step for step in taken[10] if step <= last]
    # Each time that it holds all others up, they have had steps of their own before.
    dear = [step for n, step in enumerate(long) if n % 8 == 0]
    for one in dear:
        before = [step for slot in range(10) for step in taken[slot] if one - 4 <= step < one]
        assert len(before) >= 20
    assert all(longest_wait(taken[slot]) <= 8 for slot in range(10))


def test_a_long_prompt_is_not_starved_by_others_that_fill_every_step() -> None:
    requests = {slot: Simulated(8, 40) for slot in range(40)} | {40: Simulated(500, 2)}
    taken = simulate(requests, {})
    # A quarter of the budget is saved in each step, whatever others want.
    assert taken[40][0] <= 4 * 500 // BUDGET


def test_who_was_passed_over_comes_first() -> None:
    scheduler = Scheduler(BUDGET)
    seen = [scheduler.choose(dict.fromkeys(range(5), 40)) for _ in range(50)]
    assert seen[0] == (0, 1)
    assert seen[1] == (2, 3)
    assert 4 in seen[2]
    counts = [sum(slot in step for step in seen) for slot in range(5)]
    assert max(counts) - min(counts) <= 1


def test_a_slot_that_is_given_away_remembers_nothing() -> None:
    scheduler = Scheduler(BUDGET)
    scheduler.choose({0: 60, 1: 60, 2: 1000})
    scheduler.choose({0: 60, 1: 60, 2: 1000})
    for slot in (0, 1, 2):
        scheduler.release(slot)
    fresh = Scheduler(BUDGET)
    wanted = {0: 60, 1: 60, 2: 1000}
    for _ in range(20):
        assert scheduler.choose(wanted) == fresh.choose(wanted)


@given(
    st.lists(
        st.tuples(st.integers(1, 600), st.integers(1, 3), st.integers(0, 60)),
        min_size=1,
        max_size=16,
    )
)
def test_nobody_waits_for_ever(drawn: list[tuple[int, int, int]]) -> None:
    requests = {n: Simulated(length, blocks) for n, (length, blocks, _) in enumerate(drawn)}
    arrivals = {n: arrival for n, (_, _, arrival) in enumerate(drawn)}
    taken = simulate(requests, arrivals)
    # Each of the others may have to be served once, and save up for it.
    bound = sum(4 * -(-length // BUDGET) + 2 for length, _, _ in drawn)
    for slot, steps in taken.items():
        assert longest_wait(steps, arrivals[slot]) <= bound


def test_what_fits_the_budget_alone_goes_when_it_has_waited() -> None:
    scheduler = Scheduler(BUDGET)
    wanted = {0: BUDGET, 1: 8}
    assert {scheduler.choose(wanted) for _ in range(2)} == {(0,), (1,)}
