"""Compare records of runs. No torch here."""

from skipstone.diff.compare import Comparison, Divergence, SimilaritySummary, compare

__all__ = ["Comparison", "Divergence", "SimilaritySummary", "compare"]
