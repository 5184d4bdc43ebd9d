"""What a count proves about a rate: exact statements about independent draws."""

from __future__ import annotations

import math


def interval(count: int, total: int, confidence: float) -> tuple[float, float]:
    """Exact (Clopper-Pearson) interval of a rate of which ``count`` of ``total`` were seen.

    Each end is the rate at which so extreme a count has half of the doubt as its probability.

    Args:
        count: how often it was seen, from 0 to ``total``.
        total: independent draws, at least one.
        confidence: that the interval holds the true rate, above 0 and below 1.
    """
    doubt = (1 - confidence) / 2
    return 1 - _upper_end(total - count, total, doubt), _upper_end(count, total, doubt)


def sign_test(one: int, other: int) -> float:
    """How likely so uneven a pair is if both are equally likely; two-sided and exact (McNemar)."""
    total = one + other
    return min(1.0, 2 * _at_most(min(one, other), total, 0.5)) if total else 1.0


def _upper_end(count: int, total: int, doubt: float) -> float:
    """The rate at which ``count`` or fewer of ``total`` are seen with probability ``doubt``."""
    if count == total:
        return 1.0
    # The larger the rate, the less likely so few; at count/total they are likelier than half.
    low, high = count / total, 1.0
    while low < (middle := (low + high) / 2) < high:
        if _at_most(count, total, middle) > doubt:
            low = middle
        else:
            high = middle
    return high


def _at_most(count: int, total: int, rate: float) -> float:
    """Probability of at most ``count`` of ``total`` at a rate not below ``count / total``."""
    log_share = count * math.log(rate) + (total - count) * math.log1p(-rate)
    term = math.exp(_log_choose(total, count) + log_share)
    tail, odds = 0.0, (1 - rate) / rate
    # So far from the mean each count is less likely than the next, and soon negligible.
    while tail + term > tail:
        tail += term
        term *= odds * count / (total - count + 1)
        count -= 1
    return tail


def _log_choose(total: int, count: int) -> float:
    return math.lgamma(total + 1) - math.lgamma(count + 1) - math.lgamma(total - count + 1)
