"""A queue of names that is changed: where tokens filled in at once contradict each other.

In the families with "any" in their names many answers are right, and training shows one of them by
chance. Each place by itself most probably keeps its name; a decoder that fills all places at once
from these chances changes nothing, and is wrong. ParallelBench has tasks of the same kinds.
"""

from collections.abc import Callable, Iterator, Sequence
from random import Random

from pebble.world.people import PEOPLE
from pebble.world.problem import Drawn

Family = Callable[[Random], Drawn]

NAMES = tuple(person.name for person in PEOPLE)
FEWEST = 4
MOST = 8
ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth")


def queue_copy(rng: Random) -> Drawn:
    """The queue as it is."""
    names = _queue(rng)
    ask = rng.choice(
        ("Copy this queue: {}.", "Write down the queue {}.", "Who stands in the queue {}?")
    )
    return Drawn(ask.format(_row(names)), _said(names))


def queue_reverse(rng: Random) -> Drawn:
    """The queue from its end to its start."""
    names = _queue(rng)
    ask = rng.choice(
        (
            "Reverse this queue: {}.",
            "The queue {} turns around. Write the new queue.",
            "Name the queue {} from its end to its start.",
        )
    )
    return Drawn(ask.format(_row(names)), _said(names[::-1]))


def queue_shuffle(rng: Random) -> Drawn:
    """The same people in any other order."""
    names = _queue(rng)
    ask = rng.choice(
        (
            "Shuffle this queue: {}.",
            "Put the queue {} into another order.",
            "The queue {} gets mixed up. Write a new queue.",
        )
    )
    mixed = names.copy()
    while mixed == names:
        rng.shuffle(mixed)
    return Drawn(ask.format(_row(names)), _said(mixed), "reordered", _said(names))


def swap_any(rng: Random) -> Drawn:
    """Any two neighbours change places."""
    names = _queue(rng)
    ask = rng.choice(
        (
            "Two neighbours in this queue change places: {}.",
            "Swap any two neighbours in the queue {}.",
            "In the queue {} two people who stand side by side swap. Write a new queue.",
        )
    )
    swapped = ([*names[:i], names[i + 1], names[i], *names[i + 2 :]] for i in range(len(names) - 1))
    return _any(rng, ask.format(_row(names)), swapped)


def insert_any(rng: Random) -> Drawn:
    """One more person, at any place."""
    *names, new = _queue(rng, more=1)
    ask = rng.choice(
        (
            "Put {1} anywhere into this queue: {0}.",
            "{1} joins the queue {0} at any place. Write a new queue.",
            "Insert {1} somewhere in the queue {0}.",
        )
    )
    longer = ([*names[:i], new, *names[i:]] for i in range(len(names) + 1))
    return _any(rng, ask.format(_row(names), new), longer)


def insert_at(rng: Random) -> Drawn:
    """One more person, at a given place."""
    *names, new = _queue(rng, more=1)
    place = rng.randrange(len(names))
    ask = rng.choice(
        (
            "Put {1} into this queue as the {2} person: {0}.",
            "{1} joins the queue {0} at the {2} place. Write the new queue.",
            "Insert {1} at the {2} place of the queue {0}.",
        )
    )
    longer = [*names[:place], new, *names[place:]]
    return Drawn(ask.format(_row(names), new, ORDINALS[place]), _said(longer))


def remove_any(rng: Random) -> Drawn:
    """Any one person goes."""
    names = _queue(rng)
    ask = rng.choice(
        (
            "Any one person leaves this queue: {}.",
            "Remove somebody from the queue {}.",
            "One person in the queue {} goes home. Write a new queue.",
        )
    )
    shorter = ([*names[:i], *names[i + 1 :]] for i in range(len(names)))
    return _any(rng, ask.format(_row(names)), shorter)


def remove_at(rng: Random) -> Drawn:
    """The person at a given place goes."""
    names = _queue(rng)
    place = rng.randrange(len(names))
    ask = rng.choice(
        (
            "The {1} person leaves this queue: {0}.",
            "Remove the {1} person from the queue {0}.",
            "The {1} person in the queue {0} goes home. Write the new queue.",
        )
    )
    shorter = [*names[:place], *names[place + 1 :]]
    return Drawn(ask.format(_row(names), ORDINALS[place]), _said(shorter))


def replace_any(rng: Random) -> Drawn:
    """Somebody new takes the place of any one person."""
    *names, new = _queue(rng, more=1)
    ask = rng.choice(
        (
            "{1} takes the place of any one person in this queue: {0}.",
            "Replace somebody in the queue {0} by {1}.",
            "In the queue {0} one person gives a place to {1} and leaves. Write a new queue.",
        )
    )
    changed = ([*names[:i], new, *names[i + 1 :]] for i in range(len(names)))
    return _any(rng, ask.format(_row(names), new), changed)


def replace_at(rng: Random) -> Drawn:
    """Somebody new takes a given place."""
    *names, new = _queue(rng, more=1)
    place = rng.randrange(len(names))
    ask = rng.choice(
        (
            "{1} takes the place of the {2} person in this queue: {0}.",
            "Replace the {2} person in the queue {0} by {1}.",
            "In the queue {0} the {2} person leaves and {1} steps in. Write the new queue.",
        )
    )
    changed = [*names[:place], new, *names[place + 1 :]]
    return Drawn(ask.format(_row(names), new, ORDINALS[place]), _said(changed))


def _queue(rng: Random, more: int = 0) -> list[str]:
    return rng.sample(NAMES, rng.randint(FEWEST, MOST) + more)


def _any(rng: Random, prompt: str, queues: Iterator[list[str]]) -> Drawn:
    right = [_said(names) for names in queues]
    return Drawn(prompt, rng.choice(right), "any", "\n".join(right))


def _row(names: Sequence[str]) -> str:
    return ", ".join(names)


def _said(names: Sequence[str]) -> str:
    return f"{_row(names)}."


FAMILIES: tuple[Family, ...] = (
    queue_copy,
    queue_reverse,
    queue_shuffle,
    swap_any,
    insert_any,
    insert_at,
    remove_any,
    remove_at,
    replace_any,
    replace_at,
)
