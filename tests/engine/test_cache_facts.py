"""What a cache policy says of its settings: what had no effect, and what would be fresher."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pytest

from skipstone import DualCache, Engine, NoCache, PrefixCache
from skipstone.cache import CachePolicy, StepTaken
from skipstone.canvas import StepContext
from skipstone.rows import Rows
from tests.helpers.watching import BASE, prompt_of, uneven_model


@dataclass(frozen=True)
class Boastful(CachePolicy):
    """A cache of another package, which says of each run how long it was."""

    def rows(self, context: StepContext) -> Rows:
        return context.all_rows()

    def idle(self, steps: Sequence[StepTaken]) -> tuple[str, ...]:
        return (f"after {len(steps)} steps nothing was kept",)


def test_what_had_no_effect_is_said_in_the_words_of_the_policy() -> None:
    result = Engine(uneven_model(1), BASE, cache=Boastful()).generate(prompt_of(1, 7))
    assert f"after {result.stats.num_forwards} steps nothing was kept" in result.notes


@pytest.mark.parametrize("kind", [PrefixCache, DualCache])
def test_a_fresher_cache_refreshes_twice_as_often(
    kind: type[PrefixCache] | type[DualCache],
) -> None:
    assert kind().fresher() == kind(4)
    assert kind(8).fresher() == kind(4)
    assert kind(3).fresher() == kind(1)
    # There is nothing fresher than a refresh in each step, and than no cache.
    assert kind(1).fresher() is None
    assert NoCache().fresher() is None
    assert Boastful().fresher() is None
