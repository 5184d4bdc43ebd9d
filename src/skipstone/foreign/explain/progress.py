"""Tells a waiting user which run is under way."""

from __future__ import annotations

import sys


def tell(text: str) -> None:
    """A line on stderr where that is a terminal; what the user's code prints may stand between.

    Args:
        text: words of our own, nothing that came from elsewhere.
    """
    stream = sys.stderr
    if stream is not None and stream.isatty():
        stream.write(f"skipstone: {text}\n")
        stream.flush()
