"""How an answer is printed: the text on stdout; what it took, and what did nothing, on stderr."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from skipstone.engine import Result


def print_answer(result: Result) -> None:
    """Print one answer for a person."""
    print(result.text)
    stats = result.stats
    print(
        f"[{stats.generated} tokens, {stats.num_forwards} forwards, {stats.seconds:.2f} s, "
        f"{stats.tokens_per_second:.1f} tokens/s, {stats.skip_share:.1%} of row-layers skipped]",
        file=sys.stderr,
    )
    for note in result.notes:
        print(f"note: {note}", file=sys.stderr)
