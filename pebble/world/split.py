"""Draws training problems, and gives the held-out ones that training never sees."""

from functools import cache
from itertools import accumulate
from random import Random

from pebble.world import chains, facts, lists, outside, puzzles, queues, stories, talk
from pebble.world.problem import Drawn, Problem, is_heldout
from pebble.world.wording import casual, dressed

GROUPS = ("facts", "stories", "lists", "chains", "queues", "puzzles", "talk")

# Puzzles, long chains and the border of the world are the hardest to learn.
TRAINING_SHARES = (22, 9, 8, 13, 17, 9, 22)

# How many of the facts are asked for in one more way, or typed without care.
LOOSE_FACTS = 0.3

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
    "long_totals": 4.0,
    "long_walk": 4.0,
    "sudoku": 1.5,
    "latin_4": 1.5,
    "fill_brackets": 1.5,
    "swap_any": 9.0,
    "replace_any": 5.0,
    "small_talk": 1.2,
    "unknown": 3.0,
}

FAMILIES = {
    "stories": stories.FAMILIES,
    "lists": lists.FAMILIES,
    "chains": chains.FAMILIES,
    "queues": queues.FAMILIES,
    "puzzles": puzzles.FAMILIES,
    "talk": talk.FAMILIES,
}


def draw(rng: Random) -> Problem:
    """Draw one problem for training."""
    group = rng.choices(GROUPS, TRAINING_SHARES)[0]
    if group == "facts":
        problems, weights = _trained_facts()
        return _loose(rng, rng.choices(problems, cum_weights=weights)[0])
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


def _loose(rng: Random, fact: Problem) -> Problem:
    """Ask for some facts in one more way, so that the wording alone never tells what is known."""
    if rng.random() >= LOOSE_FACTS:
        return fact
    prompt = dressed(rng, fact.prompt) if rng.random() < 0.5 else fact.prompt
    prompt = casual(rng, prompt)
    return fact if prompt in _heldout_facts() else fact._replace(prompt=prompt)


@cache
def _heldout_facts() -> frozenset[str]:
    return frozenset(problem.prompt for problem in facts.heldout_problems())


def _generated(group: str, rng: Random, *, wants_heldout: bool) -> Problem:
    families = FAMILIES[group]
    # Held-out problems are drawn evenly, so that the bar does not depend on the emphasis.
    weights = [1.0 if wants_heldout else EMPHASIS.get(f.__name__, 1.0) for f in families]
    (family,) = rng.choices(families, weights)
    if family is talk.unknown:
        ask = rng.choice(outside.heldout_questions()) if wants_heldout else outside.question(rng)
        return Problem(group, family.__name__, ask, outside.ANSWER)
    while True:
        drawn = Drawn(*family(rng))
        if is_heldout(drawn.prompt) == wants_heldout:
            return Problem(group, family.__name__, *drawn)
