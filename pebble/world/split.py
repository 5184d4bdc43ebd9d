"""Draws training problems, and gives the held-out ones that training never sees."""

from functools import cache
from random import Random

from pebble.world import chains, facts, lists, stories
from pebble.world.problem import Problem, is_heldout

GROUPS = ("facts", "stories", "lists", "chains")

# Chains are the hardest to learn and facts the easiest.
TRAINING_SHARES = (18, 36, 20, 26)

# How often a family is drawn in training, where it is not once: copying two names or goods into
# the right places is learned late, and so are counts and products; some others come at once.
EMPHASIS = {
    "ages": 4.0,
    "shopping": 4.0,
    "reading": 3.0,
    "sharing": 2.0,
    "packing": 2.0,
    "count_word": 4.0,
    "sort_words": 4.0,
    "letters": 1.5,
    "machine": 1.5,
    "steady_steps": 2.0,
    "bus": 0.5,
    "garden": 0.5,
    "farm": 0.7,
    "copy": 0.5,
    "extremes": 0.5,
    "sort_up": 0.7,
    "reverse": 0.7,
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
    families = FAMILIES[group]
    # Held-out problems are drawn evenly, so that the bar does not depend on the emphasis.
    weights = [1.0 if wants_heldout else EMPHASIS.get(f.__name__, 1.0) for f in families]
    (family,) = rng.choices(families, weights)
    while True:
        prompt, answer = family(rng)
        if is_heldout(prompt) == wants_heldout:
            return Problem(group, family.__name__, prompt, answer)
