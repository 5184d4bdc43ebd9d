"""Numbers in as few digits as tell those apart that differ.

Confidences crowd just below 1, where six digits of two of them are the same. A page writes its
numbers by the same rule: ``toldApart`` in ``report/page/page.js``.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

# As many tell any two numbers of float64 apart.
_MOST = 17


def told_apart(values: Sequence[float | None], digits: int = 6) -> list[str]:
    """Texts of numbers that stand beside each other; what differs does not look the same.

    Args:
        values: the numbers; None is written as ``-``.
        digits: how many are enough for one that no other comes near.

    Returns:
        A text for each, like ``0.9912`` or, where that is shorter or says more, ``1 - 3.1e-7``.
    """
    known = list(dict.fromkeys(v for v in values if v is not None and not math.isnan(v)))
    texts = {value: written(value, digits) for value in known}
    alike = known
    for precision in range(digits + 1, _MOST + 1):
        counts = Counter(texts.values())
        alike = [value for value in alike if counts[texts[value]] > 1]
        texts |= {value: written(value, precision) for value in alike}
    return ["-" if value is None else texts.get(value, "nan") for value in values]


def written(value: float, digits: int) -> str:
    """One number; close to 1 as its distance from 1, if that is shorter or 1 is all else says."""
    plain = _shortest(value, digits)
    far = 1 - value
    if far == 0 or not abs(far) < 0.5:
        return plain
    # Digits that both forms have: those behind the nines.
    kept = max(2, digits - math.floor(-math.log10(abs(far))))
    near = f"1 {'-' if far > 0 else '+'} {_shortest(abs(far), kept)}"
    return near if plain == "1" or len(near) < len(plain) else plain


def _shortest(value: float, digits: int) -> str:
    """A number of so many digits without zeros at its end: ``0.25``, ``3.1e-7``; whole as it is."""
    if value.is_integer() and abs(value) < 1e15:
        return str(int(value))
    mantissa, exponent, power = repr(float(f"{value:.{digits}g}")).partition("e")
    mantissa = mantissa.removesuffix(".0")
    return f"{mantissa}e{int(power)}" if exponent else mantissa
