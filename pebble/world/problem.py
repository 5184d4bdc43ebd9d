"""One question with its one right answer."""

import hashlib
from typing import NamedTuple

# One prompt in this many is held out of training.
HELDOUT_SHARE = 32


class Problem(NamedTuple):
    """A question of the closed world; the prompt alone determines the answer."""

    group: str
    family: str
    prompt: str
    answer: str


def is_heldout(prompt: str) -> bool:
    """Tell whether a generated prompt belongs to the held-out side, by its hash alone."""
    digest = hashlib.blake2b(prompt.encode(), digest_size=4).digest()
    return int.from_bytes(digest, "big") % HELDOUT_SHARE == 0
