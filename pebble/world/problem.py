"""One question with its right answer, or with one of its right answers."""

import hashlib
from typing import NamedTuple

from skipstone.diff.judges import find_judge

# One prompt in this many is held out of training.
HELDOUT_SHARE = 32


class Drawn(NamedTuple):
    """What a family draws: a prompt, an answer that is right, and what else would be right."""

    prompt: str
    answer: str
    judge: str = "exact"
    """The rule of `skipstone.diff.judges` that tells a right answer from a wrong one."""
    accepted: str = ""
    """What that rule compares a text with; empty where it is the answer itself."""


class Problem(NamedTuple):
    """A question of the closed world; the prompt alone determines which answers are right."""

    group: str
    family: str
    prompt: str
    answer: str
    judge: str = "exact"
    accepted: str = ""

    @property
    def key(self) -> str:
        """What the judge compares a text with."""
        return self.accepted or self.answer

    def fits(self, text: str) -> bool:
        """Whether a text is right."""
        return find_judge(self.judge)(text, self.key)


def is_heldout(prompt: str) -> bool:
    """Tell whether a generated prompt belongs to the held-out side, by its hash alone."""
    digest = hashlib.blake2b(prompt.encode(), digest_size=4).digest()
    return int.from_bytes(digest, "big") % HELDOUT_SHARE == 0
