"""Draws training problems, and gives the held-out ones that training never sees."""

from functools import cache
from random import Random

from pebble.world import chains, facts, lists, stories
from pebble.world.problem import Problem, is_heldout

GROUPS = ("facts", "stories", "lists", "chains")

# Chains are the hardest to learn and facts the easiest.
TRAINING_SHARES = (20, 28, 20, 32)

FAMILIES = {
    "stories": stories.FAMILIES,
    "lists": lists.FAMILIES,
    "chains": chains.FAMILIES,
}


def draw(rng: Random) -> Problem:
    """Draw one problem for training."""
    group = rng.choices(GROUPS, TRAINING_SHARES)[0]
    if group == "facts":
        return rng.choice(_trained_facts())
    return _generated(group, rng, wants_heldout=False)


def heldout(seed: int, per_group: int = 300) -> list[Problem]:
    """Give distinct problems of every group, none of which can occur in training."""
    rng = Random(f"heldout {seed}")
    problems = rng.sample(facts.heldout_problems(), per_group)
    for group in GROUPS[1:]:
        chosen: dict[str, Problem] = {}
        while len(chosen) < per_group:
            problem = _generated(group, rng, wants_heldout=True)
            chosen[problem.prompt] = problem
        problems.extend(chosen.values())
    return problems


@cache
def _trained_facts() -> list[Problem]:
    return facts.trained_problems()


def _generated(group: str, rng: Random, *, wants_heldout: bool) -> Problem:
    family = rng.choice(FAMILIES[group])
    while True:
        prompt, answer = family(rng)
        if is_heldout(prompt) == wants_heldout:
            return Problem(group, family.__name__, prompt, answer)
