"""Fingerprints of weights, as headers keep them: which of them can be compared."""

from __future__ import annotations

import re

# Until now a fingerprint was a checksum over 256 values of each weight.
_SAMPLED, _WHOLE = re.compile(r"[0-9a-f]{8}"), re.compile(r"[0-9a-f]{16}")


def same_weights(a: str, b: str) -> bool | None:
    """Whether two fingerprints are of the same weights; None if they cannot tell.

    They cannot if one is empty, or one of a version whose checksum covered a sample of the weights
    and the other of one whose checksum covers all.
    """
    if not (a and b) or _is_old(a, b) or _is_old(b, a):
        return None
    return a == b


def _is_old(a: str, b: str) -> bool:
    return bool(_SAMPLED.fullmatch(a) and _WHOLE.fullmatch(b))
