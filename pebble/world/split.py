"""Draws training problems, and gives the held-out ones that training never sees."""

from functools import cache
from itertools import accumulate
from random import Random

from pebble.world import chains, facts, lists, stories
from pebble.world.problem import Problem, is_heldout

GROUPS = ("facts", "stories", "lists", "chains")

# Chains are the hardest to learn and facts the easiest.
TRAINING_SHARES = (34, 22, 22, 22)

# How often a family or a topic of facts is drawn in training, where it is not once: names and
# goods that must be copied into the right places are learned late, and so are counts, products, and
# facts that are asked for backwards.
EMPHASIS = {
    "ages": 1.5,
    "shopping": 1.5,
    "reading": 1.5,
    "count_word": 8.0,
    "sort_words": 1.5,
    "letters": 1.5,
    "machine": 1.5,
    "steady_steps": 2.0,
    "elements": 3.0,
    "capitals": 3.0,
    "planets": 5.0,
    "inventions": 2.0,
}

FAMILIES = {
    "stories": stories.FAMILIES,
    "lists": lists.FAMILIES,
    "chains": chains.FAMILIES,
}


def draw(rng: Random) -> Problem:
    """Draw one problem for training."""
    group = rng.choices(GROUPS, TRAINING_SHARES)[0]
    if group == "facts":
        problems, weights = _trained_facts()
        return rng.choices(problems, cum_weights=weights)[0]
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
def _trained_facts() -> tuple[list[Problem], list[float]]:
    """Every trained phrasing, and the running sum of their weights."""
    problems = facts.trained_problems()
    weights = accumulate(EMPHASIS.get(problem.family, 1.0) for problem in problems)
    return problems, list(weights)


def _generated(group: str, rng: Random, *, wants_heldout: bool) -> Problem:
    families = FAMILIES[group]
    # Held-out problems are drawn evenly, so that the bar does not depend on the emphasis.
    weights = [1.0 if wants_heldout else EMPHASIS.get(f.__name__, 1.0) for f in families]
    (family,) = rng.choices(families, weights)
    while True:
        prompt, answer = family(rng)
        if is_heldout(prompt) == wants_heldout:
            return Problem(group, family.__name__, prompt, answer)
